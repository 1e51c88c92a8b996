"""Several trainings at a time: the bits of one alone, through failures, signals and kills."""

import errno
import json
import logging
import os
import re
import signal
import statistics
import sys
import time
from pathlib import Path

import pytest

import egeunet
from egeunet.errors import EgeunetError, UsageError
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.launcher import _least_used_gpu, train_side_by_side
from egeunet.training.recipe import load_recipe
from egeunet.training.seeds import split_seeds
from egeunet.training.trainer import train


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def wait_for_checkpoints(process, *folders):
    while not all((folder / "last.ckpt").exists() for folder in folders):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_they_all_end_and_resume_to_the_bits_of_each_alone(words, tmp_path, start, same):
    settings = [*words[:-1], "trainer.epochs=40", "trainer.preview_every=60"]
    both = [tmp_path / "both" / f"seed-{seed}" for seed in (0, 1)]
    process = start([*settings, f"out={tmp_path / 'both'}", "seeds=0-1", "--at-once", "2"])
    wait_for_checkpoints(process, *both)
    trainings = children(process)
    assert trainings
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 600
    while any(Path(f"/proc/{pid}").exists() for pid in trainings) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in trainings)
    assert min(load_checkpoint(folder)["epoch"] for folder in both) < 40
    egeunet.train(*settings, f"out={tmp_path / 'both'}", "seeds=0-1", resume=True)
    for seed, folder in enumerate(both):
        alone = [*settings[1:], f"seed={seed}", f"out={tmp_path / str(seed)}"]
        same(folder, train(load_recipe(words[0], alone)))


def test_a_signal_stops_all_of_them_with_their_checkpoints(words, tmp_path, start):
    process = start(
        [*words[:-1], "trainer.epochs=2000", f"out={tmp_path / 'both'}", "seeds=0-1"],
        *("--at-once", "2"),
    )
    both = [tmp_path / "both" / f"seed-{seed}" for seed in (0, 1)]
    wait_for_checkpoints(process, *both)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    for folder in both:
        assert "Stopped after epoch" in (folder / "train.log").read_text()
        assert load_checkpoint(folder)["epoch"] >= 1


def test_those_that_fail_are_named_and_the_others_go_on(words, tmp_path):
    recipes = [
        load_recipe(words[0], [*words[1:], f"optimizer.lr={lr}", f"out={tmp_path / name}"])
        for name, lr in (("bad", 1e30), ("good", 1e-3), ("blocked/x", 1e-3), ("better", 1e-3))
    ]
    (tmp_path / "blocked").touch()
    told = []

    def finished(folder):
        told.append(folder.name)
        if folder.name == "good":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EgeunetError, match="3 of 4 trainings failed") as raised:
        train_side_by_side(recipes, finished=finished)
    for reason in ("bad: The loss is", "good: .*No space left", "x: It cannot start"):
        assert re.search(reason, str(raised.value))
    assert sorted(told) == ["better", "good"]
    for name in told:
        assert load_checkpoint(tmp_path / name)["epoch"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_whose_history_cannot_be_read_does_not_run_on(words, tmp_path, monkeypatch):
    calls = []

    def damaged(folder):
        calls.append(folder)
        if len(calls) == 1:  # before its process starts
            return []
        raise EgeunetError(f"{folder / 'history.csv'} is damaged.")

    monkeypatch.setattr("egeunet.training.launcher.read_history", damaged)
    recipe = load_recipe(words[0], [*words[1:], "trainer.epochs=2000", f"out={tmp_path / 'a'}"])
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(listed.read_text().split())
    with pytest.raises(EgeunetError, match=r"history\.csv is damaged"):
        train_side_by_side([recipe])
    left = set(listed.read_text().split()) - before
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def test_wrong_data_are_named_before_any_folder_is_claimed(words, tmp_path):
    wrong = [*words, f"data.root={tmp_path / 'nowhere'}", "seeds=0-1"]
    with pytest.raises(EgeunetError, match="no folder"):
        egeunet.train(*wrong)
    assert not (tmp_path / "run").exists()


def test_runs_that_are_there_are_not_overwritten(words, tmp_path):
    alone = ["trainer.epochs=1", "seed=0", f"out={tmp_path / 'run' / 'seed-0'}"]
    train(load_recipe(words[0], [*words[1:], *alone]))
    with pytest.raises(UsageError, match="--resume"):
        egeunet.train(*words, "trainer.epochs=1", "seeds=0")


def test_trainings_share_the_gpus_that_are_visible(monkeypatch):
    """Without GPUs here: which one each would get."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    recipe, used = load_recipe("egeunet-synthetic"), []
    for _ in range(4):
        used.append(_least_used_gpu(recipe, used))
    assert used == ["4", "6", "7", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _least_used_gpu(recipe, ["0", "2"]) == "1"
    for alone in ("device=cpu", "devices=2"):
        assert _least_used_gpu(load_recipe("egeunet-synthetic", [alone]), []) is None


def test_several_seeds_leave_their_runs_and_the_spread(words, tmp_path, same, caplog):
    caplog.set_level(logging.INFO)
    settings = [*words[1:], "trainer.epochs=1", f"out={tmp_path / 'three'}"]
    folder = egeunet.train(words[0], *settings, "seeds=1,4-4")
    lines = [record.getMessage() for record in caplog.records]
    runs = [folder / f"seed-{seed}" for seed in (1, 4)]
    values = [json.loads((run / "metrics.json").read_text())["last"]["val_iou"] for run in runs]
    summary = json.loads((folder / "seeds.json").read_text())
    assert summary["last"]["val_iou"]["values"] == values
    assert summary["last"]["val_iou"]["mean"] == pytest.approx(statistics.mean(values))
    assert summary["last"]["val_iou"]["std"] == pytest.approx(statistics.stdev(values))
    assert len(set(values)) > 1
    assert lines[-1].startswith("2 seeds, validation split: mIoU")
    assert any(line.startswith("seed-4: epoch 1/1") for line in lines)
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
