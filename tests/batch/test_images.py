"""Every kind of archive gives the same images; damage is an error under its own name."""

import io
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egeunet.batch.images import read_images
from egeunet.batch.plan import plan_shards
from egeunet.batch.storage import StoreError
from egeunet.errors import EgeunetError


def read(path, size=4):
    return [
        image for shard in plan_shards([str(path)], size, "out") for image in read_images(shard)
    ]


def write_tar(path, images, mode="w"):
    with tarfile.open(path, mode) as tar:
        for image in images:
            tar.add(image, image.name)
            text = tarfile.TarInfo(image.with_suffix(".json").name)  # as WebDataset has beside it
            tar.addfile(text, io.BytesIO())


def cells(images, kind, root):
    data = [image.read_bytes() for image in images]
    if kind == "struct":
        return {"image": [{"bytes": one, "path": "x.jpg"} for one in data]}
    if kind == "struct of paths":
        return {"image": [{"bytes": None, "path": str(image)} for image in images]}
    if kind == "relative":
        return {"path": [str(image.relative_to(root)) for image in images]}
    return {"bytes": data} if kind == "bytes" else {"uri": [f"file://{p}" for p in images]}


@pytest.mark.parametrize("kind", ["bytes", "struct", "struct of paths", "relative", "uri"])
def test_parquet_of_every_kind(images, tmp_path_factory, kind):
    root = images[0].parents[2]
    path = root / f"{kind}.parquet"
    pq.write_table(pa.table(cells(images, kind, root)), path, row_group_size=2)
    expected = [(f"{path}#{row}", image.read_bytes()) for row, image in enumerate(images)]
    assert read(path) == expected


def test_a_column_of_ids_names_the_photos(images, tmp_path):
    table = {"id": [7, None], "image": [images[0].read_bytes(), None]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    assert read(tmp_path) == [("7", images[0].read_bytes()), (f"{tmp_path}/x.parquet#1", b"")]


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_tars(images, tmp_path, name, mode):
    path = tmp_path / name
    write_tar(path, images, mode)
    assert read(path) == [(f"{path}/{image.name}", image.read_bytes()) for image in images]


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_a_tar_cut_short_gives_what_it_has_and_one_error(images, tmp_path, name, mode):
    path = tmp_path / name
    write_tar(path, images, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *whole, (last, error) = read(path)
    assert [data for _, data in whole] == [p.read_bytes() for p in images[: len(whole)]]
    assert 0 < len(whole) < len(images)
    assert last == str(path)
    assert "damaged or cut short" in str(error)


@pytest.mark.parametrize("change", ["damaged", "cut in it", "cut before it"])
def test_a_tar_with_a_damaged_header_gives_what_is_before_it_and_one_error(
    images, tmp_path, change
):
    path = tmp_path / "x.tar"
    write_tar(path, images)
    with tarfile.open(path) as tar:
        third = tar.getmember(images[2].name).offset
    data = bytearray(path.read_bytes())
    data[third + 20] ^= 1
    ends = {"damaged": len(data), "cut in it": third + 100, "cut before it": third}
    path.write_bytes(data[: ends[change]])
    *whole, (last, error) = read(path)
    assert [data for _, data in whole] == [p.read_bytes() for p in images[:2]]
    assert last == str(path)
    assert "damaged or cut short" in str(error)


def test_a_link_in_a_tar_is_told_of(images, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(images[0], "a.jpg")
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    (_, data), (name, error) = read(tmp_path / "x.tar")
    assert data == images[0].read_bytes()
    assert str(error) == f"{name} is a link to a.jpg, not an image."


def test_a_parquet_file_with_a_damaged_page_is_an_error(images, tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"bytes": [image.read_bytes() for image in images]})
    pq.write_table(table, path, row_group_size=4, compression="zstd")
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(data)
    found = read(path)
    assert found[4][0] == str(path)
    assert isinstance(found[4][1], EgeunetError)
    assert [name for name, _ in found[:4] + found[5:]] == [
        f"{path}#{row}" for row in (*range(4), 8)
    ]


def test_photos_that_went_away_since_the_plan_are_errors(images, tmp_path):
    shard = {"images": [str(images[0]), f"{tmp_path}/gone.jpg", str(images[1])]}
    (_, first), (name, error), (_, last) = read_images(shard)
    assert (first, last) == (images[0].read_bytes(), images[1].read_bytes())
    assert name == f"{tmp_path}/gone.jpg"
    assert str(error) == f"There is no file {tmp_path}/gone.jpg."
    ((name, error),) = read_images({"tar": f"{tmp_path}/gone.tar"})
    assert str(error) == f"There is no file {tmp_path}/gone.tar."


def test_a_folder_where_a_tar_was_is_trouble_with_the_store(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened"):
        list(read_images({"tar": str(tmp_path)}))


def test_a_scheme_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(EgeunetError, match=r"gs:// needs a library that is missing: .*gcsfs"):
        list(plan_shards(["gs://bucket/images"], 4, "out"))


def test_files_that_no_memory_holds_are_rows_with_errors(images, tmp_path):
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(300 * 10**9)  # sparse
    (_, error), (_, data) = read_images({"images": [str(huge), str(images[0])]})
    assert "larger than 256 MB" in str(error)
    assert data == images[0].read_bytes()


@pytest.mark.parametrize(
    ("size", "reason"), [(10**11, "larger than 256 MB"), (10**18, "claims 1e.18 bytes")]
)
def test_a_tar_with_an_absurd_member_gives_the_images_before(images, tmp_path, size, reason):
    path = tmp_path / "x.tar"
    write_tar(path, images[:2])
    member = tarfile.TarInfo("z.jpg")
    member.size = size
    with path.open("r+b") as file:
        file.seek(-10240, 2)
        end = file.tell()
        with tarfile.open(path) as tar:
            tar.getmembers()
            end = tar.offset - 512
        file.seek(end)
        file.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    found = read(path)
    assert [data for _, data in found[:2]] == [one.read_bytes() for one in images[:2]]
    assert re.search(reason, str(found[2][1]))
    assert len(found) <= 4  # and that the tar breaks off
