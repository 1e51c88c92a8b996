"""Every kind of archive gives the same photos; damage is an error under its own name."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egeunet.batch.photos import read_photos
from egeunet.batch.plan import plan_shards
from egeunet.batch.storage import StoreError
from egeunet.errors import EgeunetError


def read(path, size=4):
    return [
        photo for shard in plan_shards([str(path)], size, "out") for photo in read_photos(shard)
    ]


def write_tar(path, photos, mode="w"):
    with tarfile.open(path, mode) as tar:
        for photo in photos:
            tar.add(photo, photo.name)
            text = tarfile.TarInfo(photo.with_suffix(".json").name)  # as WebDataset has beside it
            tar.addfile(text, io.BytesIO())


def cells(photos, kind, root):
    data = [photo.read_bytes() for photo in photos]
    if kind == "struct":
        return {"image": [{"bytes": one, "path": "x.jpg"} for one in data]}
    if kind == "struct of paths":
        return {"image": [{"bytes": None, "path": str(photo)} for photo in photos]}
    if kind == "relative":
        return {"path": [str(photo.relative_to(root)) for photo in photos]}
    return {"bytes": data} if kind == "bytes" else {"uri": [f"file://{p}" for p in photos]}


@pytest.mark.parametrize("kind", ["bytes", "struct", "struct of paths", "relative", "uri"])
def test_parquet_of_every_kind(photos, tmp_path_factory, kind):
    root = photos[0].parents[2]
    path = root / f"{kind}.parquet"
    pq.write_table(pa.table(cells(photos, kind, root)), path, row_group_size=2)
    expected = [(f"{path}#{row}", photo.read_bytes()) for row, photo in enumerate(photos)]
    assert read(path) == expected


def test_a_column_of_ids_names_the_photos(photos, tmp_path):
    table = {"id": [7, None], "image": [photos[0].read_bytes(), None]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    assert read(tmp_path) == [("7", photos[0].read_bytes()), (f"{tmp_path}/x.parquet#1", b"")]


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_tars(photos, tmp_path, name, mode):
    path = tmp_path / name
    write_tar(path, photos, mode)
    assert read(path) == [(f"{path}/{photo.name}", photo.read_bytes()) for photo in photos]


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz")])
def test_a_tar_cut_short_gives_what_it_has_and_one_error(photos, tmp_path, name, mode):
    path = tmp_path / name
    write_tar(path, photos, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *whole, (last, error) = read(path)
    assert [data for _, data in whole] == [p.read_bytes() for p in photos[: len(whole)]]
    assert 0 < len(whole) < len(photos)
    assert last == str(path)
    assert "is damaged or cut short" in str(error)


@pytest.mark.parametrize("change", ["damaged", "cut in it", "cut before it"])
def test_a_tar_with_a_damaged_header_gives_what_is_before_it_and_one_error(
    photos, tmp_path, change
):
    path = tmp_path / "x.tar"
    write_tar(path, photos)
    with tarfile.open(path) as tar:
        third = tar.getmember(photos[2].name).offset
    data = bytearray(path.read_bytes())
    data[third + 20] ^= 1
    ends = {"damaged": len(data), "cut in it": third + 100, "cut before it": third}
    path.write_bytes(data[: ends[change]])
    *whole, (last, error) = read(path)
    assert [data for _, data in whole] == [p.read_bytes() for p in photos[:2]]
    assert last == str(path)
    assert "is damaged or cut short" in str(error)


def test_a_link_in_a_tar_is_told_of(photos, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos[0], "a.jpg")
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    (_, data), (name, error) = read(tmp_path / "x.tar")
    assert data == photos[0].read_bytes()
    assert str(error) == f"{name} is a link to a.jpg, no photo."


def test_a_parquet_file_with_a_damaged_page_is_an_error(photos, tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"bytes": [photo.read_bytes() for photo in photos]})
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


def test_photos_that_went_away_since_the_plan_are_errors(photos, tmp_path):
    shard = {"photos": [str(photos[0]), f"{tmp_path}/gone.jpg", str(photos[1])]}
    (_, first), (name, error), (_, last) = read_photos(shard)
    assert (first, last) == (photos[0].read_bytes(), photos[1].read_bytes())
    assert name == f"{tmp_path}/gone.jpg"
    assert str(error) == f"There is no file {tmp_path}/gone.jpg."
    ((name, error),) = read_photos({"tar": f"{tmp_path}/gone.tar"})
    assert str(error) == f"There is no file {tmp_path}/gone.tar."


def test_a_folder_where_a_tar_was_is_trouble_with_the_store(tmp_path):
    with pytest.raises(StoreError, match="cannot be opened"):
        list(read_photos({"tar": str(tmp_path)}))


def test_a_scheme_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(EgeunetError, match="gs:// needs a library that is missing: pip install gc"):
        list(plan_shards(["gs://bucket/photos"], 4, "out"))
