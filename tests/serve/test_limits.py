"""Hostile clients cannot freeze the service, exhaust its memory or shut others out."""

import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import hostile
import pytest
from PIL import Image

from egeunet.serve.limits import Limits
from egeunet.serve.middleware import INFO_PER_SECOND, OTHERS_PER_SECOND, RateLimit
from egeunet.serve.workers import _Budget

HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
BASE_MB = 450  # the service and two workers at rest

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


def processes(service):
    """Return the process ids of a service and its workers."""
    return [service.process.pid, *service.workers()]


def stat_of(pid):
    """Return what Linux says of a process; Z if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return "() Z"


def memory_mb(service):
    """Return the resident megabytes of a service and its workers."""
    total = 0
    for pid in processes(service):
        try:
            status = Path(f"/proc/{pid}/status").read_text("utf-8")
        except OSError:
            continue  # it has just ended
        total += int(re.search(r"VmRSS:\s+(\d+)|$", status)[1] or 0) / 1000
    return total


def connections(service):
    """Return the established connections on the side of a service."""
    lines = Path(f"/proc/{service.process.pid}/net/tcp").read_text("utf-8").splitlines()[1:]
    ends = (line.split() for line in lines)
    return [
        own
        for _, own, _, state, *_ in ends
        if own.endswith(f":{service.port:04X}") and state == "01"
    ]


@contextmanager
def peak_memory(service):
    """Give a list that holds, in the end, the most megabytes seen during the block."""
    peak, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], memory_mb(service))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        done.set()
        watching.join()


@pytest.mark.parametrize("charset", ["punycode", "idna"])
def test_no_charset_of_a_form_can_freeze_the_service(service, charset):
    body, kind = hostile.form_with_charset(charset, 1_500_000)
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(service.post, body, kind=kind)
        assert service.ask("GET", "/healthz")[0] == 200
        assert answer.result(30)[0] == 400


@needs_proc
def test_a_stuck_worker_is_replaced_at_the_deadline(start, image):
    with start("--workers", "1", "--seconds", "8") as service, service.stopped() as stuck:
        assert service.post(image)[0] == 504
        for _ in range(20):  # the new one may take longer to start than that
            if (status := service.post(image)[0]) == 200:
                break
        assert status == 200
        assert service.workers() != stuck


@needs_proc
def test_sigterm_ends_the_service_in_time_though_a_worker_is_stuck(start, image):
    with start("--workers", "1", "--seconds", "8") as service, ThreadPoolExecutor(1) as client:
        with service.stopped() as (stuck,):
            asked = client.submit(service.post, image)
            service.wait_for_open(1)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(60) == 0
        assert asked.result()[0] == 504
        assert ") Z" in stat_of(stuck)


@needs_proc
@pytest.mark.parametrize("busy", [True, False])
def test_a_worker_that_crashes_costs_no_more_than_its_request(start, image, slow_image, busy):
    with start("--workers", "1") as service, ThreadPoolExecutor(1) as client:
        assert service.post(image)[0] == 200
        if busy:
            asked = client.submit(service.post, slow_image)
            time.sleep(0.1)
        (worker,) = service.workers()
        os.kill(worker, signal.SIGKILL)
        while ") Z" not in stat_of(worker):
            time.sleep(0.01)
        if busy:
            assert asked.result()[0] in (200, 400)
        assert service.post(image)[0] == 200
        assert any(line["message"] == "replaced a worker" for line in service.logged())


@needs_proc
def test_workers_end_with_a_service_that_is_killed(start, image):
    with start() as service:
        service.post(image)
        left = service.workers()
        service.process.kill()
        service.process.wait()
        deadline = time.monotonic() + 30
        while any(") Z" not in stat_of(pid) for pid in left):
            assert time.monotonic() < deadline
            time.sleep(0.05)


BOMBS = {
    "one row": lambda: hostile.encoded("L", (5_000_000, 1), "PNG"),
    "one wide row": lambda: hostile.encoded("L", (64_000_000, 1), "PNG"),
    "EXIF": hostile.png_with_shared_exif_values,
    "scans": lambda: hostile.jpeg_with_scans(8000, 2000),
    "RGBA PNG": lambda: hostile.png(8000, 8000, 6),
    "16-bit RGBA PNG": lambda: hostile.png(8000, 8000, 6, 16),
    "RGBA WebP": lambda: hostile.encoded("RGBA", (8000, 8000), "WEBP", lossless=True),
}


@needs_proc
@pytest.mark.parametrize("name", BOMBS)
def test_the_memory_of_an_image_is_bounded(start, image, name):
    bound = BASE_MB + Limits().image_bytes / 1e6
    with start("--workers", "2", "--seconds", "30") as service, peak_memory(service) as peak:
        assert service.post(BOMBS[name](), kind="image/png")[0] in (200, 400, 413, 504)
        assert service.ask("GET", "/healthz")[0] == 200
        assert 0 < peak[0] < bound


@needs_proc
def test_the_memory_of_large_images_together_is_bounded(start, image):
    bomb, bound = hostile.png(8000, 8000, 6), BASE_MB + Limits().decoded_bytes / 1e6
    with start("--workers", "2", "--seconds", "60") as service, peak_memory(service) as peak:
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: service.post(bomb, kind="image/png"), range(4)))
        assert {status for status, _, _ in answers} <= {200, 413, 504}
        assert 0 < peak[0] < bound


def test_a_budget_is_shared_and_given_back():
    budget, soon = _Budget(10), time.monotonic() + 0.1
    with budget.take(6, soon), budget.take(4, soon), pytest.raises(TimeoutError):
        budget.take(1, soon).__enter__()
    with budget.take(99, soon):  # all there is
        pass


@needs_proc
def test_unfinished_requests_do_not_shut_others_out(start, image):
    heads = [HEAD + b"X: "] * 600 + [HEAD + b"Content-Length: 1000\r\n\r\nabc"] * 70
    opened = []
    with start() as service:
        try:
            for head in heads:
                opened.append(service.open_raw(head))
                if len(opened) % 100 == 0:
                    assert service.post(image)[0] == 200
            assert service.post(image)[0] == 200
            assert service.ask("GET", "/readyz")[0] == 200
            assert len(list(Path(f"/proc/{service.process.pid}/fd").iterdir())) < 600
            assert service.log.stat().st_size < 300_000
        finally:
            for raw in opened:
                raw.close()


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n" + b"GET / HT"])
def test_an_unfinished_head_is_cut_off(start, sent):
    with start("--seconds", "1") as service, service.open_raw(sent) as raw:
        while raw.recv(1000):
            pass


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
def test_a_malformed_body_is_no_error_of_the_service(service, method):
    """Both the server and the application tried to answer it, and the second failed."""
    sent = method + HEAD[4:] + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"
    with service.open_raw(sent.replace(b"image/jpeg", b"text/plain")) as raw:
        assert b" 400 " in raw.recv(1000)
    assert service.ask("GET", "/healthz")[0] == 200
    assert not [line for line in service.logged() if "traceback" in line]


@needs_proc
def test_a_client_that_does_not_read_is_cut_off(start, slow_image):
    with start("--seconds", "5", "--workers", "1") as service, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", service.port))
        head = HEAD.replace(b"segment", b"segment?format=overlay")
        raw.sendall(head + b"Content-Length: %d\r\n\r\n" % len(slow_image) + slow_image)
        assert connections(service)
        deadline = time.monotonic() + 60
        while connections(service):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_pages_of_other_origins_are_refused(service, start, image):
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert service.post(image, **headers)[0] == 403
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    kind = "multipart/form-data; boundary=b"
    body = form + image + b"\r\n--b--\r\n"
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert service.post(body, "/v1/segment/batch", kind, **elsewhere)[0] == 403
    assert service.post(image, Origin=service.url)[0] == 200
    assert service.post(image, Origin=service.url, Sec_Fetch_Site="same-origin")[0] == 200


def test_every_response_has_security_headers(service, image):
    answers = [service.ask("GET", path) for path in ("/", "/docs", "/nothing", "/v1/models")]
    for _, headers, _ in [*answers, service.post(image), service.post(b"")]:
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("token", ["", " "])
@pytest.mark.parametrize("by", ["environment", "option"])
def test_an_empty_token_is_refused_at_the_start(token, by):
    command = [sys.executable, "-m", "egeunet", "serve", "--port", "0"]
    given = {"EGEUNET_TOKEN": token} if by == "environment" else {}
    command += ["--token", token] if by == "option" else []
    done = subprocess.run(
        command, env=os.environ | given, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "empty" in done.stderr


def test_a_token_may_have_any_letters(start, image):
    with start(EGEUNET_TOKEN="schlüssel🔑") as service:
        sent = "Bearer schlüssel🔑".encode()
        assert service.post(image, Authorization=sent)[0] == 200
        assert service.post(image, Authorization=sent[:-1])[0] == 401


def test_every_line_of_the_log_is_json_in_ascii(start):
    with start("--host", "0.0.0.0") as service:
        with service.open_raw(b"\x1b[31m\xc2\x9b nonsense\r\n\r\n") as raw:
            assert b" 400 " in raw.recv(1000)
        with service.open_raw(b"GET /\xc2\x9b HTTP/1.1\r\nHost: \x1b\r\n\r\n") as raw:
            raw.recv(1000)
        service.ask("GET", "/%1b[31m")
        messages = [line["message"] for line in service.logged()]  # which parses every line
        assert "Invalid HTTP request received." in messages
        assert any("EGEUNET_TOKEN" in message for message in messages)
        assert service.log.read_bytes().isascii()
        assert b"\x1b" not in service.log.read_bytes()


def test_a_flood_of_log_lines_is_thinned():
    limit = RateLimit()

    def passed(level, count, second):
        record = logging.makeLogRecord({"levelno": level, "created": second, "msg": "m"})
        return sum(limit.filter(record) for _ in range(count)), getattr(record, "fields", {})

    assert passed(logging.WARNING, 5000, 1.0)[0] == OTHERS_PER_SECOND
    assert passed(logging.INFO, 5000, 1.5)[0] == INFO_PER_SECOND
    assert passed(logging.WARNING, 1, 2.0) == (1, {"dropped": 5000 - OTHERS_PER_SECOND})


@needs_proc
def test_uploads_are_never_written_to_disk(start, image, slow_image, tmp_path):
    (tmp_path / "tmp").mkdir()
    kind = b"multipart/form-data; boundary=b"
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = form + slow_image + b"\r\n--b--\r\n"
    assert len(body) > 10_000_000
    head = HEAD.replace(b"image/jpeg", kind) + b"Content-Length: %d\r\n\r\n" % len(body)

    def files():
        found = set(map(str, (tmp_path / "tmp").rglob("*")))
        for pid in processes(service):
            for one in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    info, target = Path(f"/proc/{pid}/fdinfo/{one.name}"), one.readlink()
                    writes = int(re.search(r"flags:\s+(\d+)", info.read_text())[1], 8) & 3
                except OSError:
                    continue  # it was closed meanwhile
                if writes and str(target).startswith("/") and not str(target).startswith("/dev/"):
                    found.add(str(target))
        return found

    with start(TMPDIR=str(tmp_path / "tmp")) as service, service.open_raw(head) as raw:
        service.post(image)
        before, seen = files(), set()
        for begin in range(0, len(body), 1_000_000):
            raw.sendall(body[begin : begin + 1_000_000])
            seen |= files()
        raw.settimeout(0.01)
        answer = b""
        while not answer:
            seen |= files()
            try:
                answer = raw.recv(1000)
            except TimeoutError:
                continue
        assert b" 200 " in answer
    assert seen <= before


def fuzz(service, image, count, seed):
    """Send hostile requests and return how often each status was answered."""

    def send(index):
        chance = random.Random(f"{seed} {index}")
        try:
            with service.open_raw(b"") as raw:
                raw.settimeout(60)
                raw.sendall(hostile.request(chance, image))
                if chance.random() < 0.1:
                    return "left"
                raw.shutdown(socket.SHUT_WR)
                answer = raw.recv(20)
        except OSError:
            return "closed"
        while answer.startswith(b"HTTP/1.1 100"):
            return "100"
        return answer[9:12].decode() or "closed"

    with ThreadPoolExecutor(8) as clients:
        return Counter(clients.map(send, range(count)))


@needs_proc
@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow])], ids=["some", "all"]
)
def test_hostile_requests_are_refused_in_order(start, image, count):
    large = Image.new("RGB", (300, 200), (90, 50, 40))
    large.paste((220, 200, 190), (40, 40, 200, 150))
    files = [
        image,
        hostile.encoded("RGBA", (90, 60), "PNG"),
        hostile.encoded("L", (64, 64), "TIFF"),
    ]
    bound = BASE_MB + (Limits().decoded_bytes + Limits().buffered_bytes) / 1e6
    with start("--max-mb", "2", "--workers", "2") as service, peak_memory(service) as peak:
        answers = Counter()
        for index, file in enumerate(files):
            answers += fuzz(service, file, count // len(files) + 1, index)
        assert service.post(image)[0] == 200
        assert not [status for status in answers if status[0] == "5" and status != "503"], answers
        assert {"400", "415"} <= answers.keys()  # which of the others occur depends on timing
        assert not [line for line in service.logged() if "traceback" in line]
        assert not [line for line in service.logged() if line.get("status", 0) in (500, 504)]
        assert 0 < peak[0] < bound
        print(dict(answers), f"{peak[0]:.0f} MB")


def test_the_documented_limits_are_those_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ")]
    documented = {name.strip(): value.strip() for name, value in rows}
    limits = Limits()
    for name, value in {
        "request body": f"{limits.body_bytes / 1e6:g} MB",
        "image, read from its header": f"{limits.pixels / 1e6:g} megapixels",
        "memory to decode one image, estimated from its header": f"{limits.image_bytes / 1e6:g} MB",
        "files of a batch": f"{limits.files}",
        "requests that wait or are segmented": f"{limits.requests}",
        "time to segment": f"{limits.seconds} s",
        "time for the head of a request": f"{limits.head_seconds} s",
        "open connections": f"{limits.connections}",
        "bodies and responses of all connections together": f"{limits.buffered_bytes / 1e6:g} MB",
        "memory of all decoding together, estimated": f"{limits.decoded_bytes / 1e6:,.0f} MB",
        "memory of one worker beyond its own, enforced on Linux": (
            f"{limits.worker_bytes / 1e6:,.0f} MB"
        ),
        "log lines per second": f"{INFO_PER_SECOND:,}",
        "warnings and errors per second": f"{OTHERS_PER_SECOND}",
    }.items():
        assert documented[name] == value, name
