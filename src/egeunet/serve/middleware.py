"""Logging, metrics and headers of every request."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("egeunet.serve")

INFO_PER_SECOND, OTHERS_PER_SECOND = 1000, 10
"""Maximum number of log lines; the next one says how many were dropped."""

_HEADERS = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class JsonFormatter(logging.Formatter):
    """Formats log records as JSON, one ASCII line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, message and the fields of a record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII, so that no control characters reach a terminal


class RateLimit(logging.Filter):
    """Drops log records above a rate, so that no client can fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = {True: (0, 0), False: (0, 0)}  # for INFO and others: second, count in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        info, now = record.levelno == logging.INFO, int(record.created)
        limit = INFO_PER_SECOND if info else OTHERS_PER_SECOND
        second, count = self._seen[info]
        if second != now and count > limit:
            record.fields = getattr(record, "fields", {}) | {"dropped": count - limit}
        count = count + 1 if second == now else 1
        self._seen[info] = (now, count)
        return count <= limit


def configure_logging() -> None:
    """Write all logs and warnings to stderr as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RateLimit())
    ours = logging.getLogger("egeunet")
    ours.handlers, ours.propagate = [], True  # replaces the handler of the command line
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)
    for logger in (log, logging.getLogger("uvicorn")):
        logger.setLevel(logging.INFO)


class Metrics:
    """Prometheus metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        about = "From the head of a request to the end of its response."
        self.requests = Counter(
            "egeunet_requests", "Requests answered.", ["route", "status"], registry=own
        )
        self.seconds = Histogram("egeunet_request_seconds", about, ["route"], registry=own)
        self.open = Gauge("egeunet_requests_open", "Requests not yet answered.", registry=own)


class RequestMiddleware:
    """Measures and logs requests, and sets their headers.

    Images, file names and addresses are not logged. Files of the page with a hash in their name, in
    `assets/`, are cached for ever, other responses not. A client that disconnects before it gets a
    response is logged with status 499.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, identity, status = time.perf_counter(), uuid.uuid4().hex, 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                hashed = status == 200 and scope["path"].startswith("/assets/")
                cache = b"public, max-age=31536000, immutable" if hashed else b"no-cache"
                own = ((b"x-request-id", identity.encode()), (b"cache-control", cache))
                message["headers"] = [*message["headers"], *_HEADERS, *own]
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499
        finally:
            self.metrics.open.dec()
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            fields = {
                "id": identity,
                "method": scope["method"][:20],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
            }
            log.info("request", extra={"fields": fields})
