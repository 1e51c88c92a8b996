"""Sweeps as users meet them: planned, killed, continued, never done twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from egeunet.data.synthetic import write_dataset
from egeunet.environment import environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.results_store import append_result, read_counts, read_results
from egeunet.models import list_models
from research.paper import TABLE_1, TABLE_2
from research.report import write_report
from research.sweep import plan, sweep

TWO = """
- recipe: egeunet-synthetic
  models: [egeunet, egeunet_no_mask]
  protocol: paper
  settings:
    - options.widths=[8, 8, 8, 8, 8, 8]
    - data.size=32
    - data.name=null
    - trainer.batch_size=4
    - trainer.epochs=1
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "skin", 16, size=(32, 32), seed=1)
    (tmp_path / "two.yaml").write_text(TWO)
    return tmp_path


def planned(place, *settings):
    record = place / "results" / "runs.jsonl"
    words = [f"data.root={place / 'skin'}", *settings]
    return plan([place / "two.yaml"], *words, out=place / "runs", record=record)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_a_sweep_that_is_killed_goes_on_and_does_nothing_twice(place):
    record = place / "results" / "runs.jsonl"
    words = [*(sys.executable, "-m", "research", "sweep", place / "two.yaml", "--at-once", "2")]
    words += [f"data.root={place / 'skin'}", "--out", place / "runs", "--record", record]
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (record.is_file() and record.read_bytes().count(b"\n")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = planned(place)
    assert 1 <= sum(len(job.missing) for job in before) <= 3
    sweep(before, record=record)
    rows = read_results(record.parent)
    done = Counter((row["model"], row["weights_epoch"]) for row in rows)
    assert done == dict.fromkeys(
        [(name, w) for name in ("egeunet", "egeunet_no_mask") for w in ("selected", "last")], 1
    )
    assert [job.state for job in planned(place)] == ["done", "done"]
    assert sweep(planned(place), record=record) == []
    for row in rows:
        ids, counts = read_counts(record.parent / row["per_image"])
        assert len(ids) == row["n"]
        tp, fp, fn = (int(count.sum()) for count in counts[:3])
        assert row["pooled"]["iou"] == pytest.approx(tp / (tp + fp + fn))
        assert (record.parent / row["history"]).read_text().startswith("epoch,")
    # Figure 4 is drawn of the folders that the sweep left.
    write_report(record.parent, place / "report", runs=place / "runs")
    with Image.open(place / "report" / "figure4-skin-paper-32x32.png") as picture:
        assert picture.width > 400
    with pytest.raises(UsageError, match="nothing is not in the test split"):
        write_report(record.parent, place / "report", runs=place / "runs", images=["nothing"])


def test_a_plan_names_each_run_once_and_tells_what_results_know(place):
    (place / "two.yaml").write_text(TWO + TWO.replace("paper", "holdout") + TWO)
    jobs = planned(place, "seeds=0-1", "trainer.epochs=40")
    assert len({job.recipe.out for job in jobs}) == len(jobs) == 8
    assert {job.recipe.trainer.epochs for job in jobs} == {40}
    assert {job.recipe.seed for job in jobs} == {0, 1}
    assert {job.seconds for job in jobs} == {None}
    wanted = {job.recipe.data.protocol: job.missing for job in jobs}
    assert wanted == {"paper": ("selected", "last"), "holdout": ("selected",)}
    assert not (place / "runs").exists()


def test_a_run_whose_data_are_not_here_stops_no_other(place, caplog):
    record = place / "results" / "runs.jsonl"
    one = TWO.replace(", egeunet_no_mask", "")
    (place / "two.yaml").write_text(one)
    here = planned(place)
    away = [
        replace(
            job,
            recipe=job.recipe.model_copy(
                update={
                    "out": place / "runs" / "away",
                    "data": job.recipe.data.model_copy(update={"root": place / "nowhere"}),
                }
            ),
        )
        for job in here
    ]
    assert len(sweep([*away, *here], record=record)) == 1
    assert any("Skipping away." in line and "nowhere" in line for line in caplog.messages)
    assert {row["weights_epoch"] for row in read_results(record.parent)} == {"selected", "last"}
    with pytest.raises(EgeunetError, match="nowhere"):
        sweep(away, record=record)


@pytest.mark.parametrize("word", ["seed=3", "model=malunet", "out=elsewhere"])
def test_settings_that_the_files_decide_are_refused(place, word):
    with pytest.raises(UsageError, match=f"{word} cannot be set for every run"):
        planned(place, word)


def test_a_run_waits_for_the_earlier_run_that_it_starts_from(place, caplog):
    record = place / "results" / "runs.jsonl"
    first = place / "first"
    (place / "two.yaml").write_text(TWO.replace(", egeunet_no_mask", ""))
    (job,) = planned(place, f"start.run={first}")
    assert job.state == "waits for an earlier run"
    assert sweep([job], record=record) == []
    assert f"start.run: {first} is not a run folder with weights" in caplog.messages[0]
    (job,) = planned(place)
    (folder,) = sweep([job], record=record)
    folder.rename(first)
    (job,) = planned(place, f"start.run={first}")
    assert job.state == "to run"
    sweep([job], record=record)
    (job,) = planned(place, f"start.run={first}")
    assert job.state == "done"
    first.rename(place / "elsewhere")  # as on another machine: one that learned from any will do
    (job,) = planned(place, f"start.run={first}")
    assert job.state == "done"
    (job,) = planned(place, f"distill.teacher={first}")
    assert job.state == "waits for an earlier run"


def test_one_training_may_be_scored_on_two_splits(place):
    record = place / "results" / "runs.jsonl"
    entry = "- {recipe: egeunet-synthetic, settings: [data.size=32, trainer.epochs=1], split: %s}"
    (place / "two.yaml").write_text("\n".join(entry % split for split in ("val", "test")))
    jobs = planned(place)
    assert [job.split for job in jobs] == ["val", "test"]
    assert len(sweep(jobs, record=record)) == 1
    assert sorted(row["split"] for row in read_results(record.parent)) == ["test", "val"]


def test_rows_of_another_machine_tell_no_time(place):
    here = {key: environment()[key] for key in ("cpu", "cores", "gpu")}
    row = {
        **{"model": "egeunet", "recipe": {}, "seed": 7, "epochs": 10, "pooled": {}},
        **{"dataset": "skin", "train_seconds": 50.0, **here},
    }
    append_result(place / "results" / "a.jsonl", row)
    append_result(place / "results" / "a.jsonl", {**row, "cpu": "another", "train_seconds": 1e6})
    times = {job.recipe.model: job.seconds for job in planned(place, "trainer.epochs=40")}
    assert times == {"egeunet": 200, "egeunet_no_mask": None}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("recipe: egeunet-isic2018", "not a list of experiments"),
        ("- {recipe: x, model: y}", "did you mean 'models'"),
        ("- {models: [egeunet]}", "entry 1: recipe: Field required"),
        ("- {recipe: nothing}", "Unknown recipe 'nothing'"),
        ("- {recipe: egeunet-isic2018, models: [egunet]}", "did you mean 'egeunet'"),
        ("- {recipe: egeunet-isic2018, dataset: isic2081}", "There is no dataset 'isic2081'"),
        ("- {recipe: egeunet-isic2018, seeds: 4-1}", "seeds=4-1"),
        ("- {recipe: egeunet-isic2018, protocol: mine}", "entry 1: protocol: "),
        (
            "- {recipe: egeunet-isic2018, settings: [trainer.epoch=1]}",
            "did you mean 'trainer.epochs'",
        ),
        ("- {recipe: egeunet-isic2018, protocol: paper, split: val}", "no validation split"),
        ("- [", "is not a valid YAML file"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, answer):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=answer) as error:
        plan([tmp_path / "bad.yaml"], record=tmp_path / "runs.jsonl")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EgeunetError, match=r"Cannot read .*nowhere\.yaml"):
        plan([tmp_path / "nowhere.yaml"], record=tmp_path / "runs.jsonl")


def test_the_shipped_experiments_are_right():
    folder = Path(__file__).resolve().parents[2] / "research" / "experiments"
    files = sorted(folder.glob("*.yaml"))
    assert len(files) >= 5
    assert plan(files, record="nowhere/runs.jsonl")

    def trained(pattern):
        jobs = plan(sorted(folder.glob(pattern)), record="nowhere/runs.jsonl")
        return {job.recipe.model for job in jobs}

    assert trained("table*.yaml") == {*TABLE_1["isic2018"], *TABLE_2}
    assert trained("budget-s.yaml") == set(list_models()) - {"efficientnet_lite0"}  # a teacher
