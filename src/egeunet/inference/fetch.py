"""Files from the web, for who names a URL."""

from __future__ import annotations

from egeunet.errors import EgeunetError

_LARGEST = 200_000_000  # bytes that are fetched


def is_url(name: object) -> bool:
    """Tell whether something is the URL of a file on the web."""
    return isinstance(name, str) and name.startswith(("https://", "http://"))


def fetch_bytes(url: str) -> bytes:
    """Return what lies at a URL, 200 MB at most.

    Raises:
        EgeunetError: It cannot be had, or is larger.
    """
    from http.client import HTTPException  # here, because few need them
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=30) as answer:
            data: bytes = answer.read(_LARGEST + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise EgeunetError(f"{url} cannot be fetched: {error}.") from error
    if len(data) > _LARGEST:
        raise EgeunetError(f"{url} is too large (more than {_LARGEST // 1_000_000} MB).")
    return data
