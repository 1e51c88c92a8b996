import json
import statistics

import pytest

import egeunet
from egeunet.errors import UsageError
from egeunet.training.recipe import load_recipe
from egeunet.training.seeds import split_seeds
from egeunet.training.trainer import train


def test_several_seeds_leave_their_runs_and_the_spread(words, tmp_path, same, listener):
    settings = [*words[1:], "trainer.epochs=1", f"out={tmp_path / 'three'}"]
    folder = egeunet.train(words[0], *settings, "seeds=1,4-4", reporter=listener)
    runs = [folder / f"seed-{seed}" for seed in (1, 4)]
    values = [json.loads((run / "metrics.json").read_text())["last"]["val_iou"] for run in runs]
    summary = json.loads((folder / "seeds.json").read_text())
    assert summary["last"]["val_iou"]["values"] == values
    assert summary["last"]["val_iou"]["mean"] == pytest.approx(statistics.mean(values))
    assert summary["last"]["val_iou"]["std"] == pytest.approx(statistics.stdev(values))
    assert len(set(values)) > 1
    assert listener.lines[-1].startswith("2 seeds, on the validation part: mIoU")
    assert any(line.startswith("seed-4: epoch 1/1") for line in listener.lines)
    alone = [*words[1:], "trainer.epochs=1", "seed=4", f"out={tmp_path / 'alone'}"]
    same(runs[1], train(load_recipe(words[0], alone)))
    assert (runs[1] / "model.onnx").is_file()
    assert "epoch 1/1" in (runs[1] / "train.log").read_text()


def test_seeds_that_are_done_are_not_trained_again(words, tmp_path):
    settings = [*words[1:], "trainer.epochs=1"]
    done = tmp_path / "two" / "seed-0"
    train(load_recipe(words[0], [*settings, "seed=0", f"out={done}"]))
    before = (done / "history.csv").stat().st_mtime_ns
    egeunet.train(words[0], *settings, f"out={tmp_path / 'two'}", "seeds=0-1", resume=True)
    assert (done / "history.csv").stat().st_mtime_ns == before
    assert (tmp_path / "two" / "seed-1" / "metrics.json").is_file()


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "0,0", "1-", "-1", "0.5"])
def test_what_names_no_seeds_is_refused(seeds):
    with pytest.raises(UsageError, match="seeds="):
        split_seeds([f"seeds={seeds}"])


def test_one_seed_and_several_exclude_each_other():
    with pytest.raises(UsageError, match="exclude each other"):
        split_seeds(["seed=3", "seeds=0-4"])
