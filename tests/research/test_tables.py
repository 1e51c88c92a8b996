"""What is made from results: numbers computed here by hand, nothing mixed, nothing invented."""

import csv
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from egeunet.evaluation.results_store import append_result, read_counts, write_counts
from egeunet.metrics.counts import count_pixels
from egeunet.training.recipe import load_recipe
from research import tables
from research.__main__ import app
from research.goals import goals, verdict
from research.paper import TABLE_2
from research.protocol_ablation import protocol_ablation
from research.recipe_comparison import recipe_comparison
from research.report import shipped_changes
from research.run_groups import group_runs, label_of
from research.significance import significance
from research.split_reads import count_reads
from research.table import Table
from research.tables import table1, table2
from research.tuning import tuning


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(tables, "_cost", lambda model: ("1", "2"))


def row(model="egeunet", seed=0, iou=0.8, dice=0.9, epochs=300, recipe=None, **changes):
    """A row of a run, scored on its own data unless its recipe names others."""
    scored = {"dataset": "isic2018", "protocol": "paper", "split": "test"} | changes
    data = {"name": scored["dataset"], "protocol": scored["protocol"]}
    recipe = {**(recipe or {}), "data": {**data, **(recipe or {}).get("data", {})}}
    return {
        **{"model": model, "recipe": recipe, "seed": seed, "epochs": epochs},
        **{"weights_epoch": "selected", "pooled": {"iou": iou, "dice": dice}},
        "intervals": {"pooled": {"iou": [iou - 0.02, iou + 0.02]}},
        **scored,
    }


def rows_of(table, model):
    return [
        dict(zip(table.columns, cells, strict=True)) for cells in table.rows if cells[0] == model
    ]


def test_seeds_are_averaged_and_the_last_epoch_stands_beside():
    rows = [
        row(seed=0, iou=0.80),
        row(seed=1, iou=0.82),
        row(seed=0, iou=0.79, weights_epoch="last"),
    ]
    (ours,) = rows_of(table1(group_runs(rows), "isic2018"), "EGE-UNet")
    assert ours["mIoU"] == "81.00 ± 1.41"  # √2
    assert ours["DSC"] == "90.00 ± 0.00"
    assert ours["mIoU, last epoch"] == "79.00"
    assert (ours["epochs"], ours["seeds"]) == ("300", "2")
    assert ours["paper: mIoU"] == "80.94 ± 0.11"


def test_budgets_stand_in_rows_of_their_own_the_papers_first():
    rows = [row(iou=0.7, epochs=5), row(seed=1, iou=0.8, epochs=40), row(seed=2, iou=0.81)]
    found = rows_of(table1(group_runs(rows), "isic2018"), "EGE-UNet")
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
        {"split": "val"},
        {"dataset": "isic2017"},
        {"recipe": {"unheard": 1}},
    ],
)
def test_other_recipes_protocols_and_data_do_not_enter_table_1(change):
    table = table1(group_runs([row(**change)]), "isic2018")
    assert [cells["mIoU"] for cells in rows_of(table, "EGE-UNet")] == ["not run"]


def test_a_run_on_a_folder_of_ones_own_enters_the_table_of_no_dataset():
    nameless = {"recipe": {"data": {"name": None}}}
    table = table1(group_runs([row(**nameless, trained_on="my")]), "isic2018")
    assert [cells["mIoU"] for cells in rows_of(table, "EGE-UNet")] == ["not run"]
    (groups,) = group_runs([row(**nameless, trained_on="my", dataset="my")])
    assert groups.dataset == "my"


@pytest.mark.parametrize("home", [{"name": "ph2"}, {"protocol": "holdout"}])
def test_a_run_that_was_trained_elsewhere_replaces_none_of_the_papers(home):
    rows = [row(iou=0.81), row(iou=0.55, recipe={"data": home})]
    (ours,) = rows_of(table1(group_runs(rows), "isic2018"), "EGE-UNet")
    assert ours["mIoU"] == "81.00"


def test_a_run_is_called_by_the_recipe_that_comes_with_the_package():
    recipe = load_recipe("egeunet-kvasir")
    pinned = {"distill": {"sha256": "ab" * 32}, "start": {"sha256": "cd" * 32}}
    content = {key: value for key, value in recipe.model_dump(mode="json").items() if key != "out"}
    run = row(protocol="holdout", recipe={**content, **pinned}, epochs=100, dataset="kvasir_seg")
    (groups,) = group_runs([run])
    learned_from = "start.sha256=cdcdcdcd, distill.sha256=abababab"
    whole = groups.label.removeprefix("EGE-UNet, recipe egeunet-kvasir, ")
    assert sorted(whole.split(", ")) == sorted(learned_from.split(", "))
    plain = {key: value for key, value in groups.changes.items() if "sha256" not in key}
    assert "recipe" not in label_of("egeunet", plain)  # without a teacher it is another one
    assert label_of("egeunet", {"scheduler.t_max": None}) == "EGE-UNet, scheduler.t_max=null"


def test_what_was_not_run_says_so(tmp_path):
    for table in (table1([], "isic2018"), table1([], "isic2017")):
        assert len(table.rows) == 11
        assert {cells[5:8] for cells in table.rows} == {("not run",) * 3}
    assert len(table2([]).rows) == len(TABLE_2) == 8
    for cells in protocol_ablation([], tmp_path).rows:
        assert set(cells[2:]) <= {"not run", ""}
    assert {cells[4] for cells in goals([], [], None, tmp_path).rows} == {"not run"}
    (only,) = recipe_comparison([], "isic2018", None, tmp_path).rows
    assert only[0] == "EGE-UNet"
    assert set(only[3:]) == {"not run"}
    assert rows_of(table1([], "isic2017"), "SANet")[0]["paper: mIoU"] == "–"


@pytest.mark.parametrize("score", TABLE_2.values())
def test_dice_and_iou_of_table_2_belong_together(score):
    assert score.dice == pytest.approx(200 * score.iou / (100 + score.iou), abs=0.011)


@pytest.fixture
def counted(tmp_path):
    """Make a row whose predictions have so many wrong pixels; the photos are the same for all."""

    def make(error, seed=0, **words):
        truths, predictions = masks(error)
        counts = count_pixels(torch.from_numpy(predictions), torch.from_numpy(truths))
        iou = (truths & predictions).sum() / (truths | predictions).sum()
        file = f"{len(list(tmp_path.glob('*.csv')))}.csv"
        write_counts(tmp_path / file, tuple(f"photo_{i}" for i in range(30)), counts)
        return row(seed=seed, iou=iou, per_image=file, **words)

    return make


def test_what_the_protocol_buys(counted, tmp_path):
    once = {"augmentation": {"angle": "once"}}
    rows = [
        counted(0.02),
        counted(0.04, weights_epoch="last"),
        counted(0.01, seed=1),  # whose last epoch was not scored: no part of the difference
        counted(0.03, protocol="holdout"),
        counted(0.08, recipe=once, weights_epoch="last"),
    ]
    table = protocol_ablation(group_runs(rows), tmp_path)
    first, _, _ = found = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert first["EGE-UNet trained with"] == "published schedule, rotation per sample"
    difference = 100 * (rows[0]["pooled"]["iou"] - rows[1]["pooled"]["iou"])
    assert first["selected minus last"].startswith(f"{difference:+.2f} (+")
    assert first["holdout"] == f"{100 * rows[3]['pooled']['iou']:.2f}"
    loss = 100 * (rows[4]["pooled"]["iou"] - rows[1]["pooled"]["iou"])
    assert found[1]["last epoch, minus the first way"].startswith(f"{loss:+.2f} (-")
    assert found[1]["holdout, minus the first way"] == "not run"


def test_our_recipe_is_held_against_the_papers_whatever_their_epochs(counted, tmp_path):
    decay = {"scheduler": {"t_max": None}}
    rows = [
        counted(0.05, protocol="holdout"),
        counted(0.09, protocol="holdout", epochs=15),
        counted(0.02, protocol="holdout", epochs=64, recipe=decay),
    ]
    kept = {"scheduler.t_max": None}
    groups = group_runs(rows)
    table = recipe_comparison(groups, "isic2018", kept, tmp_path)
    assert [cells[:2] for cells in table.rows] == [
        ("EGE-UNet, scheduler.t_max=null", "64"),
        ("EGE-UNet", "300"),
    ]
    difference = 100 * (rows[2]["pooled"]["iou"] - rows[0]["pooled"]["iou"])
    assert float(table.rows[1][-2].split()[0]) == pytest.approx(difference, abs=0.01)
    assert "(+" in table.rows[1][-1]
    longer = counted(0.01, protocol="holdout", epochs=600)  # the paper's recipe, not its budget
    better = goals(group_runs([*rows, longer]), [], kept, tmp_path).rows[2]
    assert float(better[2]) == pytest.approx(difference, abs=0.01)
    assert better[4] == "yes"
    assert better[5].startswith("mean Jaccard index per image +")
    worse = goals(
        group_runs([rows[0], counted(0.05, protocol="holdout", recipe=decay)]), [], kept, tmp_path
    )
    assert worse.rows[2][4] == "no"


@pytest.mark.parametrize(
    ("value", "interval", "more", "expected"),
    [
        (81.0, (80.2, 82.0), True, "yes"),
        (81.0, (79.0, 83.0), True, "not shown"),
        (79.9, (79.0, 83.0), True, "no"),
        (0.4, (0.3, 0.49), False, "not shown"),
        (0.3, (0.2, 0.35), False, "yes"),
        (0.6, (0.2, 0.7), False, "no"),
    ],
)
def test_a_goal_is_reached_if_its_whole_interval_reaches_it(value, interval, more, expected):
    assert verdict(value, interval, 80 if more else 0.4, more) == expected


def test_one_seed_selected_on_test_does_not_reach_the_papers_score(tmp_path):
    lines = [f"{e},{1 + abs(e - 30) / 100},{0.80 + e / 10_000}" for e in range(1, 61)]
    (tmp_path / "h.csv").write_text("epoch,val_loss,val_iou\n" + "\n".join(lines))
    intervals = {"pooled": {"iou": [0.79, 0.83]}}
    selected = row(iou=0.8107, intervals=intervals, history="h.csv")
    last = row(iou=0.8084, intervals=intervals, weights_epoch="last")
    _, _, measured, interval, reached, remark = goals(
        group_runs([selected, last]), [], None, tmp_path
    ).rows[1]
    assert (measured, interval, reached) == ("81.07", "79.00 … 83.00", "not shown")
    assert "80.84 at the last epoch; 80.20 to 80.39 in the 20 epochs" in remark


def test_isic_2017_with_other_masks_reaches_nothing(tmp_path):
    rows = [row(iou=0.9, dataset="isic2017", intervals={"pooled": {"iou": [0.89, 0.91]}})]
    found = goals(group_runs(rows), [], None, tmp_path).rows[0]
    assert found[4] == "not shown"
    assert "not comparable" in found[5]


WEIGHTS = {"weights_sha256": "ab" * 32, "protocol": "holdout", "split": "test"}


def test_goals_are_read_from_the_last_row_of_the_shipped_files(tmp_path):
    def shipped(iou, auroc, rest, tta=False, **more):
        intervals = {"auroc": [0.8, 0.95], "relative_risk_at_90": [0.4, 0.6]}
        return {
            **{"dataset": "isic2018", "tta": tta, "pooled": {"iou": iou}, **WEIGHTS, **more},
            **{"intervals": {"pooled": {"iou": [0.7, 0.9]}}},
            **{"quality": {"auroc": auroc, "relative_risk_at_90": rest, "intervals": intervals}},
        }

    rows = [
        {"weights": "isic2018", "dataset": "isic2018", **WEIGHTS},
        *(shipped(0.79, 0.95, 0.4), shipped(0.83, 0.89, 0.6), shipped(0.81, 1.0, 0.0, tta=True)),
        # What else may be measured, of other weights or on other photos, is none of it.
        shipped(0.99, 1.0, 0.0, weights_sha256="other"),
        shipped(0.98, 1.0, 0.0, protocol="external"),
        shipped(0.97, 1.0, 0.0, split="val"),
        shipped(0.96, 1.0, 0.0, robustness={}),
    ]
    found = {
        cells[0].rpartition(": ")[0] or cells[0]: cells[1:]
        for cells in goals([], rows, None, tmp_path).rows
    }
    assert found["ISIC 2018, `holdout`, the shipped weights"][:4] == (
        "≥ 82.4",
        "83.00",
        "70.00 … 90.00",
        "not shown",
    )
    assert found["ISIC 2018, `holdout`, the same, mean of four mirror views"][3] == "no"
    assert found["Finding failures (Jaccard under 0.65)"][1:4] == ("0.890", "0.800 … 0.950", "no")
    assert found["Failure rate at 90 % coverage, relative to all"][3] == "no"
    rows.append(shipped(0.83, None, None))  # there was no failure to be found
    assert [cells[4] for cells in goals([], rows, None, tmp_path).rows[-2:]] == ["not run"] * 2


def test_trials_are_compared_with_the_trial_recipe():
    trial = load_recipe("trial-isic2018").model_dump(mode="json", exclude={"out"})

    def tried(iou, **changes):
        recipe = {
            key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
            for key, value in trial.items()
        }
        return row(split="val", protocol="holdout", epochs=24, iou=iou, recipe=recipe)

    rows = [
        tried(0.80),
        tried(0.81, augmentation={"gain": 0.1}),
        tried(0.79, optimizer={"lr": 0.001}, scheduler={"warmup": 0}),
        tried(0.78, augmentation={"gain": 0.1}, loss={"name": "bce_jaccard"}),
        tried(0.77, optimizer={"lr": 0.006}),
    ]
    kept = {"augmentation.gain": 0.1, "optimizer.lr": 0.002, "scheduler.warmup": 1.0}
    (table,) = tuning(group_runs([*rows, row(iou=0.9)]), kept)
    columns = ("changed", "points of mIoU", "in our recipe")
    found = [tuple(cells[table.columns.index(name)] for name in columns) for cells in table.rows]
    assert found == [
        ("augmentation.gain=0.1", "+1.00", "kept"),
        ("nothing", "+0.00", ""),
        ("optimizer.lr=0.001, scheduler.warmup=0.0", "-1.00", "dropped"),
        ("augmentation.gain=0.1, loss.name=bce_jaccard", "-2.00", "dropped"),
        ("optimizer.lr=0.006", "-3.00", "other values"),
    ]


def test_trainings_with_budgets_of_their_own_are_listed_with_what_they_learned_from():
    recipe = {"start": {"sha256": "ab" * 32}}
    rows = [
        row(split="val", protocol="holdout", epochs=64, recipe=recipe, weights_sha256="cd" * 32),
        row("unet", split="val", protocol="holdout", epochs=8, iou=0.9),
    ]
    (table,) = tuning(group_runs(rows), None)
    assert [cells[1:4] for cells in table.rows] == [
        ("UNet", "8", ""),
        ("EGE-UNet, start.sha256=abababab", "64", "cdcdcdcd"),
    ]


def test_a_trial_is_kept_if_the_weights_shipped_last_were_trained_so():
    trial = load_recipe("trial-isic2018").model_dump(mode="json", exclude={"out"})
    tried = {**trial, "optimizer": {"lr": 0.004}}
    rows = [
        row(split="val", protocol="holdout", epochs=24, recipe=trial),
        row(split="val", protocol="holdout", epochs=24, recipe=tried),
        row(weights="isic2018", recipe={}, weights_sha256="ab" * 32),
        row(weights="isic2018", recipe=tried, weights_sha256="ab" * 32),
        row(weights="kvasir", dataset="kvasir_seg", recipe={}, weights_sha256="cd" * 32),
    ]
    (table,) = tuning(group_runs(rows), shipped_changes(rows, "isic2018"))
    assert {cells[0]: cells[-1] for cells in table.rows} == {
        "nothing": "",
        "optimizer.lr=0.004": "kept",
    }


def masks(error, n=30):
    """Truths (n, 20, 20) and predictions in which `error` of the pixels are wrong."""
    generator = np.random.default_rng(3)
    truths = np.zeros((n, 20, 20), np.uint8)
    truths[:, 5:15, 5:15] = 1
    wrong = generator.random(truths.shape) < error
    return truths, np.where(wrong, 1 - truths, truths)


def test_systems_are_compared_on_the_same_images(counted, tmp_path):
    rows = [counted(error, model=name) for name, error in (("egeunet", 0.02), ("malunet", 0.1))]
    rows.append(counted(0.1, model="unet", epochs=5))  # another budget: not compared
    (table,) = significance(group_runs(rows), tmp_path)
    assert table.columns == ("", "1", "2")
    (first, same, pooled), (second, per_image, _) = table.rows
    assert (first, same, second) == ("1 EGE-UNet", "", "2 MALUNet")
    ious = [one["pooled"]["iou"] for one in rows]
    assert pooled.startswith(f"{100 * (ious[0] - ious[1]):+.2f} (+")
    a, b = (read_counts(tmp_path / one["per_image"])[1] for one in rows[:2])
    jaccard = [(one.tp / (one.tp + one.fp + one.fn))[:, 0].numpy() for one in (a, b)]
    assert per_image.startswith(f"{100 * (jaccard[1] - jaccard[0]).mean():+.2f}, p ")
    assert float(per_image.rpartition("p ")[2]) < 0.001


def test_systems_at_other_sizes_are_not_compared(tmp_path):
    rows = []
    for size in (20, 40):
        found = np.ones((30, size, size), np.uint8)
        counts = count_pixels(torch.from_numpy(found), torch.from_numpy(found))
        write_counts(tmp_path / f"{size}.csv", tuple(map(str, range(30))), counts)
        recipe = {"data": {"size": 16 * size}}
        rows += [row(one, recipe=recipe, per_image=f"{size}.csv") for one in ("egeunet", "unet")]
    tables = significance(group_runs(rows), tmp_path)
    assert [table.name.rpartition("-")[2] for table in tables] == ["320", "640"]
    assert [len(table.rows) for table in tables] == [2, 2]


def test_equal_systems_are_no_different(tmp_path):
    truths, predictions = masks(0.05)
    counts = count_pixels(torch.from_numpy(predictions), torch.from_numpy(truths))
    write_counts(tmp_path / "a.csv", tuple(map(str, range(30))), counts)
    groups = group_runs([row(model, per_image="a.csv") for model in ("egeunet", "unet")])
    (table,) = significance(groups, tmp_path)
    assert table.rows[0][2].startswith("+0.00 (+0.00")
    write_counts(tmp_path / "b.csv", tuple(map(str, range(1, 31))), counts)
    groups = group_runs([row(per_image="a.csv"), row("unet", per_image="b.csv")])
    assert significance(groups, tmp_path)[0].rows[0][2] == "not the same seeds or images"


def test_scores_to_other_masks_are_not_compared(tmp_path):
    truths, predictions = (torch.from_numpy(one) for one in masks(0.05))
    ids = tuple(map(str, range(30)))
    write_counts(tmp_path / "a.csv", ids, count_pixels(predictions, truths))
    write_counts(tmp_path / "b.csv", ids, count_pixels(predictions, 1 - truths))
    groups = group_runs([row(per_image="a.csv"), row("unet", per_image="b.csv")])
    assert significance(groups, tmp_path)[0].rows[0][2] == "not the same seeds or images"


def test_a_table_is_written_as_markdown_csv_and_latex():
    table = Table("x", "50 % & more", ("a_b", "c"), (("1 ± 2", 'say "x", y'), ("", "{}")), "≥ 3")
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["a_b", "c"],
        ["1 ± 2", 'say "x", y'],
        ["", "{}"],
    ]
    assert table.markdown() == '| a_b | c |\n|:---|---:|\n| 1 ± 2 | say "x", y |\n| | {} |\n'
    latex = table.latex()
    assert r"\caption{50 \% \& more}" in latex
    assert r"a\_b & c \\" in latex
    assert r"1 $\pm$ 2" in latex
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", latex) for word in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}")


def test_reads_of_test_splits_are_counted_from_rows():
    trained = {"recipe_hash": "a", "seed": 0, "protocol": "holdout", "dataset": "isic2018"}
    shipped = {key: trained[key] for key in ("protocol", "dataset")}
    rows = [
        {**trained, "split": "test", "weights_sha256": "x"},
        {**trained, "split": "val", "weights_sha256": "x"},
        {**shipped, "split": "test", "weights_sha256": "x", "tta": True},
        {**shipped, "split": "test", "weights_sha256": "exported"},
        {"dataset": "isic2018", "weights_sha256": "y", "formats": [{"dice": None}, {"dice": 0.9}]},
        {"dataset": "isic2018", "weights_sha256": "y", "formats": [{"dice": None}]},
        {"dataset": "ph2", "protocol": "external", "split": "all", "weights_sha256": "x"},
    ]
    assert count_reads(rows).rows == (
        ("ISIC 2018", "holdout", "4", "3", "1"),
        ("ph2", "external", "1", "1", "1"),
    )


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
    assert "Figure 4: image, truth and each model's mask\n\nNot here" in page
    for name in re.findall(r"\]\(([^)]+)\)", page):
        assert (out / name).is_file()
    for name in ("figure1.png", "curves-isic2018-paper-2.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 800
