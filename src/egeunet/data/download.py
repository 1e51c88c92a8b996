"""Fetches the official archives: resumed where they broke off, checked, and unpacked with care."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from egeunet.data.datasets import Dataset, data_root, get_info, open_dataset
from egeunet.data.registry import Archive, DatasetInfo
from egeunet.data.unpack import MARGIN, unpack
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, sha256_file
from egeunet.reporting import Reporter

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing new
_BLOCK = 1 << 18
_MB = 10**6
_BROKEN = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
)


def download(
    name: str,
    root: str | Path | None = None,
    mirror: str | None = None,
    reporter: Reporter | None = None,
) -> Dataset:
    """Fetch and unpack the official archives of a dataset, and open it.

    What is there already is not fetched again. Archives and their checksums stay in `archives/`
    inside the dataset's folder and may be removed.

    Args:
        name: One of `list_datasets`.
        root: The folder that holds the datasets' folders; None is EGEUNET_DATA.
        mirror: An address that offers the archives under the same file names.
        reporter: Hears of the progress, the licence and the checksums.

    Raises:
        EgeunetError: If the dataset must be got by hand (the message says how), or an archive
            cannot be fetched, checked or unpacked.
        UsageError: If there is no such dataset, or no folder is known to put it in.
    """
    reporter = reporter or Reporter()
    info = get_info(name)
    above = Path(root) if root else data_root()
    if above is None:
        raise UsageError("Where to? Name a folder, or set EGEUNET_DATA to one.")
    folder = above / info.folder
    if (there := _complete(info, folder)) is not None:
        reporter.info(f"{info.title} is already in {folder}: {len(there.samples)} images")
        return there
    if not info.archives:
        raise EgeunetError(
            f"{info.title} (licence: {info.licence}) cannot be fetched by a program. "
            f"{info.manual} in {folder}; the page is {info.homepage}"
        )
    reporter.info(f"{info.title}: {info.pairs} pairs, {info.homepage}; licence: {info.licence}")
    try:
        for archive in info.archives:
            url = f"{mirror.rstrip('/')}/{_file_name(archive.url)}" if mirror else archive.url
            path = fetch(Archive(url, archive.sha256), folder / "archives", reporter)
            unpack(path, folder, reporter)
    except OSError as error:
        raise EgeunetError(f"Cannot write to {folder}: {error.strerror or error}.") from error
    dataset = open_dataset(name, folder)
    reporter.info(
        f"{len(dataset.samples)} images in {folder}; {folder / 'archives'} may be removed"
    )
    return dataset


def fetch(archive: Archive, folder: Path, reporter: Reporter | None = None) -> Path:
    """Fetch one file, going on where an earlier attempt broke off, and check it.

    Args:
        archive: What to fetch.
        folder: Where to put it. `<file>.sha256` beside it keeps the checksum it had; a later call
            finds the file there and only checks it.
        reporter: Hears of the progress and the checksum.

    Returns:
        The file.

    Raises:
        EgeunetError: If the server does not answer or offer it, the disk is too small, or the
            checksum is wrong (the file is then removed).
        UsageError: If the address is not http or https.
    """
    reporter = reporter or Reporter()
    if urlsplit(archive.url).scheme not in ("http", "https"):
        raise UsageError(f"Only http and https addresses are fetched, not {archive.url}.")
    path = folder / _file_name(archive.url)
    note = path.with_name(f"{path.name}.sha256")
    known = note.read_text().split()[:1] if note.is_file() else []
    if not path.is_file():  # a part has another name: what is there is whole
        folder.mkdir(parents=True, exist_ok=True)
        _Transfer(archive.url, path, reporter).run()
    found = sha256_file(path)
    expected = archive.sha256 or (known[0] if known else None)
    if expected and found != expected:
        path.unlink()
        note.unlink(missing_ok=True)
        raise EgeunetError(
            f"{path.name} has the sha256 {found} instead of {expected}; it was removed: "
            "run the same command again."
        )
    if archive.sha256:
        reporter.info(f"{path.name}: sha256 {found} as published")
    else:
        reporter.info(f"{path.name}: sha256 {found}, not verified: the owner publishes no checksum")
    with atomic_write(note) as temporary:
        temporary.write_text(f"{found}  {path.name}\n")
    return path


class _Transfer:
    """The way of one file from a server to a disk, with breaks."""

    def __init__(self, url: str, path: Path, reporter: Reporter) -> None:
        self.url = url
        self.path = path
        self.reporter = reporter
        self.part = path.with_name(f"{path.name}.part")
        self.state = path.with_name(f"{path.name}.part.json")  # which version the part is of

    def run(self) -> None:
        """Fetch until the file is whole; gives up after `ATTEMPTS` in a row without a byte."""
        failures = 0
        while True:
            before = self._size()
            try:
                if self._attempt():
                    break
                reason = "the connection broke off"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise EgeunetError(
                        f"{self.url} answers {error.code} {error.reason}; see whether the "
                        "address is still right."
                    ) from error
                reason = f"the server answers {error.code} {error.reason}"
            except _BROKEN as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if self._size() > before else failures + 1
            if failures >= ATTEMPTS:
                raise EgeunetError(
                    f"Cannot fetch {self.url} ({reason}); run the same command again to go on "
                    f"after the {self._size():,} bytes that are here."
                )
            self.reporter.warn(f"{self.path.name}: {reason}; trying again")
            time.sleep(min(0.2 * 2**failures, 5))
        self.part.replace(self.path)
        self.state.unlink(missing_ok=True)

    def _attempt(self) -> bool:
        """Fetch what is missing; True if the file is whole then."""
        version, have = self._load(), self._size()
        headers = {"User-Agent": "egeunet"}
        if have and version:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        try:
            response = _open(urllib.request.Request(self.url, headers=headers))
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # Nothing lies beyond what is here: it is whole, or of another version.
            whole = error.headers.get("Content-Range", "") == f"bytes */{have}"
            if not whole:
                self.part.unlink(missing_ok=True)
            return whole
        with response:
            if response.status != 206:
                have = 0
            elif _range_start(response) != have:
                self.part.unlink()
                return False
            total = None if response.length is None else have + response.length
            self._check_room((total or 0) - have)
            if not have:
                self._save(response)
            self._receive(response, have, total)
        return total is None or self._size() == total

    def _receive(self, response: Any, have: int, total: int | None) -> None:
        with (
            self.part.open("ab" if have else "wb") as file,
            self.reporter.bar(f"{self.path.name} (MB)", total and total // _MB) as bar,
        ):
            bar.advance(have // _MB)
            while block := response.read(_BLOCK):
                file.write(block)
                bar.advance((have + len(block)) // _MB - have // _MB)
                have += len(block)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed + MARGIN > free:
            raise EgeunetError(
                f"{self.path.name} needs {needed / 1e9:.2f} GB more, but {self.path.parent} has "
                f"{free / 1e9:.2f} GB free; make room or choose another folder."
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _load(self) -> str | None:
        try:
            state = json.loads(self.state.read_text())
            return str(state["version"]) if state["url"] == self.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _save(self, response: Any) -> None:
        """Remember which version this is; a weak ETag does not vouch for the same bytes."""
        etag = response.headers.get("ETag", "")
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        with atomic_write(self.state) as temporary:
            temporary.write_text(json.dumps({"url": self.url, "version": version or None}))


def _open(request: urllib.request.Request) -> Any:
    """Open an address over http or https, and nothing else that a redirection might name."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    response = opener.open(request, timeout=TIMEOUT)
    if response is None:
        raise EgeunetError(f"{request.full_url} leads to an address that is not http or https.")
    return response


def _range_start(response: Any) -> int | None:
    """Return where a partial answer begins, from "bytes 100-199/200"."""
    content = response.headers.get("Content-Range", "").removeprefix("bytes ")
    start = content.split("-")[0]
    return int(start) if start.isdigit() else None


def _file_name(url: str) -> str:
    name = Path(urlsplit(url).path).name
    if not name:
        raise UsageError(f"The address {url} names no file.")
    return name


def _complete(info: DatasetInfo, folder: Path) -> Dataset | None:
    """Open a dataset if all of it is there."""
    try:
        dataset = open_dataset(info.name, folder)
    except EgeunetError:
        return None
    pairs = sum(sample.mask is not None for sample in dataset.samples)
    return dataset if pairs >= info.pairs else None
