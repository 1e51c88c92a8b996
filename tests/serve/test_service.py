"""Every route over a real socket, and what a client can do wrong."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hostile import png_that_claims
from PIL import Image

from egeunet import Segmenter
from egeunet.errors import UsageError
from egeunet.inference import rle
from egeunet.notice import NOTICE
from egeunet.serve.app import create_app
from egeunet.serve.schemas import Segmentation

IN_USE = os.strerror(errno.EADDRINUSE)
HEAD = "POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


def png(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def result(image):
    return Segmenter()(image)


@pytest.mark.parametrize("form", [False, True])
def test_json_is_the_result_and_its_run_lengths(service, image, result, form):
    answer = service.post_files(("a b.jpg", image)) if form else service.post(image)
    status, headers, body = answer
    assert (status, headers["content-type"]) == (200, "application/json")
    values = json.loads(body)
    assert (rle.decode(values.pop("mask")) == result.mask).all()
    own = {"notice": NOTICE, "source": "a b.jpg" if form else None}
    assert values == result.to_dict() | own


def test_the_documented_fields_are_those_of_a_result(result):
    assert set(Segmentation.model_fields) == {*result.to_dict(), "notice", "areas", "mask"}


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("?format=mask", "application/json", "mask"),
        ("?format=overlay", "*/*", "overlay"),
        ("", "image/png", "mask"),
        ("", "text/html, image/*;q=0.8, application/json;q=0.5", "mask"),
        ("", "image/png;q=0.2, application/json", "json"),
        ("", "image/png;q=0, */*;q=0.1", "json"),
    ],
)
def test_the_form_is_chosen_by_parameter_and_accept(service, image, result, query, accept, kind):
    status, headers, body = service.post(image, f"/v1/segment{query}", Accept=accept)
    assert status == 200
    if kind == "json":
        assert json.loads(body)["width"] == 160
        return
    assert headers["content-type"] == "image/png"
    expected = result.mask_image() if kind == "mask" else result.overlay()
    assert (png(body) == np.asarray(expected)).all()


def test_a_batch_is_in_order_and_goes_on_after_a_bad_file(service, image):
    files = [("one", image), ("bad", image[: len(image) // 2]), ("empty", b""), ("two", image)]
    status, _, body = service.post_files(*files, path="/v1/segment/batch")
    one, bad, empty, two = json.loads(body)
    assert status == 200
    assert one | {"source": "two"} == two
    assert "damaged" in bad["error"]
    assert bad["source"] == "bad"
    assert "0 bytes" in empty["error"]


def test_the_other_routes_answer(service):
    assert service.ask("GET", "/healthz")[2] == b"ok"
    assert service.ask("GET", "/readyz")[0] == 200
    assert service.ask("HEAD", "/healthz")[0] == service.ask("HEAD", "/readyz")[0] == 200
    (model,) = json.loads(service.ask("GET", "/v1/models")[2])
    assert (model["name"], model["limits"]["body_bytes"]) == ("isic2018", 2_000_000)
    assert b"not a diagnosis" in service.ask("GET", "/")[2]
    assert service.ask("GET", "/docs")[0] == 200
    assert service.ask("GET", "/nothing")[0] == 404
    assert service.ask("GET", "/v1/segment")[0] == 405
    metrics = service.ask("GET", "/metrics")[2].decode()
    assert 'egeunet_requests_total{route="/healthz",status="200"}' in metrics


def test_other_origins_are_not_let_in(service, image):
    _, headers, _ = service.post(image, Origin="https://elsewhere.example")
    assert headers["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"", "image/jpeg", 400, "0 bytes"),
        (b"no image", "image/png", 400, "not an image"),
        (png_that_claims(3000, 3000), "image/png", 413, "4 megapixels"),
        (png_that_claims(50_000, 50_000), "image/png", 413, "too large"),
        (b"x" * 2_000_001, "image/png", 413, "2 MB"),
        (b"x", "text/plain", 415, "content type"),
        (b"x", "", 415, "content type"),
        (b"x", "multipart/form-data", 400, "form"),
        (b"x", "multipart/form-data; boundary=b", 400, "form"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\n",
            "multipart/form-data; boundary=b",
            400,
            "",
        ),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "0 files"),
    ],
)
def test_a_bad_body_is_refused_in_one_sentence(service, body, kind, status, says):
    got, _, answer = service.post(body, kind=kind)
    assert got == status
    assert says in json.loads(answer)["detail"]


def test_a_photo_cut_short_is_refused(service, image):
    status, _, body = service.post(image[: len(image) // 2])
    assert (status, "cut short" in json.loads(body)["detail"]) == (400, True)


def test_two_files_are_a_batch(service, image):
    assert service.post_files(("a", image), ("b", image))[0] == 400
    assert service.post_files(*[("a", image)] * 33, path="/v1/segment/batch")[0] == 400
    assert service.post(image, "/v1/segment/batch")[0] == 415


def test_a_form_that_cannot_be_given_is_refused(service, image):
    assert service.post(image, Accept="text/html")[0] == 406
    status, _, body = service.post(image, "/v1/segment?format=gif")
    assert status == 422
    assert json.loads(body)["detail"].startswith("format: Input should be 'json'")


def test_an_address_in_use_is_one_sentence(service):
    command = [sys.executable, "-m", "egeunet", "serve", "--port", str(service.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr == f"error: Cannot listen on 127.0.0.1:{service.port}: {IN_USE}.\n"


def test_an_address_that_is_none_is_one_sentence():
    command = [sys.executable, "-m", "egeunet", "serve", "--host", "no.such.host.invalid"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: Cannot listen on no.such.host.invalid:8000: ")
    assert "Unknown error" not in line


def test_a_body_without_a_length_is_cut_off_at_the_limit(service):
    with service.open_raw(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()) as raw:
        try:
            for _ in range(40):
                raw.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            assert b" 413 " in raw.recv(200)
        except ConnectionError:
            pass  # cut off while it sent
    assert service.ask("GET", "/healthz")[0] == 200
    assert any(line.get("status") == 413 for line in service.logged())


def test_a_client_that_goes_away_is_no_error(service, image):
    service.open_raw(f"{HEAD}Content-Length: {len(image)}\r\n\r\n".encode() + image[:100]).close()
    deadline = time.monotonic() + 10
    while not any(line.get("status") == 499 for line in service.logged()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert service.post(image)[0] == 200
    assert not any("traceback" in line or line.get("status") == 500 for line in service.logged())


def test_logs_tell_nothing_of_the_photo(service, image):
    service.post_files(("Jane Doe.jpg", image))
    assert "Jane" not in service.log.read_text("utf-8")
    assert {"id", "method", "route", "status", "seconds"} <= service.logged()[-1].keys()


def test_a_slow_client_is_told_so(start):
    with start("--seconds", "1") as service:
        raw = service.open_raw(f"{HEAD}Content-Length: 1000\r\n\r\nabc".encode())
        with raw:
            assert b" 408 " in raw.recv(200)


def test_work_that_takes_too_long_is_given_up(start):
    file = io.BytesIO()
    Image.new("RGB", (7900, 7900)).save(file, "PNG")  # quick to send and slow to decode
    with start("--seconds", "0.2", "--workers", "1") as service:
        assert service.post(file.getvalue(), kind="image/png")[0] == 504


def test_a_busy_service_says_when_to_come_again(start, image):
    with start("--requests", "1") as service, ThreadPoolExecutor(1) as client:
        with service.stopped():
            asked = client.submit(service.post, image)
            service.wait_for_open(1)
            status, headers, _ = service.post(image)
            assert (status, headers["retry-after"]) == (503, "1")
            assert service.ask("GET", "/readyz")[0] == 503
            assert service.ask("GET", "/healthz")[0] == 200
        assert asked.result()[0] == 200
        assert service.post(image)[0] == 200


def test_the_threshold_and_mirrored_copies_can_be_chosen(start, image):
    expected = Segmenter(threshold=0.9, tta=True)(image)
    with start("--threshold", "0.9", "--tta") as service:
        values = json.loads(service.post(image)[2])
        assert values["threshold"] == 0.9
        assert (rle.decode(values["mask"]) == expected.mask).all()


def test_tokens_guard_what_costs_and_what_tells(start, image):
    with start(EGEUNET_TOKEN="one two") as service:
        for path in ("/v1/models", "/metrics"):
            status, headers, _ = service.ask("GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert service.post(image, Authorization="Bearer three")[0] == 401
        assert service.post(image, Authorization="Basic one")[0] == 401
        assert service.post(image, Authorization="Bearer two")[0] == 200
        assert service.ask("GET", "/readyz")[0] == 200


def test_a_token_that_is_empty_lets_nobody_in():
    with pytest.raises(UsageError, match="A token is empty"):
        create_app(Segmenter(), name="x", workers=1, tokens=["", "one"])


def test_the_page_and_an_origin_are_served_when_asked_for(start, tmp_path, image):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<title>the page</title>")
    (tmp_path / "secret.txt").write_text("beside the page")
    origin = "https://clinic.example"
    with start("--page", str(page), "--allow-origin", origin) as service:
        assert b"the page" in service.ask("GET", "/")[2]
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt"):
            assert service.ask("GET", path)[0] == 404
        _, headers, _ = service.post(image, Origin=origin)
        assert headers["access-control-allow-origin"] == origin
        _, headers, _ = service.post(image, Origin="https://elsewhere.example")
        assert headers["access-control-allow-origin"] is None
        asks = {
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "authorization, content-type",
        }
        assert service.ask("OPTIONS", "/v1/segment", Origin=origin, **asks)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_finished_when_the_service_ends(start, slow_image, number):
    with start("--workers", "1") as service, ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(service.post, slow_image) for _ in range(4)]
        service.wait_for_open(4)
        service.process.send_signal(number)
        assert [one.result()[0] for one in asked] == [200] * 4
        assert service.process.wait(30) == 0
        with pytest.raises(ConnectionError):
            service.ask("GET", "/healthz")
