"""The plan of a job: which images make which shard, written before the work starts.

A plan is a file of JSON lines. The first has the settings, each further one is a shard:
`{"images": [path, …]}`, `{"tar": path}`, or `{"parquet": path, "groups": [first, stop], "row": of
the first}`. It is never held in memory as a whole, except for what glob patterns find.
"""

from __future__ import annotations

import glob
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from egeunet.batch.storage import (
    Folder,
    Stored,
    absolute,
    find_filesystem,
    list_folder,
    store_errors,
)
from egeunet.batch.tables import cut_table
from egeunet.errors import UsageError
from egeunet.inference.image_io import FORMAT_NAMES
from egeunet.inference.paths import is_image

PLAN = "plan.jsonl"
PARTS = "parts"
TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".parquet", ".pq")

Shard = dict[str, Any]


def plan_shards(inputs: Sequence[str], size: int, output: str) -> Iterator[Shard]:
    """Cut an archive into shards, always the same ones for the same archive.

    Args:
        inputs: Folders, glob patterns, images, tars and Parquet files; paths or URIs.
        size: Images per shard. A row group of a Parquet file and a tar are never cut.
        output: Output folder; what a glob pattern finds in it is left out.

    Raises:
        UsageError: An input does not exist.
        EgeunetError: An input cannot be read.
    """
    found: set[str] = set()
    overlap = any(map(glob.has_magic, inputs))  # others overlap only by name
    for one in inputs:
        images: list[str] = []
        paths = _expand(one)
        for path in _new(paths, found, absolute(output)) if overlap else paths:
            if path.lower().endswith(TARS):
                yield {"tar": path}
            elif path.lower().endswith(TABLES):
                yield from cut_table(path, size)
            else:
                images.append(path)
                if len(images) == size:
                    yield {"images": images}
                    images = []
        if images:
            yield {"images": images}


def plan_lines(header: Shard, shards: Iterable[Shard]) -> Iterator[bytes]:
    """Return the lines of a plan.

    Args:
        header: Settings of the job.
        shards: From `plan_shards`.

    Raises:
        UsageError: There are no images.
    """
    found = iter(shards)
    first = next(found, None)
    if first is None:
        raise UsageError(f"No images were found ({FORMAT_NAMES}; tar or Parquet of them).")
    return (json.dumps(one).encode() + b"\n" for one in chain([header, first], found))


def compare_plan(output: Folder, lines: Iterator[bytes]) -> array[int] | None:
    """Compare the plan of an output folder with what is wanted now.

    Args:
        output: Output folder.
        lines: From `plan_lines`; read if the folder has a plan.

    Returns:
        The byte offset of each shard's line and of the end of the file; None without a plan.

    Raises:
        UsageError: The plan is of other images or settings.
    """
    if PLAN not in output.names():
        if output.names(PARTS):
            raise UsageError(f"{output.uri} has parts but no {PLAN}: choose another output.")
        return None
    with Stored(f"{output.uri}/{PLAN}") as file:
        first = file.readline()
        _compare_headers(output, json.loads(next(lines)), first)
        offsets = array("q", [len(first)])
        for kept, fresh in zip_longest(iter(file.readline, b""), lines):
            if kept != fresh:
                raise UsageError(
                    f"{output.uri} belongs to a job with other images (shard {len(offsets) - 1} "
                    "differs): choose another output."
                )
            offsets.append(offsets[-1] + len(kept))
    return offsets


def write_plan(output: Folder, lines: Iterable[bytes]) -> array[int]:
    """Write a plan; return the offsets as `compare_plan` does."""
    ends = array("q")
    with output.writing(PLAN) as path, path.open("wb") as file:
        for line in lines:
            file.write(line)
            ends.append(file.tell())
    return ends


def read_shard_line(output: Folder, start: int, stop: int) -> Shard:
    """Return the shard in some bytes of the plan."""
    return json.loads(output.read(PLAN, start, stop))


def check_places(inputs: Sequence[str], output: str) -> None:
    """Check that no input contains the output or another input.

    Raises:
        UsageError: One does, so that images would be segmented twice.
    """
    names = {absolute(one): one for one in inputs}
    if len(names) < len(inputs):
        raise UsageError("An input is named twice: name each once.")
    for path, name in {**names, absolute(output): output}.items():
        above = path
        while (shorter := above.rpartition("/")[0]) != above:
            above = shorter
            if above in names:
                raise UsageError(f"{name} lies in {names[above]}: name a folder outside of it.")
    if absolute(output) in names:
        raise UsageError(f"{output} is an input: name another folder to write to.")


def _compare_headers(output: Folder, wanted: Shard, line: bytes) -> None:
    try:
        kept = dict(json.loads(line))
    except ValueError as error:
        raise UsageError(f"{output.uri}/{PLAN} is damaged: choose another output.") from error
    other = [key for key in wanted if kept.get(key) != wanted[key]]
    if other:
        raise UsageError(
            f"{output.uri} belongs to a job with other settings "
            f"({', '.join(other).replace('_', ' ')}): choose another output, or give the same "
            "settings again."
        )


def _new(paths: Iterable[str], found: set[str], output: str) -> Iterator[str]:
    """Yield the paths that are new and not in the output."""
    for path in paths:
        place = absolute(path)
        if place not in found and not place.startswith(f"{output}/"):
            found.add(place)
            yield path


def _expand(one: str) -> Iterator[str]:
    """Yield the images, tars and tables of one input, in a fixed order."""
    filesystem, path = find_filesystem(one)
    with store_errors(one):
        if filesystem.isfile(path):
            yield one
        elif filesystem.isdir(path):
            yield from _walk(filesystem, path, one.rstrip("/"))
        elif not glob.has_magic(one):
            raise UsageError(f"There is no file or folder {one}.")
        elif "://" in one:
            found = map(filesystem.unstrip_protocol, filesystem.glob(path))
            yield from sorted(one for one in found if _counts(Path(one).name))
        else:
            matches = glob.iglob(one, recursive=True)  # noqa: PTH207
            yield from sorted(m for m in matches if _counts(Path(m).name) and Path(m).is_file())


def _walk(filesystem: AbstractFileSystem, folder: str, name: str) -> Iterator[str]:
    for entry, is_folder in list_folder(filesystem, folder):
        if is_folder:
            yield from _walk(filesystem, f"{folder}/{entry}", f"{name}/{entry}")
        elif _counts(entry):
            yield f"{name}/{entry}"


def _counts(name: str) -> bool:
    """Return whether a file of this name counts as an image, a tar or a table."""
    return is_image(name) or (not name.startswith(".") and name.lower().endswith(TARS + TABLES))
