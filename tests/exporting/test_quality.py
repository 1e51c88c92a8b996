"""The quality that goes into exported files, fitted on photos that a run was not trained on."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import egeunet
from egeunet.errors import UsageError
from egeunet.exporting import quality
from egeunet.exporting.quality import fit_run
from egeunet.training.run import load_run, open_split


@pytest.fixture
def few(monkeypatch):
    """As many validation photos as the small run has are enough."""
    monkeypatch.setattr(quality, "FEWEST", 2)


def test_a_run_with_few_validation_photos_has_none(trained: Path) -> None:
    assert fit_run(load_run(trained)) is None
    assert egeunet.Segmenter(trained).metadata.quality is None


def test_the_exported_file_expects_the_mean_dice_of_the_validation_part(
    few, trained: Path, tmp_path: Path
) -> None:
    exported, *_ = egeunet.export(trained, tmp_path)
    run = load_run(trained)
    root = run.recipe.data.root
    _, split = open_split(run.recipe.data)
    for tta in (False, True):
        segmenter = egeunet.Segmenter(exported.path, tta=tta)
        assert segmenter.metadata.quality.images == len(split.val)
        out = tmp_path / f"tta-{tta}"
        found = egeunet.evaluate(exported.path, data=root, split="val", tta=tta, out=out)
        told = found.quality
        assert told["mean_expected"] == pytest.approx(found.means["dice"], abs=0.01)
        written = json.loads((out / "metrics.json").read_text())
        assert written["quality"] == json.loads(json.dumps(told))
        assert (out / "quality.png").is_file()
        with (out / "per_image.csv").open(newline="") as file:
            column = [float(row["quality"]) for row in csv.DictReader(file)]
        results = segmenter.stream(sample.image for sample in split.val)
        np.testing.assert_allclose(column, [one.quality for one in results], rtol=1e-4)


def test_photos_that_were_selected_on_as_test_are_not_fitted_on(few, trained: Path) -> None:
    run = load_run(trained)
    data = run.recipe.data.model_copy(update={"protocol": "paper"})
    paper = run.recipe.model_copy(update={"data": data})
    assert fit_run(type(run)(run.folder, paper, run.dataset, run.model, run.epoch, 0.0)) is None


def test_photos_that_were_trained_on_are_not_fitted_on(few, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    split = copy / "split.txt"
    split.write_text(split.read_text().replace(" val\n", " train\n"))
    assert fit_run(load_run(copy)) is None


def test_a_run_folder_takes_no_tta(trained: Path) -> None:
    with pytest.raises(UsageError, match="tta needs an exported file"):
        egeunet.evaluate(trained, tta=True)


def test_rows_of_one_and_of_four_views_keep_counts_of_their_own(
    trained: Path, tmp_path: Path
) -> None:
    exported, *_ = egeunet.export(trained, tmp_path)
    root, record = load_run(trained).recipe.data.root, tmp_path / "results" / "x.jsonl"
    for tta in (False, True):
        egeunet.evaluate(exported.path, data=root, split="val", tta=tta, record=record)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    files = {record.parent / row["per_image"] for row in rows}
    assert len(files) == 2
    assert all(file.is_file() for file in files)
