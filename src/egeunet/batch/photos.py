"""The photos of a shard, one after the other, wherever they lie."""

from __future__ import annotations

import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from lzma import LZMAError
from typing import TypeAlias

from egeunet.batch.plan import Shard
from egeunet.batch.storage import Stored, StoreError, find_filesystem
from egeunet.batch.tables import read_table
from egeunet.errors import EgeunetError
from egeunet.inference.paths import is_image
from egeunet.inference.prefetch import prefetch_map

Photo: TypeAlias = tuple[str, "bytes | EgeunetError"]
"""What a photo is called, and its file's bytes or why there are none."""

_READERS = 8  # a store answers after some tens of milliseconds, however many ask
_TRIES = 4


def read_photos(shard: Shard) -> Iterator[Photo]:
    """Read the photos of a shard, some ahead of the one that is wanted.

    A tar or Parquet file that turns out damaged gives the photos before the damage, and then one
    error under its own name.

    Args:
        shard: A line of the plan (`egeunet.batch.plan`).

    Yields:
        Each photo.

    Raises:
        StoreError: A store cannot be reached.
    """
    if "photos" in shard:
        yield from _read_ahead((name, name) for name in shard["photos"])
        return
    uri = shard.get("tar") or shard["parquet"]
    try:
        if "tar" in shard:
            yield from _read_tar(uri)
        else:
            first, stop = shard["groups"]
            yield from _read_ahead(read_table(uri, first, stop, shard["row"]))
    except StoreError:
        raise
    except EgeunetError as error:
        yield uri, error


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error; `tarfile` takes it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the true end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no photo is found behind the last one ({error})") from error


def _read_tar(uri: str) -> Iterator[Photo]:
    try:
        # As a stream: a gzipped one, and one in a store, can only be read from front to back.
        with (
            Stored(uri) as source,
            tarfile.open(fileobj=source, mode="r|*", tarinfo=_Member) as tar,
        ):
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not is_image(member.name.rpartition("/")[2]):
                    continue
                name = f"{uri}/{member.name}"
                if member.isfile():
                    file = tar.extractfile(member)
                    yield name, file.read() if file else b""
                elif member.islnk() or member.issym():
                    yield name, EgeunetError(f"{name} is a link to {member.linkname}, no photo.")
    except (tarfile.TarError, OSError, EOFError, zlib.error, LZMAError) as error:
        raise EgeunetError(f"{uri} is damaged or cut short: {error}.") from error


def _read_ahead(photos: Iterable[tuple[str, bytes | str]]) -> Iterator[Photo]:
    with closing(prefetch_map(_read_or_fail, photos, threads=_READERS, limit=_READERS)) as outcomes:
        for name, outcome in outcomes:
            if isinstance(outcome, StoreError):
                raise outcome
            yield name, outcome


def _read_or_fail(item: tuple[str, bytes | str]) -> Photo:
    name, photo = item
    try:
        return name, _read(photo)
    except EgeunetError as error:
        return name, error


def _read(photo: bytes | str) -> bytes:
    """Read a photo; what may pass is tried again."""
    if isinstance(photo, bytes):
        return photo
    filesystem, path = find_filesystem(photo)
    scheme = photo.partition("://")[0] if "://" in photo else "file"
    for attempt in range(_TRIES):
        try:
            return filesystem.cat_file(path)
        except FileNotFoundError as error:
            raise EgeunetError(f"There is no file {photo}.") from error
        except Exception as error:  # as in `StoreError`
            if scheme == "file" or (scheme in ("http", "https") and attempt == _TRIES - 1):
                reason = getattr(error, "strerror", None) or error
                raise EgeunetError(f"{photo} cannot be read: {reason}.") from error
            if attempt == _TRIES - 1:
                raise StoreError(f"{photo} cannot be read: {error}") from error
            time.sleep(4**attempt / 4)
    raise AssertionError
