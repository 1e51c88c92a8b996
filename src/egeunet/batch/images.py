"""Reading the images of a shard."""

from __future__ import annotations

import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from lzma import LZMAError
from typing import TypeAlias

from egeunet.batch.plan import Shard
from egeunet.batch.storage import Stored, StoreError, find_filesystem, store_errors
from egeunet.batch.tables import read_table
from egeunet.errors import EgeunetError
from egeunet.files import is_url
from egeunet.inference.fetch import fetch_bytes
from egeunet.inference.paths import is_image
from egeunet.inference.prefetch import prefetch_map

MAX_BYTES = 256 * 2**20
"""Size of an image file; larger ones become rows with an error."""
Item: TypeAlias = tuple[str, "bytes | EgeunetError"]
"""Name of an image, and the bytes of its file or the reason there are none."""

_MAX_MEMBER = 2**40  # bytes of any member of a tar
_BLOCK = 2**20
_READERS = 8  # a store answers after some tens of milliseconds, however many requests there are
_TRIES = 4


def read_images(shard: Shard) -> Iterator[Item]:
    """Read the images of a shard, some of them ahead.

    A damaged tar or Parquet file yields the images before the damage, then one error under its own
    name.

    Args:
        shard: A line of the plan (`egeunet.batch.plan`).

    Raises:
        StoreError: A store cannot be reached.
    """
    if "images" in shard:
        yield from _prefetch((name, name) for name in shard["images"])
        return
    uri = shard.get("tar") or shard["parquet"]
    try:
        if "tar" in shard:
            yield from _read_tar(uri)
        else:
            first, stop = shard["groups"]
            yield from _prefetch(read_table(uri, first, stop, shard["row"]))
    except StoreError:
        raise
    except EgeunetError as error:
        yield uri, error
    except MemoryError:
        yield uri, EgeunetError(f"Cannot read {uri}: it needs more memory than there is.")


class _Member(tarfile.TarInfo):
    """A tar member whose damaged header is an error; `tarfile` takes it for the tar's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the true end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no image is found behind the last one ({error})") from error


def _read_tar(uri: str) -> Iterator[Item]:
    try:
        # As a stream: a gzipped one, and one in a store, can only be read from front to back.
        with (
            Stored(uri) as source,
            tarfile.open(fileobj=source, mode="r|*", bufsize=_BLOCK, tarinfo=_Member) as tar,
        ):
            for member in tar:
                if member.size > _MAX_MEMBER:  # `tarfile` skips block by block, past the end too
                    raise tarfile.ReadError(f"{member.name} claims {member.size:.0e} bytes")
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not is_image(member.name.rpartition("/")[2]):
                    continue
                name = f"{uri}/{member.name}"
                if member.isfile():
                    file = tar.extractfile(member) if member.size <= MAX_BYTES else None
                    yield name, file.read() if file else _too_large(name)
                elif member.islnk() or member.issym():
                    reason = f"{name} is a link to {member.linkname}, not an image."
                    yield name, EgeunetError(reason)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, LZMAError) as error:
        raise EgeunetError(f"Cannot read {uri}: it is damaged or cut short ({error}).") from error


def _too_large(name: str) -> EgeunetError:
    return EgeunetError(f"{name} is larger than {MAX_BYTES // 2**20} MB.")


def _prefetch(items: Iterable[tuple[str, bytes | str]]) -> Iterator[Item]:
    with closing(prefetch_map(_read_item, items, threads=_READERS, limit=_READERS)) as found:
        for name, data in found:
            if isinstance(data, StoreError):
                raise data
            yield name, data


def _read_item(item: tuple[str, bytes | str]) -> Item:
    name, source = item
    try:
        data = source if isinstance(source, bytes) else _read(source)
    except EgeunetError as error:
        return name, error
    except MemoryError:
        return name, EgeunetError(f"Cannot read {name}: it needs more memory than there is.")
    return name, data if len(data) <= MAX_BYTES else _too_large(name)


def _read(uri: str) -> bytes:
    """Read at most `MAX_BYTES` + 1 bytes; a store or server is asked several times."""
    remote = "://" in uri and not uri.startswith("file://")
    for attempt in range(_TRIES if remote else 1):
        time.sleep(4 ** (attempt - 2) if attempt else 0)
        try:
            if is_url(uri):
                return fetch_bytes(uri)
            filesystem, path = find_filesystem(uri)
            with store_errors(uri):
                if not remote:
                    with filesystem.open(path, "rb") as file:
                        return file.read(MAX_BYTES + 1)
                size = min(filesystem.size(path), MAX_BYTES + 1)
                return filesystem.cat_file(path, end=size) if size else b""
        except FileNotFoundError as error:
            raise EgeunetError(f"There is no file {uri}.") from error
        except EgeunetError as error:
            if not isinstance(error, StoreError) and not is_url(uri):
                raise
            failure = error
    if isinstance(failure, StoreError) and not remote:  # an image on disk that cannot be read
        raise EgeunetError(str(failure)) from failure
    raise failure
