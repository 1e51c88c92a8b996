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
from egeunet.evaluation.effects import protocol_effects
from egeunet.evaluation.goals import goals
from egeunet.evaluation.holdout import holdout
from egeunet.evaluation.paper import TABLE_2
from egeunet.evaluation.publish import write_report
from egeunet.evaluation.report import append_result
from egeunet.evaluation.series import collect, label_of
from egeunet.evaluation.significance import significance
from egeunet.evaluation.statistics import paired_difference
from egeunet.evaluation.table import Table
from egeunet.evaluation.tables import table1, table2
from egeunet.evaluation.trials import trials
from egeunet.metrics.counts import count_pixels
from egeunet.training.recipe import load_recipe


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(tables, "_cost", lambda system: ("1", "2"))


def row(system="egeunet", seed=0, iou=0.8, dice=0.9, epochs=300, recipe=None, **changes):
    """A run's row, scored on what it was trained for unless its recipe names other data."""
    scored = {"dataset": "isic2018", "protocol": "paper", "part": "test"} | changes
    data = {"name": scored["dataset"], "protocol": scored["protocol"]}
    recipe = {**(recipe or {}), "data": {**data, **(recipe or {}).get("data", {})}}
    return {
        **{"system": system, "recipe": recipe, "seed": seed, "epochs": epochs},
        **{"weights_epoch": "selected", "pooled": {"iou": iou, "dice": dice}},
        **scored,
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


def test_a_run_on_a_folder_of_ones_own_enters_the_table_of_no_dataset():
    nameless = {"recipe": {"data": {"name": None}}}
    table = table1(collect([row(**nameless, trained_on="my")]), "isic2018")
    assert [cells["mIoU"] for cells in rows_of(table, "EGE-UNet")] == ["not run"]
    (series,) = collect([row(**nameless, trained_on="my", dataset="my")])
    assert series.dataset == "my"


@pytest.mark.parametrize("home", [{"name": "ph2"}, {"protocol": "holdout"}])
def test_a_run_that_was_trained_elsewhere_replaces_none_of_the_papers(home):
    rows = [row(iou=0.81), row(iou=0.55, recipe={"data": home})]
    (ours,) = rows_of(table1(collect(rows), "isic2018"), "EGE-UNet")
    assert ours["mIoU"] == "81.00"


def test_a_run_is_called_by_the_recipe_that_comes_with_the_package():
    recipe = load_recipe("egeunet-kvasir")
    pinned = {"distill": {"sha256": "ab" * 32}, "start": {"sha256": "cd" * 32}}
    content = {key: value for key, value in recipe.model_dump(mode="json").items() if key != "out"}
    run = row(protocol="holdout", recipe={**content, **pinned}, epochs=100, dataset="kvasir_seg")
    (series,) = collect([run])
    learned_from = "start.sha256=cdcdcdcd, distill.sha256=abababab"
    whole = series.label.removeprefix("EGE-UNet, recipe egeunet-kvasir, ")
    assert sorted(whole.split(", ")) == sorted(learned_from.split(", "))
    plain = {key: value for key, value in series.changes.items() if "sha256" not in key}
    assert "recipe" not in label_of("egeunet", plain)  # without a teacher it is another one
    assert label_of("egeunet", {"scheduler.t_max": None}) == "EGE-UNet, scheduler.t_max=null"


def test_what_was_not_run_says_so(tmp_path):
    for table in (table1([], "isic2018"), table1([], "isic2017")):
        assert len(table.rows) == 11
        assert {cells[5:8] for cells in table.rows} == {("not run",) * 3}
    assert len(table2([]).rows) == len(TABLE_2) == 8
    for cells in protocol_effects([], tmp_path).rows:
        assert set(cells[2:]) <= {"not run", ""}
    assert {cells[-1] for cells in goals([], [], None, tmp_path).rows} == {"not run"}
    (only,) = holdout([], "isic2018", None, tmp_path).rows
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
    table = protocol_effects(collect(rows), tmp_path)
    first, _, _ = found = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert first["EGE-UNet trained with"] == "published scheduler, rotation per sample"
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
    series = collect(rows)
    table = holdout(series, "isic2018", kept, tmp_path)
    assert [cells[:2] for cells in table.rows] == [
        ("EGE-UNet, scheduler.t_max=null", "64"),
        ("EGE-UNet", "300"),
    ]
    difference = 100 * (rows[2]["pooled"]["iou"] - rows[0]["pooled"]["iou"])
    assert table.rows[1][-1].startswith(f"{difference:+.2f} (+")
    longer = counted(0.01, protocol="holdout", epochs=600)  # the paper's recipe, not its budget
    better = goals(collect([*rows, longer]), [], kept, tmp_path).rows[2]
    assert (better[2], better[4]) == (f"{difference:+.2f}", "yes")
    worse = goals(
        collect([rows[0], counted(0.05, protocol="holdout", recipe=decay)]), [], kept, tmp_path
    )
    assert worse.rows[2][4] == "no"


WEIGHTS = {"weights_sha256": "ab" * 32, "protocol": "holdout", "part": "test"}


def test_goals_are_read_from_the_last_row_of_the_shipped_files(tmp_path):
    def shipped(iou, auroc, rest, tta=False, **more):
        intervals = {"auroc": [0.8, 0.95], "rest_ratio": [0.4, 0.6]}
        return {
            **{"dataset": "isic2018", "tta": tta, "pooled": {"iou": iou}, **WEIGHTS, **more},
            **{"intervals": {"pooled": {"iou": [0.7, 0.9]}}},
            **{"quality": {"auroc": auroc, "rest_ratio": rest, "intervals": intervals}},
        }

    rows = [
        {"weights": "isic2018", "dataset": "isic2018", **WEIGHTS},
        *(shipped(0.79, 0.95, 0.4), shipped(0.83, 0.89, 0.6), shipped(0.81, 1.0, 0.0, tta=True)),
        # What else may be measured, of other weights or on other photos, is none of it.
        shipped(0.99, 1.0, 0.0, weights_sha256="other"),
        shipped(0.98, 1.0, 0.0, protocol="external"),
        shipped(0.97, 1.0, 0.0, part="val"),
        shipped(0.96, 1.0, 0.0, robustness={}),
    ]
    found = {
        cells[0].rpartition(": ")[0] or cells[0]: cells[1:]
        for cells in goals([], rows, None, tmp_path).rows
    }
    assert found["ISIC 2018, `holdout`, the shipped weights"] == (
        "≥ 82.4",
        "83.00",
        "70.00 … 90.00",
        "yes",
    )
    assert found["ISIC 2018, `holdout`, the same, mean of four mirror views"][-1] == "no"
    assert found["Finding failures (Jaccard under 0.65)"][1:] == ("0.890", "0.800 … 0.950", "no")
    assert found["Failure rate without the worst 10 %, over that of all"][-1] == "no"
    rows.append(shipped(0.83, None, None))  # there was no failure to be found
    assert [cells[-1] for cells in goals([], rows, None, tmp_path).rows[-2:]] == ["not run"] * 2


def test_trials_are_compared_with_the_trial_recipe():
    trial = load_recipe("trial-isic2018").model_dump(mode="json", exclude={"out"})

    def tried(iou, **changes):
        recipe = {
            key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
            for key, value in trial.items()
        }
        return row(part="val", protocol="holdout", epochs=24, iou=iou, recipe=recipe)

    rows = [
        tried(0.80),
        tried(0.81, augmentation={"gain": 0.1}),
        tried(0.79, optimizer={"lr": 0.001}, scheduler={"warmup": 0}),
        tried(0.78, augmentation={"gain": 0.1}, loss={"name": "bce_jaccard"}),
        tried(0.77, optimizer={"lr": 0.006}),
    ]
    kept = {"augmentation.gain": 0.1, "optimizer.lr": 0.002, "scheduler.warmup": 1.0}
    (table,) = trials(collect([*rows, row(iou=0.9)]), kept)
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
        row(part="val", protocol="holdout", epochs=64, recipe=recipe, weights_sha256="cd" * 32),
        row("unet", part="val", protocol="holdout", epochs=8, iou=0.9),
    ]
    (table,) = trials(collect(rows), None)
    assert [cells[1:4] for cells in table.rows] == [
        ("UNet", "8", ""),
        ("EGE-UNet, start.sha256=abababab", "64", "cdcdcdcd"),
    ]


def test_a_trial_is_kept_if_the_weights_shipped_last_were_trained_so(tmp_path):
    trial = load_recipe("trial-isic2018").model_dump(mode="json", exclude={"out"})
    tried = {**trial, "optimizer": {"lr": 0.004}}
    rows = [
        row(part="val", protocol="holdout", epochs=24, recipe=trial),
        row(part="val", protocol="holdout", epochs=24, recipe=tried),
        row(weights="isic2018", recipe={}),
        row(weights="isic2018", recipe=tried),
        row(weights="kvasir", dataset="kvasir_seg", recipe={}),
    ]
    results = tmp_path / "results"
    for one in rows:
        append_result(results / "a.jsonl", one)
    write_report(results, tmp_path / "report")
    with (tmp_path / "report" / "trials-isic2018-egeunet-24-128.csv").open() as file:
        verdicts = {line["changed"]: line["in our recipe"] for line in csv.DictReader(file)}
    assert verdicts == {"nothing": "", "optimizer.lr=0.004": "kept"}


def masks(error, n=30):
    """Truths (n, 20, 20) and predictions in which `error` of the pixels are wrong."""
    generator = np.random.default_rng(3)
    truths = np.zeros((n, 20, 20), np.uint8)
    truths[:, 5:15, 5:15] = 1
    wrong = generator.random(truths.shape) < error
    return truths, np.where(wrong, 1 - truths, truths)


def test_systems_are_compared_on_the_same_images(counted, tmp_path):
    rows = [counted(error, system=name) for name, error in (("egeunet", 0.02), ("malunet", 0.1))]
    rows.append(counted(0.1, system="unet", epochs=5))  # another budget: not compared
    (table,) = significance(collect(rows), tmp_path)
    assert table.columns == ("", "1", "2")
    (first, same, pooled), (second, per_image, _) = table.rows
    assert (first, same, second) == ("1 EGE-UNet", "", "2 MALUNet")
    ious = [one["pooled"]["iou"] for one in rows]
    assert pooled.startswith(f"{100 * (ious[0] - ious[1]):+.2f} (+")
    a, b = (read_counts(tmp_path / one["per_image"])[1] for one in rows[:2])
    assert per_image.startswith(f"{100 * paired_difference(b, a).jaccard:+.2f}, p ")
    assert float(per_image.rpartition("p ")[2]) < 0.001


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
    assert table.rows[0][2].startswith("+0.00 (+0.00")
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
