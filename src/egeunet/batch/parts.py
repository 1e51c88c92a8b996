"""The parts of the output: one Parquet file per shard, the same bytes however often it is made."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
but `id`, `weights` and `error` are null for a image that could not be segmented.
"""

_ROWS = 1000  # of a row group: what is held in memory


@dataclass(frozen=True)
class Work:
    """What is done to each shard.

    Args:
        output: Where to.
        weights: Name and SHA-256 of the weights, "name@digits".
        masks: Also write each mask as PNG.
    """

    output: Folder
    weights: str
    masks: bool = False


@dataclass(frozen=True)
class Count:
    """How many images there were, and how many of them could not be segmented."""

    images: int = 0
    errors: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.images + other.images, self.errors + other.errors)


def part_name(number: int) -> str:
    """Return the file of a shard's rows."""
    return f"part-{number:05}.parquet"


def write_part(segmenter: Segmenter, work: Work, number: int, shard: Shard) -> Count:
    """Segment the images of a shard and write their rows, and their masks before.

    Raises:
        EgeunetError: The part cannot be written, or a store cannot be reached.
    """
    rows = _segment(segmenter, work, number, shard)
    images = errors = 0
    with (
        work.output.writing(f"{PARTS}/{part_name(number)}") as path,
        # All that decides over the bytes is said here.
        pq.ParquetWriter(path, SCHEMA, version="2.6", compression="zstd") as writer,
    ):
        while group := list(islice(rows, _ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
            images += len(group)
            errors += sum("error" in row for row in group)
    return Count(images, errors)


def count_parts(output: Folder, names: set[str]) -> Count:
    """Return how many images and errors there are in parts, as their last lines tell."""

    def count(name: str) -> Count:
        try:
            with Stored(f"{output.uri}/{PARTS}/{name}") as file:
                found = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:  # a store's own troubles are others
            raise EgeunetError(
                f"{output.uri}/{PARTS}/{name} is damaged: delete it and start again."
            ) from error
        column = SCHEMA.get_field_index("error")
        groups = (found.row_group(i) for i in range(found.num_row_groups))
        fine = sum(group.column(column).statistics.null_count for group in groups)
        return Count(found.num_rows, found.num_rows - fine)

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(count, sorted(names)), Count())


def _segment(
    segmenter: Segmenter, work: Work, number: int, shard: Shard
) -> Iterator[dict[str, Any]]:
    for index, (name, image) in enumerate(read_images(shard)):
        row = {"id": escape_name(name), "weights": work.weights}
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
        mask = f"masks/{number:05}/{index:05}.png" if work.masks else None
        if mask:
            with work.output.writing(mask) as path:
                result.mask_image().save(path)
        yield {
            **row,
            "height": result.height,
            "width": result.width,
            "counts": rle.encode(result.mask.astype(bool, copy=False))["counts"],
            "area": result.area,
            "box": result.box,
            "quality": result.quality,
            "review": result.review,
            "mask": mask,
        }
