"""A small set of samples and a recipe that trains on it in seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egeunet.data.loader import Loader
from egeunet.data.synthetic import write_dataset
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.recipe import load_recipe

SETTINGS = [
    "options.widths=[8, 8, 8, 8, 8, 8]",
    "data.size=32",
    "data.name=null",
    "data.protocol=holdout",
    "trainer.epochs=3",
    "trainer.batch_size=4",
    "scheduler.t_max=null",
]


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_dataset(folder, 24, size=(32, 32), seed=1)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def words(samples, tmp_path):
    """What follows `egeunet train` to train for seconds."""
    return ["egeunet-synthetic", *SETTINGS, f"data.root={samples}", f"out={tmp_path / 'run'}"]


@pytest.fixture
def recipe(words):
    return load_recipe(words[0], words[1:])


@pytest.fixture
def start():
    """Start `egeunet train` in a process of its own."""

    def start(words, *more):
        return subprocess.Popen(
            [sys.executable, "-m", "egeunet", "train", *words, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture
def stop_after(monkeypatch):
    """Raise SIGTERM in this process when a training begins its n-th pass over a loader."""

    def stop_after(passes):
        left, epoch = [passes], Loader.epoch

        def counted(self, *numbers):
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGTERM)
            return epoch(self, *numbers)

        monkeypatch.setattr(Loader, "epoch", counted)

    return stop_after


@pytest.fixture
def same():
    """Assert that two runs ended with the same bits."""

    def same(one: Path, other: Path):
        """Whether two runs ended with the same bits: selected weights, last weights, moments."""
        a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        a, b = load_checkpoint(one), load_checkpoint(other)
        for row in a["history"] + b["history"]:
            row.pop("seconds")
        assert a["history"] == b["history"]
        for part in ("model", "average"):
            for name, tensor in (a[part] or {}).items():
                assert torch.equal(tensor, b[part][name])
        for key, moments in a["optimizer"]["state"].items():
            for name, moment in moments.items():
                other = b["optimizer"]["state"][key][name]
                torch.testing.assert_close(moment, other, rtol=0, atol=0)  # a step may be a number

    return same
