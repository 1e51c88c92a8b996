"""HTTP/1.1 connections with limits on their number, their buffers and time."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from egeunet.serve.limits import Limits
from egeunet.serve.middleware import log


class Connections:
    """All open connections, the longest inactive first, and the bytes that they hold.

    Args:
        limits: Above them, the first connection without a complete request is closed.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self.ordered: dict[BoundedConnection, None] = {}

    def enforce_limits(self) -> None:
        """Close connections until the limits hold."""
        limits = self.limits
        while len(self.ordered) > limits.connections or self.bytes > limits.buffered_bytes:
            victim = next((waiting for waiting in self.ordered if not waiting.working), None)
            if victim is None:
                return
            log.warning("closed a connection: too many are open, or they hold too many bytes")
            victim.abort()


class BoundedConnection(H11Protocol):
    """A connection that is closed if sending a request or reading its response takes too long.

    Args:
        shared: All open connections.
        arguments: For uvicorn's protocol, as the keywords.
        keywords: Likewise.
    """

    def __init__(self, shared: Connections, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._shared = shared
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def working(self) -> bool:
        """Whether a complete request waits for its response."""
        return bool(self.cycle) and not (self.cycle.more_body or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._shared.ordered[self] = None
        self._expect_within(self._shared.limits.head_seconds)
        self._shared.enforce_limits()

    def data_received(self, data: bytes) -> None:
        """Count what arrives."""
        if self in self._shared.ordered:
            self._hold(self._held + len(data))
            super().data_received(data)
            self._shared.enforce_limits()

    def handle_events(self) -> None:
        """Restart the timer for each new request."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            limits = self._shared.limits
            self._expect_within(limits.head_seconds + 2 * limits.seconds)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request, and end the work on what came before the malformed bytes."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun
            self.transport.close()
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Restart the timer for reading the response and the next request."""
        if self in self._shared.ordered:
            self._hold(self.transport.get_write_buffer_size())
            self._shared.ordered[self] = self._shared.ordered.pop(self)
            self._expect_within(self._shared.limits.seconds)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once; what was not yet sent is lost."""
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        self._hold(0)
        self._shared.ordered.pop(self, None)
        if self._timer:
            self._timer.cancel()

    def _hold(self, count: int) -> None:
        self._shared.bytes += count - self._held
        self._held = count

    def _expect_within(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.abort)
