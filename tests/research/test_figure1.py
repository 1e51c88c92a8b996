import itertools

import pytest

from egeunet.errors import EgeunetError
from egeunet.evaluation.results_store import append_result
from research.figure1 import Point, figure1, paper_points, result_points
from research.paper import TABLE_1


def row(model="egeunet", seed=1, iou=0.8, **changes):
    """What `egeunet evaluate --record` writes, as far as the figure reads it."""
    protocol = changes.pop("protocol", "paper")
    return {
        "model": model,
        "recipe": {
            "options": changes.pop("options", {}),
            "data": {"name": changes.get("dataset", "isic2018"), "protocol": protocol},
        },
        "seed": seed,
        "epochs": 300,
        "dataset": "isic2018",
        "protocol": protocol,
        "split": "test",
        "weights_epoch": "selected",
        "pooled": {"iou": iou},
        **changes,
    }


@pytest.mark.parametrize("dataset", TABLE_1)
def test_dice_and_iou_of_the_paper_belong_together(dataset):
    """Pooled Dice is 2 IoU / (1 + IoU), whatever the masks: a check of every number copied."""
    for score in TABLE_1[dataset].values():
        iou = score.iou / 100
        assert score.dice == pytest.approx(200 * iou / (1 + iou), abs=0.011)


def test_the_papers_points_have_the_papers_costs():
    points = {point.label: point for point in paper_points()}
    assert len(points) == 11
    assert points["EGE-UNet"] == Point("EGE-UNet", 0.053, 0.072, 80.94)
    assert points["UNet++"] == Point("UNet++", 9.16, 34.86, 78.31)


def test_results_are_averaged_over_seeds_and_budgets_stay_apart(tmp_path):
    for seed, iou in ((1, 0.5), (1, 0.8), (2, 0.82)):  # a later row of a seed replaces an earlier
        append_result(tmp_path / "a.jsonl", row(seed=seed, iou=iou))
    append_result(tmp_path / "b.jsonl", row(seed=3, iou=0.6, epochs=5))
    found = result_points(tmp_path)
    assert sorted(found) == [5, 300]
    assert [point.iou for point in found[5]] == [60]
    (point,) = found[300]
    assert point.label == "EGE-UNet, 2 seeds"
    assert point.iou == pytest.approx(81)
    assert point.spread == pytest.approx(2**0.5)
    assert point.params == pytest.approx(0.053374)
    assert point.macs == pytest.approx(0.072096256)


def test_options_of_a_run_are_costed(tmp_path):
    append_result(tmp_path / "a.jsonl", row(options={"widths": [8, 8, 8, 8, 8, 8]}))
    (point,) = result_points(tmp_path)[300]
    assert point.params < 0.02
    assert "options.widths" in point.label


def test_nothing_is_fetched_to_count_what_was_pretrained(tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="no timm: pip install 'egeunet[zoo]'")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    append_result(tmp_path / "a.jsonl", row("efficientnet_lite0", options={"pretrained": True}))
    (point,) = result_points(tmp_path)[300]
    assert point.params > 3


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "holdout"},
        {"dataset": "isic2017"},
        {"split": "val"},
        {"weights_epoch": "last"},
    ],
)
def test_what_the_paper_did_not_do_is_not_compared_with_it(tmp_path, change):
    append_result(tmp_path / "a.jsonl", row(**change))
    append_result(tmp_path / "b.jsonl", {"model": "egeunet", "step_seconds_median": 1})
    assert result_points(tmp_path) == {}


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"model": "x"}\n{"mod\n')
    with pytest.raises(EgeunetError, match=r"Line 2 of .*a\.jsonl"):
        result_points(tmp_path)


def test_labels_cover_neither_each_other_nor_leave_the_figure():
    ours = [Point(f"a model, {n} epochs", 0.06, 0.08, 80.9 - n / 40, 0.1, True) for n in range(4)]
    figure = figure1([*paper_points(), *ours], 300)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 15
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
