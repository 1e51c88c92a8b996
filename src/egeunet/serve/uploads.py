"""From the body of a request to the files in it, in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from egeunet.serve.limits import Limits

RAW = ("image/", "application/octet-stream")
MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """A file that a client sent.

    Args:
        name: What the client calls it; None if it has no name. It is sent back and nothing else.
        data: Its bytes.
    """

    name: str | None
    data: bytes


async def read_uploads(request: Request, limits: Limits, batch: bool = False) -> list[Upload]:
    """Read the photos of a request: the files of a form, or a body that is an image itself.

    Args:
        request: Its content type tells which.
        limits: On bytes, time and files.
        batch: Take a form alone, with one file or several; else one file in either way.

    Raises:
        HTTPException: 400 if the form is damaged or has another number of files, 408 if it arrives
            too slowly, 413 if it is too large, 415 if its type is another.
    """
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith(MULTIPART):
        reading = _read_form(request, limits)
    elif kind.startswith(RAW) and not batch:
        reading = _read_raw(request, limits)
    else:
        ways = MULTIPART if batch else f"{MULTIPART}, image/… or application/octet-stream"
        raise HTTPException(415, f"The body has an unknown content type: expected {ways}.")
    try:
        uploads = await asyncio.wait_for(reading, limits.seconds)
    except asyncio.TimeoutError as error:
        raise HTTPException(
            408, f"The body did not arrive within {limits.seconds:g} seconds."
        ) from error
    most = limits.files if batch else 1
    if not 1 <= len(uploads) <= most:
        expected = f"1 to {most}" if batch else "one"
        raise HTTPException(400, f"The form has {len(uploads)} files: expected {expected}.")
    return uploads


async def _read_raw(request: Request, limits: Limits) -> list[Upload]:
    return [Upload(None, b"".join([chunk async for chunk in _chunks(request, limits)]))]


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    parser = MultiPartParser(request.headers, _chunks(request, limits))
    parser.spool_max_size = limits.body_bytes + 1  # photos of people are not written to a disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        # KeyError and ValueError: no boundary, or bytes that are no text in a part's header.
        raise HTTPException(400, "The form is damaged: expected multipart/form-data.") from error
    try:
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        return [Upload(part.filename, await part.read()) for part in parts]
    finally:
        await form.close()


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body while it is not larger than it may be."""
    length = request.headers.get("content-length", "")
    total = int(length) if length.isdecimal() else 0
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if max(total, received) > limits.body_bytes:
            raise HTTPException(
                413,
                f"The body is larger than {limits.body_bytes / 1e6:g} MB: scale the photo down.",
            )
        yield chunk
