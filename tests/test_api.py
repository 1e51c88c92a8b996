"""The public names of the package, with and without torch."""

import os
import subprocess
import sys

import pytest
import torch

import egeunet
from egeunet.errors import UsageError

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # the import fails as if torch were not installed
import egeunet
from egeunet import *
assert set(egeunet.__all__) <= set(dir(egeunet))
assert all(hasattr(egeunet, name) for name in dir(egeunet))
assert callable(train) and callable(Segmenter)
try:
    egeunet.create_model("egeunet")
except egeunet.EgeunetError as error:
    print(error)
"""


def test_without_torch_all_names_exist_and_a_call_names_what_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    assert "torch" in done.stdout
    assert "not installed" in done.stdout


def test_unknown_attribute_raises_attribute_error():
    assert not hasattr(egeunet, "nothing")


def test_create_model_with_shipped_weights_is_trained_and_in_eval_mode():
    model = egeunet.create_model("egeunet", weights="isic2018")
    assert not model.training
    fresh = egeunet.create_model("egeunet").state_dict()
    assert any(not torch.equal(fresh[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "egeunett"}, "did you mean 'egeunet'"),
        ({"name": "malunet", "weights": "isic2018"}, "belong to the model 'egeunet'"),
        ({"weights": "isic2019"}, "isic2019"),
        ({"weights": "isic2018", "num_classes": 2}, "stored with its weights"),
    ],
)
def test_create_model_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(UsageError, match=message):
        egeunet.create_model(**arguments)


def test_segmenting_leaves_no_telemetry_of_onnx_runtime(tmp_path):
    code = "import egeunet, numpy; egeunet.Segmenter()(numpy.zeros((32, 32, 3), numpy.uint8))"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("*"))
