import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from egeunet.data.check import check_dataset
from egeunet.data.datasets import open_folder
from egeunet.data.splits import split_dataset
from egeunet.data.synthetic import draw


def kinds(folder, **options) -> dict[str, str]:
    """Check a folder and return the level of each kind that is found."""
    result = check_dataset(open_folder(folder), **options)
    assert json.loads(json.dumps(result.to_dict()))["ok"] == result.ok
    assert result.ok == all(finding.level != "error" for finding in result.findings)
    return {finding.kind: finding.level for finding in result.findings}


def test_a_good_folder_has_no_findings(folder):
    result = check_dataset(open_folder(folder))
    assert result.findings == ()
    assert (result.images, result.readable) == (20, 20)
    assert 0 < result.foreground < 1


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "gone"])
def test_files_that_cannot_be_decoded(part, damage, folder):
    path = folder / part / "a07.png"
    content = path.read_bytes()
    path.unlink()
    if damage == "gone":
        path.symlink_to(folder / "nowhere.png")
    else:
        damaged = {"empty": b"", "text": b"hello", "truncated": content[: len(content) * 2 // 3]}
        path.write_bytes(damaged[damage])
    result = check_dataset(open_folder(folder))
    assert [(f.level, f.ids) for f in result.findings] == [("error", ("a07",))]
    assert result.findings[0].kind == f"unreadable {part.removesuffix('s')}"
    assert result.readable == 19


def test_a_jpeg_whose_last_rows_are_missing_is_truncated(folder):
    Image.fromarray(draw(0)[0]).save(folder / "images/big.jpg")
    Image.fromarray(draw(0)[1] * np.uint8(255)).save(folder / "masks/big.png")
    assert kinds(folder) == {}
    content = (folder / "images/big.jpg").read_bytes()
    (folder / "images/big.jpg").write_bytes(content[: int(len(content) * 0.9)])
    assert kinds(folder) == {"unreadable image": "error"}


def test_what_has_no_partner(folder):
    (folder / "masks/a01.png").rename(folder / "masks/zz.png")
    assert kinds(folder) == {"image without mask": "error", "mask without image": "error"}


def test_sizes_that_differ(folder, write_pair):
    write_pair(folder / "images/a02.png", None, seed=77, size=(24, 33))
    assert kinds(folder) == {"sizes differ": "error"}


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ([0, 255], "a03.png", {}),
        ([0, 1], "a03.png", {}),
        ([0, 255], "a03.jpg", {"soft JPEG mask": "note"}),
        ([0, 90, 200, 255], "a03.png", {"not binary": "warning"}),
        ([0, 1, 2, 3], "a03.png", {"not binary": "error"}),
        ([0, 0], "a03.png", {"empty mask": "warning"}),
        ([255, 255], "a03.png", {"full mask": "warning"}),
    ],
)
def test_the_values_of_a_mask(values, name, expected, folder):
    (folder / "masks/a03.png").unlink()
    pattern = np.resize(np.repeat(np.array(values, np.uint8), 3), (24, 32))
    Image.fromarray(pattern).save(folder / "masks" / name, quality=70)
    assert kinds(folder) == expected


def test_classes(folder):
    for path in (folder / "masks").iterdir():
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        mask[6:8, 8:10] = 2
        Image.fromarray(mask).save(path)
    assert kinds(folder, num_classes=3) == {}
    assert kinds(folder, num_classes=2) == {"unknown class": "error"}
    assert kinds(folder) == {"not binary": "error"}


@pytest.fixture
def photos(tmp_path):
    """Forty different drawn photos."""
    for index in range(40):
        photo, mask = draw(index, (64, 64))
        for part, image in (("images", photo), ("masks", mask * np.uint8(255))):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / part / f"p{index:02d}.png")
    return tmp_path


def copy(root, source: str, target: str, change) -> None:
    with Image.open(root / f"images/{source}.png") as image:
        change(image).save(root / f"images/{target}.png")
    shutil.copy(root / f"masks/{source}.png", root / f"masks/{target}.png")


def saved_as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=96)
    return Image.open(file)


@pytest.mark.parametrize(
    ("change", "across", "within"),
    [
        (lambda image: image.copy(), "same image in two splits", "same image twice"),
        (saved_as_jpeg, "near copies in two splits", "near copies"),
    ],
)
def test_copies_within_and_across_the_parts_of_a_split(change, across, within, photos):
    assert kinds(photos) == {}
    split = split_dataset(open_folder(photos))
    learned, tested = split.train[0].id, split.test[0].id
    copy(photos, learned, tested, change)
    level = "error" if "same" in across else "warning"
    result = check_dataset(open_folder(photos))
    assert [(f.kind, f.level) for f in result.findings] == [(across, level)]
    assert "(train)" in result.findings[0].detail
    assert "(test)" in result.findings[0].detail

    Image.fromarray(draw(99, (64, 64))[0]).save(photos / f"images/{tested}.png")
    copy(photos, learned, split.train[1].id, change)
    assert kinds(photos) == {within: "warning"}


def test_a_split_that_cannot_be_made(folder):
    for path in [*sorted((folder / "images").iterdir())[2:]]:
        path.unlink()
        (folder / "masks" / path.name).unlink()
    assert kinds(folder) == {"no split": "error"}


@pytest.mark.data
def test_the_real_data_has_no_errors_and_known_copies(real_data):
    result = check_dataset(open_folder(real_data / "isic2018"))
    assert (result.images, result.readable) == (2594, 2594)
    assert abs(result.foreground - 0.214) < 0.001
    assert result.ok
    copies = {finding.ids for finding in result.findings}
    assert ("ISIC_0015986", "ISIC_0015987") in copies  # the same photo but for its framing
    assert len(copies) == 5
