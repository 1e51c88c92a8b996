"""The rows of a part, against the segmenter itself."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from egeunet.batch.parts import SCHEMA, count_parts, write_part
from egeunet.batch.storage import Folder, StoreError
from egeunet.errors import EgeunetError
from egeunet.inference import rle


@pytest.fixture
def shard(images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(images[0].read_bytes()[:-200])
    return {"images": [str(images[0]), str(bad), str(images[1])]}


def write(segmenter, output, shard, **settings):
    assert write_part(segmenter, Folder(str(output)), 7, shard, **settings) == (3, 1)
    return output / "parts" / "part-00007.parquet"


def test_rows_say_what_the_segmenter_says(segmenter, images, tmp_path, shard):
    path = write(segmenter, tmp_path / "out", shard)
    assert pq.read_schema(path).equals(SCHEMA)
    first, bad, last = pq.read_table(path).to_pylist()
    for row, image in ((first, images[0]), (last, images[1])):
        result = segmenter(image)
        counts = {"size": [row["height"], row["width"]], "counts": row["counts"]}
        assert result.area > 0
        assert (rle.decode(counts) == result.mask).all()
        assert row["id"] == str(image)
        assert row["box"] == list(result.box)
        assert (row["area"], row["quality"], row["review"]) == (
            *(result.area, result.quality, result.review),
        )
        assert (row["weights"], row["mask"], row["error"]) == (segmenter.weights, None, None)
    assert {k for k, v in bad.items() if v is not None} == {"id", "weights", "error"}
    assert "damaged" in bad["error"]


def test_the_same_shard_gives_the_same_bytes_and_the_same_masks(segmenter, tmp_path, shard):
    one = write(segmenter, tmp_path / "one", shard, masks=True)
    two = write(segmenter, tmp_path / "two", shard, masks=True)
    assert one.read_bytes() == two.read_bytes()
    rows = pq.read_table(one).to_pylist()
    assert [row["mask"] for row in rows] == ["masks/00007/00000.png", None, "masks/00007/00002.png"]
    for row in (rows[0], rows[2]):
        counts = {"size": [row["height"], row["width"]], "counts": row["counts"]}
        mask = np.asarray(Image.open(tmp_path / "one" / row["mask"]))
        assert (mask == 255 * rle.decode(counts)).all()
        other = (tmp_path / "two" / row["mask"]).read_bytes()
        assert (tmp_path / "one" / row["mask"]).read_bytes() == other


def test_parts_are_counted_without_reading_them(segmenter, tmp_path, shard):
    path = write(segmenter, tmp_path, shard)
    assert count_parts(Folder(str(tmp_path)), {path.name}) == (3, 1)
    assert count_parts(Folder(str(tmp_path)), set()) == (0, 0)


def test_a_part_that_is_damaged_is_named_and_one_that_cannot_be_read_is_not_blamed(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.parquet").write_bytes(b"PAR1 of another kind PAR1")
    (tmp_path / "parts" / "b.parquet").mkdir()
    output = Folder(str(tmp_path))
    with pytest.raises(EgeunetError, match="is damaged: delete it"):
        count_parts(output, {"a.parquet"})
    with pytest.raises(StoreError, match="cannot be"):
        count_parts(output, {"b.parquet"})


def test_names_that_are_not_text_still_have_a_row(segmenter, tmp_path):
    shard = {"images": [f"{tmp_path}/\udcff.jpg"]}
    assert write_part(segmenter, Folder(str(tmp_path)), 0, shard) == (1, 1)
    (row,) = pq.read_table(tmp_path / "parts" / "part-00000.parquet").to_pylist()
    assert row["id"] == f"{tmp_path}/\\udcff.jpg"


def test_an_image_that_takes_too_much_memory_is_a_row_with_an_error(segmenter, images, tmp_path):
    class Full:
        weights = segmenter.weights

        def __call__(self, image):
            if image == images[0].read_bytes():
                raise MemoryError
            return segmenter(image)

    shard = {"images": [str(images[0]), str(images[1])]}
    assert write_part(Full(), Folder(str(tmp_path)), 0, shard) == (2, 1)
    first, second = pq.read_table(tmp_path / "parts" / "part-00000.parquet").to_pylist()
    assert "memory" in first["error"]
    assert second["error"] is None
