"""Downloads of single files, bounded in time and size."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from egeunet.errors import EgeunetError

MAX_BYTES = 200_000_000
"""Size of a file."""
SECONDS = 120.0
"""Time for a whole download, from the name look-up to the last byte."""
_SILENCE = 20  # seconds without a byte


def fetch_bytes(url: str) -> bytes:
    """Download a file.

    Redirects are followed, from https to https alone.

    Args:
        url: `https://` or `http://`.

    Returns:
        At most `MAX_BYTES` bytes.

    Raises:
        EgeunetError: The file cannot be downloaded, is larger, or takes longer than `SECONDS`. The
            message names the URL without user, password and query, which may be secrets.
    """
    found: list[bytes | Exception] = []
    end = time.monotonic() + SECONDS

    def download() -> None:
        try:
            found.append(_read(url, end))
        except HTTPError as error:
            error.close()
            found.append(error)
        except (OSError, ValueError, HTTPException) as error:
            found.append(error)

    # In a thread that may be left behind: looking up a name and reading headers have no time limit.
    thread = threading.Thread(target=download, daemon=True, name="download")
    thread.start()
    thread.join(SECONDS)
    result = found[0] if found else TimeoutError(f"it took longer than {SECONDS:.0f} s")
    if isinstance(result, bytes):
        return result
    reason: object = result
    if isinstance(result, URLError) and not isinstance(result, HTTPError):
        reason = result.reason
    raise EgeunetError(f"Cannot download {_public(url)}: {reason}.") from result


def _read(url: str, end: float) -> bytes:
    data = bytearray()
    with build_opener(_SameScheme).open(url, timeout=_SILENCE) as answer:
        while block := answer.read1(1 << 16):
            data += block
            if len(data) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES // 1_000_000} MB")
            if time.monotonic() > end:
                raise TimeoutError(f"it took longer than {SECONDS:.0f} s")
    return bytes(data)


class _SameScheme(HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted connection to an open one or a file."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            fp.close()
            raise ValueError(f"it redirects from {req.type} to {urlsplit(newurl).scheme}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _public(url: str) -> str:
    """Return a URL without what may be secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
