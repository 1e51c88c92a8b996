"""What the service tells of itself: metrics for Prometheus, and a line of JSON per request."""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("egeunet.serve")


class JsonLines(logging.Formatter):
    """Log records as JSON, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, message, and what the record was given besides."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "egeunet_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "egeunet_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            registry=self.registry,
        )
        self.open = Gauge(
            "egeunet_requests_open", "Requests that are in work.", registry=self.registry
        )


class Watch:
    """Counts, times and logs each request; neither photos nor their names, nor who sent them.

    A client that goes away in the middle is logged with status 499.
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

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", identity.encode())]
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, receive, send_marked)
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
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
            }
            log.info("request", extra={"fields": fields})
