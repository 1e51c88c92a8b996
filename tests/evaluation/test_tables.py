"""What is made from results: numbers computed here by hand, nothing mixed, nothing invented."""

import csv
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from egeunet.cli.main import app
from egeunet.errors import EgeunetError
from egeunet.evaluation import tables
from egeunet.evaluation.counts_file import read_counts, write_counts
from egeunet.evaluation.paper import TABLE_2
from egeunet.evaluation.publish import write_report
from egeunet.evaluation.report import append_result
from egeunet.evaluation.series import collect
from egeunet.evaluation.table import Table
from egeunet.evaluation.tables import protocol_effects, significance, table1, table2, trials
from egeunet.metrics.counts import count_pixels


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(tables, "_cost", lambda system: ("1", "2"))


def row(system="egeunet", seed=0, iou=0.8, dice=0.9, epochs=300, recipe=None, **changes):
    return {
        **{"system": system, "recipe": recipe or {}, "seed": seed, "epochs": epochs},
        **{"dataset": "isic2018", "protocol": "paper", "part": "test"},
        **{"weights_epoch": "selected", "pooled": {"iou": iou, "dice": dice}},
        **changes,
    }


def rows_of(table, system):
    return [
        dict(zip(table.columns, cells, strict=True)) for cells in table.rows if cells[0] == system
    ]


def test_seeds_are_averaged_and_the_last_epoch_stands_beside():
    rows = [
        row(seed=0, iou=0.80),
        row(seed=1, iou=0.82),
        row(seed=0, iou=0.79, weights_epoch="last"),
    ]
    (ours,) = rows_of(table1(collect(rows), "isic2018"), "EGE-UNet")
    assert ours["mIoU"] == "81.00 ± 1.41"  # √2
    assert ours["DSC"] == "90.00 ± 0.00"
    assert ours["mIoU, last epoch"] == "79.00"
    assert (ours["epochs"], ours["seeds"]) == ("300", "2")
    assert ours["paper: mIoU"] == "80.94 ± 0.11"


def test_budgets_stand_in_rows_of_their_own_the_papers_first():
    rows = [row(iou=0.7, epochs=5), row(seed=1, iou=0.8, epochs=40), row(seed=2, iou=0.81)]
    found = rows_of(table1(collect(rows), "isic2018"), "EGE-UNet")
    assert [(one["epochs"], one["mIoU"]) for one in found] == [
        ("300", "81.00"),
        ("40", "80.00"),
        ("5", "70.00"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"optimizer": {"lr": 0.1}}},
        {"recipe": {"options": {"widths": [8, 8, 8, 8, 8, 8]}}},
        {"protocol": "holdout"},
        {"part": "val"},
        {"dataset": "isic2017"},
        {"recipe": {"unheard": 1}},
    ],
)
def test_other_recipes_protocols_and_data_do_not_enter_table_1(change):
    table = table1(collect([row(**change)]), "isic2018")
    assert [cells["mIoU"] for cells in rows_of(table, "EGE-UNet")] == ["not run"]


def test_what_was_not_run_says_so():
    for table in (table1([], "isic2018"), table1([], "isic2017")):
        assert len(table.rows) == 11
        assert {cells[5:8] for cells in table.rows} == {("not run",) * 3}
    assert len(table2([]).rows) == len(TABLE_2) == 8
    assert {cells[2:] for cells in protocol_effects([]).rows} == {("not run",) * 4}
    assert rows_of(table1([], "isic2017"), "SANet")[0]["paper: mIoU"] == "–"


@pytest.mark.parametrize("score", TABLE_2.values())
def test_dice_and_iou_of_table_2_belong_together(score):
    assert score.dice == pytest.approx(200 * score.iou / (100 + score.iou), abs=0.011)


def test_what_the_protocol_buys():
    once = {"augmentation": {"angle": "once"}}
    rows = [
        row(iou=0.81),
        row(iou=0.80, weights_epoch="last"),
        row(iou=0.78, protocol="holdout"),
        row(iou=0.60, recipe=once),
    ]
    found = {cells[0]: cells[1:] for cells in protocol_effects(collect(rows)).rows}
    per_sample = found["published scheduler, rotation per sample"]
    assert per_sample == ("300", "81.00", "80.00", "78.00", "+1.00")
    assert found["published scheduler, rotation once per run"][1:3] == ("60.00", "not run")


def test_trials_are_compared_with_the_one_that_changes_nothing():
    warm = {"scheduler": {"warmup": 1.0}}
    rows = [
        row(part="val", protocol="holdout", epochs=24, iou=iou, recipe={**warm, **recipe})
        for iou, recipe in (
            (0.80, {}),
            (0.81, {"optimizer": {"lr": 0.003}}),
            (0.79, {"loss": {"name": "bce_jaccard"}, "optimizer": {"lr": 0.003}}),
        )
    ]
    (table,) = trials(collect([*rows, row(iou=0.9)]), {"optimizer.lr": 0.003})
    assert table.title.endswith(
        "24 epochs each, scored on the validation part; all with scheduler.warmup=1.0"
    )
    columns = ("changed", "points of mIoU", "in our recipe")
    found = [tuple(cells[table.columns.index(name)] for name in columns) for cells in table.rows]
    assert found == [
        ("optimizer.lr=0.003", "+1.00", "kept"),
        ("nothing", "+0.00", ""),
        ("optimizer.lr=0.003, loss.name=bce_jaccard", "-1.00", "dropped"),
    ]


def test_a_trial_is_kept_if_the_weights_shipped_last_were_trained_so(tmp_path):
    tried = {"optimizer": {"lr": 0.003}}
    rows = [
        row(part="val", protocol="holdout", epochs=24),
        row(part="val", protocol="holdout", epochs=24, recipe=tried),
        row(weights="isic2018", recipe={}),
        row(weights="isic2018", recipe=tried),
        row(weights="kvasir", recipe={}),
    ]
    results = tmp_path / "results"
    for one in rows:
        append_result(results / "a.jsonl", one)
    write_report(results, tmp_path / "report")
    with (tmp_path / "report" / "trials-isic2018-egeunet-24.csv").open() as file:
        verdicts = {line["changed"]: line["in our recipe"] for line in csv.DictReader(file)}
    assert verdicts == {"nothing": "", "optimizer.lr=0.003": "kept"}


def masks(error, n=30):
    """Truths (n, 20, 20) and predictions in which `error` of the pixels are wrong."""
    generator = np.random.default_rng(3)
    truths = np.zeros((n, 20, 20), np.uint8)
    truths[:, 5:15, 5:15] = 1
    wrong = generator.random(truths.shape) < error
    return truths, np.where(wrong, 1 - truths, truths)


def test_systems_are_compared_on_the_same_images(tmp_path):
    ious, rows = [], []
    for index, (system, error) in enumerate((("egeunet", 0.02), ("malunet", 0.1))):
        truths, predictions = masks(error)
        ious.append((truths & predictions).sum() / (truths | predictions).sum())
        counts = count_pixels(torch.from_numpy(predictions), torch.from_numpy(truths))
        file = f"per_image/{index}.csv"
        write_counts(tmp_path / file, tuple(f"photo_{i}" for i in range(30)), counts)
        rows.append(row(system, per_image=file))
    rows.append(row("unet", epochs=5, per_image=file))  # another budget: not compared
    (table,) = significance(collect(rows), tmp_path)
    assert table.columns == ("", "EGE-UNet", "MALUNet")
    (_, same, ours), (_, theirs, _) = table.rows
    assert same == ""
    assert ours.startswith(f"{100 * (ious[0] - ious[1]):+.2f} (+")
    assert theirs.startswith(f"{100 * (ious[1] - ious[0]):+.2f} (−".replace("−", "-"))
    assert float(ours.rpartition("p ")[2]) < 0.001


def test_systems_at_other_sizes_are_not_compared(tmp_path):
    rows = []
    for size in (20, 40):
        found = np.ones((30, size, size), np.uint8)
        counts = count_pixels(torch.from_numpy(found), torch.from_numpy(found))
        write_counts(tmp_path / f"{size}.csv", tuple(map(str, range(30))), counts)
        recipe = {"data": {"size": 16 * size}}
        rows += [row(one, recipe=recipe, per_image=f"{size}.csv") for one in ("egeunet", "unet")]
    tables = significance(collect(rows), tmp_path)
    assert [table.name.rpartition("-")[2] for table in tables] == ["320", "640"]
    assert [len(table.rows) for table in tables] == [2, 2]


def test_equal_systems_are_no_different(tmp_path):
    truths, predictions = masks(0.05)
    counts = count_pixels(torch.from_numpy(predictions), torch.from_numpy(truths))
    write_counts(tmp_path / "a.csv", tuple(map(str, range(30))), counts)
    series = collect([row(system, per_image="a.csv") for system in ("egeunet", "unet")])
    (table,) = significance(series, tmp_path)
    assert table.rows[0][2].startswith("no difference: +0.00")
    write_counts(tmp_path / "b.csv", tuple(map(str, range(1, 31))), counts)
    series = collect([row(per_image="a.csv"), row("unet", per_image="b.csv")])
    assert significance(series, tmp_path)[0].rows[0][2] == "not the same seeds or images"


def test_scores_to_other_masks_are_not_compared(tmp_path):
    truths, predictions = (torch.from_numpy(one) for one in masks(0.05))
    ids = tuple(map(str, range(30)))
    write_counts(tmp_path / "a.csv", ids, count_pixels(predictions, truths))
    write_counts(tmp_path / "b.csv", ids, count_pixels(predictions, 1 - truths))
    series = collect([row(per_image="a.csv"), row("unet", per_image="b.csv")])
    assert significance(series, tmp_path)[0].rows[0][2] == "not the same seeds or images"


def test_counts_come_back_as_they_were(tmp_path):
    truths, predictions = masks(0.2, n=4)
    counts = count_pixels(torch.from_numpy(predictions), torch.from_numpy(truths), num_classes=2)
    write_counts(tmp_path / "a.csv", ("a", "b", "c", "d"), counts)
    ids, back = read_counts(tmp_path / "a.csv")
    assert ids == ("a", "b", "c", "d")
    assert all(torch.equal(one, other) for one, other in zip(counts, back, strict=True))
    (tmp_path / "a.csv").write_text("id,class,tp\na,0,1\n")
    with pytest.raises(EgeunetError, match="evaluate that run again"):
        read_counts(tmp_path / "a.csv")


def test_a_table_is_written_as_csv_and_latex():
    table = Table("x", "50 % & more", ("a_b", "c"), (("1 ± 2", 'say "x", y'), ("–", "{}")))
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["a_b", "c"],
        ["1 ± 2", 'say "x", y'],
        ["–", "{}"],
    ]
    latex = table.latex()
    assert r"\caption{50 \% \& more}" in latex
    assert r"a\_b & c \\" in latex
    assert r"1 $\pm$ 2" in latex
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", latex) for word in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}")
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {1}


def test_the_command_writes_pages_tables_and_figures(tmp_path):
    results = tmp_path / "results"
    (results / "history").mkdir(parents=True)
    for seed in (0, 1):
        lines = [f"{epoch},1e-3,{1 / epoch},{1 / epoch},0.{epoch},0.{epoch},1" for epoch in (1, 2)]
        text = "epoch,lr,train_loss,val_loss,val_iou,val_dice,seconds\n" + "\n".join(lines)
        (results / "history" / f"{seed}.csv").write_text(text)
        append_result(results / "a.jsonl", row(seed=seed, epochs=2, history=f"history/{seed}.csv"))
    out = tmp_path / "report"
    result = CliRunner().invoke(app, ["report", "--results", str(results), "-o", str(out)])
    assert result.exit_code == 0, result.output
    page = (out / "README.md").read_text()
    assert "| EGE-UNet | 1 | 2 | 2 | 2 | 80.00 ± 0.00 |" in page
    assert "## Significance\n\nnot run" in page
    assert "![curves-isic2018-paper-2]" in page
    assert "Figure 4: image, truth and each system's mask\n\nNot here" in page
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert (out / name).is_file()
    for name in ("figure1.png", "curves-isic2018-paper-2.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 800
