import numpy as np
import pytest

from egeunet.data.datasets import open_folder
from egeunet.data.splits import split_dataset
from egeunet.data.synthetic.dermoscopy import write_dataset
from egeunet.errors import UsageError
from egeunet.evaluation.target import EvaluationTarget, choose_samples
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
