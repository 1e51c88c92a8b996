"""Unpack zip archives from untrusted sources."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from egeunet.errors import EgeunetError
from egeunet.progress import track

MAX_RATIO = 200  # images hardly shrink; black masks as BMP do, by less than this
MAX_MEMBERS = 100_000
DISK_MARGIN = 1 << 26  # bytes left free on the disk


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip file, except for files that already exist in their full size.

    Each file is written under a temporary name and renamed, so a file that exists is whole.

    Args:
        archive: The zip file. It is removed if it is damaged.
        folder: Where its contents go.

    Raises:
        EgeunetError: If the archive is damaged, names files outside `folder`, holds links or more
            than `MAX_MEMBERS` files, is encrypted or compressed by another method than deflate,
            would grow to more than `MAX_RATIO` times its size (a zip bomb), or does not fit on the
            disk.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if _is_needed(m, folder, archive)]
            _check_size(members, archive, folder)
            for member in track(members, f"unpacking {archive.name}"):
                _extract(file, member, folder)
    except EgeunetError:
        raise
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise EgeunetError(
                f"Cannot unpack {archive.name} into {folder}: {error.strerror}."
            ) from error
        archive.unlink()
        archive.with_name(f"{archive.name}.sha256").unlink(missing_ok=True)
        raise EgeunetError(
            f"{archive.name} is damaged or not a zip file ({error}) and was removed. "
            "Run the same command again."
        ) from error


def _is_needed(member: zipfile.ZipInfo, folder: Path, archive: Path) -> bool:
    path = PurePosixPath(member.filename)
    outside = path.is_absolute() or ".." in path.parts or {"\\", ":"} & set(member.filename)
    if outside or not path.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise EgeunetError(
            f"Cannot unpack {archive.name}: {member.filename!r} would be written outside its "
            "folder or is a link."
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EgeunetError(
            f"Cannot unpack {archive.name}: it is compressed by method {member.compress_type}, not "
            f"by deflate. Unpack it by hand into {folder}."
        )
    if member.flag_bits & 1:
        raise EgeunetError(
            f"Cannot unpack {archive.name}: it is encrypted. Unpack it by hand into {folder}."
        )
    target = folder / path
    exists = target.is_file() and target.stat().st_size == member.file_size
    return not (member.is_dir() or exists or path.parts[0] == "__MACOSX")


def _check_size(members: list[zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    if len(members) > MAX_MEMBERS:
        raise EgeunetError(
            f"Cannot unpack {archive.name}: it holds {len(members):,} files, the limit is "
            f"{MAX_MEMBERS:,}."
        )
    total = sum(member.file_size for member in members)
    if total > MAX_RATIO * archive.stat().st_size:
        raise EgeunetError(
            f"Cannot unpack {archive.name}: it would grow to {total / 1e9:.1f} GB, more than "
            f"{MAX_RATIO} times its size."
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total + DISK_MARGIN > free:
        raise EgeunetError(
            f"Cannot unpack {archive.name}: it needs {total / 1e9:.2f} GB, but {folder} has "
            f"{free / 1e9:.2f} GB free. Make room, or choose another folder."
        )


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write one member; `zipfile` stops at its declared size and checks its CRC."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.unpacking")
    try:
        with file.open(member) as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
