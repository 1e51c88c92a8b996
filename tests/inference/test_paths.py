import errno
import os
from pathlib import Path

import pytest

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.paths import find_photos, locate_photos


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = "b.JPG a.png notes.txt .hidden.png sub/c.webp sub/deep/d.tiff sub/e.gif .git/f.png"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _names(root: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_find_photos_in_folders(tree: Path) -> None:
    assert _names(tree, find_photos([tree])) == ["a.png", "b.JPG"]
    expected = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert _names(tree, find_photos([tree], recursive=True)) == expected


def test_find_photos_by_glob(tree: Path) -> None:
    assert _names(tree, find_photos([f"{tree}/*.png"])) == ["a.png"]
    assert _names(tree, find_photos([f"{tree}/**/*.[tw]*"])) == ["sub/c.webp", "sub/deep/d.tiff"]
    expected = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert _names(tree, find_photos([f"{tree}/**"])) == expected


def test_find_photos_takes_each_once_and_named_files_whatever_their_suffix(tree: Path) -> None:
    inputs = [tree / "notes.txt", tree, f"{tree}/*.png", tree / "sub" / ".." / "a.png"]
    assert len(find_photos(inputs)) == 3


def test_a_name_with_brackets_is_a_file_if_there_is_one(tree: Path) -> None:
    (tree / "x[1].png").touch()
    assert _names(tree, find_photos([tree / "x[1].png"])) == ["x[1].png"]


def test_locate_photos_says_where_they_lie_below_what_was_asked_for(tree: Path) -> None:
    found = locate_photos([tree / "sub"], recursive=True)
    assert [path.as_posix() for path in found.values()] == ["c.webp", "deep/d.tiff"]
    found = locate_photos([f"{tree}/*/deep/*"])
    assert [path.as_posix() for path in found.values()] == ["sub/deep/d.tiff"]
    found = locate_photos([tree / "sub" / "c.webp"])
    assert [path.as_posix() for path in found.values()] == ["c.webp"]


@pytest.mark.parametrize("wrong", ["none.png", "none/*.png", "sub/deep/*.png", ".git"])
def test_nothing_found_is_wrong_usage(tree: Path, wrong: str) -> None:
    (tree / ".git" / "f.png").unlink()
    with pytest.raises(UsageError, match=r"[Nn]o"):
        find_photos([tree / wrong])


def test_a_url_is_said_to_be_none_of_them() -> None:
    with pytest.raises(UsageError, match="is a URL: fetch it first"):
        find_photos(["https://example.org/a.jpg"])


def test_an_empty_list_is_wrong_usage() -> None:
    with pytest.raises(UsageError):
        find_photos([])


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes")
def test_a_pipe_with_the_name_of_a_photo_is_none(tree: Path) -> None:
    """Nobody writes to it, so reading it would never end."""
    before = find_photos([tree])
    os.mkfifo(tree / "pipe.jpg")
    assert find_photos([tree]) == before
    assert find_photos([str(tree / "*.[pj]*g")]) == [tree / "a.png"]


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch) -> None:
    closed = tree / "closed"
    closed.mkdir()
    scan = os.scandir

    def scandir(path):  # root may read any folder
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(EgeunetError, match=r"closed cannot be read \(Permission denied\)"):
        find_photos([tree], recursive=True)
