"""The built page as the service gives it."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from egeunet.errors import UsageError

PAGE = Path(__file__).with_name("page")
"""Where `make web` builds the page; a wheel that was built after it has it too."""

_TYPES = {  # told here: what Python knows of endings is the system's, and may be wrong
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
_HEADERS = {
    # What a page cannot say of itself; the rest of its policy is in its own head.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ASSETS = "assets"  # the folder of files that have a hash of their content in the name


class _PageFiles(StaticFiles):
    """Files of the page, with types, caching and policy."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return the answer for a file that is there."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = PurePath(full_path)
        response.headers.update(_HEADERS)
        lasts = path.parent.name == _ASSETS
        response.headers["Cache-Control"] = (
            "public, max-age=31536000, immutable" if lasts else "no-cache"
        )
        if "content-type" in response.headers and path.suffix in _TYPES:
            response.headers["Content-Type"] = _TYPES[path.suffix]
        return response


def serve_page(app: FastAPI, folder: Path | None, otherwise: str) -> None:
    """Give the page at `/`; if it was not built, a few words.

    Args:
        app: What none of its routes takes is looked for in the page.
        folder: Where the page lies; by default `PAGE`.
        otherwise: The words.

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
            return otherwise
