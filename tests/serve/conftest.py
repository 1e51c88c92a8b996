"""A service in a process of its own, on a free port, as users run it."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))  # for `hostile`


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Service:
    """A running `egeunet serve`."""

    def __init__(self, folder: Path, *options: str, port: int = 0, **variables: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{self.port}.log"
        command = [sys.executable, "-m", "egeunet", "serve", "--port", str(self.port), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, env=os.environ | variables)
        for _ in range(1800):  # a busy machine may take minutes
            if self.process.poll() is not None:
                break
            try:
                self.ask("GET", "/healthz")
            except ConnectionError:
                time.sleep(0.1)
            else:
                return
        self.process.kill()
        raise AssertionError(self.log.read_text("utf-8"))

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and body; a header's `_` is written `-`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, body, path="/v1/segment", kind="image/jpeg", **headers):
        return self.ask("POST", path, body, Content_Type=kind, **headers)

    def post_files(self, *files, path="/v1/segment"):
        boundary = "a-boundary"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"'
            "\r\n\r\n".encode()
            + data
            + b"\r\n"
            for name, data in files
        ]
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        return self.post(body, path, f"multipart/form-data; boundary={boundary}")

    def open_raw(self, head):
        """Open a socket and send something down it."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=600)
        raw.sendall(head)
        return raw

    def wait_for_open(self, requests):
        """Wait until some requests are under way, beside the ones that ask."""
        deadline = time.monotonic() + 60
        wanted = f"egeunet_requests_open {requests + 1}.0".encode()
        while wanted not in self.ask("GET", "/metrics")[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def workers(self):
        """Return the process ids of the workers (Linux only)."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [int(child) for path in children for child in path.read_text().split()]
        return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    @contextmanager
    def stopped(self):
        """Stop the workers for the duration of the block: whatever is asked stays under way."""
        pids = self.workers()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield pids
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def logged(self):
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start services that end with the block."""

    @contextmanager
    def starter(*options, port=0, **variables):
        service = Service(tmp_path_factory.mktemp("log"), *options, port=port, **variables)
        try:
            yield service
        finally:
            service.process.kill()
            service.process.wait()

    return starter


@pytest.fixture(scope="session")
def service(start):
    """One that many tests ask."""
    with start("--max-mb", "2", "--max-megapixels", "4") as running:
        yield running


@pytest.fixture(scope="session")
def image():
    """The bytes of a JPEG file with something dark in it."""
    image = Image.new("RGB", (160, 120), (220, 200, 190))
    ImageDraw.Draw(image).ellipse((40, 30, 99, 79), fill=(90, 50, 40))
    return to_bytes(image, "JPEG")


def to_bytes(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def slow_image():
    """The bytes of a PNG file that takes a good part of a second: noise does not compress."""
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), np.uint8)
    return to_bytes(Image.fromarray(noise), "PNG")
