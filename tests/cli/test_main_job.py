"""The main job in the words of the shell: train, evaluate, export, predict; and wrong words."""

import io
import json
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from PIL import Image

from egeunet.cli.main import main
from egeunet.data.splits import shipped_list
from egeunet.data.synthetic import write_dataset
from egeunet.training.run import read_parts


@pytest.fixture(scope="module")
def egeunet(tmp_path_factory):
    """Run the program in this process; returns its exit code, stdout and stderr."""
    folder = tmp_path_factory.mktemp("main")

    def run(*words):
        out, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(out),
            redirect_stderr(errors),
        ):
            patch.chdir(folder)
            patch.setenv("EGEUNET_CACHE", str(folder / "cache"))
            patch.setattr(sys, "argv", ["egeunet", *map(str, words)])
            with pytest.raises(SystemExit) as end:
                main()
        return end.value.code or 0, out.getvalue(), errors.getvalue()

    write_dataset(folder / "skin", 30, size=(64, 64), seed=3)
    (folder / "photo.txt").touch()
    run.folder = folder
    return run


@pytest.fixture(scope="module")
def run(egeunet):
    """A run folder that `egeunet train` left."""
    code, out, errors = egeunet(
        *("train", "egeunet-synthetic", "data.root=skin", "data.size=64", "trainer.epochs=2"),
        *("out=runs/x", "options.widths=[8, 8, 8, 8, 8, 8]"),
    )
    assert code == 0, errors
    assert out == "runs/x\n"
    assert "epoch 2/2" in errors
    return egeunet.folder / "runs" / "x"


def test_a_run_is_evaluated_and_recorded(egeunet, run):
    code, out, errors = egeunet("evaluate", "runs/x", "--json", "--record", "results.jsonl")
    assert code == 0, errors
    scores = json.loads(out)
    assert scores["n"] == 6
    assert 0 <= scores["pooled"]["iou"] <= 1
    assert (run / "evaluation" / "worst_cases.png").is_file()
    about = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert (about["dataset"], about["protocol"], about["split"]) == ("skin", "holdout", "test")
    assert "6 of 30 images of skin" in errors
    row = json.loads((egeunet.folder / "results.jsonl").read_text())
    assert row["protocol"] == "holdout"
    assert row["pooled"] == scores["pooled"]
    assert len(row["weights_sha256"]) == 64
    assert row["seed"] == 42


def test_an_evaluation_is_not_overwritten_unless_asked(egeunet, run):
    words = ("evaluate", "runs/x", "-o", "once")
    assert egeunet(*words)[0] == 0
    metrics = egeunet.folder / "once" / "metrics.json"
    before = metrics.stat().st_mtime_ns
    code, _, errors = egeunet(*words)
    assert code == 2
    assert "once holds an evaluation" in errors
    assert metrics.stat().st_mtime_ns == before
    assert egeunet(*words, "--overwrite")[0] == 0
    assert metrics.stat().st_mtime_ns > before


def test_evaluated_models_are_compared_in_a_report(egeunet, run):
    shutil.copytree(run, egeunet.folder / "several" / "a")
    for name in ("a", "b"):
        folder = egeunet.folder / "several" / name
        if name == "b":
            shutil.copytree(run, folder)
        shutil.rmtree(folder / "evaluation", ignore_errors=True)
        words = ("evaluate", f"several/{name}", *(["--last"] if name == "b" else []))
        assert egeunet(*words, "--record", "several.jsonl")[0] == 0
    for number, source in enumerate(("several", "several.jsonl")):
        code, out, errors = egeunet("report", source, "-o", f"report{number}")
        assert code == 0, errors
        page = (egeunet.folder / f"report{number}" / "README.md").read_text()
        assert "## skin, protocol holdout, split test" in page
        assert "Jaccard per image | 95 % interval | p (Holm)" in page
        for line in out.splitlines():
            assert (egeunet.folder / line).is_file()
        assert "curves-skin-holdout-test.png" in out
    assert egeunet("report", "several", "-o", "report0")[0] == 2


@pytest.fixture(scope="module")
def evaluated(egeunet, run, tmp_path_factory):
    """A folder of two evaluated runs."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("a", "b"):
        shutil.copytree(run, folder / name)
        assert egeunet("evaluate", folder / name, "--overwrite")[0] == 0
    return folder


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", '{"pooled":' + "[" * 100_000),
        ("metrics.json", "[1, 2]"),
        ("metrics.json", "\x00" * 10),
        ("per_image.csv", "id,jaccard\na,not a number\n"),
    ],
)
def test_damaged_evaluations_are_one_sentence(egeunet, evaluated, tmp_path, file, text):
    shutil.copytree(evaluated, tmp_path / "runs")
    (tmp_path / "runs" / "a" / "evaluation" / file).write_text(text)
    code, _, errors = egeunet("report", tmp_path / "runs", "-o", tmp_path / "report")
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert file in errors


def test_a_place_without_evaluations_is_a_usage_error(egeunet, tmp_path):
    code, _, errors = egeunet("report", tmp_path, "-o", tmp_path / "report")
    assert code == 2
    assert "holds no evaluations" in errors


def test_the_exported_file_scores_as_the_run(egeunet, run):
    assert egeunet("export", "runs/x", "-o", "exported")[0] == 0
    _, of_run, _ = egeunet("evaluate", "runs/x", "--json", "-o", "of-run")
    code, of_file, errors = egeunet("evaluate", "exported/model.onnx", "--data", "skin", "--json")
    assert code == 0, errors
    one, other = (json.loads(text)["pooled"]["iou"] for text in (of_run, of_file))
    assert one == pytest.approx(other, abs=2e-3)


def test_corruptions_are_scored_on_request(egeunet, run):
    words = ("evaluate", "exported/model.onnx", "--data", "skin", "--corruptions", "-o", "rough")
    assert egeunet("export", "runs/x", "-o", "exported", "--overwrite")[0] == 0
    code, out, errors = egeunet(*words, "--record", "rough.jsonl")
    assert code == 0, errors
    assert "Corrupted images, by severity" in out
    assert "skin tone: " in out
    assert (egeunet.folder / "rough" / "robustness.png").is_file()
    row = json.loads((egeunet.folder / "rough.jsonl").read_text())
    found = row["robustness"]
    assert found["clean"]["jaccard"] == pytest.approx(row["means"]["jaccard"])
    assert len(found["corrupted"]) == 8
    assert all(len(scores) == 5 for scores in found["corrupted"].values())


def test_the_last_epoch_is_reported_beside_the_selected_one(egeunet, run):
    assert egeunet("evaluate", "runs/x", "--last", "-o", "last")[0] == 0
    assert (egeunet.folder / "last" / "per_image.csv").read_text().count("\n") == 7


def test_images_that_were_trained_on_are_not_scored(egeunet, run):
    """Without the images it was not trained on, the folder is split anew, among the others."""
    fewer = egeunet.folder / "fewer"
    shutil.copytree(egeunet.folder / "skin", fewer)
    for name, part in read_parts(run).items():
        if part != "train":
            for file in fewer.glob(f"*/{name}.*"):
                file.unlink()
    code, _, errors = egeunet("evaluate", "runs/x", "--data", "fewer")
    assert code == 2
    assert "were trained or selected on" in errors


def test_external_data_is_scored_whole(egeunet, run):
    write_dataset(egeunet.folder / "other", 5, size=(64, 48), seed=9)
    words = ("--data", "other", "--protocol", "external", "--json", "--record", "external.jsonl")
    code, out, errors = egeunet("evaluate", "runs/x", *words, "--overwrite")
    assert code == 0, errors
    assert json.loads(out)["n"] == 5
    row = json.loads((egeunet.folder / "external.jsonl").read_text())
    assert row["selected_on"] == "validation"  # of the run, whatever it is scored on


def _named(folder, names):
    """A drawn dataset whose photos have these ids."""
    write_dataset(folder, len(names), size=(64, 64))
    for number, name in enumerate(names):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (file,) = (folder / kind).glob(f"synthetic_*{number}.*")
            file.rename(folder / kind / f"{name}.{suffix}")


def test_shipped_weights_are_not_scored_on_what_they_were_trained_on(egeunet):
    parts = shipped_list("isic2018", "holdout")
    ids = {part: [id for id in parts if parts[id] == part] for part in ("train", "val", "test")}
    _named(egeunet.folder / "mine", [*(ids[part][0] for part in ids), "my_own"])
    code, out, errors = egeunet("evaluate", "isic2018", "--data", "mine", "--json")
    assert code == 0, errors
    assert (json.loads(out)["n"], json.loads(out)["protocol"]) == (2, "external")
    _named(egeunet.folder / "known", ids["train"][:10])
    words = ("evaluate", "isic2018", "--data", "known")
    assert "was trained or selected on" in egeunet(*words)[2]
    assert "were trained or selected on" in egeunet(*words, "--protocol", "holdout")[2]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_one_sentence(egeunet, run):
    closed = egeunet.folder / "closed"
    closed.mkdir(mode=0o555)
    code, _, errors = egeunet("evaluate", "runs/x", "-o", "closed/scores")
    assert (code, errors.splitlines()[-1]) == (1, "error: closed/scores: Permission denied.")


def test_a_file_where_a_folder_is_wanted_is_one_sentence(egeunet, run):
    (egeunet.folder / "file").touch()
    code, _, errors = egeunet("evaluate", "runs/x", "-o", "file/scores")
    assert (code, errors.splitlines()[-1]) == (1, "error: file/scores: Not a directory.")


def test_photos_get_masks_of_their_own_size(egeunet, run):
    Image.new("RGB", (90, 50), (200, 150, 120)).save(egeunet.folder / "photo.jpg")
    code, _, errors = egeunet("predict", "photo.jpg", "-o", "masks", "--weights", "runs/x")
    assert code == 0, errors
    mask = np.asarray(Image.open(egeunet.folder / "masks" / "photo_mask.png"))
    assert mask.shape == (50, 90)
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize(
    ("words", "code", "answer"),
    [
        (("train", "nothing"), 2, "Unknown recipe 'nothing'"),
        (("train", "egeunet-synthetic", "trainer.epoch=1"), 2, "did you mean 'trainer.epochs'"),
        (("train", "egeunet-synthetic", "data.root=nowhere"), 1, "no folder nowhere"),
        (("evaluate", "nowhere"), 2, "nowhere"),
        (("evaluate", "http://x/y.onnx", "--data", "skin"), 2, "append #sha256="),
        (("evaluate", "runs/x", "-o", "photo.txt"), 2, "photo.txt is a file"),
        (("export", "runs/x", "-o", "photo.txt"), 2, "photo.txt is a file"),
        (("report", "nowhere"), 2, "nowhere"),
        (("evaluate", "runs/x", "--device", "gpu"), 2, "Unknown device 'gpu'"),
        (("evaluate", "isic2018", "--data", "skin", "--device", "cuda"), 2, "run on the CPU"),
        (("evaluate", "skin"), 2, "not a run folder"),
        (("evaluate", "runs/x", "--split", "all"), 2, "expected one of train, val, test"),
        (("evaluate", "runs/x", "--protocol", "mine"), 2, "no protocol 'mine'"),
        (("export", "skin"), 2, "not a run folder"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_an_exit_code(egeunet, run, words, code, answer):
    given, out, errors = egeunet(*words)
    assert (given, out) == (code, "")
    assert answer in errors
    assert errors.startswith("error: ")
