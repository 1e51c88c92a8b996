"""Atomic writes, locks, bounded reads, checksums and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError

if sys.platform != "win32":
    import fcntl

MAX_TEXT_BYTES = 16 << 20  # limit for text files that are read whole
_PREFIX = 20  # characters of the file name that its temporary file has, too
_TEMPORARY = re.compile(rf"\..{{1,{_PREFIX}}}-[a-z0-9_]{{8}}(\.\w+)?")

# Reading the umask sets it for an instant, so it is read once, before there are threads.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def is_url(name: object) -> bool:
    """Return whether something is the URL of a file on the web."""
    return isinstance(name, str) and name.startswith(("https://", "http://"))


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: `path` has either the new content or the old one.

    Args:
        path: The file to write. Missing parent folders are created.

    Yields:
        Path of a temporary file in the same folder with the same suffix. When the block ends, the
        file is flushed to disk and renamed to `path`; when the block raises, it is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Only part of the name: it may already be as long as a file name can be.
    prefix = f".{path.stem[:_PREFIX]}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        # mkstemp creates private files; a result should have the usual permissions.
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: str | Path) -> None:
    """Check that an output folder is not a file, before any work is done.

    Raises:
        UsageError: If it is a file.
    """
    if Path(path).exists() and not Path(path).is_dir():
        raise UsageError(f"{path} is a file: name a folder to write to.")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process while the block runs; create it if missing.

    On Windows and on file systems without locks this does nothing.

    Raises:
        UsageError: If another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another process is writing {folder}: wait until it ends, or name another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def escape_name(name: str) -> str:
    """Escape bytes of a file name that are not valid Unicode, for tables and JSON."""
    return name.encode("utf-8", "backslashreplace").decode()


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Call it only while no other process writes to the folder (see `folder_lock`).
    """
    for path in folder.glob(".*-????????*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file of bounded size.

    Raises:
        EgeunetError: If it cannot be read.
        ValueError: If it is larger than `limit` bytes or not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise EgeunetError(f"Cannot read {path}: {error.strerror or error}.") from error
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit >> 10} KiB")
    return content.decode("utf-8")


def read_json(path: str | Path, limit: int = MAX_TEXT_BYTES) -> Any:
    """Read a JSON file of bounded size.

    Raises:
        EgeunetError: If it cannot be read, is larger than `limit` bytes or is not JSON.
    """
    try:
        return json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as error:
        raise EgeunetError(f"{path} is not valid JSON ({error}).") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the cache folder: $EGEUNET_CACHE, else `egeunet` in the user's cache folder.

    A user without a home folder, as in some containers, gets a private folder below the system's
    temporary folder.

    Raises:
        EgeunetError: If that private folder belongs to another user.
    """
    if own := os.environ.get("EGEUNET_CACHE"):
        return Path(own)
    if user_cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(user_cache) / "egeunet"
    try:
        return Path.home() / ".cache" / "egeunet"
    except RuntimeError:
        return _temporary_cache()


def _temporary_cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"egeunet-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EgeunetError(
            f"{folder} belongs to another user. Set EGEUNET_CACHE to a folder of your own."
        )
    return folder
