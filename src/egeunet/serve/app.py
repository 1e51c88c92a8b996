"""The routes of the service."""

from __future__ import annotations

import hmac
import json
import mimetypes
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from egeunet import __version__
from egeunet.errors import UsageError
from egeunet.inference.image_io import FORMAT_NAMES
from egeunet.inference.segmenter import Segmenter
from egeunet.serve.limits import Limits
from egeunet.serve.middleware import Metrics, RequestMiddleware
from egeunet.serve.schemas import FailedFile, Failure, Format, Segmentation, choose_format
from egeunet.serve.uploads import MULTIPART, read_uploads
from egeunet.serve.workers import Workers

ABOUT = (
    "Skin lesion segmentation with EGE-UNet (MICCAI 2023). For research; not a medical device, "
    "and a mask is not a diagnosis. Images are kept in memory until the response is sent, and are "
    "never written to disk."
)
WITHOUT_PAGE = (
    "POST an image to /v1/segment; /docs describes the API. The web page is not part of this "
    "install: run `make web` in a checkout and install from there, or pass its folder as --page."
)
PAGE = Path(__file__).with_name("page")
"""Where `make web` builds the page; a wheel built after it contains the page."""

# The system's table of types may be incomplete or wrong.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("application/wasm", ".wasm")
mimetypes.add_type("application/octet-stream", ".egeu")

_bearer = HTTPBearer(auto_error=False)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE = {"type": "string", "format": "binary", "description": f"{FORMAT_NAMES}."}


def create_app(
    segmenter: Segmenter,
    *,
    name: str,
    workers: int,
    limits: Limits | None = None,
    tokens: Sequence[str] = (),
    origins: Sequence[str] = (),
    page: Path | None = None,
) -> FastAPI:
    """Create the ASGI application.

    Args:
        segmenter: Segments the images; it is run once here.
        name: Name of its weights.
        workers: Number of worker processes; they start with the application.
        limits: Bounds on requests; see `Limits`.
        tokens: Bearer tokens, one of which `/v1/…` and `/metrics` require; empty: none.
        origins: Other origins whose pages may send requests; none by default.
        page: Folder with an `index.html` to serve at `/`; by default the one in the package.

    Raises:
        EgeunetError: The weights are damaged.
        UsageError: `page` has no `index.html`, or a token is empty or has spaces.
    """
    segmenter(np.zeros((*segmenter.metadata.size, 3), np.uint8))
    limits = limits or Limits()
    pool, metrics = Workers(segmenter, workers, limits), Metrics()
    token = [Depends(_authorization(tokens))] if tokens else []
    guards = [Depends(_origin_check(origins)), *token]
    files = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": limits.files}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with pool:
            yield

    app = FastAPI(title="egeunet", version=__version__, description=ABOUT, lifespan=lifespan)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
        )

    @app.exception_handler(RequestValidationError)
    async def unknown(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 422)

    @app.post(
        "/v1/segment",
        dependencies=guards,
        responses={
            200: {"model": Segmentation, "content": {"image/png": _BINARY}},
            **_failures(400, 401, 403, 406, 408, 413, 415, 422, 503, 504),
        },
        openapi_extra=_body(
            {MULTIPART: _form({"file": _FILE}), "image/*": _BINARY}
            | {"application/octet-stream": _BINARY}
        ),
    )
    async def segment_one(
        request: Request,
        form: Annotated[
            Format | None,
            Query(alias="format", description="By default what the Accept header prefers."),
        ] = None,
    ) -> Response:
        """Segment one image: the file of a form, or a body that is the image itself."""
        chosen = choose_format(form, request.headers.get("accept", ""))
        pool.check_slot()
        (job,) = await read_uploads(request, limits)
        with pool.slot():
            (reply,) = await pool.map([job._replace(form=chosen.value)])
        if reply.status != 200:
            raise HTTPException(reply.status, reply.body.decode())
        return Response(reply.body, media_type=chosen.media_type)

    @app.post(
        "/v1/segment/batch",
        dependencies=guards,
        responses={
            200: {"model": list[Segmentation | FailedFile]},
            **_failures(400, 401, 403, 408, 413, 415, 503, 504),
        },
        openapi_extra=_body({MULTIPART: _form({"files": files})}),
    )
    async def segment_batch(request: Request) -> Response:
        """Segment the files of a form; a list in their order, with an error for each bad file."""
        pool.check_slot()
        jobs = await read_uploads(request, limits, batch=True)
        with pool.slot():
            replies = await pool.map(jobs)
        rows = [
            reply.body
            if reply.status == 200
            else json.dumps({"source": job.name, "error": reply.body.decode()}).encode()
            for job, reply in zip(jobs, replies, strict=True)
        ]
        return Response(b"[" + b",".join(rows) + b"]", media_type="application/json")

    @app.get("/v1/models", dependencies=token, responses=_failures(401))
    async def models() -> list[dict[str, Any]]:
        """Return the weights that are served, and the limits."""
        metadata = segmenter.metadata
        model = {
            "name": name,
            "model": metadata.model,
            "dataset": metadata.dataset,
            "size": metadata.size,
            "classes": metadata.classes,
            "threshold": segmenter.threshold,
            "quality": metadata.quality is not None,
            "limits": asdict(limits),
        }
        return [model]

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Return 200 while the process lives."""
        return "ok"

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse, responses=_failures(503))
    async def readyz() -> str:
        """Return 200 if another request would be accepted, else 503."""
        pool.check_slot()
        return "ok"

    @app.get(
        "/metrics",
        dependencies=token,
        response_class=PlainTextResponse,
        responses=_failures(401),
    )
    async def prometheus() -> Response:
        """Return counts and times in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    _serve_page(app, page)
    return app


def _serve_page(app: FastAPI, folder: Path | None) -> None:
    """Serve the page, or at `/` a short text if it was not built."""
    if ((folder or PAGE) / "index.html").is_file():
        # Not mounted: a mount would also take what a route refuses for its method.
        app.router.default = StaticFiles(directory=folder or PAGE, html=True)
    elif folder:
        raise UsageError(f"{folder} has no index.html: give the folder of the built page.")
    else:
        text = f"{ABOUT}\n{WITHOUT_PAGE}\n"
        app.get("/", include_in_schema=False)(lambda: PlainTextResponse(text))


def _authorization(tokens: Sequence[str]) -> Any:
    if not all(token.split() == [token] for token in tokens):
        raise UsageError("A token is empty or has spaces: give a longer one, or leave it out.")
    known = [token.encode() for token in tokens]

    async def authorize(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        # HTTP headers are decoded as Latin-1; the token in them is UTF-8.
        token = given.credentials.encode("latin-1") if given else b""
        # All are compared in constant time, so that the time does not depend on them.
        if not sum(hmac.compare_digest(token, one) for one in known):
            raise HTTPException(
                401, "A valid bearer token is required.", {"WWW-Authenticate": "Bearer"}
            )

    return authorize


def _origin_check(origins: Sequence[str]) -> Any:
    """Refuse what browsers send on behalf of other pages, whether or not they may read it."""

    async def check(request: Request) -> None:
        origin = request.headers.get("origin")
        if "*" in origins or origin in origins:
            return
        if origin is None:
            foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        else:
            host = origin.lower().partition("://")[2]  # empty for "null"
            foreign = not host or host != request.headers.get("host", "").lower()
        if foreign:
            raise HTTPException(403, "Pages of other origins may not send requests.")

    return check


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure} for status in statuses}


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": properties, "required": list(properties)}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
