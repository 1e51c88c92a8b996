import json
import statistics

import pytest

import egeunet
from egeunet.errors import UsageError
from egeunet.reporting import Reporter
from egeunet.training.seeds import split_seeds


class Listener(Reporter):
    def __init__(self):
        self.lines = []

    def info(self, message):
        self.lines.append(message)


def test_several_seeds_leave_their_runs_and_the_spread(words, tmp_path):
    listener = Listener()
    settings = [*words[1:], "trainer.epochs=1", f"out={tmp_path / 'three'}"]
    folder = egeunet.train(words[0], *settings, "seeds=1,4-5", reporter=listener)
    runs = [folder / f"seed-{seed}" for seed in (1, 4, 5)]
    values = [json.loads((run / "metrics.json").read_text())["last"]["val_iou"] for run in runs]
    summary = json.loads((folder / "seeds.json").read_text())
    assert summary["last"]["val_iou"]["values"] == values
    assert summary["last"]["val_iou"]["mean"] == pytest.approx(statistics.mean(values))
    assert summary["last"]["val_iou"]["std"] == pytest.approx(statistics.stdev(values))
    assert len(set(values)) > 1
    assert listener.lines[-1].startswith("3 seeds, on the validation part: mIoU")


def test_seeds_that_are_done_are_not_trained_again(words, tmp_path):
    settings = [*words[1:], "trainer.epochs=1", f"out={tmp_path / 'two'}"]
    folder = egeunet.train(words[0], *settings, "seeds=0")
    before = (folder / "seed-0" / "history.csv").stat().st_mtime_ns
    egeunet.train(words[0], *settings, "seeds=0-1", resume=True)
    assert (folder / "seed-0" / "history.csv").stat().st_mtime_ns == before
    assert (folder / "seed-1" / "metrics.json").is_file()


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "0,0", "1-", "-1", "0.5"])
def test_what_names_no_seeds_is_refused(seeds):
    with pytest.raises(UsageError, match="seeds="):
        split_seeds([f"seeds={seeds}"])


def test_one_seed_and_several_exclude_each_other():
    with pytest.raises(UsageError, match="exclude each other"):
        split_seeds(["seed=3", "seeds=0-4"])
