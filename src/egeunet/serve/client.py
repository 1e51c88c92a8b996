"""A client of the service that retries while it is busy."""

from __future__ import annotations

import json
import os
import random
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError, needs_extra

_MAX_WAIT = 10.0  # seconds between two attempts


class Client:
    """Sends images to a running service; usable from several threads.

    Redirects are not followed: they could take the token to another host.

    Args:
        url: Address of the service.
        token: Bearer token, if the service requires one.
        retries: Attempts after the first, if the response is 503 or there is none. The time between
            them doubles from 0.1 s, or is what the service says.
        timeout: Seconds without a byte after which an attempt has failed.

    Raises:
        MissingExtraError: httpx2 is not installed (extra `client`).
        UsageError: `url` does not begin with http:// or https://.

    Example:
        >>> client = Client("http://127.0.0.1:8000")
        >>> client.segment("image.jpg")["area"]
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        retries: int = 5,
        timeout: float = 60,
    ) -> None:
        with needs_extra("client"):
            import httpx2
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not the address of a service: expected http://HOST:PORT.")
        self.url, self.retries = url.rstrip("/"), retries
        headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
        self._http = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False)
        weakref.finalize(self, self._http.close)
        self._no_answer = (httpx2.RequestError, httpx2.InvalidURL)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(self, image: str | Path | bytes) -> dict[str, Any]:
        """Segment one image.

        Args:
            image: A path or the bytes of an image file.

        Returns:
            `Result.to_dict` of the image, and its `mask` as run lengths.

        Raises:
            EgeunetError: The file cannot be read, or the service refuses it or does not answer.
        """
        return json.loads(self._segment(image, "json")) | {"source": _name(image)}

    def mask(self, image: str | Path | bytes) -> bytes:
        """Return the mask of an image as a PNG file; otherwise as `segment`."""
        return self._segment(image, "mask")

    def overlay(self, image: str | Path | bytes) -> bytes:
        """Return an image with its mask drawn over it as a PNG file; otherwise as `segment`."""
        return self._segment(image, "overlay")

    def segment_batch(self, images: Sequence[str | Path | bytes]) -> list[dict[str, Any]]:
        """Segment several images with one request.

        Returns:
            For each image what `segment` returns, or its `source` and an `error`.

        Raises:
            EgeunetError: As `segment`, for the whole request.
        """
        files = [("files", (str(index), _read(one))) for index, one in enumerate(images)]
        rows = json.loads(self._request("POST", "/v1/segment/batch", files=files))
        return [row | {"source": _name(one)} for row, one in zip(rows, images, strict=True)]

    def models(self) -> list[dict[str, Any]]:
        """Return the weights and limits of the service."""
        return json.loads(self._request("GET", "/v1/models"))

    def _segment(self, image: str | Path | bytes, form: str) -> bytes:
        kind = {"Content-Type": "application/octet-stream"}
        path = f"/v1/segment?format={form}"
        return self._request("POST", path, content=_read(image), headers=kind)

    def _request(self, method: str, path: str, **body: Any) -> bytes:
        for attempt in range(self.retries + 1):
            wait = 0.1 * 2**attempt * random.uniform(0.5, 1)  # apart from other clients
            try:
                answer = self._http.request(method, self.url + path, **body)
            except self._no_answer as error:
                reason = f"The service at {self.url} does not answer: {error}."
            else:
                if answer.status_code == 200:
                    return answer.content
                reason = _reason(answer)
                if answer.status_code != 503:
                    break
                after = answer.headers.get("Retry-After", "")
                wait = max(wait, float(after)) if after.isdecimal() else wait
            if attempt < self.retries:
                time.sleep(min(wait, _MAX_WAIT))
        raise EgeunetError(reason)


def _read(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise EgeunetError(f"Cannot read {image}: {error.strerror}.") from error


def _name(image: str | Path | bytes) -> str | None:
    return None if isinstance(image, bytes) else os.fspath(image)


def _reason(answer: Any) -> str:
    """Return the sentence of the service, or of the status."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return f"The service answered {answer.status_code} {answer.reason_phrase}."
