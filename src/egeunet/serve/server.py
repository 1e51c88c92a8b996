"""The process of the service: uvicorn with bounded connections."""

from __future__ import annotations

import math
import signal
import socket
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from egeunet.errors import EgeunetError
from egeunet.serve.connections import BoundedConnection, Connections
from egeunet.serve.limits import Limits

_BACKLOG = 128  # connections that the system accepts ahead of us; beyond, clients try again


def run(app: FastAPI, host: str, port: int, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish the requests under way within their time.

    Args:
        app: From `egeunet.serve.app.create_app`.
        host: The address to listen on.
        port: The port; 0 takes a free one, which the log names.
        limits: Bounds on connections and time.

    Raises:
        EgeunetError: The address is in use, or not one of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # without Python's words
        raise EgeunetError(f"Cannot listen on {host}:{port}: {reason}.") from error
    protocol: Any = partial(BoundedConnection, Connections(limits))
    config = uvicorn.Config(
        app,
        host,
        port,
        http=cast("type[BoundedConnection]", protocol),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(2 * limits.seconds),
    )
    # uvicorn raises the signal that ended it once more: after an orderly end that is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
