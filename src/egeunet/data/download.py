"""Download the official archives of a dataset: resumed, checked and unpacked."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from egeunet.data.datasets import Dataset, data_root, get_info, open_dataset
from egeunet.data.registry import DatasetInfo
from egeunet.data.unpack import check_room, unpack
from egeunet.errors import EgeunetError, UsageError, needs_extra
from egeunet.files import atomic_write, sha256_file
from egeunet.progress import bar

with needs_extra("train"):
    import requests
    from requests.exceptions import ChunkedEncodingError

TIMEOUT = 30.0  # seconds without a byte
MAX_ATTEMPTS = 5  # in a row that bring nothing new
_MB = 10**6
_log = logging.getLogger(__name__)


def download(name: str, root: str | Path | None = None, mirror: str | None = None) -> Dataset:
    """Download and unpack the official archives of a dataset, and open it.

    Files that are already there are not downloaded again. The archives and their checksums stay in
    `archives/` inside the dataset's folder and may be removed.

    Args:
        name: A name of `list_datasets`.
        root: The folder that holds the datasets' folders; None: the environment variable
            EGEUNET_DATA.
        mirror: Base URL that offers the archives under the same file names.

    Raises:
        EgeunetError: If the dataset cannot be downloaded by a program (the message says where to
            get it), or an archive cannot be downloaded, checked or unpacked.
        UsageError: If there is no such dataset, or `root` is missing.
    """
    info = get_info(name)
    parent = Path(root) if root else data_root()
    if parent is None:
        raise UsageError("No folder to download to: name one, or set EGEUNET_DATA.")
    folder = parent / info.folder
    if (dataset := _complete(info, folder)) is not None:
        _log.info("%s is already in %s: %d images", info.title, folder, len(dataset.samples))
        return dataset
    if not info.archives:
        raise EgeunetError(
            f"{info.title} (license: {info.license}) cannot be downloaded by a program. "
            f"{info.manual} in {folder}; see {info.homepage}."
        )
    _log.info("%s: %d pairs, %s; license: %s", info.title, info.pairs, info.homepage, info.license)
    try:
        for url in info.archives:
            url = f"{mirror.rstrip('/')}/{_file_name(url)}" if mirror else url
            unpack(fetch(url, folder / "archives"), folder)
    except OSError as error:
        raise EgeunetError(f"Cannot write to {folder}: {error.strerror or error}.") from error
    dataset = open_dataset(name, folder)
    _log.info(
        "%d images in %s; %s may be removed", len(dataset.samples), folder, folder / "archives"
    )
    return dataset


def fetch(url: str, folder: Path) -> Path:
    """Download one archive, resuming an earlier attempt, and check it.

    Args:
        url: Its URL.
        folder: Where to put it. `<file>.sha256` beside it records its checksum; a later call only
            checks the file against it.

    Returns:
        The path of the archive.

    Raises:
        EgeunetError: If the server does not answer or does not have the file, the disk is too
            small, or the file has changed since its checksum was recorded (it is then removed).
        UsageError: If the URL is not http or https, or names no file.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"Only http and https URLs can be downloaded, not {url}.")
    path = folder / _file_name(url)
    record = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _transfer(url, path)
    found = sha256_file(path)
    recorded = record.read_text(errors="replace").split()[:1] if record.is_file() else [found]
    if recorded != [found]:
        path.unlink()
        record.unlink()
        raise EgeunetError(
            f"{path.name} has the sha256 {found}, not the recorded one, and was removed. "
            "Run the same command again."
        )
    _log.info("%s: sha256 %s, not verified: the owner publishes none", path.name, found)
    with atomic_write(record) as temporary:
        temporary.write_text(f"{found}  {path.name}\n")
    return path


def _transfer(url: str, path: Path) -> None:
    """Download until the file is whole; give up after `MAX_ATTEMPTS` in a row without a byte."""
    partial, version = (path.with_name(f"{path.name}.{end}") for end in ("part", "version"))
    failures, reason = 0, ""
    while failures < MAX_ATTEMPTS:
        received = _size(partial)
        try:
            if _attempt(url, partial, version):
                partial.replace(path)
                version.unlink(missing_ok=True)
                return
            reason = "the connection was closed early"
        except requests.HTTPError as error:
            response = cast("requests.Response", error.response)
            status = response.status_code
            reason = f"the server answers {status} {response.reason}"
            if status == 416:  # the partial file belongs to another version
                partial.unlink(missing_ok=True)
            elif status < 500 and status not in (408, 429):
                raise EgeunetError(f"Cannot download {url}: {reason}.") from error
        except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError):
            reason = "the connection failed"
        except requests.RequestException as error:
            raise EgeunetError(f"Cannot download {url}: {error}.") from error
        failures = 0 if _size(partial) > received else failures + 1
        _log.warning("%s: %s", path.name, reason)
        time.sleep(min(0.2 * 2**failures, 5))
    raise EgeunetError(
        f"Cannot download {url}: {reason}. Run the same command again to resume after the "
        f"{_size(partial):,} bytes that were received."
    )


def _attempt(url: str, partial: Path, version: Path) -> bool:
    """Download what is missing of a file; return whether it is whole then.

    `version` records the URL and the version that the partial file is of: a strong ETag or the
    date, because a weak ETag does not promise the same bytes.
    """
    headers = {"User-Agent": "egeunet", "Accept-Encoding": "identity"}
    received = _size(partial)
    recorded = version.read_text(errors="replace").split("\n") if version.is_file() else []
    if received and recorded[:1] == [url] and recorded[-1]:
        headers |= {"Range": f"bytes={received}-", "If-Range": recorded[-1]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        answer = response.headers
        if response.status_code != 206:
            received = 0
        elif not answer.get("Content-Range", "").startswith(f"bytes {received}-"):
            partial.unlink(missing_ok=True)
            return False
        length = answer.get("Content-Length", "")
        total = received + int(length) if length.isdigit() else None
        check_room(partial.parent, (total or 0) - received, partial.stem)
        if not received:
            etag = answer.get("ETag", "")
            etag = etag if etag.startswith('"') else answer.get("Last-Modified", "")
            version.write_text(f"{url}\n{etag}")
        with (
            partial.open("ab" if received else "wb") as file,
            bar(f"{partial.stem} (MB)", total and total // _MB) as advance,
        ):
            advance(received // _MB)
            for block in response.iter_content(1 << 16):
                file.write(block)
                advance((received + len(block)) // _MB - received // _MB)
                received += len(block)
    return total is None or received == total


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _file_name(url: str) -> str:
    name = Path(urlsplit(url).path).name
    if not name:
        raise UsageError(f"The URL {url} names no file.")
    return name


def _complete(info: DatasetInfo, folder: Path) -> Dataset | None:
    """Open a dataset if all of it is there."""
    with suppress(EgeunetError):
        dataset = open_dataset(info.name, folder)
        if sum(sample.mask is not None for sample in dataset.samples) >= info.pairs:
            return dataset
    return None
