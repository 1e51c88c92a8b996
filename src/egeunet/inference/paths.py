"""The images that files, folders, glob patterns and URLs name."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import is_url
from egeunet.inference.image_io import FORMAT_NAMES, FORMATS

SUFFIXES = frozenset().union(*FORMATS.values())
"""Suffixes of the files in a folder that count as images."""


def find_images(inputs: Sequence[str | Path], recursive: bool = False) -> dict[str | Path, Path]:
    """Find the images that files, folders, glob patterns and URLs name.

    Args:
        inputs: Files (any suffix), folders (files with a suffix in `SUFFIXES`, without hidden
            ones), glob patterns (`**` included) and URLs (http, https).
        recursive: Include the subfolders of folders; links to folders are not followed.

    Returns:
        Each image once, sorted: its path or URL, and its path relative to the folder (or to the
        fixed part of the glob) it was found in; the bare name for a file or a URL.

    Raises:
        UsageError: An input does not exist, or there is no image among them.
        EgeunetError: A folder cannot be read.
    """
    found: dict[str, tuple[str | Path, Path]] = {}
    for one in inputs:
        if is_url(one):
            name = PurePosixPath(urlsplit(str(one)).path).name
            found.setdefault(str(one), (str(one), Path(name if name.strip(".") else "image")))
            continue
        for path, root in _expand(one, recursive):
            found.setdefault(os.path.abspath(path), (path, path.relative_to(root)))  # noqa: PTH100
    if not found:
        names = ", ".join(str(one) for one in inputs) or "an empty list"
        hint = "" if recursive else "; use --recursive (recursive=True) for subfolders"
        raise UsageError(f"No image ({FORMAT_NAMES}) in {names}{hint}.")
    return dict(sorted(found.values(), key=lambda item: Path(item[0])))


def find_other_files(inputs: Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """List the files in folders that do not count as images, without hidden ones.

    Args:
        inputs: As for `find_images`.
        recursive: As for `find_images`.
    """
    found = []
    for folder in (Path(one) for one in inputs if Path(one).is_dir()):
        for path in sorted(folder.glob("**/*" if recursive else "*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden and not is_image(path.name):
                found.append(path)
    return found


def is_image(name: str) -> bool:
    """Return whether a file of this name counts as an image in a folder."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _expand(one: str | Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Yield the images that one input names, each with the folder it was found in."""
    path = Path(one)
    if path.is_file():
        yield path, path.parent
    elif path.is_dir():
        for folder, subfolders, names in os.walk(path, onerror=_refuse):
            subfolders[:] = [n for n in subfolders if recursive and not n.startswith(".")]
            images = (Path(folder, name) for name in names if is_image(name))
            yield from ((image, path) for image in images if not _is_special(image))
    elif glob.has_magic(str(one)):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed])
        for match in map(Path, glob.glob(str(one), recursive=True)):  # noqa: PTH207
            if match.is_dir():
                yield from ((image, root) for image, _ in _expand(match, recursive))
            elif is_image(match.name) and not _is_special(match):
                yield match, root
    elif not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    else:
        raise UsageError(f"{path} is neither a file nor a folder.")


def _refuse(error: OSError) -> None:
    raise EgeunetError(
        f"Cannot read the folder {error.filename}: {error.strerror}. Make it readable, or name the "
        "folders beside it."
    ) from error


def _is_special(path: Path) -> bool:
    """Return whether it is a pipe, a socket or a device: reading it may never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # the error is reported when it is read
