import numpy as np
import pytest

from egeunet.data.cache import Arrays
from egeunet.data.datasets import open_folder
from egeunet.data.splits import split_dataset
from egeunet.data.synthetic import draw, write_dataset
from egeunet.errors import UsageError
from egeunet.evaluation.target import (
    EvaluationTarget,
    choose_samples,
    evaluate_target,
    segmenter_target,
)
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights
from egeunet.training.provenance import merge, seen_in, seen_of


def test_what_a_run_was_selected_on_is_scored_under_its_own_protocol_alone(tmp_path):
    folder = write_dataset(tmp_path / "skin", 20, size=(16, 16))
    paper = split_dataset(open_folder(folder), "paper")
    parts = {sample.id: "train" for sample in paper.train}
    parts |= {sample.id: "test" for sample in paper.test}
    target = EvaluationTarget(
        np.zeros_like, (16, 16), 1, {}, "skin", seen_of("skin", parts), "paper"
    )
    protocol, _, samples = choose_samples(target, folder, "paper", "test")
    assert (protocol, samples) == ("paper", paper.test)
    with pytest.raises(UsageError, match="trained or selected on"):
        choose_samples(target, folder, "holdout", "test")


def test_what_an_earlier_run_saw_is_seen():
    first = seen_of("isic2018", {"ISIC_1": "train", "ISIC_2": "val", "ISIC_3": "test"})
    second = seen_of("mine", {"ISIC_1": "test", "a": "train", "b": "test"})  # selected on test
    both = merge(second, first)
    assert seen_in(both, "isic2018") == {"ISIC_1": "trained", "ISIC_2": "selected"}
    assert seen_in(both, "mine") == {
        "ISIC_1": "trained",
        "ISIC_2": "selected",
        "a": "trained",
        "b": "selected",
    }
    assert merge(first, second) == both


class Counting(Segmenter):
    """Counts the images that the network is run on."""

    images = 0

    def logits(self, images):
        self.images += len(images)
        return super().logits(images)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_an_exported_model_is_run_once_and_cut_at_its_own_threshold(threshold):
    drawn = [draw(seed, (256, 256)) for seed in range(3)]
    images, masks = (np.stack(one) for one in zip(*drawn, strict=True))
    arrays = Arrays(("a", "b", "c"), images, masks, np.ones(3, np.float32))
    segmenter = Counting("isic2018", threshold=threshold)
    found = evaluate_target(segmenter_target(segmenter, find_weights("isic2018")), arrays)
    assert segmenter.images == 3
    results = [segmenter(image) for image in images]
    for prediction, result in zip(found.predictions, results, strict=True):
        np.testing.assert_array_equal(prediction, result.scores >= np.float32(threshold))
    assert found.per_image["quality"].to_numpy() == pytest.approx(
        [one.quality for one in results], abs=1e-5
    )
