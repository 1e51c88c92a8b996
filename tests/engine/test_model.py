"""The engine computes what torch and ONNX Runtime compute, and refuses damaged weights."""

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from egeunet.data.datasets import open_dataset
from egeunet.data.synthetic import draw
from egeunet.engine.library import load_engine
from egeunet.engine.model import EngineModel, prepare, resize
from egeunet.errors import EgeunetError, UsageError
from egeunet.exporting.engine import pack
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.weights import SHIPPED
from egeunet.models import create_model
from egeunet.training.recipe import load_recipe
from egeunet.training.run import Run

if load_engine() is None:
    pytest.skip("the engine is not built: run `python hatch_build.py`", allow_module_level=True)


def make_run(tmp_path, seed=0, **options):
    """A run of random weights, with biases that are not 0 and norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    model = create_model("egeunet", **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    recipe = load_recipe("egeunet-synthetic", ["data.size=64", "data.root=."])
    return Run(tmp_path, recipe, "synthetic", model, epoch=1, seconds=0.0)


@pytest.fixture
def blob():
    return (SHIPPED / "isic2018.egeu").read_bytes()


def image(height, width, seed=0):
    return min_max_normalize(draw(seed, (height, width))[0]).transpose(2, 0, 1)[None].copy()


@pytest.mark.parametrize(
    "size", [(32, 32), (32, 320), (64, 96), (96, 64), (128, 128), (160, 224), (256, 256), (320, 32)]
)
@pytest.mark.parametrize(
    "widths", [(8, 16, 24, 32, 48, 64), (8, 8, 8, 8, 8, 8), (8, 12, 20, 8, 8, 12)]
)
def test_random_weights_give_the_logits_of_torch(tmp_path, size, widths):
    run = make_run(tmp_path, seed=size[0] + size[1], widths=widths)
    images = np.concatenate([image(*size, seed) for seed in range(2)])
    with torch.no_grad():  # in single precision torch errs by as much as the engine
        expected = run.model.double()(torch.from_numpy(images).double()).numpy()
    given = EngineModel(pack(run, {}))(images)
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, atol=1e-3 * np.abs(expected).max())


def test_half_precision_is_small_and_near(tmp_path):
    run = make_run(tmp_path)
    whole, half = pack(run, {}), pack(run, {}, half=True)
    assert len(half) < 0.51 * len(whole)
    one, other = EngineModel(whole)(image(64, 64)), EngineModel(half)(image(64, 64))
    assert 0 < np.abs(one - other).mean() < 0.01 * np.abs(one).mean()


def test_metadata_is_that_of_the_exporter(tmp_path):
    model = EngineModel(pack(make_run(tmp_path), {"model": "egeunet", "classes": '["Läsion"]'}))
    assert model.metadata == {"model": "egeunet", "classes": '["Läsion"]'}
    assert model.size == (64, 64)


def compare_with_onnx(name, samples):
    engine = EngineModel((SHIPPED / f"{name}.egeu").read_bytes())
    session = onnxruntime.InferenceSession(SHIPPED / f"{name}.onnx")
    both = either = 0
    for sample in samples:
        photo = prepare(read_image(sample.image), (256, 256))[None]
        mask = engine(photo) >= 0
        other = session.run(["logits"], {"image": photo})[0] >= 0
        both, either = both + (mask & other).sum(), either + (mask | other).sum()
    return both / either


@pytest.mark.parametrize(("name", "dataset"), [("isic2018", "isic2018"), ("kvasir", "kvasir_seg")])
def test_masks_of_real_images_are_those_of_the_onnx_graph(real_data, name, dataset):
    samples = open_dataset(dataset, real_data / dataset).samples
    assert compare_with_onnx(name, samples[:: len(samples) // 8]) >= 0.9999


@pytest.mark.slow
def test_masks_of_a_hundred_real_images_are_those_of_the_onnx_graph(real_data):
    samples = open_dataset("isic2018", real_data / "isic2018").samples
    assert compare_with_onnx("isic2018", samples[:: len(samples) // 100]) >= 0.9999


@pytest.mark.parametrize("size", [(32, 64), (256, 256)])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 500), (240, 320), (256, 256), (301, 203), (33, 2000), (1200, 900)]
)
def test_images_are_prepared_and_maps_resized_as_by_pillow(shape, size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    small = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    expected = min_max_normalize(np.asarray(small)).transpose(2, 0, 1)
    np.testing.assert_array_equal(prepare(pixels, size), expected)
    values = rng.random(size, np.float32)
    whole = Image.fromarray(values).resize(shape[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resize(values, shape), np.asarray(whole), atol=1e-7)


@pytest.mark.parametrize("value", [0, 93, 255])
def test_an_image_of_one_color_is_black(value):
    assert not prepare(np.full((40, 50, 3), value, np.uint8), (32, 32)).any()


def test_threads_share_a_model(blob):
    model = EngineModel(blob)
    images = [image(*size, seed) for seed in range(4) for size in ((256, 256), (64, 96))]
    alone = [model(one) for one in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(model, images * 8))
    for index, given in enumerate(together):
        np.testing.assert_array_equal(given, alone[index % len(images)])


def test_weights_that_are_cut_short_or_longer_are_refused(blob):
    for length in (0, 1, 4, 95, 96, 200, len(blob) // 2, len(blob) - 1):
        with pytest.raises(EgeunetError, match=r"^x\.egeu is damaged or not a file for the engine"):
            EngineModel(blob[:length], "x.egeu")
    with pytest.raises(EgeunetError, match="damaged"):
        EngineModel(blob + b"\0", "x.egeu")


@pytest.mark.parametrize("place", [0, 8, 20, 44, 48, 64, 100, 150_000])
def test_changed_weights_are_refused(blob, place):
    changed = bytearray(blob)
    changed[place] ^= 1
    with pytest.raises(EgeunetError, match="damaged"):
        EngineModel(bytes(changed))


def test_weights_of_a_later_version_ask_for_an_update(blob):
    with pytest.raises(EgeunetError, match="later version of egeunet"):
        EngineModel(blob[:4] + struct.pack("<I", 2) + blob[8:])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 64, 64)),
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 1, 64, 64), np.float32),
        np.zeros((1, 3, 64, 70), np.float32),
        np.zeros((1, 3, 0, 64), np.float32),
    ],
)
def test_other_arrays_than_images_are_refused(blob, images):
    with pytest.raises(UsageError):
        EngineModel(blob)(images)
