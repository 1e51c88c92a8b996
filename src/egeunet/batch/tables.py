"""Images in Parquet files, as bytes or as paths and URIs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egeunet.batch.storage import Stored
from egeunet.errors import EgeunetError, UsageError

COLUMNS = ("bytes", "image", "path", "uri", "url")
"""Names of the image column, in order of preference."""
_TYPES = ("binary", "large_binary", "string", "large_string")
_ROWS = 32  # read at a time


def cut_table(uri: str, size: int) -> Iterator[dict[str, Any]]:
    """Cut a Parquet file into ranges of whole row groups with `size` rows or more.

    Raises:
        UsageError: It has none of `COLUMNS`.
        EgeunetError: It cannot be read.
    """
    with _open(uri) as (file, _):
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    first, row, rows = 0, 0, 0
    for index, count in enumerate(groups, 1):
        rows += count
        if rows and (rows >= size or index == len(groups)):
            yield {"parquet": uri, "groups": [first, index], "row": row}
            first, row, rows = index, row + rows, 0


def read_table(uri: str, first: int, stop: int, row: int) -> Iterator[tuple[str, bytes | str]]:
    """Read the images of row groups.

    Args:
        uri: The Parquet file.
        first: The first row group.
        stop: The one after the last.
        row: The number of the first row.

    Yields:
        Name of the image (the column `id`, else file and row), and its bytes or its path or URI;
        paths in the file are relative to its folder.

    Raises:
        EgeunetError: The file is damaged.
    """
    with _open(uri) as (file, column):
        wanted = [column, "id"] if "id" in file.schema_arrow.names else [column]
        groups = range(first, stop)
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=wanted, use_threads=False):
            for values in batch.to_pylist():
                name = str(values["id"]) if values.get("id") is not None else f"{uri}#{row}"
                yield name, _image_of(values[column], uri)
                row += 1


def _image_of(value: Any, uri: str) -> bytes | str:
    """Return a cell's image: bytes, a path, or Hugging Face's struct of both."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and "://" not in value and not value.startswith("/"):
        return f"{uri.rpartition('/')[0] or '.'}/{value}"
    return b"" if value is None else value


def _find_column(schema: pa.Schema, uri: str) -> str:
    for name in COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            members = {field.name for field in kind} if pa.types.is_struct(kind) else set()
            if str(kind) in _TYPES or members & {"bytes", "path"}:
                return name
    raise UsageError(
        f"{uri} has no column of images: expected {', '.join(COLUMNS)} of bytes or strings, "
        f"found {', '.join(schema.names)}."
    )


@contextmanager
def _open(uri: str) -> Iterator[tuple[pq.ParquetFile, str]]:
    """Open a Parquet file and find its image column."""
    try:
        with Stored(uri) as source, pq.ParquetFile(source) as file:
            yield file, _find_column(file.schema_arrow, uri)
    except (OSError, pa.ArrowException) as error:
        raise EgeunetError(f"{uri} is not a Parquet file that can be read: {error}.") from error
