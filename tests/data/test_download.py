import hashlib
import io
import logging
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from egeunet.data import download as module
from egeunet.data.download import download, fetch
from egeunet.errors import EgeunetError, UsageError

CONTENT = np.random.default_rng(0).bytes(700_000)


class Server:
    """Files on 127.0.0.1, with ranges and with every kind of trouble."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # (path, range asked for)
        self.breaks: list[int] = []  # each of the next answers stops after so many bytes
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.offset = 0  # of the first partial answer from what was asked for
        self.failures: list[int] = []  # status codes of the next answers
        self.redirect: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        content = self.files.get(handler.path)
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        if self.failures or content is None:
            handler.send_error(self.failures.pop(0) if self.failures else 404)
            return
        start = 0
        fresh = handler.headers.get("If-Range") == self.etag
        if wanted and self.ranges and fresh:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + self.offset
            self.offset = 0
        if start and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", span)
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = self.breaks.pop(0) if self.breaks else len(content)
        handler.wfile.write(content[start : start + end])


@pytest.fixture
def server(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "egeunet")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    server = Server()
    server.files["/a.zip"] = CONTENT
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_file_is_fetched_once_and_its_checksum_kept_and_told(server, tmp_path, caplog):
    path = fetch(f"{server.url}/a.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "a.zip.sha256").read_text() == f"{digest}  a.zip\n"
    assert f"sha256 {digest}, not verified: the owner publishes none" in caplog.text
    assert fetch(f"{server.url}/a.zip", tmp_path) == path
    assert len(server.requests) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "a.zip.sha256"]


def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path):
    server.breaks = [300_000, 100_000]
    path = fetch(f"{server.url}/a.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    resumed = [int(wanted[6:-1]) for _, wanted in server.requests[1:]]
    assert len(resumed) == 2
    assert 200_000 < resumed[0] <= 300_000 < resumed[1] <= 400_000


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.breaks = [300_000] + [0] * module.MAX_ATTEMPTS
    with pytest.raises(
        EgeunetError, match=r"Run the same command again to resume after the 2\d\d,"
    ):
        fetch(f"{server.url}/a.zip", tmp_path)
    assert not (tmp_path / "a.zip").exists()
    server.requests.clear()
    assert fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert server.requests[0][1].startswith("bytes=2")


@pytest.mark.parametrize("change", ["new version", "no ranges", "no etag"])
def test_parts_of_different_versions_are_never_joined(change, server, tmp_path):
    server.breaks = [300_000]
    server.etag = None if change == "no etag" else server.etag
    server.ranges = change != "no ranges"
    answer = server.answer

    def change_after_first(handler) -> None:
        if len(server.requests) == 1 and change == "new version":
            server.files["/a.zip"] = CONTENT[::-1]
            server.etag = '"v2"'
        answer(handler)

    server.answer = change_after_first
    path = fetch(f"{server.url}/a.zip", tmp_path)
    assert path.read_bytes() == server.files["/a.zip"]


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more"])
def test_a_partial_file_with_nothing_left_to_fetch_is_fetched_again(content, server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(content)
    (tmp_path / "a.zip.version").write_text(f'{server.url}/a.zip\n"v1"')
    assert fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(content)}-", None]


def test_an_answer_that_begins_elsewhere_is_not_appended(server, tmp_path):
    server.breaks = [300_000]
    server.offset = 100
    assert fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == CONTENT


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.failures = [503, 500]
    assert fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_on_disk_is_noticed(server, tmp_path):
    path = fetch(f"{server.url}/a.zip", tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(EgeunetError, match="removed"):
        fetch(f"{server.url}/a.zip", tmp_path)
    assert fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip", "a.zip"])
def test_only_http_is_fetched(url, tmp_path):
    with pytest.raises(UsageError, match="Only http and https"):
        fetch(url, tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip"])
def test_a_redirection_to_something_else_is_not_followed(target, server, tmp_path):
    server.redirect = target
    with pytest.raises(EgeunetError):
        fetch(f"{server.url}/a.zip", tmp_path)
    assert not (tmp_path / "a.zip").exists()


def test_what_is_not_there_or_nobody_answers_is_one_sentence(server, tmp_path):
    with pytest.raises(EgeunetError, match="answers 404"):
        fetch(f"{server.url}/b.zip", tmp_path)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(EgeunetError, match="connection failed"):
        fetch(f"{server.url}/a.zip", tmp_path)


def test_too_small_a_disk_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(EgeunetError, match="GB more, but"):
        fetch(f"{server.url}/a.zip", tmp_path)
    assert list(tmp_path.iterdir()) == []


def image(mode: str, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (32, 24), "white").save(buffer, suffix)
    return buffer.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def isic2018(server):
    photos, masks = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
    for folder, suffix, content in (
        (photos, ".jpg", image("RGB", "JPEG")),
        (masks, "_segmentation.png", image("L", "PNG")),
    ):
        files = {f"{folder}/ISIC_000000{i}{suffix}": content for i in range(3)}
        files[f"{folder}/LICENSE.txt"] = b"free"
        server.files[f"/m/{folder}.zip"] = archive(files)
    return server


def test_a_dataset_is_fetched_unpacked_and_opened(isic2018, tmp_path, caplog):
    dataset = download("isic2018", tmp_path, f"{isic2018.url}/m/")
    assert dataset.root == tmp_path / "isic2018"
    assert len(dataset.samples) == 3
    assert all(sample.mask for sample in dataset.samples)
    assert "license: CC BY-NC 4.0" in caplog.text
    download("isic2018", tmp_path, f"{isic2018.url}/m/")
    assert len(isic2018.requests) == 2


def test_a_corrupted_archive_is_one_sentence_and_removed(isic2018, tmp_path):
    name = "/m/ISIC2018_Task1_Training_GroundTruth.zip"
    good = isic2018.files[name]
    isic2018.files[name] = good[:90] + b"\x00\xff" * 8 + good[106:]
    with pytest.raises(EgeunetError, match=r"GroundTruth\.zip is damaged.*was removed") as caught:
        download("isic2018", tmp_path, f"{isic2018.url}/m")
    assert "\n" not in str(caught.value)
    archives = tmp_path / "isic2018/archives"
    assert not list(archives.glob("*GroundTruth*"))
    isic2018.files[name] = good
    assert len(download("isic2018", tmp_path, f"{isic2018.url}/m").samples) == 3


def test_a_login_page_in_place_of_an_archive_is_noticed(isic2018, tmp_path):
    isic2018.files["/m/ISIC2018_Task1-2_Training_Input.zip"] = b"<html>Please log in</html>"
    with pytest.raises(EgeunetError, match="damaged or not a zip file"):
        download("isic2018", tmp_path, f"{isic2018.url}/m")


@pytest.mark.parametrize("name", ["ph2", "cvc_clinicdb", "ham10000"])
def test_where_a_form_is_in_the_way_the_way_is_told(name, tmp_path):
    with pytest.raises(EgeunetError, match=rf"cannot be downloaded by a program.*{name}.*https://"):
        download(name, tmp_path)


def test_where_to_must_be_known(monkeypatch):
    monkeypatch.delenv("EGEUNET_DATA", raising=False)
    with pytest.raises(UsageError, match="EGEUNET_DATA"):
        download("isic2018")
