"""Unpack zip archives from untrusted sources."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from egeunet.errors import EgeunetError
from egeunet.reporting import Reporter

MAX_RATIO = 200  # images hardly shrink; black masks as BMP do, by less than this
MAX_MEMBERS = 100_000
MARGIN = 1 << 26  # bytes left free on the disk


def unpack(archive: Path, folder: Path, reporter: Reporter | None = None) -> None:
    """Unpack a zip file, leaving alone the files that are there in their full size.

    Each file is written aside and renamed, so one that is there is whole.

    Args:
        archive: The zip file. It is removed if it is damaged.
        folder: Where its contents go.
        reporter: Hears of the progress.

    Raises:
        EgeunetError: If the archive is damaged, names files outside `folder`, holds links or more
            than `MAX_MEMBERS` files, is encrypted or compressed by another method than deflate,
            would grow to more than `MAX_RATIO` times its size (a zip bomb), or does not fit on the
            disk.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if _wanted(m, folder, archive)]
            _check_size(members, archive, folder)
            reporter = reporter or Reporter()
            for member in reporter.track(members, f"unpacking {archive.name}", len(members)):
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
            f"{archive.name} is damaged or no zip file ({error}); it was removed: "
            "run the same command again."
        ) from error


def _wanted(member: zipfile.ZipInfo, folder: Path, archive: Path) -> bool:
    path = PurePosixPath(member.filename)
    outside = path.is_absolute() or ".." in path.parts or {"\\", ":"} & set(member.filename)
    if outside or not path.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise EgeunetError(
            f"{archive.name} is not unpacked: it holds {member.filename!r}, which would be written "
            "outside its folder or is a link."
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EgeunetError(
            f"{archive.name} is compressed by method {member.compress_type}, not by deflate; "
            f"unpack it by hand into {folder}."
        )
    if member.flag_bits & 1:
        raise EgeunetError(f"{archive.name} is encrypted; unpack it by hand into {folder}.")
    target = folder / path
    there = target.is_file() and target.stat().st_size == member.file_size
    return not (member.is_dir() or there or path.parts[0] == "__MACOSX")


def _check_size(members: list[zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    if len(members) > MAX_MEMBERS:
        raise EgeunetError(
            f"{archive.name} is not unpacked: it holds {len(members):,} files, more than the "
            f"limit of {MAX_MEMBERS:,}."
        )
    total = sum(member.file_size for member in members)
    if total > MAX_RATIO * archive.stat().st_size:
        raise EgeunetError(
            f"{archive.name} is not unpacked: it would grow to {total / 1e9:.1f} GB, more than "
            f"{MAX_RATIO} times its size."
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total + MARGIN > free:
        raise EgeunetError(
            f"{archive.name} unpacks to {total / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB "
            "free; make room or choose another folder."
        )


def _extract(file: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write one member; `zipfile` stops at its declared size and checks its CRC."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.unpacking")
    try:
        with file.open(member) as source, aside.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
