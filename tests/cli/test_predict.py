import csv
import functools
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

import egeunet
from egeunet.cli.main import main
from egeunet.files import sha256_file
from egeunet.notice import NOTICE


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A graph in the form that `egeunet export` writes: dark is lesion."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"])],
        "core",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 3, 256, 256])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1, 256, 256])],
        [
            numpy_helper.from_array(np.full((1, 3, 1, 1), -0.1 / 3, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array([12.8], dtype=np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {
        "model": "egeunet",
        "dataset": "synthetic",
        "num_classes": "1",
        "classes": '["lesion"]',
        "input_size": "256,256",
        "threshold": "0.5",
        "preprocessing": "rgb-bilinear-minmax255",
    }
    helper.set_model_props(model, metadata)
    path = tmp_path / "run" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three good photos, one of them in a subfolder, and nothing else."""
    image = Image.new("RGB", (160, 120), (220, 200, 190))
    ImageDraw.Draw(image).ellipse((40, 30, 99, 79), fill=(60, 40, 30))
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    image.save(folder / "a.jpg")
    image.resize((400, 300)).save(folder / "b.png")
    image.save(folder / "sub" / "a.webp")
    return folder


def predict(
    *arguments: object,
    text: bool = False,
    cwd: Path | None = None,
    input: bytes = b"",
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run the program: in this process, which is faster, unless there are options of another."""
    if options:
        return subprocess.run(
            command(*arguments), capture_output=True, env=environment(), text=text, **options
        )
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", ["egeunet", "predict", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as end:
            main()
        for stream in streams:
            stream.flush()
    written = [stream.buffer.getvalue() for stream in streams]
    out, errors = [one.decode() for one in written] if text else written
    return subprocess.CompletedProcess(arguments, end.value.code or 0, out, errors)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "egeunet", "predict", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(egeunet.__file__).parents[1])}


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read_mask(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_a_folder_becomes_masks_overlays_and_a_table(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = predict(photos, "-o", out, "-w", weights, "--overlay", "--recursive", text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 done, 0 failed: {out}\n"
    assert done.stderr == f"{NOTICE}\n"
    names = ("a", "b", "sub/a")
    expected = [f"{name}_{kind}" for name in names for kind in ("mask.png", "overlay.jpg")]
    assert files(out) == sorted([*expected, "predictions.csv", "predictions.json"])
    mask = read_mask(out / "b_mask.png")
    assert mask.shape == (300, 400)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[135, 175] == 255
    document = json.loads((out / "predictions.json").read_text())
    assert document["notice"] == NOTICE
    rows = {row["name"]: row for row in document["images"]}
    assert list(rows) == ["a.jpg", "b.png", "sub/a.webp"]
    assert rows["b.png"]["area_pixels"] == (mask == 255).sum()
    assert rows["sub/a.webp"]["mask"] == "sub/a_mask.png"
    with (out / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == list(rows)
    name, _, digest = table[0]["weights"].partition("@")
    assert (name, digest) == (weights.parent.name, sha256_file(weights))
    assert table[0]["threshold"] == "0.5"


def test_files_that_are_left_out_are_told_of(weights: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").rename(photos / "b.JFIF")
    for name in ("scan.dcm", "notes.txt", ".hidden"):
        (photos / name).touch()
    done = predict(photos, "-o", photos, "-w", weights, text=True)
    assert done.stdout == f"2 done, 0 failed: {photos}\n"
    assert "2 other files were left out, such as" in done.stderr
    done = predict(photos, "-o", photos, "-w", weights, "--overwrite", text=True)
    assert "2 other files were left out, such as" in done.stderr  # not its own tables


def test_what_is_broken_is_reported_and_skipped(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("I am a photo")
    data = (photos / "a.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("1", (20_000, 20_000)).save(photos / "huge.png")
    out = tmp_path / "out"
    done = predict(photos, "-o", out, "-w", weights, text=True)
    assert done.returncode == 1
    assert done.stdout == f"2 done, 4 failed: {out}\n"
    assert "Traceback" not in done.stderr
    for name, words in (
        ("empty.jpg", "is empty"),
        ("text.jpg", "is not an image"),
        ("cut.jpg", "cut short"),
        ("huge.png", "too large"),
    ):
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert words in line
    assert files(out) == ["a_mask.png", "b_mask.png", "predictions.csv", "predictions.json"]
    rows = json.loads((out / "predictions.json").read_text())["images"]
    assert sum(row["error"] is not None for row in rows) == 4


def test_existing_masks_are_left_alone_unless_told_otherwise(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = weights.parent
    assert predict(photos / "a.jpg", "-o", out, "-w", run).returncode == 0
    (out / "a_mask.png").write_bytes(b"mine")

    refused = predict(photos, "-o", out, "-w", run, text=True)
    assert refused.returncode == 2
    assert "a_mask.png exists" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert "--skip-existing" in refused.stderr
    assert not (out / "b_mask.png").exists()

    skipped = predict(photos, "-o", out, "-w", run, "--skip-existing", text=True)
    assert skipped.stdout == f"1 done, 0 failed, 1 already there: {out}\n"
    assert (out / "a_mask.png").read_bytes() == b"mine"
    rows = json.loads((out / "predictions.json").read_text())["images"]
    assert [row["name"] for row in rows] == ["a.jpg", "b.png"], "earlier rows are kept"

    replaced = predict(photos, "-o", out, "-w", run, "--overwrite", text=True)
    assert replaced.stdout == f"2 done, 0 failed: {out}\n"
    assert read_mask(out / "a_mask.png").shape == (120, 160)
    assert predict(photos, "-o", out, "--overwrite", "--skip-existing").returncode == 2


def test_a_pipe(weights: Path, photos: Path) -> None:
    data = (photos / "a.jpg").read_bytes()
    words = command("-", "-o", "-", "-w", weights)
    done = subprocess.run(words, input=data, capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")
    same = predict(photos / "a.jpg", "-o", "-", "-w", weights)
    assert same.stdout == done.stdout
    measured = predict("-", "-o", "-", "-w", weights, "--json", input=data)
    assert len(json.loads(measured.stdout)["contours"]) == 1
    broken = predict("-", "-o", "-", "-w", weights, input=b"")
    assert broken.returncode == 1
    assert broken.stdout == b""
    assert b"empty" in broken.stderr
    assert predict(photos, "-o", "-", "-w", weights).returncode == 2
    assert predict("-", "-o", "out", "-w", weights, input=data).returncode == 2


def test_json_goes_to_stdout(weights: Path, photos: Path, tmp_path: Path) -> None:
    done = predict(f"{photos}/*.jpg", "-o", tmp_path / "out", "-w", weights, "--json", text=True)
    (row,) = json.loads(done.stdout)
    assert row["name"] == "a.jpg"
    assert row["error"] is None


def test_the_threshold_moves_the_border(weights: Path, photos: Path, tmp_path: Path) -> None:
    areas = []
    for threshold in (0.1, 0.9):
        out = tmp_path / str(threshold)
        words = ("-w", weights, "--threshold", threshold, "--threads", 1, "--json")
        done = predict(photos / "a.jpg", "-o", out, *words, text=True)
        areas.append(json.loads(done.stdout)[0]["area"])
    assert areas[0] > areas[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("none.jpg", "-o", "out"), 2, "no file or folder none.jpg"),
        (("photos", "-o", "out", "-w", "nothing"), 2, "no weights 'nothing'"),
        (("photos", "-o", "out", "-w", "photos"), 1, "egeunet export photos"),
        (("photos", "-o", "out", "-w", "photos/a.jpg"), 1, "Cannot open photos/a.jpg"),
        (("photos", "-o", "out", "--threshold", "7"), 2, "threshold is 7"),
        (("photos", "-o", "photos/a.jpg"), 2, "is a file"),
        (("photos",), 2, "--output"),
    ],
)
def test_wrong_words_give_one_sentence(
    photos: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = predict(*words, text=True, cwd=photos.parent)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (photos.parent / "out").exists()


def test_help_states_the_intended_use_and_an_example() -> None:
    done = predict("--help", text=True)
    text = " ".join(done.stdout.split())
    assert "Research use only; not a medical device or a diagnosis" in text
    assert "egeunet predict images/ -o masks/" in text


@pytest.fixture
def many(photos: Path, tmp_path: Path) -> Path:
    """Photos that take seconds, so that a signal comes in time."""
    folder = tmp_path / "many"
    folder.mkdir()
    with Image.open(photos / "a.jpg") as image:
        image.resize((1600, 1200)).save(folder / "000.jpg")
    for index in range(1, 100):
        os.link(folder / "000.jpg", folder / f"{index:03}.jpg")
    return folder


def stop(number: int, out: Path, *arguments: object) -> tuple[int, str, str]:
    """Send a signal once there are some masks; returns exit code, stdout and stderr."""
    process = subprocess.Popen(
        command(*arguments, "-o", out),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a shell started in the background inherit a SIGINT that is ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    limit = time.monotonic() + 30
    while not (out / "006_mask.png").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout, stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_whole_files_and_a_table(
    weights: Path, many: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    code, stdout, stderr = stop(number, out, many, "-w", weights, "--threads", 1)
    assert code == 130, stderr
    assert "Traceback" not in stderr
    assert "--skip-existing" in stderr
    rows = json.loads((out / "predictions.json").read_text())["images"]
    assert 2 <= len(rows) < 100
    assert stdout.startswith(f"{len(rows)} done")
    assert not (out / "predictions.jsonl").exists()
    written = [name for name in files(out) if name.endswith(".png")]
    assert 0 <= len(written) - len(rows) <= 5, "masks may be written and their rows not yet"
    for name in written:
        assert read_mask(out / name).shape == (1200, 1600)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_what_was_done_before_a_kill_is_not_done_again(
    weights: Path, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert stop(signal.SIGKILL, out, many, "-w", weights, "--threads", 1)[0] == -signal.SIGKILL
    masks = list(out.glob("*_mask.png"))
    assert not (out / "predictions.json").exists()
    done = predict(many, "-o", out, "-w", weights, "--skip-existing", text=True)
    assert done.returncode == 0, done.stderr
    there = int(done.stdout.split(" already there")[0].rsplit(" ", 1)[1])
    assert 2 <= there < 100
    assert len(masks) - there <= 5, "masks may be written and their rows not yet"
    assert done.stdout.startswith(f"{100 - there} done, 0 failed")
    rows = json.loads((out / "predictions.json").read_text())["images"]
    assert len(rows) == len(list(out.glob("*_mask.png"))) == 100
    assert not (out / "predictions.jsonl").exists()


def test_a_run_that_was_killed_goes_on(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(photos, "-o", out, "-w", weights).returncode == 0
    rows = json.loads((out / "predictions.json").read_text())
    (out / "predictions.json").unlink()  # a kill leaves masks that no table describes
    done = predict(photos, "-o", out, "-w", weights, "--skip-existing", text=True)
    assert done.returncode == 0
    assert json.loads((out / "predictions.json").read_text()) == rows


def test_an_overlay_shows_the_mask_beside_it(weights: Path, photos: Path, tmp_path: Path) -> None:
    """One that an earlier run left goes when its mask is replaced, and is drawn anew."""
    out, other = tmp_path / "out", tmp_path / "other"
    options = (photos, "-w", weights, "--threshold", 0.0001)
    assert predict(photos, "-o", out, "-w", weights, "--overlay").returncode == 0
    assert predict(*options, "-o", out, "--overwrite").returncode == 0
    assert not list(out.glob("*_overlay.jpg"))
    assert predict(*options, "-o", out, "--overlay", "--skip-existing").returncode == 0
    assert predict(*options, "-o", other, "--overlay").returncode == 0
    names = sorted(path.name for path in other.glob("*_overlay.jpg"))
    assert len(names) == 2
    for name in names:
        assert (out / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="streams are closed as a POSIX shell does")
def test_streams_may_be_closed_from_the_start(weights: Path, photos: Path, tmp_path: Path) -> None:
    words = shlex.join(command(photos, "-o", tmp_path / "out", "-w", weights))
    done = subprocess.run(
        ["sh", "-c", f"{words} <&- >&-"], stderr=subprocess.PIPE, env=environment(), text=True
    )
    assert (done.returncode, done.stderr) == (0, f"{NOTICE}\n")
    words = shlex.join(command("-", "-o", "-", "-w", weights))
    done = subprocess.run(
        ["sh", "-c", f"{words} <&-"], capture_output=True, env=environment(), text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "is empty" in done.stderr


def test_no_row_describes_another_mask_than_its_file(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (photos, "-o", out, "-w", weights, "--skip-existing")
    assert predict(*words).returncode == 0
    mask = read_mask(out / "a_mask.png")
    (out / "predictions.json").unlink()
    done = predict(*words, "--threshold", 0.0001, text=True)
    assert done.returncode == 1
    assert "a_mask.png exists and differs from the mask" in done.stderr
    np.testing.assert_array_equal(read_mask(out / "a_mask.png"), mask)
    rows = json.loads((out / "predictions.json").read_text())["images"]
    assert [row["mask"] for row in rows] == [None, None]


def test_the_mask_of_another_photo_of_that_name_is_not_taken_for_its_own(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    photo, out = tmp_path / "c.bmp", tmp_path / "out"
    Image.new("RGB", (50, 40)).save(photo)
    size = photo.stat().st_size
    words = (photo, "-o", out, "-w", weights, "--skip-existing")
    assert predict(*words).returncode == 0
    assert predict(*words, text=True).stdout == f"0 done, 0 failed, 1 already there: {out}\n"
    Image.new("RGB", (50, 40), "red").save(photo)
    assert photo.stat().st_size == size
    done = predict(*words, text=True)
    assert done.returncode == 2
    assert "belongs to another image than" in done.stderr


def test_masks_of_other_options_are_not_mixed_in_one_folder(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert predict(photos / "a.jpg", "-o", out, "-w", weights).returncode == 0
    other = (photos, "-o", out, "-w", weights, "--tta", "--threshold", 0.9)
    for words in (other, (*other, "--skip-existing")):
        done = predict(*words, text=True)
        assert done.returncode == 2
        assert "(threshold, tta)" in done.stderr
        assert "--overwrite" in done.stderr
    assert predict(*other, "--overwrite").returncode == 0
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tta"], row["threshold"]) for row in rows] == [("True", "0.9")] * 2
    assert rows[0]["image_sha256"] == sha256_file(photos / "a.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode here")
def test_a_name_that_is_no_unicode_stands_escaped_in_the_table(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.jpg").rename(os.fsdecode(os.fsencode(photos) + b"/\xff.jpg"))
    done = predict(photos, "-o", tmp_path / "out", "-w", weights, "--json", text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert sorted(row["name"] for row in json.loads(done.stdout)) == [row["name"] for row in rows]
    assert {row["name"] for row in rows} == {"\\udcff.jpg", "b.png"}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_lacks_characters_loses_no_result(
    weights: Path, photos: Path, tmp_path: Path, encoding: str
) -> None:
    (photos / "a.jpg").rename(photos / "皮膚 é 😀.jpg")
    (photos / "b.png").write_bytes(b"")
    out = tmp_path / "出力"
    for words in ((), ("--json", "--overwrite")):
        done = subprocess.run(
            command(photos, "-o", out, "-w", weights, *words),
            env={**environment(), "PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert b"b.png" in done.stderr
    rows = json.loads(done.stdout.decode(encoding))
    assert [row["name"] for row in rows] == ["b.png", "皮膚 é 😀.jpg"]
    table = json.loads((out / "predictions.json").read_text("utf-8"))
    assert [row["name"] for row in table["images"]] == ["b.png", "皮膚 é 😀.jpg"]


def test_masks_can_be_tidied(weights: Path, tmp_path: Path) -> None:
    """A dark ring with a light hole, and a dark square beside it."""
    image = Image.new("RGB", (160, 120), (220, 200, 190))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 20, 99, 79), fill=(60, 40, 30))
    draw.ellipse((60, 40, 79, 59), fill=(220, 200, 190))
    draw.rectangle((120, 90, 149, 109), fill=(60, 40, 30))
    image.save(tmp_path / "ring.png")
    tidy = ("--tta", "--largest-component", "--fill-holes")
    for out, options in (("plain", ()), ("tidy", tidy)):
        done = predict(tmp_path / "ring.png", "-o", tmp_path / out, "-w", weights, *options)
        assert done.returncode == 0, done.stderr
    plain, tidied = (read_mask(tmp_path / out / "ring_mask.png") for out in ("plain", "tidy"))
    assert (plain[50, 70], plain[100, 135]) == (0, 255)
    assert (tidied[50, 70], tidied[100, 135]) == (255, 0)
    assert tidied[30, 70] == 255


@pytest.mark.skipif(sys.platform != "linux", reason="file names may hold anything there")
def test_names_cannot_command_the_terminal_or_a_spreadsheet(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "\x1b]0;owned\x07\u202egpj.png").write_bytes(b"")
    (photos / "a.jpg").rename(photos / "=cmd|calc.jpg")
    done = predict(photos, "-o", tmp_path / "out", "-w", weights, text=True)
    assert done.returncode == 1
    assert "\\x1b]0;owned\\x07\\u202egpj.png is empty" in done.stderr
    done = predict(f"{photos}/*.png", "-o", "-", "-w", weights, text=True)
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stderr)
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert "'=cmd|calc.jpg" in [row["name"] for row in csv.DictReader(file)]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_what_is_too_large_for_the_memory_is_skipped(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    with (photos / "sparse.tif").open("wb") as file:
        file.write(b"II*\0\x08\0\0\0")
        file.truncate(30 * 10**9)
    with (photos / "sparse.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(300 * 10**9)
    Image.new("L", (14_000, 14_000)).save(photos / "large.png", compress_level=1)
    Image.new("1", (199_999_999, 1)).save(photos / "row.png")
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (800_000_000,) * 2)
    words = ("-o", tmp_path / "out", "-w", weights, "--threads", 1)
    done = predict(photos, *words, text=True, preexec_fn=limit)
    assert done.stdout == f"2 done, 4 failed: {tmp_path / 'out'}\n", done.stderr
    assert "Traceback" not in done.stderr
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    errors = {row["name"]: row["error"] for row in rows if row["error"]}
    assert "the limit is 2,000 MB" in errors["sparse.tif"]
    assert "the limit is 2,000 MB" in errors["sparse.jpg"]
    assert "65500 pixels a side" in errors["row.png"]
    assert "needs more memory than there is" in errors["large.png"]
