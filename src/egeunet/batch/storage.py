"""Files on disk, and in stores that fsspec reaches by URI (`s3://`, …)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, remove_temporary


class StoreError(EgeunetError):
    """A store cannot be reached or refuses: nothing is known about the images in it."""


@contextmanager
def store_errors(uri: str, verb: str = "read") -> Iterator[None]:
    """Turn what a store raises into a `StoreError`, except that a file is missing.

    Stores raise errors of a dozen kinds, each its own, so that every one is caught.
    """
    try:
        yield
    except (EgeunetError, FileNotFoundError):
        raise
    except Exception as error:
        raise StoreError(f"{uri} cannot be {verb}: {error}.") from error


def find_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or URI, and the path in it.

    Raises:
        EgeunetError: The scheme is unknown, or needs a library that is not installed.
    """
    if "://" not in uri:
        return LocalFileSystem(), str(Path(uri).absolute())
    try:
        # Listings are read once; keeping them would take a kilobyte per image.
        return url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        scheme = uri.partition("://")[0]
        raise EgeunetError(f"{scheme}:// needs a library that is missing: {error}.") from error
    except Exception as error:
        raise UsageError(f"{uri} cannot be opened: {error}") from error


def absolute(uri: str) -> str:
    """Return a path or URI as it is named from any folder, without a slash at its end."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)  # noqa: PTH100


def list_folder(filesystem: AbstractFileSystem, folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, each with whether it is a folder itself.

    Hidden names are left out, and links to folders do not count as folders.
    """
    found = [
        (entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory")
        for entry in filesystem.ls(folder, detail=True)
        if entry["name"].strip("/") != folder.strip("/")  # a store's mark for the folder
    ]
    return sorted(entry for entry in found if not entry[0].startswith("."))


class Stored:
    """A file open for reading; errors of its store are a `StoreError` and not taken for damage.

    Args:
        uri: A path, or a URI that fsspec can read.

    Raises:
        EgeunetError: There is no such file.
        StoreError: It cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        filesystem, path = find_filesystem(uri)
        try:
            with store_errors(uri, "opened"):
                self._file = filesystem.open(path, "rb")
        except FileNotFoundError as error:
            raise EgeunetError(f"There is no file {uri}.") from error

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or the rest of the file."""
        with store_errors(self._uri):
            return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Folder:
    """An output folder, in which each file is whole or missing.

    Args:
        uri: A path, or a URI that fsspec can write to. It need not exist.

    Raises:
        UsageError: It is a file.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri
        self._filesystem, self._path = find_filesystem(uri)
        self._local = isinstance(self._filesystem, LocalFileSystem)
        if self._local and Path(self._path).is_file():
            raise UsageError(f"{uri} is a file: name a folder to write to.")

    def names(self, below: str = "") -> set[str]:
        """Return the names in a subfolder; none if there is no such folder."""
        try:
            with store_errors(self.uri):
                return {name for name, _ in list_folder(self._filesystem, f"{self._path}/{below}")}
        except FileNotFoundError:
            return set()

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of a file from `start` up to `stop`.

        Raises:
            StoreError: It cannot be read.
        """
        with store_errors(f"{self.uri}/{name}"):
            return self._filesystem.cat_file(f"{self._path}/{name}", start=start, end=stop)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a local file that becomes `name` when the block ends.

        On a disk it is renamed, to a store it is sent as one object.

        Raises:
            EgeunetError: It cannot be written.
        """
        try:
            if self._local:
                with atomic_write(Path(self._path, name)) as path:
                    yield path
                return
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, Path(name).name)
                yield path
                with store_errors(f"{self.uri}/{name}", "written"):
                    self._filesystem.put_file(str(path), f"{self._path}/{name}")
        except OSError as error:
            reason = error.strerror or error
            raise EgeunetError(f"{self.uri}/{name} cannot be written: {reason}.") from error

    def remove_temporary(self) -> None:
        """Remove what killed writers left; stores keep nothing of an interrupted upload."""
        if self._local:
            root = Path(self._path)
            for folder in (root, *root.glob("*/"), *root.glob("*/*/")):
                remove_temporary(folder)
