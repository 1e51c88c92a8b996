"""Training as users meet it: run folders, resuming after real kills, signals, bad numbers."""

import csv
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch

import egeunet
from egeunet.data.cache import load_arrays
from egeunet.data.loader import scale_batch
from egeunet.errors import EgeunetError, ParityError, UsageError
from egeunet.exporting import formats
from egeunet.files import folder_lock
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.history import read_history
from egeunet.training.losses import DeepSupervisionLoss
from egeunet.training.recipe import load_recipe
from egeunet.training.run import load_run, open_split, read_parts
from egeunet.training.trainer import train


def test_a_run_leaves_what_the_docs_name(recipe):
    folder = train(recipe)
    run = load_run(folder)
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert sum(file.name.startswith("events.out.tfevents") for file in folder.iterdir()) == 1
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["selected"]["val_iou"] == max(float(row["val_iou"]) for row in rows)
    assert metrics["epoch"] == str(run.epoch)
    assert "git_commit" in json.loads((folder / "environment.json").read_text())
    parts = read_parts(folder)
    assert sorted(parts.values()).count("train") == 16
    assert run.model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_the_scores_of_a_run_that_is_not_finished_are_not_recorded(words, recipe, tmp_path, start):
    process = start(words, "trainer.epochs=400")
    while not (recipe.out / "history.csv").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    with pytest.raises(UsageError, match=r"has \d+ of its 400 epochs: finish it with"):
        egeunet.evaluate(recipe.out, record=tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
    assert egeunet.evaluate(recipe.out).n > 0


def test_a_training_that_never_began_leaves_its_folder_free(words):
    with pytest.raises(UsageError, match=r"loss\.stage_weights has 1"):
        train(load_recipe(words[0], [*words[1:], "loss.stage_weights=[1]"]))
    more = ["trainer.epochs=1", "seed=3"]
    folder = train(load_recipe(words[0], [*words[1:], *more]))
    assert load_run(folder).recipe.seed == 3


def test_a_model_that_has_hardly_learned_may_lack_an_exported_file(words, monkeypatch, caplog):
    """Its scores of photos lie at the threshold; the training is none the worse for that."""

    def export_run(run):
        raise ParityError("photo.onnx differs from torch: it was not kept.")

    monkeypatch.setattr(formats, "export_run", export_run)
    folder = egeunet.train(*words, "trainer.epochs=1")
    assert load_run(folder).epoch == 1
    assert "The run is trained, but photo.onnx differs" in caplog.messages[-1]


@pytest.mark.skipif(os.name == "nt", reason="folders are held as POSIX does")
def test_a_run_folder_has_one_process_at_a_time(words, recipe, start):
    process = start(words, "trainer.epochs=400")
    while not (recipe.out / "history.csv").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(UsageError, match=r"Another process is writing .*run: wait"):
        train(load_recipe(recipe.out), resume=True)
    process.kill()
    process.communicate()
    short = load_recipe(words[0], [*words[1:], "trainer.epochs=400"])
    assert process.returncode  # and its folder is free again
    with folder_lock(short.out):
        pass


def test_a_kill_before_the_last_row_was_written_loses_none(recipe):
    folder = train(recipe)
    whole = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    (folder / "metrics.json").unlink()
    train(recipe, resume=True)
    assert (folder / "history.csv").read_text() == whole


def test_a_run_goes_on_with_the_images_it_was_begun_with_alone(recipe, tmp_path, samples):
    root = tmp_path / "mine"
    shutil.copytree(samples, root)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root})})
    folder = train(recipe)
    before = (folder / "split.txt").read_text()
    (removed, *_) = read_parts(folder)
    for file in root.glob(f"*/{removed}.*"):
        file.unlink()
    with pytest.raises(UsageError, match="were added, removed or moved to another split"):
        train(recipe, resume=True)
    assert (folder / "split.txt").read_text() == before


def test_the_loss_falls_and_the_time_left_is_logged_from_the_first_epoch(samples, words, caplog):
    caplog.set_level("INFO")
    folder = train(load_recipe(words[0], [*words[1:], "trainer.epochs=12"]))
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [bool(re.search(r" \d:\d\d:\d\d left", line)) for line in lines] == [True] * 11 + [False]
    history = load_checkpoint(folder)["history"]
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


def test_multi_class_trains_and_is_scored(tmp_path, words):
    from egeunet.data.synthetic import write_dataset

    write_dataset(tmp_path / "three", 20, size=(32, 32), seed=2, num_classes=3)
    recipe = load_recipe(
        words[0],
        [*words[1:], f"data.root={tmp_path / 'three'}", "data.num_classes=3", "trainer.epochs=1"],
    )
    run = load_run(train(recipe))
    assert run.model(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_nothing_of_the_callers_random_state_is_touched(recipe):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe)
    assert torch.equal(torch.rand(3), expected)


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(words, tmp_path, same):
    one = train(load_recipe(words[0], [*words[1:], f"out={tmp_path / 'a'}", "workers=0"]))
    two = train(load_recipe(words[0], [*words[1:], f"out={tmp_path / 'b'}", "workers=3"]))
    same(one, two)


def test_a_run_killed_anywhere_resumes_to_the_same_bits(words, tmp_path, start, same):
    settings = [*words[:-1], "trainer.epochs=16", "trainer.preview_every=60"]
    folder, generator, kills = tmp_path / "killed", np.random.default_rng(), 0
    process = start(settings, f"out={folder}")
    for _ in range(2):
        stamp = mtime(folder / "last.ckpt")
        while mtime(folder / "last.ckpt") == stamp and process.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
        process = start(settings, f"out={folder}", "--resume")
    whole = train(load_recipe(settings[0], [*settings[1:], f"out={tmp_path / 'whole'}"]))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert kills >= 1
    same(whole, folder)


def mtime(path):
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(words, tmp_path, start, number):
    settings = [*words[:-1], "trainer.epochs=2000", f"out={tmp_path / 'stopped'}"]
    process = start(settings)
    while not (tmp_path / "stopped" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert f"egeunet train {tmp_path / 'stopped' / 'recipe.yaml'} --resume" in errors
    assert "Traceback" not in errors
    assert load_checkpoint(tmp_path / "stopped")["epoch"] >= 1


@pytest.mark.parametrize(
    ("passes", "optimizer"), [(1, "adamw"), (2, "adamw"), (3, "adamw"), (3, "soap")]
)
def test_a_stop_in_the_middle_of_an_epoch_loses_nothing(
    words, tmp_path, same, stop_after, passes, optimizer
):
    def recipe(name):
        more = ["trainer.ema=0.9", "scheduler.warmup=1.6", f"out={tmp_path / name}"]
        more += [f"optimizer.name={optimizer}", "optimizer.lr=0.0003"]
        return load_recipe(words[0], [*words[1:], *more])

    stop_after(passes)
    with pytest.raises(EgeunetError, match="--resume"):
        train(recipe("stopped"))
    checkpoint = load_checkpoint(tmp_path / "stopped")
    assert checkpoint["step"] > 0
    same(train(recipe("stopped"), resume=True), train(recipe("whole")))


def test_averaged_weights_are_what_is_validated_and_kept(words, tmp_path):
    """Beside the same training without: the weights are the same, what is scored is not."""
    words = [*words, "trainer.epochs=1"]
    plain = load_checkpoint(train(load_recipe(words[0], words[1:])))
    more = ["trainer.ema=0.9", f"out={tmp_path / 'averaged'}"]
    folder = train(load_recipe(words[0], [*words[1:], *more]))
    averaged = load_checkpoint(folder)
    for name, tensor in plain["model"].items():
        assert torch.equal(averaged["model"][name], tensor)
    assert averaged["history"][0]["val_loss"] != plain["history"][0]["val_loss"]
    kept = load_run(folder).model.state_dict()
    last = load_run(folder, last=True).model.state_dict()
    for name, tensor in averaged["average"].items():
        assert torch.equal(kept[name], tensor)
        assert torch.equal(last[name], tensor)
    assert any(not torch.equal(kept[name], plain["model"][name]) for name in kept)


def test_a_second_run_does_not_overwrite_the_first(recipe):
    train(recipe)
    with pytest.raises(UsageError, match="--resume"):
        train(recipe)


def test_resuming_with_other_settings_names_them(recipe):
    train(recipe)
    with pytest.raises(UsageError, match="seed: 42 there, 43 here"):
        train(recipe.model_copy(update={"seed": 43}), resume=True)


def test_a_loss_that_is_not_finite_names_the_images(words, samples):
    recipe = load_recipe(words[0], [*words[1:], "optimizer.lr=1e30"])
    with pytest.raises(
        EgeunetError, match=r"The loss is (nan|inf) in epoch .*\d+.*lower optimizer"
    ):
        train(recipe)


def test_a_training_that_could_not_start_does_not_claim_its_folder(words, tmp_path):
    with pytest.raises(EgeunetError, match="no folder"):
        train(load_recipe(words[0], [*words[1:], f"data.root={tmp_path / 'nowhere'}"]))
    assert load_run(train(load_recipe(words[0], words[1:])))


def test_no_data_says_what_to_set(words):
    recipe = load_recipe(words[0], [*words[1:], "data.root=null"])
    with pytest.raises(UsageError, match=r"data\.root=FOLDER"):
        train(recipe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named(words):
    with pytest.raises(UsageError, match="device=cpu"):
        train(load_recipe(words[0], [*words[1:], "device=cuda"]))


def test_bf16_trains(words):
    words = [*words, "precision=bf16-mixed", "trainer.ema=0.9"]
    folder = train(load_recipe(words[0], words[1:]))
    assert np.isfinite(load_checkpoint(folder)["history"][-1]["train_loss"])


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.name=adam",
        "optimizer.name=sgd",
        "optimizer={name: soap, lr: 0.0003}",
        "optimizer.clip_norm=0.1",
        "loss.name=structure",
        "loss.name=bce_jaccard_batch",
        "loss.name=bce_lovasz",
        "data.size=[32, 64]",
        "augmentation.angle=once",
        "augmentation={scale: [0.8, 1.25], shear: 10, gain: 0.1, gamma: 0.2}",
    ],
)
def test_every_kind_of_training_runs_and_is_exported(words, setting):
    folder = egeunet.train(*words, setting, "trainer.epochs=1")
    assert np.isfinite(load_checkpoint(folder)["history"][-1]["val_loss"])
    assert (folder / "model.onnx").is_file()
    assert (folder / "curves.png").is_file()


def test_the_paper_protocol_selects_by_the_lowest_loss_on_its_test_part(words):
    folder = train(load_recipe(words[0], [*words[1:], "data.protocol=paper"]))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["selected_on"] == "test"
    losses = [row["val_loss"] for row in load_checkpoint(folder)["history"]]
    assert metrics["selected"]["val_loss"] == min(losses)
    assert metrics["selected_by"] == "val_loss"


def test_the_published_rule_selects_by_the_loss_with_all_stages(words):
    """As `gt_ds` of the published code: the stage masks are weighed in in validation as well."""
    more = ["data.protocol=paper", "trainer.select_by=val_total_loss"]
    folder = train(load_recipe(words[0], [*words[1:], *more]))
    metrics = json.loads((folder / "metrics.json").read_text())
    history = read_history(folder)
    assert metrics["selected_by"] == "val_total_loss"
    assert metrics["selected"]["val_total_loss"] == min(row["val_total_loss"] for row in history)
    run = load_run(folder)
    _, split = open_split(run.recipe.data)
    arrays = load_arrays(split.val, (32, 32))
    masks = torch.from_numpy(np.array(arrays.masks)).unsqueeze(1).float()
    with torch.no_grad():  # without dropout and batch statistics the modes differ in stages alone
        output = run.model.train()(scale_batch(torch.from_numpy(np.array(arrays.images))))
    expected = DeepSupervisionLoss()(output, masks).item()
    assert history[run.epoch - 1]["val_total_loss"] == pytest.approx(expected, rel=1e-4)
    more = ["data.protocol=paper", f"out={folder.parent / 'plain'}"]
    plain = train(load_recipe(words[0], [*words[1:], *more]))
    theirs, ours = (load_checkpoint(one)["model"] for one in (plain, folder))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_validation_scores_are_those_of_the_whole_part_at_once(recipe):
    """Batches of unequal size must not weigh unequally."""
    from sklearn.metrics import jaccard_score

    folder = train(recipe)
    run = load_run(folder)
    _, split = open_split(recipe.data)
    arrays = load_arrays(split.val, (32, 32))
    logits = run.model(scale_batch(torch.from_numpy(np.array(arrays.images))))
    truth = np.array(arrays.masks).ravel()
    iou = jaccard_score(truth, (logits >= 0).numpy().ravel())
    selected = json.loads((folder / "metrics.json").read_text())["selected"]
    assert selected["val_iou"] == pytest.approx(iou, abs=1e-6)
