"""Limits of single requests and of all requests together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Args:
        body_bytes: Largest request body; larger ones get status 413.
        pixels: Largest image; larger ones get status 413 before they are decoded.
        files: Maximum number of files in a batch; more get status 400.
        seconds: Time for a body to arrive (else 408), for its images to be segmented (else 504) and
            for the response to be read (else the connection is closed).
        requests: Maximum number of requests that wait for a worker or are being segmented; more get
            status 503 with Retry-After.
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
        """Memory that decoding one image may take; larger images get status 413."""
        return max(600_000_000, 9 * self.pixels)

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoding may take in all workers together; further images wait."""
        return max(1_000_000_000, self.image_bytes)

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker beyond its memory at rest, enforced by the kernel on Linux."""
        return 2 * self.image_bytes
