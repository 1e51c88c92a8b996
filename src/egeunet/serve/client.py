"""A client of the service; it needs no more than Python and NumPy."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from egeunet.errors import EgeunetError, UsageError

_LONGEST_WAIT = 10.0  # seconds between two attempts


class Client:
    """Asks a running service, and asks again while it is busy or cannot be reached.

    Args:
        url: Where it listens.
        token: A bearer token, if it wants one.
        retries: Attempts after the first, when the answer is 503 or there is none. The time between
            them doubles from 0.1 s, or is what the service says.
        timeout: Seconds without a byte until an attempt has failed.

    Raises:
        UsageError: `url` does not begin with http:// or https://.

    Example:
        >>> client = Client("http://127.0.0.1:8000")
        >>> client.segment("photo.jpg")["area"]
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        retries: int = 5,
        timeout: float = 60,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no address of a service: expected http://HOST:PORT.")
        self.url = url.rstrip("/")
        self.retries, self.timeout = retries, timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def segment(self, photo: str | Path | bytes) -> dict[str, Any]:
        """Return what `Result.to_dict` says of a photo, and its `mask` as run lengths.

        Args:
            photo: A path or the bytes of an image file.

        Raises:
            EgeunetError: The file cannot be read, or the service refuses it or does not answer.
        """
        row: dict[str, Any] = json.loads(self._segment(photo, "json"))
        return row | {"source": _name(photo)}

    def mask(self, photo: str | Path | bytes) -> bytes:
        """Return the mask of a photo as a PNG file; otherwise as `segment`."""
        return self._segment(photo, "mask")

    def overlay(self, photo: str | Path | bytes) -> bytes:
        """Return a photo with its mask drawn over it as a PNG file; otherwise as `segment`."""
        return self._segment(photo, "overlay")

    def segment_batch(self, photos: Sequence[str | Path | bytes]) -> list[dict[str, Any]]:
        """Segment several photos with one request.

        Returns:
            For each photo what `segment` gives, or its `source` and an `error`.

        Raises:
            EgeunetError: As `segment`, for the whole.
        """
        boundary = uuid4().hex
        parts = []
        for index, photo in enumerate(photos):
            head = (
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n"
                f'Content-Disposition: form-data; name="files"; filename="{index}"\r\n\r\n'
            )
            parts += [head.encode(), _read(photo), b"\r\n"]
        body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        rows: list[dict[str, Any]] = json.loads(
            self._ask("/v1/segment/batch", body, f"multipart/form-data; boundary={boundary}")
        )
        return [row | {"source": _name(one)} for row, one in zip(rows, photos, strict=True)]

    def models(self) -> list[dict[str, Any]]:
        """Return what the service says of its weights and limits."""
        return json.loads(self._ask("/v1/models"))

    def _segment(self, photo: str | Path | bytes, form: str) -> bytes:
        return self._ask(f"/v1/segment?format={form}", _read(photo), "application/octet-stream")

    def _ask(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        request = Request(self.url + path, body, headers)
        for attempt in range(self.retries + 1):
            wait = 0.1 * 2**attempt * random.uniform(0.5, 1)  # apart from other clients
            try:
                with urlopen(request, timeout=self.timeout) as answer:
                    return answer.read()
            except HTTPError as error:
                with error:
                    reason = _reason(error)
                if error.code != 503:
                    break
                after = error.headers.get("Retry-After", "")
                wait = max(wait, float(after)) if after.isdecimal() else wait
            except (OSError, HTTPException, ValueError) as error:
                reason = f"The service at {self.url} does not answer: {error}."
                if isinstance(error, ValueError):  # no URL
                    break
            if attempt < self.retries:
                time.sleep(min(wait, _LONGEST_WAIT))
        raise EgeunetError(reason)


def _read(photo: str | Path | bytes) -> bytes:
    if isinstance(photo, bytes):
        return photo
    try:
        return Path(photo).read_bytes()
    except OSError as error:
        raise EgeunetError(f"{photo} cannot be read: {error.strerror}.") from error


def _name(photo: str | Path | bytes) -> str | None:
    return None if isinstance(photo, bytes) else os.fspath(photo)


def _reason(error: HTTPError) -> str:
    """Return the sentence of the service, or of the status."""
    try:
        return str(json.loads(error.read())["detail"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return f"The service answered {error.code} {error.reason}."
