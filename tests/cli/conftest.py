"""A run folder for the commands that take one."""

from pathlib import Path

import pytest

import egeunet
from egeunet.data.synthetic import write_dataset


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """What a training of one epoch leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGEUNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        samples = write_dataset(tmp_path_factory.mktemp("samples"), 16, size=(32, 32))
        return egeunet.train(
            "egeunet-synthetic",
            "options.widths=[8, 8, 8, 8, 8, 8]",
            *("data.size=32", "trainer.epochs=1", "trainer.batch_size=8"),
            *(f"data.root={samples}", f"out={tmp_path_factory.mktemp('runs') / 'x'}"),
        )
