import errno
import os
from pathlib import Path

import pytest

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.paths import find_images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    names = "b.JPG a.png notes.txt .hidden.png sub/c.webp sub/deep/d.tiff sub/e.gif .git/f.png"
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _names(root: Path, found: dict[Path, Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_find_photos_in_folders(tree: Path) -> None:
    assert _names(tree, find_images([tree])) == ["a.png", "b.JPG"]
    expected = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert _names(tree, find_images([tree], recursive=True)) == expected


def test_find_photos_by_glob(tree: Path) -> None:
    assert _names(tree, find_images([f"{tree}/*.png"])) == ["a.png"]
    assert _names(tree, find_images([f"{tree}/**/*.[tw]*"])) == ["sub/c.webp", "sub/deep/d.tiff"]
    expected = ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert _names(tree, find_images([f"{tree}/**"])) == expected


def test_find_photos_takes_each_once_and_named_files_whatever_their_suffix(tree: Path) -> None:
    inputs = [tree / "notes.txt", tree, f"{tree}/*.png", tree / "sub" / ".." / "a.png"]
    assert len(find_images(inputs)) == 3


def test_a_name_with_brackets_is_a_file_if_there_is_one(tree: Path) -> None:
    (tree / "x[1].png").touch()
    assert _names(tree, find_images([tree / "x[1].png"])) == ["x[1].png"]


def test_locate_photos_says_where_they_lie_below_what_was_asked_for(tree: Path) -> None:
    found = find_images([tree / "sub"], recursive=True)
    assert [path.as_posix() for path in found.values()] == ["c.webp", "deep/d.tiff"]
    found = find_images([f"{tree}/*/deep/*"])
    assert [path.as_posix() for path in found.values()] == ["sub/deep/d.tiff"]
    found = find_images([tree / "sub" / "c.webp"])
    assert [path.as_posix() for path in found.values()] == ["c.webp"]


@pytest.mark.parametrize("wrong", ["none.png", "none/*.png", "sub/deep/*.png", ".git"])
def test_nothing_found_is_wrong_usage(tree: Path, wrong: str) -> None:
    (tree / ".git" / "f.png").unlink()
    with pytest.raises(UsageError, match=r"[Nn]o"):
        find_images([tree / wrong])


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/x/a.jpg?size=1#top", "a.jpg"),
        ("http://example.org", "image"),
        ("https://example.org/..", "image"),
        ("https://example.org/a%2Fb.png", "a%2Fb.png"),
    ],
)
def test_a_url_is_an_image_under_the_name_of_its_file(url: str, name: str) -> None:
    assert find_images([url]) == {url: Path(name)}


def test_an_empty_list_is_wrong_usage() -> None:
    with pytest.raises(UsageError):
        find_images([])


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes")
def test_a_pipe_with_the_name_of_a_photo_is_none(tree: Path) -> None:
    """Nobody writes to it, so reading it would never end."""
    before = find_images([tree])
    os.mkfifo(tree / "pipe.jpg")
    assert find_images([tree]) == before
    assert list(find_images([str(tree / "*.[pj]*g")])) == [tree / "a.png"]


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch) -> None:
    closed = tree / "closed"
    closed.mkdir()
    scan = os.scandir

    def scandir(path):  # root may read any folder
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(EgeunetError, match=r"closed: Permission denied"):
        find_images([tree], recursive=True)
