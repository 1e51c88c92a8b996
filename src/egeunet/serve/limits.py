"""Bounds on what one request, and all requests together, may ask of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Args:
        body_bytes: Largest request body; larger ones are answered with 413.
        pixels: Largest image; larger ones are answered with 413 before they are decoded.
        files: Maximum number of files in a batch; more are answered with 400.
        seconds: Time for a body to arrive (408), for its images to be segmented (504) and for the
            answer to be read (the connection is closed).
        requests: Requests that wait for a worker or are being segmented; more are answered with
            503 and Retry-After.
        connections: Open connections. A new one closes the one that has been sending or idle for
            longest.
    """

    body_bytes: int = 20_000_000
    pixels: int = 64_000_000
    files: int = 32
    seconds: float = 30
    requests: int = 64
    connections: int = 512

    @property
    def head_seconds(self) -> float:
        """Time for the head of a request to arrive; then the connection is closed."""
        return min(10, self.seconds)

    @property
    def buffered_bytes(self) -> int:
        """Bound on the bodies and answers that all connections hold together."""
        return max(256_000_000, 4 * self.body_bytes)

    @property
    def image_bytes(self) -> int:
        """Memory that decoding one image may take; images that take more are answered with 413."""
        return max(600_000_000, 9 * self.pixels)

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoding may take in all workers together; further images wait."""
        return max(1_000_000_000, self.image_bytes)

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker beyond what it has at rest, which the system enforces on Linux."""
        return 2 * self.image_bytes
