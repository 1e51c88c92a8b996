"""Where archives and what comes of them lie: disks, and what fsspec reaches by URI (`s3://`, …)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write

_LIBRARIES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
}


def find_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or URI, and the path as that takes it.

    Raises:
        EgeunetError: The scheme is not known, or wants a library that is not installed.
    """
    if "://" not in uri:
        return LocalFileSystem(), str(Path(uri).absolute())
    scheme = uri.partition("://")[0]
    try:
        # Listings are read once; kept, they would take a kilobyte a image.
        filesystem, path = url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        library = _LIBRARIES.get(scheme)
        remedy = f"pip install {library}" if library else str(error)
        raise EgeunetError(f"{scheme}:// needs a library that is missing: {remedy}.") from error
    except Exception as error:
        raise UsageError(f"{uri} cannot be opened: {error}") from error
    return filesystem, path


def absolute(uri: str) -> str:
    """Return what stands for a path or URI from any folder, without a slash at its end."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)  # noqa: PTH100


def list_folder(filesystem: AbstractFileSystem, folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, each with whether it is a folder itself.

    Hidden names are left out, and links to folders are no folders.
    """
    if isinstance(filesystem, LocalFileSystem):
        with os.scandir(folder) as entries:  # fsspec would ask for the size of every file
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    else:
        found = [
            (entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory")
            for entry in filesystem.ls(folder, detail=True)
            if entry["name"].strip("/") != folder.strip("/")  # a store's mark for the folder
        ]
    return sorted(entry for entry in found if not entry[0].startswith("."))


class StoreError(EgeunetError):
    """A store cannot be reached or refuses: nothing is known about the images in it.

    Stores raise errors of a dozen kinds, each its own, so that below every one is caught.
    """


class Stored:
    """A file that is read, whose own troubles are a `StoreError` and not taken for damage.

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
            self._file = filesystem.open(path, "rb")
        except FileNotFoundError as error:
            raise EgeunetError(f"There is no file {uri}.") from error
        except Exception as error:
            raise StoreError(f"{uri} cannot be opened: {error}") from error

    def read(self, size: int = -1) -> bytes:
        """Read as files do."""
        try:
            return self._file.read(size)
        except Exception as error:
            raise StoreError(f"{self._uri} cannot be read: {error}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Stored:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Folder:
    """A folder that is written to; each file in it is there whole or not at all.

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

    def names(self, below: str) -> set[str]:
        """Return the names of the files in a subfolder; none if there is no such folder."""
        try:
            return {name for name, _ in list_folder(self._filesystem, f"{self._path}/{below}")}
        except FileNotFoundError:
            return set()
        except Exception as error:
            raise EgeunetError(f"{self.uri} cannot be read: {error}.") from error

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the bytes of a file from `start` up to `stop`.

        Raises:
            EgeunetError: It cannot be read.
        """
        try:
            return self._filesystem.cat_file(f"{self._path}/{name}", start=start, end=stop)
        except Exception as error:
            raise EgeunetError(f"{self.uri}/{name} cannot be read: {error}.") from error

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read bytes.

        Raises:
            FileNotFoundError: There is none.
            StoreError: It cannot be opened.
        """
        try:
            return self._filesystem.open(f"{self._path}/{name}", "rb")
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StoreError(f"{self.uri}/{name} cannot be opened: {error}") from error

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a local file, which is at `name` once the block has ended.

        On a disk it is renamed, to a store it is sent as one object: a file of that name is whole.

        Raises:
            EgeunetError: It cannot be written.
        """
        try:
            if self._local:
                with atomic_write(Path(self._path, name)) as path:
                    yield path
            else:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder, Path(name).name)
                    yield path
                    self._put(path, name)
        except OSError as error:
            reason = error.strerror or error
            raise EgeunetError(f"{self.uri}/{name} cannot be written: {reason}.") from error

    def _put(self, path: Path, name: str) -> None:
        try:
            self._filesystem.put_file(str(path), f"{self._path}/{name}")
        except Exception as error:
            raise StoreError(f"{self.uri}/{name} cannot be written: {error}") from error

    def sweep(self, *patterns: str) -> None:
        """Remove what writers that were killed left: stores keep nothing of an object cut short."""
        if self._local:
            for pattern in patterns:
                for stray in Path(self._path).glob(pattern):
                    stray.unlink(missing_ok=True)
