import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from egeunet.exporting.onnx import core_graph
from egeunet.exporting.quantize import store_half, store_int6


def logits(graph, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return session.run(["logits"], {"image": image})[0]


@pytest.mark.parametrize(
    ("store", "share", "error"), [(store_half, 0.6, 0.01), (store_int6, 0.36, 0.5)]
)
def test_smaller_weights_give_nearly_the_same(make_run, images, store, share, error) -> None:
    graph = core_graph(make_run())
    small = store(graph)
    image = images[:, :, :64, :64].copy()
    expected = logits(graph, image)
    # Single pixels may differ by more, where the deviation that divides them is small.
    assert np.abs(logits(small, image) - expected).mean() < error * np.abs(expected).mean()
    assert small.ByteSize() < share * graph.ByteSize()


def test_constants_of_one_value_are_kept_exactly_and_others_within_half_a_step() -> None:
    """A third is no half-precision number; 0.1 … 3.1 has steps of 0.1."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-3.1, 3.1, (4, 9)).astype(np.float32)
    values[:, 0] = 3.1
    third = np.full((1, 9), 1 / 3, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["values", "third"], ["logits"])],
        "g",
        [],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, 9])],
        [numpy_helper.from_array(values, "values"), numpy_helper.from_array(third, "third")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    small = onnxruntime.InferenceSession(store_int6(model).SerializeToString())
    (given,) = small.run(None, {})
    np.testing.assert_allclose(given - third, values, atol=0.0505)
    assert (np.abs(given - third - values) > 0.01).any()
