"""Reading of uploaded files: request bodies and multipart forms, in memory only."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request

from egeunet.serve.limits import Limits
from egeunet.serve.worker import Job

RAW = ("image/", "application/octet-stream")
MULTIPART = "multipart/form-data"

_FIELDS = 16  # of a form, beside its files
_HEAD_BYTES = 8_192  # of a part
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_PART = re.compile(
    rb"^content-disposition:\s*form-data\s*;.*?\bname=.*$", re.IGNORECASE | re.MULTILINE
)
_FILE_NAME = re.compile(
    rb""";\s*filename(?:="((?:[^"\\]|\\.)*)|=([^\s;]*)|\*=utf-8''([^\s;]*))""", re.IGNORECASE
)


async def read_uploads(request: Request, limits: Limits, batch: bool = False) -> list[Job]:
    """Read the images of a request: the files of a form, or a body that is an image itself.

    Args:
        request: Its content type tells which.
        limits: Bounds on bytes, time and files.
        batch: Accept only a form, with one file or several; else exactly one file in either way.

    Raises:
        HTTPException: 400 if the form is damaged or has another number of files, 408 if it arrives
            too slowly, 413 if it is too large, 415 if its type is another.
    """
    kind = request.headers.get("content-type", "")
    is_form = kind.lower().startswith(MULTIPART)
    if not is_form and (batch or not kind.lower().startswith(RAW)):
        types = MULTIPART if batch else f"{MULTIPART}, image/* or application/octet-stream"
        raise HTTPException(415, f"The content type of the body is not supported: send {types}.")
    try:
        body = await asyncio.wait_for(_read_body(request, limits), limits.seconds)
    except asyncio.TimeoutError as error:
        raise HTTPException(
            408, f"The body did not arrive within {limits.seconds:g} seconds."
        ) from error
    if not is_form:
        return [Job(None, body)]
    jobs = parse_form(body, kind, limits.files)
    most = limits.files if batch else 1
    if not 1 <= len(jobs) <= most:
        expected = f"1 to {most}" if batch else "one"
        raise HTTPException(400, f"The form has {len(jobs)} files: expected {expected}.")
    return jobs


def parse_form(body: bytes, content_type: str, files: int) -> list[Job]:
    """Return the files of a multipart form in time proportional to its length.

    File names are UTF-8 whatever charset the form names: some of Python's codecs take quadratic
    time.

    Args:
        body: The form (RFC 7578).
        content_type: The header that holds its boundary.
        files: Files of a form, at most.

    Raises:
        HTTPException: 400, the form is damaged or has too many parts.
    """
    parts: list[bytes] = []
    if found := _BOUNDARY.search(content_type):
        boundary = (found[1] or found[2]).encode("latin-1")
        _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, files + _FIELDS + 2)
    if len(parts) > files + _FIELDS + 1:
        raise HTTPException(400, f"The form has too many parts: expected up to {files} files.")
    jobs: list[Job] = []
    for part in parts:
        if part.startswith(b"--"):
            return jobs
        head, blank, data = part.partition(b"\r\n\r\n")
        if not blank or len(head) > _HEAD_BYTES or not (line := _PART.search(head)):
            break
        if name := _FILE_NAME.search(line[0]):
            quoted, plain, encoded = name.groups()
            raw = unquote_to_bytes(encoded) if encoded is not None else quoted or plain or b""
            jobs.append(Job(raw.replace(b'\\"', b'"').decode("utf-8", "replace"), data))
    raise HTTPException(400, "The form is damaged or cut short: send multipart/form-data.")


async def _read_body(request: Request, limits: Limits) -> bytes:
    length = request.headers.get("content-length", "")
    promised = int(length) if length.isdecimal() and len(length) < 20 else 0
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if max(promised, len(body)) > limits.body_bytes:
            raise HTTPException(
                413,
                f"The body is larger than {limits.body_bytes / 1e6:g} MB. Scale the image down.",
            )
    return bytes(body)
