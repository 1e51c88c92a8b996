"""Clients that each wait for their answer before they ask again, all in one thread.

They share the machine with the service, so that they must cost little: sockets, bytes prepared
beforehand, and of the answer no more than its status and length.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence


class Asker:
    """One connection that is kept, and the answer that arrives on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._received, self.start = b"", time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has arrived; whether the answer, which must be 200, is whole."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionError("The service closed the connection.")
        self._received += part
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        return len(body) == int(length)


def ask_all(port: int, photos: Sequence[bytes], form: str, clients: int) -> list[float]:
    """Send all photos from some clients and return the seconds of each, in order of the answers."""
    head = f"POST /v1/segment?format={form} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += "Content-Type: application/octet-stream\r\nContent-Length: "
    requests = iter([f"{head}{len(photo)}\r\n\r\n".encode() + photo for photo in photos])
    seconds: list[float] = []
    with selectors.DefaultSelector() as waiting:
        for asker, request in zip([Asker(port) for _ in range(clients)], requests, strict=False):
            waiting.register(asker.socket, selectors.EVENT_READ, asker)
            asker.ask(request)
        while waiting.get_map():
            for key, _ in waiting.select():
                asker = key.data
                if not asker.receive():
                    continue
                seconds.append(time.perf_counter() - asker.start)
                if request := next(requests, b""):
                    asker.ask(request)
                else:
                    waiting.unregister(asker.socket)
                    asker.socket.close()
    return seconds
