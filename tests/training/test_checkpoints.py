"""Checkpoints survive what disks and users do to them."""

import subprocess
import sys

import pytest
import torch

from egeunet.errors import EgeunetError
from egeunet.training.checkpoints import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)


def state(value):
    history = [{"epoch": 1.0}] * value
    numbers = {
        "average": None,
        "epoch": value,
        "step": 0,
        "loss_sum": 0.0,
        "seconds": 0.0,
        "history": history,
    }
    return {"model": {"w": torch.full((4,), float(value))}, "optimizer": {}, **numbers}


def test_the_one_before_the_last_is_kept(tmp_path):
    for value in (1, 2, 3):
        save_checkpoint(tmp_path, state(value))
    assert load_checkpoint(tmp_path)["epoch"] == 3
    (tmp_path / "previous.ckpt").replace(tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path)["epoch"] == 2


def test_none_yet(tmp_path):
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_one_is_named_with_the_remedy(tmp_path, damage):
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(EgeunetError, match=r"damaged .*previous\.ckpt"):
        load_checkpoint(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(EgeunetError, match="damaged"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


FILL = """
import resource, sys
from pathlib import Path
import torch
from egeunet.errors import EgeunetError
from egeunet.training.checkpoints import load_checkpoint, save_checkpoint, save_weights
folder = Path(sys.argv[1])
small = {"model": {"w": torch.zeros(1)}, "optimizer": {}, "epoch": 0, "step": 1}
small |= {"average": None, "loss_sum": 0.0, "seconds": 0.0, "history": []}
save_checkpoint(folder, small)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
big = {"w": torch.zeros(1_000_000)}
for save in (lambda: save_checkpoint(folder, {"model": big, "epoch": 2}),
             lambda: save_weights(folder / "model.safetensors", big, {})):
    try:
        save()
    except EgeunetError as error:
        print(error)
print(load_checkpoint(folder)["step"], sorted(path.name for path in folder.iterdir()))
"""


def test_a_full_disk_is_one_sentence_and_the_last_one_survives(tmp_path):
    """A limit on the size of files fails a write where a full disk would."""
    run = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    lines = run.stdout.splitlines()
    assert "Cannot write the checkpoint" in lines[0], run.stderr
    assert "Cannot write the weights" in lines[1]
    assert lines[2] == "1 ['last.ckpt']"


def test_weights_keep_their_metadata(tmp_path):
    save_weights(tmp_path / "m.safetensors", {"w": torch.arange(3.0)}, {"epoch": "2"})
    tensors, metadata = load_weights(tmp_path / "m.safetensors")
    assert torch.equal(tensors["w"], torch.arange(3.0))
    assert metadata == {"epoch": "2"}


@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_weights_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EgeunetError, match=r"m\.safetensors"):
        load_weights(path)
