import stat
import zipfile

import numpy as np
import pytest

from egeunet.data import unpack as module
from egeunet.data.unpack import unpack
from egeunet.errors import EgeunetError


@pytest.fixture
def write_zip(tmp_path):
    def write(files: dict[str, bytes], mode: int = 0o644, compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                info.compress_type = compression
                file.writestr(info, content)
        return path

    return write


def names(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_contents_are_unpacked_and_what_is_there_is_left_alone(write_zip, tmp_path):
    path = write_zip({"d/a.txt": b"aa", "b.txt": b"bbb", "__MACOSX/._a": b"x", "e/": b""})
    target = tmp_path / "out"
    (target / "d").mkdir(parents=True)
    (target / "d/a.txt").write_bytes(b"me")  # of the full size: it is there
    (target / "b.txt").write_bytes(b"b")  # cut short
    unpack(path, target)
    assert names(target) == ["b.txt", "d/a.txt"]
    assert (target / "d/a.txt").read_bytes() == b"me"
    assert (target / "b.txt").read_bytes() == b"bbb"


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_nothing_is_written_outside(name, write_zip, tmp_path):
    path = write_zip({"good": b"x", name: b"x"})
    with pytest.raises(EgeunetError, match="outside its folder"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


def test_links_are_refused(write_zip, tmp_path):
    path = write_zip({"link": b"/etc"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(EgeunetError, match="link"):
        unpack(path, tmp_path / "out")


def test_an_archive_that_grows_beyond_reason_is_refused(write_zip, tmp_path):
    path = write_zip({"zeros": bytes(20_000_000)})
    with pytest.raises(EgeunetError, match="200 times its size"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


def test_a_member_that_lies_about_its_size_is_damaged(write_zip, tmp_path):
    path = write_zip({"zeros": bytes(100_000)})
    content = bytearray(path.read_bytes())
    for offset in (content.find(b"PK\x01\x02") + 24, 22):
        content[offset : offset + 4] = (50).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(EgeunetError, match="damaged"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_archive_is_removed(damage, write_zip, tmp_path):
    path = write_zip({"a.txt": bytes(range(256)) * 9}, compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[500] ^= 255
    cases = {"cut": content[:900], "flipped": content, "text": b"<html>", "empty": b""}
    path.write_bytes(cases[damage])
    with pytest.raises(EgeunetError, match=r"a\.zip is damaged or not a zip file.*removed"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused_before_anything_is_decoded(method, write_zip, tmp_path):
    path = write_zip({"a.txt": b"x" * 500}, compression=method)
    with pytest.raises(EgeunetError, match=r"not by deflate\. Unpack it by hand"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


def test_names_that_are_no_text_are_damage(write_zip, tmp_path):
    path = write_zip({"\u00e9\u00e9\u00e9.txt": b"x"})
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(EgeunetError, match="damaged"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    "files",
    [{"n" * 300: b"x"}, {"d/" * 3000 + "x": b"x"}, {"a": b"file", "a/b": b"in it"}],
    ids=["long name", "deep folders", "a file that is a folder"],
)
def test_names_that_the_disk_refuses_are_one_sentence(files, write_zip, tmp_path):
    path = write_zip(files)
    with pytest.raises(EgeunetError, match=r"Cannot unpack a\.zip into .*out: \w+") as caught:
        unpack(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert path.exists()


def test_a_member_that_claims_gigabytes_is_refused_by_its_header(write_zip, tmp_path):
    path = write_zip({"a": b"x" * 50, "b": b"y" * 50})
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\x01\x02")
    content[start + 24 : start + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(EgeunetError, match=r"grow to 4\.3 GB"):
        unpack(path, tmp_path / "out")


def test_too_many_members_are_refused(write_zip, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    path = write_zip({str(index): b"" for index in range(4)})
    with pytest.raises(EgeunetError, match="4 files, the limit is 3"):
        unpack(path, tmp_path / "out")


def test_no_damage_gives_another_error(write_zip, tmp_path):
    """Bytes changed at random, and cuts: unpacked, or one sentence."""
    whole = write_zip({f"d/{index}.txt": bytes(range(256)) for index in range(4)}).read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for index in range(400):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 5)):
            content[place] = rng.integers(256)
        path = tmp_path / f"{index}.zip"
        path.write_bytes(content[: rng.integers(len(content)) if index % 4 == 0 else None])
        try:
            unpack(path, tmp_path / f"out{index}")
        except EgeunetError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not any("\n" in message for message in messages)
