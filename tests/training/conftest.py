"""A small set of samples and a recipe that trains on it in seconds."""

import pytest

from egeunet.data.synthetic import write_dataset
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
