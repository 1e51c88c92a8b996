"""Run folders from elsewhere: whatever their files hold, the answer is one sentence."""

import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from egeunet.errors import EgeunetError, UsageError
from egeunet.exporting.onnx import _selected_scores
from egeunet.training.checkpoints import WEIGHTS, load_checkpoint
from egeunet.training.provenance import EARLIER
from egeunet.training.recipe import load_recipe
from egeunet.training.run import load_run, read_environment
from egeunet.training.seeds import summarize_seeds
from egeunet.training.trainer import train

NESTED = "[" * 200_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory, samples):
    """A whole run, copied by each test."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = ["options.widths=[8, 8, 8, 8, 8, 8]", "data.size=32", "data.name=null"]
    settings += ["data.protocol=holdout", f"data.root={samples}", "trainer.ema=0.9"]
    return train(load_recipe("egeunet-synthetic", [*settings, "trainer.epochs=1", f"out={folder}"]))


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def edit(run, **changes):
    state = load_checkpoint(run) | changes
    torch.save({key: value for key, value in state.items() if value is not ...}, run / "last.ckpt")


ROW = {"epoch": 1.0, "lr": 0.1, "val_loss": "low"}
CHECKPOINTS = {
    "empty model": {"model": {}},
    "no model": {"model": ...},
    "numbers as weights": {"model": {"w": 1}},
    "weights of another model": {"model": {"w": torch.zeros(3)}},
    "odd epoch": {"epoch": "three"},
    "negative epoch": {"epoch": -1, "history": []},
    "epochs without history": {"epoch": 7},
    "fractional step": {"step": 0.5},
    "no optimizer": {"optimizer": ...},
    "empty optimizer": {"optimizer": {}},
    "optimizer of no weights": {"optimizer": {"state": {}, "param_groups": []}},
    "history of words": {"history": [ROW]},
    "history is a number": {"history": 3},
    "no average": {"average": None},
    "a list": None,
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints(run, samples, kind):
    changes = CHECKPOINTS[kind]
    if changes is None:
        torch.save([1, 2], run / "last.ckpt")
    else:
        edit(run, **changes)
    recipe = load_recipe(run).model_copy(update={"out": run})
    with pytest.raises(EgeunetError) as error:
        train(recipe, resume=True)
    assert "last.ckpt" in one_sentence(error)


@pytest.mark.parametrize("change", ["no state", "no moments", "wrong shape", "words"])
def test_states_of_the_optimizer(run, change):
    optimizer = load_checkpoint(run)["optimizer"]
    first = optimizer["state"][0]
    if change == "no state":
        optimizer["state"] = {}
    elif change == "no moments":
        del first["exp_avg"]
    elif change == "wrong shape":
        first["exp_avg_sq"] = torch.zeros(2, 2)
    else:
        optimizer["state"][0] = "moments"
    edit(run, optimizer=optimizer)
    with pytest.raises(EgeunetError, match=r"last\.ckpt") as error:
        train(load_recipe(run).model_copy(update={"out": run}), resume=True)
    one_sentence(error)


def write_weights(path, kind):
    tensors, metadata = load_file(path), {"epoch": "1", "dataset": "synthetic"}
    if kind == "no metadata":
        save_file(tensors, path)
    elif kind == "odd epoch":
        save_file(tensors, path, metadata | {"epoch": "one"})
    elif kind == "other tensors":
        save_file({"w": torch.zeros(2)}, path, metadata)
    elif kind == "other shapes":
        save_file({name: torch.zeros(2) for name in tensors}, path, metadata)
    elif kind == "header of 90 MB":
        header = json.dumps({"__metadata__": {"x": "y" * 90_000_000}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    elif kind == "header of 2^63 bytes":
        path.write_bytes(struct.pack("<Q", 1 << 63) + b"{}")
    else:
        path.write_bytes(b"PK\x03\x04 pickled")


@pytest.mark.parametrize(
    "kind",
    [
        *("no metadata", "odd epoch", "other tensors", "other shapes"),
        *("header of 90 MB", "header of 2^63 bytes", "pickle"),
    ],
)
def test_weights(run, kind):
    write_weights(run / WEIGHTS, kind)
    with pytest.raises(EgeunetError, match=WEIGHTS) as error:
        load_run(run)
    one_sentence(error)


@pytest.mark.parametrize(
    "text",
    [
        "epoch,lr\n1,0.1\n",
        "epoch,lr,train_loss,val_loss,val_iou,val_dice,seconds\none,0.1,1,1,1,1,1\n",
        "epoch,lr,train_loss,val_loss,val_iou,val_dice,seconds\n1,0.1\n",
        "epoch,lr,train_loss,val_loss,val_iou,val_dice,seconds\n1,1,1,1,1,1,1,more,and more\n",
        "\0",
        "\ufeff" * 10,
        "x" * 200_000 + "\n1\n",
        b"\xff\xfe\xff",
    ],
)
def test_histories(run, text):
    content = text if isinstance(text, bytes) else text.encode()
    (run / "history.csv").write_bytes(content)
    with pytest.raises(EgeunetError, match=r"history\.csv") as error:
        load_run(run)
    one_sentence(error)


@pytest.mark.parametrize("text", [NESTED, "[1", "NaN and more", "{}", "[]", '{"selected": 3}'])
def test_summaries_and_environments(run, text):
    (run / "metrics.json").write_text(text)
    (run / "environment.json").write_text(text)
    with pytest.raises(EgeunetError) as error:
        summarize_seeds(run.parent, [run])
    one_sentence(error)
    for read in (read_environment, lambda folder: _selected_scores(load_run(folder))):
        with suppress(EgeunetError):  # no other error
            read(run)


@pytest.mark.parametrize("name", ["split.txt", EARLIER])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"one\ntwo\n"])
def test_lists_of_images(run, name, content):
    (run / name).write_bytes(content)
    with pytest.raises(EgeunetError, match=name) as error:
        _ = load_run(run).seen
    one_sentence(error)


BOMBS = {
    "deep flow": "options: " + NESTED,
    "deep blocks": "\n".join(" " * level + "a:" for level in range(500)),
    "billion laughs": "a: &a [x, x]\n"
    + "".join(f"b{i}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "self reference": "options: &x {a: *x}",
    "6,000 digits": "seed: " + "9" * 6000,
    "4,000 digits": "trainer: {epochs: " + "9" * 4000 + "}",
    "a megabyte": "a: " + "x" * (1 << 20),
    "no such day": "seed: 2020-13-45",
    "binary": "\x00\x01",
    "numbers as keys": "1: {2: 3}",
    "a list as key": "? [1, 2]\n: 3",
    "wide options": "options: {widths: [1000000000, 8, 8, 8, 8, 8]}",
    "unknown options": "options: {colour: blue}",
    "options of wrong types": "options: {widths: eight}",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_recipes(run, kind):
    (run / "recipe.yaml").write_text(BOMBS[kind])
    start = time.process_time()
    with pytest.raises(EgeunetError, match=r"recipe\.yaml|no option|takes six") as error:
        load_run(run)
    one_sentence(error)
    assert time.process_time() - start < 20


def test_a_value_at_the_command_line_is_bounded_as_well():
    for value in (NESTED, "9" * 6000, "&x [*x]"):
        with pytest.raises(UsageError) as error:
            load_recipe("egeunet-isic2018", [f"seed={value}"])
        one_sentence(error)


@pytest.mark.skipif(sys.platform == "win32", reason="limits memory as POSIX does")
def test_bombs_take_little_memory(run):
    (run / "recipe.yaml").write_text(BOMBS["billion laughs"])
    code = (
        "import sys; from egeunet.cli.main import main; sys.argv[1:] = ['evaluate', sys.argv[1]];"
        "main()"
    )
    limit = 6 << 30
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 2
    assert "aliases are not supported" in done.stderr
    assert "Traceback" not in done.stderr


def test_temporary_files_of_killed_trainings_are_removed(run):
    left = [".history-abcd_123.csv", ".last-00000000.ckpt", ".model-zzzzzzzz.safetensors"]
    kept = [".hidden", ".notes-2024.txt", "last-00000000.ckpt"]
    for name in left + kept:
        (run / name).write_text("x")
    train(load_recipe(run).model_copy(update={"out": run}), resume=True)
    names = {path.name for path in run.iterdir()}
    assert not names & {*left}
    assert {*kept} <= names
