import io
import os
import pickle
import platform
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import get_available_providers
from PIL import Image, ImageSequence

import egeunet
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.preprocess import to_input
from egeunet.inference.result import Result
from egeunet.inference.segmenter import Segmenter


@pytest.fixture
def segmenter(write_graph) -> Segmenter:
    return Segmenter(write_graph(), threads=1)


def test_a_dark_ellipse_is_found(segmenter: Segmenter, lesion: NDArray[np.uint8]) -> None:
    result = segmenter(lesion)
    truth = lesion[..., 0] < 100
    assert isinstance(result, Result)
    assert result.mask.shape == truth.shape
    assert (result.mask & truth).sum() / (result.mask | truth).sum() > 0.95
    assert result.source is None
    assert result.classes == ("lesion",)


def test_probabilities_are_the_sigmoid_of_what_the_graph_gives(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    photo = np.asarray(Image.fromarray(lesion).resize((256, 256)))
    logits = 12.8 - 0.1 * to_input(photo).mean(axis=0)
    np.testing.assert_allclose(segmenter(photo).probability, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_a_list_gives_a_list_in_order(segmenter: Segmenter, lesion: NDArray[np.uint8]) -> None:
    photos = [lesion[: 20 + 3 * k] for k in range(20)]
    results = segmenter(photos)
    assert [result.height for result in results] == [20 + 3 * k for k in range(20)]
    for photo, result in zip(photos, results, strict=True):
        np.testing.assert_array_equal(result.mask, segmenter(photo).mask)
    assert segmenter([]) == []
    batch = segmenter(np.stack([lesion, lesion[::-1]]))
    np.testing.assert_array_equal(batch[1].mask, segmenter(lesion[::-1]).mask)


def test_the_threshold_comes_from_the_weights_or_the_caller(
    write_graph, lesion: NDArray[np.uint8]
) -> None:
    path = write_graph(threshold="0.25")
    low, high = Segmenter(path), Segmenter(path, threshold=0.9)
    assert (low.threshold, high.threshold) == (0.25, 0.9)
    assert low(lesion).threshold == 0.25
    assert low(lesion).area >= high(lesion).area


def test_other_input_sizes(write_graph, lesion: NDArray[np.uint8]) -> None:
    segmenter = Segmenter(write_graph(size=(64, 96)))
    assert segmenter.metadata.size == (64, 96)
    assert segmenter(lesion).scores.shape == (64, 96)
    assert segmenter(lesion).mask.shape == lesion.shape[:2]


def test_several_classes(write_graph) -> None:
    photo = np.zeros((90, 60, 3), dtype=np.uint8)
    photo[30:60], photo[60:] = 128, 255
    segmenter = Segmenter(write_graph(count=3))
    result = segmenter(photo)
    assert result.mask.dtype == np.uint8
    assert result.mask[[10, 45, 80], 30].tolist() == [0, 1, 2]
    np.testing.assert_allclose(result.probability.sum(axis=0), 1, atol=1e-5)
    with pytest.raises(UsageError, match="threshold"):
        Segmenter(write_graph(count=3), threshold=0.5)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (900, 1, 3), (2, 2)])
def test_photos_of_odd_shapes(segmenter: Segmenter, shape: tuple[int, ...]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = segmenter(photo)
    assert result.mask.shape == shape[:2]
    result.to_json()
    result.overlay()


# Streams


def test_a_stream_reads_only_a_few_photos_ahead(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    read = 0

    def photos() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        while True:
            read += 1
            yield lesion

    stream = segmenter.stream(photos())
    for done in range(1, 30):
        next(stream)
        assert read - done <= 8
    stream.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_photo_is_read_while_another_is_waited_for(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    segmenter = Segmenter(write_graph(), threads=2)
    file = io.BytesIO()
    Image.fromarray(lesion).save(file, "PNG")
    pipes = [tmp_path / "first.png", tmp_path / "second.png"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def fill_the_second_first() -> None:
        for pipe in reversed(pipes):
            pipe.write_bytes(file.getvalue())  # which waits until somebody reads

    threading.Thread(target=fill_the_second_first, daemon=True).start()
    rescue = threading.Timer(20, pipes[0].write_bytes, [b""])  # if the second waits for the first
    rescue.start()
    assert [result.source for result in segmenter.stream(pipes)] == list(map(str, pipes))
    rescue.cancel()


def test_a_stream_keeps_photos_that_their_owner_changes(
    write_graph, lesion: NDArray[np.uint8]
) -> None:
    segmenter = Segmenter(write_graph(), threads=2)
    frames = [np.roll(lesion, 5 * k, axis=1) for k in range(9)]
    boxes = [segmenter(frame).box for frame in frames]

    def camera() -> Iterator[NDArray[np.uint8]]:
        buffer = np.empty_like(lesion)
        for frame in frames:
            buffer[...] = frame
            yield buffer

    assert [result.box for result in segmenter.stream(camera())] == boxes

    tiff = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    first.save(tiff, "TIFF", save_all=True, append_images=others)
    with Image.open(tiff) as image:
        found = [result.box for result in segmenter.stream(ImageSequence.Iterator(image))]
    assert found == boxes


def test_a_stream_of_files_that_are_closed_after_their_turn(
    segmenter: Segmenter, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(lesion).save(path)

    def files() -> Iterator[IO[bytes]]:
        for _ in range(5):
            with path.open("rb") as file:
                yield file

    assert [result.source for result in segmenter.stream(files())] == [str(path)] * 5


def test_memory_stays_bounded(segmenter: Segmenter) -> None:
    photo = np.zeros((1000, 1000, 3), dtype=np.uint8)
    tracemalloc.start()
    try:
        for result in segmenter.stream(photo for _ in range(60)):
            assert result.area == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6, "60 photos of 3 MB and their probabilities of 4 MB would be 420 MB"


def test_a_slow_source_has_each_result_when_the_next_photo_is_there(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    read = 0

    def camera() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        for pause in (0, 0, 0, 0, 0.3, 0.3, 0.3, 0.3):
            time.sleep(pause)
            read += 1
            yield lesion

    ahead = [read - done for done, _ in enumerate(segmenter.stream(camera()), 1)]
    assert ahead[-4:] == [1, 1, 1, 0]


def test_results_come_before_the_error_of_what_gives_the_photos(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    def camera() -> Iterator[NDArray[np.uint8]]:
        yield lesion
        yield lesion
        raise ConnectionError("the cable is out")

    stream = segmenter.stream(camera())
    assert next(stream).area == next(stream).area
    with pytest.raises(ConnectionError, match="cable"):
        next(stream)


def test_a_stream_takes_a_folder_or_a_glob(
    segmenter: Segmenter, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    for name in "ba":
        Image.fromarray(lesion).save(folder / f"{name}.png")
    expected = [str(folder / "a.png"), str(folder / "b.png")]
    assert [result.source for result in segmenter.stream(folder)] == expected
    assert [result.source for result in segmenter.stream(f"{folder}/*.png")] == expected
    found = segmenter.stream(tmp_path, recursive=True)
    assert [result.source for result in found] == expected
    with pytest.raises(UsageError, match="recursive=True"):
        next(segmenter.stream(tmp_path))


def test_a_stream_takes_one_photo_or_an_array_of_many(
    segmenter: Segmenter, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(lesion).save(path)
    data = path.read_bytes()
    expected = segmenter(lesion).mask
    with path.open("rb") as file, Image.open(path) as image:
        for photo in (lesion, data, bytearray(data), memoryview(data), file, image):
            (result,) = segmenter.stream(photo)
            np.testing.assert_array_equal(result.mask, expected)
    assert len(list(segmenter.stream(np.stack([lesion] * 3)))) == 3
    assert segmenter(path).source == str(path)


def test_a_broken_image_ends_a_stream_unless_errors_are_returned(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    closed = io.BytesIO()
    closed.close()
    photos = [lesion, b"no photo", lesion, closed, 7, lesion]
    stream = segmenter.stream(photos)
    next(stream)
    with pytest.raises(EgeunetError, match="not an image"):
        next(stream)
    outcomes = list(segmenter.stream(photos, on_error="return"))
    expected = [Result, EgeunetError, Result, EgeunetError, EgeunetError, Result]
    assert list(map(type, outcomes)) == expected
    with pytest.raises(EgeunetError):
        segmenter(photos)
    with pytest.raises(UsageError, match="'skip'"):
        next(segmenter.stream(photos, on_error="skip"))


def test_classes_are_named_by_the_weights(write_graph, lesion: NDArray[np.uint8]) -> None:
    result = Segmenter(write_graph(classes='["polyp"]'))(lesion)
    assert result.classes == ("polyp",)


def test_an_image_larger_than_the_callers_limit_is_refused(
    write_graph, lesion: NDArray[np.uint8]
) -> None:
    file = io.BytesIO()
    Image.fromarray(lesion).resize((2000, 2000)).save(file, "PNG")
    segmenter = Segmenter(write_graph(), max_bytes=20_000_000)
    with pytest.raises(EgeunetError, match=r"2000×2000 pixels takes 28 MB, the limit is 20 MB"):
        segmenter(file.getvalue())
    assert pickle.loads(pickle.dumps(segmenter)).max_bytes == 20_000_000


# Settings and weights that are wrong


@pytest.mark.parametrize(
    "setting",
    [
        {"threads": 0},
        {"threshold": 0},
        {"threshold": 1.0},
        {"threshold": float("nan")},
        {"providers": ["AbacusExecutionProvider"]},
        {"providers": "abacus"},
    ],
)
def test_settings_out_of_range_are_wrong_usage(write_graph, setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Segmenter(write_graph(), **setting)


@pytest.mark.parametrize(
    "providers", ["cpu", ["CPU"], ["CPUExecutionProvider", "cpu"], [("cpu", {"use_arena": "0"})]]
)
def test_providers_have_short_names(write_graph, lesion: NDArray[np.uint8], providers) -> None:
    assert Segmenter(write_graph(), providers=providers)(lesion).area > 0


def test_an_unknown_provider_names_those_that_are_installed(write_graph) -> None:
    installed = [one.removesuffix("ExecutionProvider") for one in get_available_providers()]
    with pytest.raises(UsageError) as caught:
        Segmenter(write_graph(), providers=["cpu", "abacus"])
    message = str(caught.value)
    assert "'abacus'" in message
    assert message.endswith(f"expected one of {', '.join(installed).lower()}.")


def test_without_onnx_runtime_it_is_said_what_to_install(
    write_graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EgeunetError, match="pip install onnxruntime"):
        Segmenter(write_graph())


def test_a_segmenter_goes_to_other_processes(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_graph()
    monkeypatch.chdir(path.parent)
    segmenter = Segmenter(path.name, threshold=np.float32(0.9), fill_holes=True, threads=3)
    expected = segmenter(lesion)
    pickled = pickle.dumps((segmenter, Segmenter(write_graph("classes.onnx", count=3))))
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    again, several = pickle.loads(pickled)
    assert again(lesion).to_json() == expected.to_json()
    assert (again.weights, again.fill_holes) == (segmenter.weights, True)
    assert several(lesion).mask.max() > 1


def test_files_that_are_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for data in (b"", b"no graph at all", bytes(range(256)) * 9):
        path = tmp_path / "x.onnx"
        path.write_bytes(data)
        with pytest.raises(EgeunetError, match=r"x\.onnx: .*egeunet export"):
            Segmenter(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_graph_cut_short(
    write_graph, tmp_path: Path, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_graph()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(EgeunetError):
        Segmenter(path)
    assert capfd.readouterr().err == ""


def test_graphs_of_another_form(write_graph) -> None:
    with pytest.raises(EgeunetError, match="does not say its model"):
        Segmenter(write_graph(model=None))
    with pytest.raises(EgeunetError, match="does not take `image`"):
        Segmenter(write_graph(input_size="128,128"))
    with pytest.raises(EgeunetError, match="does not take `image`"):
        Segmenter(write_graph(num_classes="2", classes='["a", "b"]'))
    path = write_graph()
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    onnx.save(model, path)
    with pytest.raises(EgeunetError, match="does not take `image`"):
        Segmenter(path)


def test_weights_that_give_nan(write_graph, lesion: NDArray[np.uint8]) -> None:
    path = write_graph()
    model = onnx.load(path)
    model.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "b")
    )
    onnx.save(model, path)
    with pytest.raises(EgeunetError, match="not finite"):
        Segmenter(path)(lesion)


def test_a_graph_cannot_read_other_files(
    write_graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_graph()
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="other.bin", size_threshold=0
    )
    assert (tmp_path / "other.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EgeunetError, match="weights are in another file"):
        Segmenter(path)
    assert capfd.readouterr().err == ""


# What a user who never trains relies on


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(egeunet.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_segmenting_never_imports_torch_and_takes_little_memory(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    photo = tmp_path / "a.jpg"
    Image.fromarray(lesion).save(photo)
    code = (
        "import sys, egeunet\n"
        "result = egeunet.Segmenter(sys.argv[1])(sys.argv[2])\n"
        "result.overlay(), result.to_json(), result.save(sys.argv[2] + '.png')\n"
        # getrusage would count the process that started this one; the kernel's own mark does not.
        "lines = open('/proc/self/status').read().splitlines()\n"
        "peak = next(float(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "names = [name for name in ('torch', 'scipy', 'onnx') if name in sys.modules]\n"
        "print(result.area, peak / 1e3, names)"
    )
    area, peak, loaded = run_python(code, str(write_graph()), str(photo)).split(maxsplit=2)
    assert float(area) > 0.1
    assert float(peak) < 150, "MB"
    assert loaded.strip() == "[]"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_a_photo_takes_no_memory_from_the_system_anew(
    write_graph, lesion: NDArray[np.uint8], tmp_path: Path
) -> None:
    photo = tmp_path / "a.jpg"
    Image.fromarray(lesion).resize((256, 192)).save(photo)
    code = (
        "import resource, sys, egeunet\n"
        "segment = egeunet.Segmenter(sys.argv[1], threads=1)\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): segment(sys.argv[2]).mask\n"
        "before = faults()\n"
        "for _ in range(20): segment(sys.argv[2]).mask\n"
        "print((faults() - before) / 20)"
    )
    assert float(run_python(code, str(write_graph()), str(photo))) < 50, "pages for each photo"


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, egeunet\n"
        "egeunet.Segmenter\n"
        "heavy = ('onnxruntime', 'torch', 'rich', 'pandas', 'matplotlib', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


@pytest.mark.data
def test_real_photos(segmenter: Segmenter, real_data: Path) -> None:
    folder = real_data / "isic2018" / "ISIC2018_Task1-2_Training_Input"
    photos = sorted(folder.glob("*.jpg"))[:20]
    results = segmenter(list(photos))
    assert [result.source for result in results] == [str(photo) for photo in photos]
    assert all(0 < result.area < 1 for result in results)


# Options


def test_tta_averages_the_mirror_images(write_graph, lesion: NDArray[np.uint8]) -> None:
    """What sees each pixel alone gives the same; photo and mirror image have mirrored masks."""
    path = write_graph()
    plain, mirrored = Segmenter(path, threads=1), Segmenter(path, threads=1, tta=True)
    np.testing.assert_allclose(mirrored(lesion).probability, plain(lesion).probability, atol=1e-5)
    expected = mirrored(lesion).probability
    for axis in (0, 1):
        found = mirrored(np.flip(lesion, axis)).probability
        np.testing.assert_allclose(np.flip(found, axis), expected, atol=1e-4)


@pytest.fixture
def spotted(lesion: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ellipse with a light hole in it, and a dark square beside it."""
    photo = lesion.copy()
    photo[48:60, 62:76] = 220
    photo[90:110, 10:30] = 40
    return photo


def test_the_largest_piece_alone_and_without_holes(
    write_graph, spotted: NDArray[np.uint8], lesion: NDArray[np.uint8]
) -> None:
    path = write_graph()
    hole, square = np.s_[52:56, 66:72], np.s_[94:106, 14:26]
    plain = Segmenter(path)(spotted).mask
    assert not plain[hole].any()
    assert plain[square].all()
    largest = Segmenter(path, largest_component=True)(spotted).mask
    assert not largest[hole].any()
    assert not largest[80:].any()
    filled = Segmenter(path, fill_holes=True)(spotted).mask
    assert filled[hole].all()
    assert filled[square].all()
    both = Segmenter(path, largest_component=True, fill_holes=True)(spotted).mask
    truth = lesion[..., 0] < 100
    assert (both & truth).sum() / (both | truth).sum() > 0.95
    for option in ("largest_component", "fill_holes"):
        with pytest.raises(UsageError, match="several classes"):
            Segmenter(write_graph(count=3), **{option: True})


def test_a_large_jpeg_gives_the_mask_of_the_whole_photo(
    segmenter: Segmenter, lesion: NDArray[np.uint8]
) -> None:
    file = io.BytesIO()
    Image.fromarray(lesion).resize((2400, 1800)).save(file, "JPEG", quality=92)
    result = segmenter(file.getvalue())
    whole = segmenter(Image.open(file))
    assert result.mask.shape == (1800, 2400)
    assert (result.mask & whole.mask).sum() / (result.mask | whole.mask).sum() > 0.995
    np.testing.assert_array_equal(result.image, whole.image)
    assert result.overlay().size == (2400, 1800)
