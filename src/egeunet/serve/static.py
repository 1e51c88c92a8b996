"""The built web page, served at `/`."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from egeunet.errors import UsageError

PAGE = Path(__file__).with_name("page")
"""Where `make web` builds the page; a wheel built after it contains the page."""

# The system's table of types may be incomplete or wrong.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("application/wasm", ".wasm")
mimetypes.add_type("application/octet-stream", ".egeu")


def serve_page(app: FastAPI, folder: Path | None, fallback: str) -> None:
    """Serve the page at `/`; if it was not built, a short text.

    Args:
        app: Its other routes take precedence over the files of the page.
        folder: Folder of the page; by default `PAGE`.
        fallback: The text.

    Raises:
        UsageError: `folder` was given and has no `index.html`.
    """
    if ((folder or PAGE) / "index.html").is_file():
        # Not mounted: a mount would also take what a route refuses for its method.
        app.router.default = StaticFiles(directory=folder or PAGE, html=True)
    elif folder:
        raise UsageError(f"{folder} has no index.html: give the folder of the built page.")
    else:
        app.get("/", include_in_schema=False)(lambda: PlainTextResponse(fallback))
