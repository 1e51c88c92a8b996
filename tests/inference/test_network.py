"""The engine and ONNX Runtime give the same results, and each file goes to its backend."""

import pickle
import shutil

import numpy as np
import pytest

from egeunet.data.synthetic import draw
from egeunet.engine.library import load_engine
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import SHIPPED

if load_engine() is None:
    pytest.skip("the engine is not built: run `python hatch_build.py`", allow_module_level=True)


@pytest.fixture(scope="module")
def images():
    return [draw(seed, size)[0] for seed, size in enumerate([(240, 320), (700, 500), (90, 60)])]


@pytest.mark.parametrize("tta", [False, True])
def test_both_backends_give_the_same_results(images, tta):
    engine = Segmenter("isic2018", tta=tta, threads=2)
    onnx = Segmenter("isic2018", backend="onnxruntime", tta=tta, threads=2)
    assert (engine.backend, onnx.backend) == ("engine", "onnxruntime")
    assert engine.metadata == onnx.metadata
    for one, other in zip(engine(images * 4), onnx(images * 4), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)
        assert one.quality == pytest.approx(other.quality, abs=1e-4)
        assert one.area == pytest.approx(other.area, abs=1e-4)


@pytest.fixture
def folder(tmp_path):
    """A run folder with the files of both backends."""
    for suffix in (".egeu", ".onnx"):
        shutil.copy(SHIPPED / f"isic2018{suffix}", tmp_path / f"model{suffix}")
    return tmp_path


def test_a_run_folder_is_opened_with_the_engine_if_it_has_its_file(folder):
    assert Segmenter(folder).backend == "engine"
    assert Segmenter(folder, providers="cpu").backend == "onnxruntime"
    assert Segmenter(folder / "model.onnx").backend == "onnxruntime"
    (folder / "model.egeu").unlink()
    assert Segmenter(folder).backend == "onnxruntime"
    with pytest.raises(EgeunetError, match=r"no model\.egeu: .*egeunet export .* -f engine"):
        Segmenter(folder, backend="engine")


def test_a_file_for_the_other_backend_is_refused(folder):
    with pytest.raises(UsageError, match=r"model\.onnx is for the backend onnxruntime"):
        Segmenter(folder / "model.onnx", backend="engine")
    with pytest.raises(UsageError, match=r"model\.egeu is for the backend engine"):
        Segmenter(folder / "model.egeu", backend="onnxruntime")
    with pytest.raises(UsageError, match=r"model\.egeu is for the backend engine"):
        Segmenter(folder / "model.egeu", providers="cpu")
    with pytest.raises(UsageError, match="expected 'engine' or 'onnxruntime'"):
        Segmenter(folder, backend="torch")


def test_a_damaged_file_is_one_sentence(folder):
    data = (folder / "model.egeu").read_bytes()
    (folder / "model.egeu").write_bytes(data[:-1])
    with pytest.raises(EgeunetError, match=r"model\.egeu is damaged or not a file for the engine"):
        Segmenter(folder)


def test_a_segmenter_with_the_engine_can_be_pickled(folder, images):
    segmenter = Segmenter(folder, threads=1)
    again = pickle.loads(pickle.dumps(segmenter))
    assert again.backend == "engine"
    np.testing.assert_array_equal(again(images[0]).scores, segmenter(images[0]).scores)
