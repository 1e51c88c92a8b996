import hashlib
import http.server
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPMessage
from pathlib import Path
from urllib.request import Request

import numpy as np
import pytest
from PIL import Image

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import cache_folder
from egeunet.inference import fetch
from egeunet.inference import weights as module
from egeunet.inference.image_io import read_image
from egeunet.inference.weights import find_weights, parse_metadata, run_folder, weights_name

GOOD = {
    "model": "egeunet",
    "dataset": "isic2018",
    "num_classes": "1",
    "classes": '["lesion"]',
    "input_size": "256,192",
    "threshold": "0.4",
    "preprocessing": "rgb-bilinear-minmax255",
}


def test_a_run_folder_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(EgeunetError, match=f"egeunet export {tmp_path}"):
        find_weights(tmp_path)
    file.touch()
    assert find_weights(tmp_path) == file
    assert find_weights(str(file)) == file


def test_an_unknown_name_and_none_say_what_can_be_given() -> None:
    for wrong in ("nothing-like-it", "runs/none", "none.onnx"):
        with pytest.raises(EgeunetError, match=f"'{wrong}'.*run folder.*onnx"):
            find_weights(wrong)


# Weights that come with the package


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with weights and their table, as `sha256sum *.onnx` writes it."""
    (tmp_path / "isic2018.onnx").write_bytes(b"skin")
    (tmp_path / "kvasir.onnx").write_bytes(b"gut")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(tmp_path.glob("*.onnx"))
    ]
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    return tmp_path


def test_shipped_weights_are_found_by_name_and_isic2018_by_none(shipped: Path) -> None:
    assert find_weights("kvasir") == shipped / "kvasir.onnx"
    assert find_weights("isic2018") == find_weights() == shipped / "isic2018.onnx"
    with pytest.raises(EgeunetError, match=r"'isic2019'.*\(isic2018, kvasir\)"):
        find_weights("isic2019")


def test_a_dataset_of_their_name_is_not_taken_for_shipped_weights(
    shipped: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("home"))
    Path("isic2018", "images").mkdir(parents=True)
    assert find_weights("isic2018") == find_weights() == shipped / "isic2018.onnx"
    assert run_folder("isic2018") is None
    Path("isic2018", "model.onnx").touch()  # a run is meant before them, but not by None
    assert find_weights("isic2018") == Path("isic2018", "model.onnx")
    assert run_folder("isic2018") == Path("isic2018")
    assert find_weights() == shipped / "isic2018.onnx"


def test_shipped_weights_that_were_changed_are_refused(shipped: Path) -> None:
    (shipped / "isic2018.onnx").write_bytes(b"skim")
    with pytest.raises(EgeunetError, match=r"isic2018\.onnx is missing or was changed: install"):
        find_weights()
    for table in ("", "no table\n\n", (shipped / "SHA256SUMS").read_text()[:40]):
        (shipped / "SHA256SUMS").write_text(table)
        with pytest.raises(EgeunetError, match="is missing or was changed"):
            find_weights("kvasir")
    (shipped / "SHA256SUMS").unlink()
    with pytest.raises(EgeunetError, match="is missing or was changed"):
        find_weights("kvasir")


# Weights from a URL


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with one file, served from this machine."""
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.onnx").write_bytes(b"weights")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path / "files"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


DIGEST = hashlib.sha256(b"weights").hexdigest()


def test_a_url_is_fetched_once_and_verified(server: str, tmp_path: Path) -> None:
    url = f"{server}/x.onnx#sha256={DIGEST}"
    found = find_weights(url)
    assert found.read_bytes() == b"weights"
    assert cache_folder() in found.parents
    (tmp_path / "files" / "x.onnx").unlink()
    assert find_weights(url) == found
    found.write_bytes(b"changed in the cache")
    with pytest.raises(EgeunetError, match=r"Cannot download.*404"):
        find_weights(url)


def serve(answer) -> Iterator[str]:
    """Run a server that answers each connection with a function of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(10_000)
                        answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def drip(head: bytes):
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\nX: ", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_download_that_never_ends_is_given_up(head: bytes, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 1.0)
    for address in serve(drip(head)):
        with pytest.raises(EgeunetError, match="took longer than 1 s"):
            fetch.fetch_bytes(f"{address}/x.onnx")


def test_a_download_without_end_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000_000)

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))

    for address in serve(flood):
        with pytest.raises(EgeunetError, match="larger than 1 MB"):
            fetch.fetch_bytes(f"{address}/x.onnx")


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_off_the_web_is_not_followed(target: str) -> None:
    def redirect(connection: socket.socket) -> None:
        head = f"HTTP/1.0 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())

    for address in serve(redirect):
        with pytest.raises(EgeunetError, match="Cannot download"):
            fetch.fetch_bytes(f"{address}/x.onnx")


def test_https_never_redirects_to_http() -> None:
    handler = fetch._SameScheme()
    request = Request("https://example.org/x")
    with pytest.raises(ValueError, match="redirects from https to http"):
        handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "http://e.org/x")
    safe = "https://e.org/x"
    found = handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), safe)
    assert found.full_url == safe


def test_errors_do_not_show_secrets_of_a_url(server: str) -> None:
    address = server.replace("http://", "http://me:secret1@") + "/none?token=secret2"
    with pytest.raises(EgeunetError, match="Cannot download http://127") as caught:
        fetch.fetch_bytes(address)
    assert "secret" not in str(caught.value)


def test_weights_are_named_after_their_run_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert weights_name(Path("runs/x/model.onnx")) == "x"
    assert weights_name(Path("model.onnx")) == tmp_path.name
    assert weights_name(Path("y.onnx")) == "y"


def test_a_photo_from_a_url(server: str, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "files" / "a b.png")
    np.testing.assert_array_equal(read_image(f"{server}/a%20b.png"), photo)
    with pytest.raises(EgeunetError, match="Cannot download"):
        read_image(f"{server}/none.png")


def test_a_url_with_other_content_is_refused_and_not_kept(server: str) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(EgeunetError, match="SHA-256 differs"):
        find_weights(f"{server}/x.onnx#sha256={wrong}")
    assert not list(cache_folder().rglob("*.onnx"))


@pytest.mark.parametrize("address", ["http://a b/x", "http://[/x", "http://127.0.0.1:1/x"])
def test_an_address_that_leads_nowhere_is_one_sentence(address: str, server: str) -> None:
    with pytest.raises(EgeunetError, match="Cannot download") as caught:
        find_weights(f"{address}#sha256={DIGEST}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["", "#sha256=", "#sha256=12", f"#md5={DIGEST}"])
def test_a_url_must_say_what_it_is(end: str) -> None:
    with pytest.raises(UsageError, match="#sha256="):
        find_weights("https://example.org/x.onnx" + end)


def test_metadata() -> None:
    found = parse_metadata(GOOD, "x")
    assert found.size == (256, 192)
    assert found.threshold == 0.4
    assert found.classes == ("lesion",)
    assert (found.model, found.dataset) == ("egeunet", "isic2018")
    assert (found.data_licence, found.scores) == ("", {})
    told = {"data_licence": "CC0", "intended_use": "Research.", "scores_on": "validation"}
    found = parse_metadata({**GOOD, **told, "scores": '{"val_dice": 0.5}'}, "x")
    assert (found.data_licence, found.intended_use) == ("CC0", "Research.")
    assert (found.scores, found.scores_on) == ({"val_dice": 0.5}, "validation")


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_entry_is_named(key: str) -> None:
    with pytest.raises(EgeunetError, match=f"x.onnx does not say its {key}"):
        parse_metadata({k: v for k, v in GOOD.items() if k != key}, "x.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_classes", "0"),
        ("num_classes", "2"),
        ("num_classes", "one"),
        ("classes", "lesion"),
        ("classes", '{"lesion": 1}'),
        ("classes", "[3]"),
        ("classes", "5"),
        ("input_size", "256"),
        ("input_size", "256,-256"),
        ("input_size", "a,b"),
        ("threshold", "0"),
        ("threshold", "nan"),
        ("threshold", "high"),
        ("scores", "good"),
        ("scores", "[1]"),
        ("scores", '{"val_dice": "good"}'),
        ("scores", '{"val_dice": null}'),
    ],
)
def test_entries_that_make_no_sense(key: str, value: str) -> None:
    with pytest.raises(EgeunetError, match=r"x\.onnx are invalid"):
        parse_metadata(GOOD | {key: value}, "x.onnx")


def test_another_preprocessing_is_named() -> None:
    with pytest.raises(EgeunetError, match=r"'zscore'.*'rgb-bilinear-minmax255'"):
        parse_metadata(GOOD | {"preprocessing": "zscore"}, "x.onnx")
