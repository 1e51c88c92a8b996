import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.inference.folder import is_done, plan, run_jobs
from egeunet.inference.segmenter import Segmenter


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def masks(root: Path, jobs: list) -> dict[str, str]:
    return {job.name: job.mask.relative_to(root).as_posix() for job in jobs}


def test_masks_are_called_after_their_photos_and_keep_subfolders(tmp_path: Path) -> None:
    put(tmp_path, "in/a.jpg", "in/b.PNG", "in/s/a.jpg")
    out = tmp_path / "out"
    assert masks(out, plan([tmp_path / "in"], out, recursive=True)) == {
        "a.jpg": "a_mask.png",
        "b.PNG": "b_mask.png",
        "s/a.jpg": "s/a_mask.png",
    }
    (job,) = plan([tmp_path / "in" / "a.jpg"], out, overlay=True)
    assert [path.name for path in job.outputs] == ["a_mask.png", "a_overlay.jpg"]


def test_photos_that_share_a_name_keep_their_suffix(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "a.png", "b.jpg", "C.jpg", "c.png")
    out = tmp_path / "out"
    assert masks(out, plan([tmp_path], out)) == {
        "a.jpg": "a.jpg_mask.png",
        "a.png": "a.png_mask.png",
        "b.jpg": "b_mask.png",
        "C.jpg": "C.jpg_mask.png",
        "c.png": "c.png_mask.png",
    }


def test_two_photos_never_become_one_mask(tmp_path: Path) -> None:
    put(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(UsageError, match="different folders"):
        plan([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    put(tmp_path, "z/a.jpg", "z/a.png", "z/a.jpg.png")
    with pytest.raises(UsageError, match="different folders"):
        plan([tmp_path / "z"], tmp_path / "out")


def test_masks_written_beside_the_photos_are_not_photos(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "a_mask.png", "a_overlay.jpg")
    assert list(masks(tmp_path, plan([tmp_path], tmp_path))) == ["a.jpg"]
    out = tmp_path / "out"
    put(out, "a_mask.png")
    found = plan([tmp_path], out, recursive=True)
    assert list(masks(out, found)) == ["a.jpg", "a_mask.png", "a_overlay.jpg"]
    with pytest.raises(UsageError, match="no image"):
        plan([out], out)


@pytest.mark.parametrize("table", ["predictions.json", "predictions.jsonl"])
def test_masks_of_an_earlier_run_are_not_photos(tmp_path: Path, table: str, caplog) -> None:
    put(tmp_path, "a.jpg", f"run1/{table}", "run1/a_mask.png", "run1/s/b_overlay.jpg", "run1/c.jpg")
    put(tmp_path, "mine/d_mask.png")
    caplog.set_level("INFO", logger="egeunet")
    jobs = plan([tmp_path], tmp_path / "run2", recursive=True)
    assert [job.name for job in jobs] == ["a.jpg", "mine/d_mask.png", "run1/c.jpg"]
    (line,) = caplog.messages
    assert line.startswith("2 masks and overlays were left out, such as ")


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "out")
    with pytest.raises(UsageError, match="is a file"):
        plan([tmp_path], tmp_path / "out")


def test_rows_say_what_was_measured_or_what_was_wrong(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(lesion).save(photos / "a.png")
    (photos / "b.png").write_bytes(b"")
    segmenter = Segmenter(write_graph())
    jobs = plan([photos], out, overlay=True)
    good, bad = run_jobs(segmenter, jobs, out)
    assert good["name"] == "a.png"
    assert good["mask"] == "a_mask.png"
    assert good["error"] is None
    assert (good["width"], good["height"]) == (160, 120)
    assert good["area"] == pytest.approx(segmenter(lesion).area)
    assert (bad["name"], bad["mask"]) == ("b.png", None)
    assert "empty" in bad["error"]
    assert sorted(path.name for path in out.iterdir()) == ["a_mask.png", "a_overlay.jpg"]
    with Image.open(out / "a_overlay.jpg") as image:
        assert image.size == (160, 120)


def test_rows_say_how_masks_were_made(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(lesion).save(tmp_path / "a.png")
    segmenter = Segmenter(write_graph(), threshold=0.3, tta=True, fill_holes=True)
    jobs = plan([tmp_path / "a.png"], tmp_path / "out")
    (row,) = run_jobs(segmenter, jobs, tmp_path / "out")
    assert row["image_sha256"] == sha256_file(tmp_path / "a.png")
    assert row["weights"] == segmenter.weights
    assert (row["threshold"], row["tta"]) == (0.3, True)
    assert (row["largest_component"], row["fill_holes"]) == (False, True)


def test_a_file_that_cannot_be_written_is_the_error_of_its_photo(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    longest = "x" * (255 - len("_mask.png"))
    for name in (longest, f"{longest}y", "z"):
        Image.fromarray(lesion).save(photos / f"{name}.png")
    segmenter = Segmenter(write_graph())
    rows = list(run_jobs(segmenter, plan([photos], out), out))
    assert [row["mask"] for row in rows] == [f"{longest}_mask.png", None, "z_mask.png"]
    assert "File name too long" in rows[1]["error"]
    assert rows[2]["error"] is None


def test_what_vanished_is_not_done(write_graph, lesion: NDArray[np.uint8], tmp_path: Path) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(lesion).save(photo)
    (job,) = plan([photo], out)
    (row,) = run_jobs(Segmenter(write_graph()), [job], out)
    assert is_done(job, {"a.png": row})
    photo.unlink()
    photo.symlink_to(tmp_path / "nowhere.png")
    assert not is_done(job, {"a.png": row})
    (row,) = run_jobs(Segmenter(write_graph()), [job], out, keep_existing=True)
    assert "cannot be read" in row["error"]


def run(segmenter: Segmenter, images: Path, out: Path, **options) -> list[dict]:
    jobs = plan([images], out, recursive=True, overlay=options.pop("overlay", False))
    return list(run_jobs(segmenter, jobs, out, **options))


def test_a_mask_goes_when_its_image_can_no_longer_be_read(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    Image.fromarray(lesion).save(images / "a.png")
    segmenter = Segmenter(write_graph())
    run(segmenter, images, out, overlay=True)
    assert len(list(out.iterdir())) == 2
    (images / "a.png").write_bytes(b"broken")
    (row,) = run(segmenter, images, out, keep_existing=True)
    assert row["mask"] is None
    assert len(list(out.iterdir())) == 2
    (row,) = run(segmenter, images, out)
    assert row["mask"] is None
    assert list(out.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_in_the_output_folder_are_not_followed(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    images, out, mine = tmp_path / "in", tmp_path / "out", tmp_path / "mine"
    for folder in (images / "sub", out, mine):
        folder.mkdir(parents=True)
    Image.fromarray(lesion).save(images / "sub" / "a.png")
    segmenter = Segmenter(write_graph())
    (out / "sub").symlink_to(mine)
    with pytest.raises(UsageError, match="sub is a symbolic link"):
        run(segmenter, images, out)
    (out / "sub").unlink()
    (mine / "a.txt").write_text("mine")
    (out / "sub").mkdir()
    (out / "sub" / "a_mask.png").symlink_to(mine / "a.txt")
    (row,) = run(segmenter, images, out)
    assert row["error"] is None
    assert (mine / "a.txt").read_text() == "mine"
    assert not (out / "sub" / "a_mask.png").is_symlink()
    assert [path.name for path in mine.iterdir()] == ["a.txt"]


def test_temporary_files_of_killed_runs_are_removed(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    (images / "sub").mkdir(parents=True)
    Image.fromarray(lesion).save(images / "sub" / "a.png")
    put(out, ".a_mask-abcd_123.png", "sub/.a_mask-abcd_123.png", ".keep", "sub/a-12345678.png")
    run(Segmenter(write_graph()), images, out)
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == [".keep", "sub/a-12345678.png", "sub/a_mask.png"]


def test_an_image_from_a_url(write_graph, lesion: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    Image.fromarray(lesion).save(tmp_path / "web" / "a.png")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        jobs = plan([f"{url}/a.png", f"{url}/gone.jpg"], tmp_path / "out")
        good, bad = run_jobs(Segmenter(write_graph()), jobs, tmp_path / "out")
        server.shutdown()
    assert (good["name"], good["mask"]) == (f"{url}/a.png", "a_mask.png")
    assert good["image_sha256"] == sha256_file(tmp_path / "web" / "a.png")
    assert "gone.jpg" in bad["error"]
    assert is_done(jobs[0], {good["name"]: good})
