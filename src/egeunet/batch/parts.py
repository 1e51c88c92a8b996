"""The parts of the output: one Parquet file per shard, the same bytes each time it is written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egeunet.batch.images import read_images
from egeunet.batch.plan import PARTS, Shard
from egeunet.batch.storage import Folder, Stored
from egeunet.errors import EgeunetError
from egeunet.files import escape_name
from egeunet.inference import rle
from egeunet.inference.segmenter import Segmenter
from egeunet.notice import NOTICE

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "counts": pa.list_(pa.int32()),
        "area": pa.float64(),
        "box": pa.list_(pa.int32()),
        "quality": pa.float64(),
        "review": pa.bool_(),
        "mask": pa.string(),
        "weights": pa.string(),
        "error": pa.string(),
    },
    metadata={"notice": NOTICE},
)
"""The columns of a part.

`counts` are the run lengths of `egeunet.inference.rle`, whose `size` is [height, width]; `mask` is
the PNG file in the output folder, if there is one; `weights` are their name, "@" and SHA-256. All
but `id`, `weights` and `error` are null for an image that could not be segmented.
"""

_ROWS = 1000  # of a row group: what is held in memory


def part_name(number: int) -> str:
    """Return the file name of a shard's rows."""
    return f"part-{number:05}.parquet"


def write_part(
    segmenter: Segmenter, output: Folder, number: int, shard: Shard, masks: bool = False
) -> tuple[int, int]:
    """Segment the images of a shard; write their masks, if wanted, and then their rows.

    Returns:
        Number of images, and of those that could not be segmented.

    Raises:
        EgeunetError: The part cannot be written, or a store cannot be reached.
    """
    rows = _segment(segmenter, output, number, shard, masks)
    images = errors = 0
    with (
        output.writing(f"{PARTS}/{part_name(number)}") as path,
        # Everything that the bytes depend on is stated here.
        pq.ParquetWriter(path, SCHEMA, version="2.6", compression="zstd") as writer,
    ):
        while group := list(islice(rows, _ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
            images += len(group)
            errors += sum("error" in row for row in group)
    return images, errors


def count_parts(output: Folder, names: set[str]) -> tuple[int, int]:
    """Return the number of images and of errors in parts, from their metadata."""

    def count(name: str) -> tuple[int, int]:
        try:
            with Stored(f"{output.uri}/{PARTS}/{name}") as file:
                found = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:  # a `StoreError` is neither
            raise EgeunetError(
                f"{output.uri}/{PARTS}/{name} is damaged: delete it and start again."
            ) from error
        column = SCHEMA.get_field_index("error")
        groups = (found.row_group(i) for i in range(found.num_row_groups))
        fine = sum(group.column(column).statistics.null_count for group in groups)
        return found.num_rows, found.num_rows - fine

    with ThreadPoolExecutor(16) as pool:
        images, errors = zip((0, 0), *pool.map(count, names), strict=True)
    return sum(images), sum(errors)


def _segment(
    segmenter: Segmenter, output: Folder, number: int, shard: Shard, masks: bool
) -> Iterator[dict[str, Any]]:
    for index, (name, image) in enumerate(read_images(shard)):
        row = {"id": escape_name(name), "weights": segmenter.weights}
        try:
            if isinstance(image, EgeunetError):
                raise image
            result = segmenter(image)
        except EgeunetError as error:
            yield {**row, "error": escape_name(str(error))}
            continue
        except MemoryError:
            yield {**row, "error": "Segmenting the image needs more memory than there is."}
            continue
        mask = f"masks/{number:05}/{index:05}.png" if masks else None
        if mask:
            with output.writing(mask) as path:
                result.mask_image().save(path)
        values = result.to_dict(contours=False)
        columns = ("height", "width", "area", "box", "quality", "review")
        counts = rle.encode(result.mask.astype(bool, copy=False))["counts"]
        yield {**row, **{key: values[key] for key in columns}, "counts": counts, "mask": mask}
