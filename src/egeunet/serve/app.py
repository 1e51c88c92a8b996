"""The routes of the service."""

from __future__ import annotations

import hmac
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

from egeunet import __version__
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.image_io import FORMAT_NAMES
from egeunet.inference.segmenter import Segmenter
from egeunet.serve.limits import Limits
from egeunet.serve.middleware import Metrics, Watch
from egeunet.serve.pool import Pool
from egeunet.serve.schemas import (
    FailedFile,
    Failure,
    Format,
    Segmentation,
    choose_format,
    segment,
    segment_or_fail,
)
from egeunet.serve.static import serve_page
from egeunet.serve.uploads import MULTIPART, read_uploads

ABOUT = (
    "Skin lesion segmentation with EGE-UNet (MICCAI 2023). For research; not a medical device, "
    "and a mask is not a diagnosis. Photos are kept in memory until they are answered, and nowhere "
    "else."
)
WITHOUT_PAGE = (
    "POST a photo to /v1/segment, /docs says more; the page for browsers is not part of this "
    "install: run `make web` in a checkout and install from there, or give its folder as --page."
)
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
    """Make the application.

    Args:
        segmenter: What segments; it is tried once here.
        name: What its weights are called.
        workers: Photos that are worked on at a time.
        limits: What is refused; see `Limits`.
        tokens: Who has one of them may use `/v1/…` and `/metrics`; empty: everybody.
        origins: Pages from other hosts that browsers let ask; none by default.
        page: A folder with an `index.html` that is served at `/`; by default the one that comes
            with the package, if there is one.

    Raises:
        EgeunetError: The weights are damaged.
        UsageError: `page` has no `index.html`, or a token is empty.
    """
    segmenter(np.zeros((*segmenter.metadata.size, 3), np.uint8))
    limits = limits or Limits()
    pool, metrics = Pool(workers, limits), Metrics()
    allowed = Depends(_authorization(tokens))

    files = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": limits.files}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(title="egeunet", version=__version__, description=ABOUT, lifespan=lifespan)
    app.add_middleware(Watch, metrics=metrics)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
        )

    @app.exception_handler(EgeunetError)
    async def unreadable(_: Request, error: EgeunetError) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def unknown(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 422)

    @app.post(
        "/v1/segment",
        dependencies=[allowed],
        responses={
            200: {"model": Segmentation, "content": {"image/png": _BINARY}},
            **_failures(400, 401, 406, 408, 413, 415, 422, 503, 504),
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
        """Segment one photo: the file of a form, or a body that is the image itself."""
        chosen = choose_format(form, request.headers.get("accept", ""))
        with pool.place():
            (upload,) = await read_uploads(request, limits)
            (body,) = await pool.map(segment, [(segmenter, limits, upload, chosen)])
        return Response(body, media_type=chosen.media_type)

    @app.post(
        "/v1/segment/batch",
        dependencies=[allowed],
        responses={
            200: {"model": list[Segmentation | FailedFile]},
            **_failures(400, 401, 408, 413, 415, 503, 504),
        },
        openapi_extra=_body({MULTIPART: _form({"files": files})}),
    )
    async def segment_batch(request: Request) -> Response:
        """Segment the files of a form; a list in their order, with an error for each bad file."""
        with pool.place():
            uploads = await read_uploads(request, limits, batch=True)
            bodies = await pool.map(segment_or_fail, [(segmenter, limits, one) for one in uploads])
        return Response(b"[" + b",".join(bodies) + b"]", media_type="application/json")

    @app.get("/v1/models", dependencies=[allowed], responses=_failures(401))
    async def models() -> list[dict[str, Any]]:
        """Tell which weights answer, and the limits."""
        metadata = segmenter.metadata
        model = {
            "name": name,
            "system": metadata.system,
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
        """Answer: the process lives."""
        return "ok"

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse, responses=_failures(503))
    async def readyz() -> str:
        """Answer 200 if another request would be taken, 503 if all places are."""
        with pool.place():
            return "ok"

    @app.get(
        "/metrics",
        dependencies=[allowed],
        response_class=PlainTextResponse,
        responses=_failures(401),
    )
    async def prometheus() -> Response:
        """Tell counts and times in the form of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    serve_page(app, page, f"{ABOUT}\n{WITHOUT_PAGE}\n")
    return app


def _authorization(tokens: Sequence[str]) -> Any:
    if not all(tokens):  # who sends none would be let in
        raise UsageError("A token is empty: give one of some length, or leave it out.")
    known = [token.encode() for token in tokens]

    async def authorize(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        token = given.credentials.encode() if given else b""
        # All are compared, each in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(token, one) for one in known):
            raise HTTPException(
                401, "A valid bearer token is needed.", {"WWW-Authenticate": "Bearer"}
            )

    async def anybody() -> None:
        pass

    return authorize if known else anybody


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure} for status in statuses}


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": properties, "required": list(properties)}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}
