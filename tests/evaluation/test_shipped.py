import numpy as np

from egeunet.environment import environment
from egeunet.evaluation.failure_detection import QualityScores
from egeunet.evaluation.publish import write_report
from egeunet.evaluation.report import append_result
from egeunet.evaluation.robustness import Robustness, Score
from egeunet.evaluation.shipped import shipped_figures, shipped_tables


def shipped(share_known, tta=False, dataset="isic2018", **more):
    """A row of weights that know so large a share of their failures."""
    dice = np.linspace(0.2, 1, 50)
    told = np.where(np.arange(50) < 50 * share_known, dice, dice[::-1])
    scores = QualityScores(told, dice, dice / (2 - dice))
    return {
        **{"dataset": dataset, "protocol": "holdout", "part": "test", "tta": tta, "n": 50},
        **{"weights_sha256": "ab" * 32, "quality": scores.to_dict()},
        **{"quality_photos": scores.to_list(), **environment(), "git_commit": None},
        **more,
    }


WEIGHTS = {
    **{"weights": "isic2018", "dataset": "isic2018", "weights_sha256": "ab" * 32},
    **{"protocol": "holdout", "part": "test"},
}


def robust(jaccard):
    score = Score("1", 50, jaccard, (0.5, 0.7), 0.75, 0.1)
    found = Robustness(3, score, {"blur": [score] * 5}, [score], [])
    return shipped(1, robustness=found.to_dict())


def cells_of(table):
    return {row[0]: row[1:] for row in table.rows}


def test_the_last_row_of_each_kind_is_taken():
    """One view apart from four, other datasets and rows of robustness left out."""
    rows = [shipped(0.2), shipped(1.0), shipped(0.5, tta=True), shipped(0, dataset="kvasir_seg")]
    quality, evidence, corruptions, groups = shipped_tables(
        [WEIGHTS, *rows, robust(0.612)], "isic2018"
    )
    one, four = (row["quality"]["auroc"] for row in rows[1:3])
    auroc = cells_of(quality)["AUROC of failures (Jaccard < .65)"]
    assert (auroc[0], auroc[2]) == (f"{one:.3f}", f"{four:.3f}")
    assert "50 photos of isic2018" in quality.note
    assert cells_of(corruptions)["blur"] == ("61.2%",) * 6
    assert groups.rows[0][:3] == ("1", "50", "61.2%")
    assert groups.note.startswith("Seed 3; 50 photos")
    assert evidence.rows[0][:2] == ("not run", "")


def test_nothing_run_is_said_and_nothing_drawn():
    tables = shipped_tables(
        [WEIGHTS, shipped(1)], "isic2018"
    )  # one view alone cannot stand beside four
    assert {table.rows[0][0] for table in tables} == {"not run"}
    others = [{**WEIGHTS, "weights_sha256": "cd" * 32}, *(shipped(1, tta=t) for t in (False, True))]
    assert shipped_tables(others, "isic2018")[0].rows[0][0] == "not run"  # new weights, old rows
    assert not list(shipped_figures([], "isic2018"))


def test_the_report_has_them(tmp_path):
    results = tmp_path / "results"
    for row in (WEIGHTS, shipped(1), shipped(1, tta=True), robust(0.6)):
        append_result(results / "shipped.jsonl", row)
    written = {path.name for path in write_report(results, tmp_path / "report")}
    assert {"quality.csv", "quality.tex", "quality.png", "robustness.png"} <= written
    page = (tmp_path / "report" / "README.md").read_text(encoding="utf-8")
    assert "![quality](quality.png)" in page
    assert "| blur | 60.0% |" in page
