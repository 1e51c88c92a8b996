"""The built web page, served at `/`."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path, PurePath

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from egeunet.errors import UsageError

PAGE = Path(__file__).with_name("page")
"""Where `make web` builds the page; a wheel built after it contains the page."""

_ASSETS = "assets"  # the folder of files that have a hash of their content in the name

# The system's table of types may be incomplete or wrong.
for _type, _suffix in (
    ("text/javascript", ".js"),
    ("application/wasm", ".wasm"),
    ("application/octet-stream", ".egeu"),
):
    mimetypes.add_type(_type, _suffix)


class _PageFiles(StaticFiles):
    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return the response for a file, cacheable for ever if its name has a hash."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        hashed = PurePath(full_path).parent.name == _ASSETS
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if hashed else "no-cache"
        )
        return response


def serve_page(app: FastAPI, folder: Path | None, fallback: str) -> None:
    """Serve the page at `/`; if it was not built, a short text.

    Args:
        app: Paths that are none of its routes are looked up in the page.
        folder: Folder of the page; by default `PAGE`.
        fallback: The text.

    Raises:
        UsageError: `folder` was given and has no `index.html`.
    """
    if ((folder or PAGE) / "index.html").is_file():
        # Not mounted: a mount would also take what a route refuses for its method.
        app.router.default = _PageFiles(directory=folder or PAGE, html=True)
    elif folder:
        raise UsageError(f"{folder} has no index.html: give the folder of the built page.")
    else:

        @app.get("/", response_class=PlainTextResponse, include_in_schema=False)
        async def plain() -> str:
            return fallback
