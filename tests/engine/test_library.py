"""Where the C libraries are missing, the package says so once and works without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import egeunet
from egeunet.engine.library import load_engine, load_kernels

SOURCE = Path(egeunet.__file__).parent


@pytest.fixture
def package(tmp_path):
    """A copy of the package without the C libraries; runs code with it in a new process."""
    shutil.copytree(SOURCE, tmp_path / "egeunet", ignore=shutil.ignore_patterns("*.so", "page"))

    def run(code, **settings):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), **settings}
        return subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )

    run.folder = tmp_path / "egeunet"
    return run


def test_the_libraries_were_built():
    if shutil.which("cc") is None or os.name == "nt":
        pytest.skip("no C compiler here")
    hint = "run `python hatch_build.py`"
    assert load_engine() is not None, hint
    assert load_kernels() is not None, hint


TRAIN = """
import torch
from egeunet.models import create_model
model = create_model("egeunet")
for _ in range(2):
    model(torch.rand(1, 3, 32, 32) * 255)[0].sum().backward()
"""


@pytest.mark.parametrize(("setting", "warnings"), [("1", 1), ("0", 0)])
def test_training_without_kernels_takes_the_formulas(package, setting, warnings):
    messages = package(TRAIN, EGEUNET_KERNELS=setting).stderr
    assert messages.count("\n") == messages.count("libkernels.so") == warnings


def test_a_damaged_library_is_named_in_the_warning(package):
    (package.folder / "engine/libkernels.so").write_bytes(b"\x7fELF")
    messages = package(TRAIN).stderr
    assert messages.count("\n") == 1
    assert str(package.folder) in messages


SEGMENT = """
import sys, numpy as np
from egeunet import Segmenter
segmenters = [Segmenter(threads=1), Segmenter("kvasir", threads=1)]
assert segmenters[0].backend == sys.argv[1], segmenters[0].backend
image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
np.save(sys.argv[2], segmenters[0](image).probability)
"""


def test_without_the_engine_images_are_segmented_by_onnx_runtime(package, tmp_path):
    def segment(run, backend):
        file = tmp_path / f"{backend}.npy"
        code = f"import sys; sys.argv[1:] = [{backend!r}, {str(file)!r}]\n{SEGMENT}"
        return run(code).stderr, np.load(file)

    messages, probability = segment(package, "onnxruntime")
    assert messages.count("\n") == 1
    assert "libegeunet.so of egeunet is missing, so images are segmented by ONNX" in messages
    shutil.copy(SOURCE / "engine/libegeunet.so", package.folder / "engine")
    messages, expected = segment(package, "engine")
    assert messages == ""
    np.testing.assert_allclose(probability, expected, atol=1e-4)


def test_without_the_engine_its_files_are_refused_with_advice(package):
    code = (
        "from egeunet import EgeunetError, Segmenter\n"
        "from egeunet.inference.weights import SHIPPED\n"
        "try: Segmenter(SHIPPED / 'isic2018.egeu')\n"
        "except EgeunetError as error: print(error)"
    )
    done = package(code)
    assert done.stdout.startswith("The engine is not part of this installation: use an .onnx file")
