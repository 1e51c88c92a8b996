"""What one request may ask of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused, so that no client can take the service from the others.

    Args:
        body_bytes: The largest body; more is answered with 413.
        pixels: The largest photo; more is answered with 413, before it is decoded.
        files: The most photos of one batch; more are answered with 400.
        seconds: How long a request may take to arrive (408), and then to be answered (504).
        requests: How many are taken at a time, arriving, waiting or worked on; more are answered
            with 503 and Retry-After. With `body_bytes` it bounds the memory.
    """

    body_bytes: int = 20_000_000
    pixels: int = 64_000_000
    files: int = 32
    seconds: float = 30
    requests: int = 64
