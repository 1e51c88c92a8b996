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
            for member in track(_needed(file, archive, folder), f"unpacking {archive.name}"):
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


def check_room(folder: Path, needed: int, name: str) -> None:
    """Check that the disk of a folder has room for `needed` bytes of `name`.

    Raises:
        EgeunetError: If it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed + DISK_MARGIN > free:
        raise EgeunetError(
            f"{name} needs {needed / 1e9:.2f} GB more, but {folder} has {free / 1e9:.2f} GB free. "
            "Make room, or choose another folder."
        )


def _needed(file: zipfile.ZipFile, archive: Path, folder: Path) -> list[zipfile.ZipInfo]:
    """Return the members that are to be written, after all checks of their headers."""
    members = []
    for member in file.infolist():
        path = PurePosixPath(member.filename)
        outside = path.is_absolute() or ".." in path.parts or {"\\", ":"} & set(member.filename)
        problem = ""
        if outside or not path.parts or stat.S_ISLNK(member.external_attr >> 16):
            problem = f"{member.filename!r} would be written outside its folder or is a link"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = (
                f"it is compressed by method {member.compress_type}, not by deflate. Unpack it by "
                f"hand into {folder}"
            )
        elif member.flag_bits & 1:
            problem = f"it is encrypted. Unpack it by hand into {folder}"
        if problem:
            raise EgeunetError(f"Cannot unpack {archive.name}: {problem}.")
        target = folder / path
        exists = target.is_file() and target.stat().st_size == member.file_size
        if not (member.is_dir() or exists or path.parts[0] == "__MACOSX"):
            members.append(member)
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS:
        problem = f"it holds {len(members):,} files, the limit is {MAX_MEMBERS:,}"
    elif total > MAX_RATIO * archive.stat().st_size:
        problem = f"it would grow to {total / 1e9:.1f} GB, more than {MAX_RATIO} times its size"
    if problem:
        raise EgeunetError(f"Cannot unpack {archive.name}: {problem}.")
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, total, archive.name)
    return members


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
