import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egeunet.data import cache
from egeunet.data.cache import load_arrays
from egeunet.data.datasets import open_folder
from egeunet.data.synthetic import draw, write_dataset
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import resize

LOAD = """
import hashlib, sys
from pathlib import Path
from egeunet.data.cache import load_arrays
from egeunet.data.datasets import open_folder
arrays = load_arrays(open_folder(sys.argv[1]).samples, (256, 256), cache_dir=Path(sys.argv[2]))
print(hashlib.sha256(arrays.images.tobytes() + arrays.masks.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", 40, (120, 160))


def start(folder: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(folder), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out.strip()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def caches(path: Path) -> list[Path]:
    """The caches and what is left of any, without their locks."""
    return [each for each in path.iterdir() if each.suffix != ".lock"]


def fingerprint(arrays) -> str:
    return hashlib.sha256(arrays.images.tobytes() + arrays.masks.tobytes()).hexdigest()


def test_arrays_are_the_preprocessed_photos_and_masks(synthetic, tmp_path):
    samples = open_folder(synthetic).samples
    arrays = load_arrays(samples, (64, 96), cache_dir=tmp_path)
    assert arrays.ids == tuple(sample.id for sample in samples)
    assert arrays.images.shape == (40, 64, 96, 3)
    assert arrays.masks.shape == (40, 64, 96)
    assert arrays.images.dtype == arrays.masks.dtype == np.uint8
    np.testing.assert_allclose(arrays.aspects, 160 / 120)
    for index in (0, 39):
        photo = read_image(samples[index].image)
        np.testing.assert_array_equal(arrays.images[index], resize(photo, (64, 96)))
    exact = load_arrays(samples, (120, 160), cache_dir=tmp_path)
    np.testing.assert_array_equal(exact.masks[7], draw((0, 7), (120, 160))[1])


def test_the_second_time_nothing_is_decoded(synthetic, tmp_path):
    samples = open_folder(synthetic).samples
    first = load_arrays(samples, cache_dir=tmp_path)
    (built,) = caches(tmp_path)
    written = built.stat().st_mtime_ns
    second = load_arrays(samples, cache_dir=tmp_path)
    assert built.stat().st_mtime_ns == written
    assert fingerprint(first) == fingerprint(second)
    assert not first.images.flags.writeable


def test_the_content_decides_not_the_name(folder, tmp_path):
    before = load_arrays(open_folder(folder).samples, (32, 32), cache_dir=tmp_path)
    moved = folder.rename(folder.with_name("elsewhere"))
    load_arrays(open_folder(moved).samples, (32, 32), cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.cache"))) == 1
    Image.new("RGB", (32, 24), "red").save(moved / "images/a03.png")
    after = load_arrays(open_folder(moved).samples, (32, 32), cache_dir=tmp_path)
    assert (after.images[3] == (255, 0, 0)).all()
    np.testing.assert_array_equal(before.images[4], after.images[4])


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "longer", "image", "mask", "aspect", "checksum"]
)
def test_a_damaged_cache_is_built_again(damage, folder, tmp_path, caplog):
    samples = open_folder(folder).samples
    good = fingerprint(load_arrays(samples, (32, 32), cache_dir=tmp_path / "cache"))
    (built,) = caches(tmp_path / "cache")
    places = {"image": 5, "mask": -9, "aspect": -5, "checksum": -1}
    if damage in places:
        flip(built, places[damage])
    else:
        size = built.stat().st_size
        os.truncate(built, {"truncated": 2000, "empty": 0, "longer": size + 9}[damage])
    again = load_arrays(samples, (32, 32), cache_dir=tmp_path / "cache")
    assert fingerprint(again) == good
    np.testing.assert_allclose(again.aspects, 32 / 24)
    assert f"The cache {built} is damaged" in caplog.text
    assert caches(tmp_path / "cache") == [built]


def test_a_kill_while_it_is_written_leaves_nothing_that_is_read(synthetic, tmp_path):
    cache = tmp_path / "cache"
    good = finish(start(synthetic, tmp_path / "other"))
    killed = 0
    for delay in (0.0, 0.02, 0.05):
        process = start(synthetic, cache)
        deadline = time.monotonic() + 30
        while not list(cache.glob("*.part")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL and not list(cache.glob("*.cache"))
    assert killed, "no process was killed before it had finished"
    assert finish(start(synthetic, cache)) == good
    assert len(caches(cache)) == 1


def test_processes_that_build_the_same_cache_at_once_agree(synthetic, tmp_path):
    processes = [start(synthetic, tmp_path / "cache") for _ in range(3)]
    assert len({finish(process) for process in processes}) == 1
    assert len(caches(tmp_path / "cache")) == 1


def test_a_full_disk_is_one_sentence_and_leaves_nothing(synthetic, tmp_path):
    resource = pytest.importorskip("resource")
    assert resource  # the limit on file sizes stands in for the end of the disk
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n" + LOAD
    run = subprocess.run(
        [sys.executable, "-c", program, str(synthetic), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EgeunetError: Cannot write the cache" in run.stderr
    assert "EGEUNET_CACHE" in run.stderr
    assert not caches(tmp_path / "cache")


def test_what_cannot_be_loaded_is_named(folder, tmp_path, write_pair):
    with pytest.raises(EgeunetError, match="no samples"):
        load_arrays([], cache_dir=tmp_path)
    write_pair(folder / "images/b.png", None)
    with pytest.raises(EgeunetError, match=r"b\.png has no mask"):
        load_arrays(open_folder(folder).samples, cache_dir=tmp_path)
    write_pair(folder / "masks/b.png", None, size=(10, 10))
    with pytest.raises(EgeunetError, match="10×10 pixels but its image 32×24"):
        load_arrays(open_folder(folder).samples, cache_dir=tmp_path)
    (folder / "masks/b.png").write_bytes(b"no image")
    with pytest.raises(EgeunetError, match=r"b\.png is not an image"):
        load_arrays(open_folder(folder).samples, cache_dir=tmp_path)


def test_a_sparse_image_of_300_gb_is_refused_by_its_length(folder, tmp_path):
    with (folder / "images/a04.png").open("r+b") as file:
        file.truncate(300 * 10**9)
    with pytest.raises(EgeunetError, match=r"a04\.png is too large"):
        load_arrays(open_folder(folder).samples, cache_dir=tmp_path)


def test_a_pair_that_does_not_fit_into_memory_is_named(folder, tmp_path, monkeypatch):
    def exhaust(image, size):
        raise MemoryError

    monkeypatch.setattr(cache, "resize", exhaust)
    with pytest.raises(EgeunetError, match=r"a00\.png and its mask need more memory"):
        load_arrays(open_folder(folder).samples, cache_dir=tmp_path)
