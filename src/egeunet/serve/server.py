"""The process of the service: uvicorn, its logs and its end."""

from __future__ import annotations

import logging
import math
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from egeunet.errors import EgeunetError
from egeunet.serve.middleware import JsonLines, log


def run(app: FastAPI, host: str, port: int, grace: float) -> None:
    """Serve until SIGTERM or Ctrl-C; what was taken by then is finished.

    Args:
        app: What `egeunet.serve.app.create_app` gave.
        host: The address to listen on.
        port: The port; 0 takes a free one, which the log names.
        grace: Seconds that what was taken has left when the end is asked for.

    Raises:
        EgeunetError: The address is in use, or none of this machine.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler])
    for logger in (log, logging.getLogger("uvicorn")):
        logger.setLevel(logging.INFO)
    # It quotes bytes of damaged bodies, and the client is told of them anyhow.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # without Python's words
        raise EgeunetError(f"{host}:{port} cannot be listened on: {reason}.") from error
    config = uvicorn.Config(
        app,
        host,
        port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=math.ceil(grace),
    )
    # uvicorn raises the signal that ended it once more: after an orderly end that is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _nothing)
    uvicorn.Server(config).run(sockets=[listening])


def _nothing(number: int, frame: FrameType | None) -> None:
    """Let a signal pass."""
