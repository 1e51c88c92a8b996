import numpy as np
import torch

from egeunet.environment import environment
from egeunet.evaluation.failure_detection import score_estimates
from egeunet.evaluation.results_store import append_result, write_counts
from egeunet.metrics.counts import Counts
from research.release_report import release_figures, release_tables, split_scores
from research.report import write_report


def shipped(share_known, tta=False, dataset="isic2018", **more):
    """A row of weights that know so large a share of their failures."""
    dice = np.linspace(0.2, 1, 50)
    told = np.where(np.arange(50) < 50 * share_known, dice, dice[::-1])
    scores = told, dice, dice / (2 - dice)
    return {
        **{"dataset": dataset, "protocol": "holdout", "split": "test", "tta": tta, "n": 50},
        **{"weights_sha256": "ab" * 32, "quality": score_estimates(*scores)},
        **{"quality_images": np.array(scores).T.tolist(), **environment(), "git_commit": None},
        **more,
    }


WEIGHTS = {
    **{"weights": "isic2018", "dataset": "isic2018", "weights_sha256": "ab" * 32},
    **{"protocol": "holdout", "split": "test"},
}


def robust(jaccard):
    score = {"name": "1", "n": 50, "jaccard": jaccard, "interval": (0.5, 0.7), "dice": 0.75}
    score |= {"failures": 0.1, "quality": None}
    found = {"seed": 3, "clean": score, "corrupted": {"blur": [score] * 5}}
    return shipped(1, robustness={**found, "by_size": [score], "by_skin_tone": []})


def cells_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_the_last_row_of_each_kind_is_taken():
    """One view apart from four, other datasets and rows of robustness left out."""
    rows = [shipped(0.2), shipped(1.0), shipped(0.5, tta=True), shipped(0, dataset="kvasir_seg")]
    quality, features, corruptions, groups = release_tables(
        [WEIGHTS, *rows, robust(0.612)], "isic2018"
    )
    one, four = (row["quality"]["auroc"] for row in rows[1:3])
    auroc = cells_of(quality)["AUROC of failures (Jaccard < .65)"]
    assert (auroc[0], auroc[2]) == (f"{one:.3f}", f"{four:.3f}")
    assert "50 images of isic2018" in quality.note
    assert cells_of(corruptions)["blur"] == ("61.2%",) * 6
    assert groups.rows[0][:3] == ("1", "50", "61.2%")
    assert groups.note.startswith("Seed 3; 50 images")
    assert features.rows[0][:2] == ("not run", "")


def test_nothing_run_is_said_and_nothing_drawn():
    tables = release_tables(
        [WEIGHTS, shipped(1)], "isic2018"
    )  # one view alone cannot stand beside four
    assert {table.rows[0][0] for table in tables} == {"not run"}
    others = [{**WEIGHTS, "weights_sha256": "cd" * 32}, *(shipped(1, tta=t) for t in (False, True))]
    assert release_tables(others, "isic2018")[0].rows[0][0] == "not run"  # new weights, old rows
    assert not list(release_figures([], "isic2018"))


def test_the_report_has_them(tmp_path):
    results = tmp_path / "results"
    for row in (WEIGHTS, shipped(1), shipped(1, tta=True), robust(0.6)):
        append_result(results / "shipped.jsonl", row)
    written = {path.name for path in write_report(results, tmp_path / "report")}
    assert {"quality.csv", "quality.tex", "quality.png", "robustness.png"} <= written
    page = (tmp_path / "report" / "README.md").read_text(encoding="utf-8")
    assert "![quality](quality.png)" in page
    assert "| blur | 60.0% |" in page


def test_scores_without_copies_stand_beside_those_of_every_split(tmp_path):
    ids = ("test_16", *(f"test_{index}" for index in range(20, 29)))
    tp, fp = torch.tensor([[0], *[[90]] * 9]), torch.tensor([[100], *[[10]] * 9])
    write_counts(tmp_path / "a.csv", ids, Counts(tp, fp, 0 * fp, 0 * fp))
    weights = {
        **{"weights": "kvasir", "dataset": "kvasir_seg", "weights_sha256": "ab" * 32, "n": 10},
        **{"protocol": "holdout", "split": "test", "recipe_hash": "r", "seed": 0},
        **{"pooled": {"iou": 0.8, "dice": 0.9}, "means": {"dice": 0.85}},
        "intervals": {
            "pooled": dict.fromkeys(("iou", "dice"), (0.7, 0.9)),
            "means": {"dice": (0, 1)},
        },
    }
    run = {key: weights[key] for key in ("dataset", "protocol", "split", "recipe_hash", "seed")}
    counted = {**run, "weights_sha256": "cd" * 32, "per_image": "a.csv"}
    val = {key: weights[key] for key in weights if key != "weights"} | {"split": "val"}
    found = cells_of(split_scores([counted, weights, val], "kvasir_seg", tmp_path))
    assert found["test"][:2] == ("10", "80.00 (70.00 – 90.00)")
    assert found["test, without copies"][:2] == ("9", "90.00 (90.00 – 90.00)")
    assert found["validation"][0] == "10"
    assert found["training"] == ("not run",) * 4
