"""Training on several devices, with real processes: the results of one, through kills and signals.

Two processes round differently than one, and an untrained network with the paper's optimiser
magnifies that within a few steps; with clipped gradients it does not, and the comparison is sharp.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import egeunet
from egeunet.data.cache import load_arrays
from egeunet.data.loader import scale_batch
from egeunet.data.synthetic import write_dataset
from egeunet.errors import EgeunetError, UsageError
from egeunet.models.registry import create_model
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.distributed import sync_batch_norm
from egeunet.training.history import read_history
from egeunet.training.recipe import load_recipe
from egeunet.training.run import load_run, open_split, read_parts
from egeunet.training.trainer import train

EPOCHS = 6


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A training whose last batch is odd, as is its validation part, and that draws everything."""
    folder = tmp_path_factory.mktemp("odd")
    write_dataset(folder, 51, size=(32, 32), seed=1)
    return [
        *("egeunet-synthetic", "options.widths=[8, 8, 8, 8, 8, 8]", "data.size=32"),
        *("data.name=null", f"data.root={folder}", "data.protocol=holdout", "device=cpu"),
        *(f"trainer.epochs={EPOCHS}", "trainer.batch_size=4", "trainer.ema=0.9"),
        *("optimizer.name=sgd", "optimizer.clip_norm=0.1", "scheduler.warmup=1.5"),
        "augmentation={scale: [0.8, 1.25], hair: 0.3, gain: 0.1}",
    ]


@pytest.fixture(scope="module")
def one(settings, tmp_path_factory):
    """The run folder of one process."""
    return train(load_recipe(settings[0], [*settings[1:], f"out={tmp_path_factory.mktemp('one')}"]))


@pytest.fixture(scope="module")
def two(settings, tmp_path_factory):
    """The run folder of two, started by torchrun."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "egeunet", "train", *settings, f"out={folder}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{folder}\n"
    assert done.stderr.count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    return folder


def close(one, other):
    """Assert the same losses and the same way of the weights, but for rounding."""
    a, b = load_checkpoint(one), load_checkpoint(other)
    for key in ("train_loss", "val_loss"):
        theirs = [row[key] for row in b["history"]]
        assert [row[key] for row in a["history"]] == pytest.approx(theirs, rel=1e-4)
    recipe = load_recipe(one / "recipe.yaml")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        start = create_model(recipe.model, num_classes=1, **recipe.options)
    names = [name for name, _ in start.named_parameters()]
    for part in ("model", "average"):
        if a[part]:
            apart, way = (
                sum(float((a[part][name] - from_[name]).square().sum()) for name in names)
                for from_ in (b[part], start.state_dict())
            )
            assert apart + way > 0
            assert apart < 1e-5 * way


def test_two_processes_train_as_one(one, two):
    close(one, two)
    history = load_checkpoint(two)["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_one_process_writes_and_every_validation_image_counts_once(two):
    from sklearn.metrics import jaccard_score

    assert sum(file.name.startswith("events.out.tfevents") for file in two.iterdir()) == 1
    assert (two / "model.onnx").is_file()
    parts = list(read_parts(two).values())
    assert parts.count("train") % 2
    assert parts.count("val") % 4
    assert parts.count("val") > 4  # more than one batch, so that both processes have some
    recipe = load_recipe(two / "recipe.yaml")
    arrays = load_arrays(open_split(recipe.data)[1].val, (32, 32))
    logits = load_run(two).model(scale_batch(torch.from_numpy(np.array(arrays.images))))
    iou = jaccard_score(np.array(arrays.masks).ravel(), (logits >= 0).numpy().ravel())
    assert max(row["val_iou"] for row in read_history(two)) == pytest.approx(iou, abs=1e-6)


def processes(of):
    """The process of each rank, by its number."""
    found = {}
    for pid in Path(f"/proc/{of.pid}/task/{of.pid}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(v[5:]): int(pid) for v in variables if v.startswith(b"RANK=")}
    return found


def wait_for_epoch(process, folder, epoch):
    while len(read_history(folder)) < epoch:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_training_which_resumes_to_the_same_bits(
    settings, two, tmp_path, start, same, rank
):
    process = start([*settings, f"out={tmp_path}", "devices=2"])
    wait_for_epoch(process, tmp_path, 1)
    ranks = processes(process)
    os.kill(ranks[rank], signal.SIGKILL)
    _, errors = process.communicate(timeout=6000)
    assert process.returncode == 1
    assert "a process ended with signal SIGKILL" in errors
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert 1 <= load_checkpoint(tmp_path)["epoch"] < EPOCHS
    same(egeunet.train(*settings, f"out={tmp_path}", "devices=2", resume=True), two)


def test_one_process_begins_two_go_on_until_a_signal_and_one_ends_it(
    settings, one, tmp_path, start, stop_after
):
    settings = [*settings, f"out={tmp_path}"]
    stop_after(3)  # training, validation, and the second epoch
    with pytest.raises(EgeunetError, match="--resume"):
        train(load_recipe(settings[0], settings[1:]))
    stopped = load_checkpoint(tmp_path)
    assert (stopped["epoch"], stopped["step"]) == (1, 1)
    process = start([*settings, "devices=2"], "--resume")
    wait_for_epoch(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "resume with the same command" in errors
    assert "Traceback" not in errors
    assert "Stopped after epoch" in (tmp_path / "train.log").read_text()
    close(train(load_recipe(settings[0], settings[1:]), resume=True), one)


@pytest.mark.slow
def test_a_teacher_teaches_two_processes_as_one(settings, one, tmp_path):
    words = [*settings[1:], "trainer.epochs=2", f"distill.teacher={one}"]
    alone = train(load_recipe(settings[0], [*words, f"out={tmp_path / 'alone'}"]))
    both = egeunet.train(settings[0], *words, f"out={tmp_path / 'both'}", "devices=2")
    close(alone, both)


@pytest.mark.slow
def test_several_seeds_on_two_devices(settings, tmp_path):
    words = [*settings, "trainer.epochs=1", f"out={tmp_path}", "seeds=0-1", "devices=2"]
    folder = egeunet.train(*words)
    assert (folder / "seeds.json").is_file()
    for seed in (0, 1):
        assert len(read_history(folder / f"seed-{seed}")) == 1


@pytest.mark.slow
def test_a_failure_is_told_once(settings, tmp_path):
    with pytest.raises(EgeunetError, match=r"^1 of 1 trainings failed .*: The loss is nan"):
        egeunet.train(*settings, f"out={tmp_path}", "devices=2", "optimizer.lr=1e30")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["devices=3"], "trainer.batch_size=4 cannot be split over 3 devices"),
        (["devices=2", "loss.name=bce_jaccard_batch"], "choose devices=1"),
        (["devices=0"], "devices"),
    ],
)
def test_what_cannot_be_split_is_refused_before_a_folder_is_claimed(
    settings, tmp_path, words, answer
):
    with pytest.raises(UsageError, match=answer):
        egeunet.train(*settings, f"out={tmp_path / 'run'}", *words)
    assert not (tmp_path / "run").exists()


def test_seeds_and_torchrun_exclude_each_other(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        egeunet.train(*settings, f"out={tmp_path / 'run'}", "seeds=0-1")


@pytest.mark.parametrize(("name", "device"), [("unet", "cpu"), ("mobilenetv3", "cuda")])
def test_a_norm_that_cannot_be_synchronized_is_named(name, device):
    if name == "mobilenetv3":
        pytest.importorskip("timm")
    with pytest.raises(UsageError, match=rf"batch normalization of {name} .* on {device}: train"):
        sync_batch_norm(create_model(name), name, device)


def test_batch_normalization_is_synchronized_on_cuda_and_keeps_its_names():
    model = create_model("unet")
    names = model.state_dict().keys()
    model = sync_batch_norm(model, "unet", "cuda")
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    assert model.state_dict().keys() == names
