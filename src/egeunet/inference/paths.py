"""Which photos files, folders and glob patterns stand for."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.fetch import is_url
from egeunet.inference.image_io import FORMAT_NAMES, FORMATS

SUFFIXES = frozenset().union(*FORMATS.values())
"""The files that count as photos in a folder."""


def find_photos(inputs: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """List the photos that files, folders and globs stand for, sorted, each once.

    Args:
        inputs: Files (any suffix), folders (files with a suffix in `SUFFIXES`, hidden ones left
            out) and glob patterns (`**` included).
        recursive: Also look into the folders' subfolders; links to folders are not followed.

    Raises:
        UsageError: An input does not exist, or there is no photo among them.
        EgeunetError: A folder cannot be read.
    """
    return list(locate_photos(inputs, recursive))


def locate_photos(inputs: Sequence[str | Path], recursive: bool = False) -> dict[Path, Path]:
    """Find photos as `find_photos` does, and where each lies below the folder it was found through.

    Args:
        inputs: As for `find_photos`.
        recursive: As for `find_photos`.

    Returns:
        The path of each photo with its path relative to the folder (or to the fixed part of the
        glob) that was asked for; the bare name for a file asked for by name.

    Raises:
        UsageError: As for `find_photos`.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for one in inputs:
        for path, root in _expand(one, recursive):
            found.setdefault(os.path.abspath(path), (path, path.relative_to(root)))  # noqa: PTH100
    if not found:
        names = ", ".join(str(one) for one in inputs) or "an empty list"
        hint = "" if recursive else "; subfolders are looked into with --recursive (recursive=True)"
        raise UsageError(f"No photo ({FORMAT_NAMES}) was found in {names}{hint}.")
    return dict(sorted(found.values()))


def other_files(inputs: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """List the files in folders that do not count as photos, hidden ones left out.

    Args:
        inputs: As for `find_photos`.
        recursive: As for `find_photos`.
    """
    found = []
    for folder in (Path(one) for one in inputs if Path(one).is_dir()):
        for path in sorted(folder.glob("**/*" if recursive else "*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden and not is_photo(path.name):
                found.append(path)
    return found


def _expand(one: str | Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Yield the photos behind one input, each with the folder it was found through."""
    path = Path(one)
    if path.is_file():
        yield path, path.parent
    elif path.is_dir():
        for folder, subfolders, names in os.walk(path, onerror=_refuse):
            subfolders[:] = [n for n in subfolders if recursive and not n.startswith(".")]
            photos = (Path(folder, name) for name in names if is_photo(name))
            yield from ((photo, path) for photo in photos if not _is_special(photo))
    elif glob.has_magic(str(one)):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed])
        for match in map(Path, glob.glob(str(one), recursive=True)):  # noqa: PTH207
            if match.is_dir():
                yield from ((photo, root) for photo, _ in _expand(match, recursive))
            elif is_photo(match.name) and not _is_special(match):
                yield match, root
    elif is_url(one):
        raise UsageError(f"{one} is a URL: fetch it first, or give it to `egeunet.Segmenter()`.")
    elif not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    else:
        raise UsageError(f"{path} is neither a file nor a folder.")


def _refuse(error: OSError) -> None:
    raise EgeunetError(
        f"The folder {error.filename} cannot be read ({error.strerror}): make it readable, or name "
        "the folders beside it."
    ) from error


def _is_special(path: Path) -> bool:
    """Tell whether it is a pipe, a socket or a device: reading it may never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # what is wrong with it is told when it is read


def is_photo(name: str) -> bool:
    """Tell whether a file of this name counts as a photo in a folder."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
