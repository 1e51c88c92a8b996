"""A trained run, and networks with weights far from their first ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import egeunet
from egeunet.data.synthetic import draw, write_dataset
from egeunet.models.registry import create_model
from egeunet.training.recipe import load_recipe
from egeunet.training.run import Run

SETTINGS = (
    "options.widths=[8, 8, 8, 8, 8, 8]",
    "data.size=64",
    "data.name=null",
    "trainer.epochs=2",
    "trainer.batch_size=4",
    "scheduler.t_max=null",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("samples"), 24, size=(64, 64), seed=1)


@pytest.fixture(scope="session")
def trained(samples: Path, tmp_path_factory) -> Path:
    """A run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGEUNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        out = tmp_path_factory.mktemp("runs") / "x"
        words = (*SETTINGS, f"data.root={samples}", f"out={out}")
        return egeunet.train("egeunet-synthetic", *words)


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every weight, so that biases are not 0 and normalisations not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(name="egeunet", size=64, num_classes=1, model=None, **options) -> Run:
        settings = [f"model={name}", f"data.size={size}", f"data.num_classes={num_classes}"]
        recipe = load_recipe("egeunet-synthetic", [*settings, "data.root=."])
        if model is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = shake(create_model(name, num_classes=num_classes, **options))
        folder = tmp_path_factory.mktemp("run")
        return Run(folder, recipe, "synthetic", model, epoch=1, seconds=0.0)

    return make


@pytest.fixture
def images() -> np.ndarray:
    """Three drawn photos as the network sees them, float32 (3, 3, 64, 96)."""
    from egeunet.inference.preprocess import to_input

    return np.stack([to_input(draw(seed, (120, 160))[0], (64, 96)) for seed in range(3)])
