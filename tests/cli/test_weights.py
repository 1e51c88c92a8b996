import json

from typer.testing import CliRunner

from egeunet.cli.main import app
from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.inference.weights import list_shipped


def test_the_shipped_weights_with_terms_score_and_checksum() -> None:
    done = CliRunner().invoke(app, ["weights"])
    assert done.exit_code == 0, done.output
    assert "CC BY-NC 4.0" in done.stdout
    rows = json.loads(CliRunner().invoke(app, ["weights", "--json"]).stdout)
    for row, (name, file) in zip(rows, list_shipped().items(), strict=True):
        assert name in done.stdout
        assert sha256_file(file) in done.stdout
        assert (row["name"], row["sha256"]) == (name, sha256_file(file))
        assert 0.5 < row["scores"]["val_dice"] < 1
        assert f"{row['scores']['val_dice']:.2%}" in done.stdout
        assert "not a medical device" in row["intended_use"]


def test_a_name_gives_the_card() -> None:
    done = CliRunner().invoke(app, ["weights", "kvasir"])
    assert done.stdout == list_shipped()["kvasir"].with_suffix(".md").read_text(encoding="utf-8")
    (row,) = json.loads(CliRunner().invoke(app, ["weights", "kvasir", "--json"]).stdout)
    assert row["dataset"] == "kvasir_seg"
    error = CliRunner().invoke(app, ["weights", "gut"]).exception
    assert isinstance(error, UsageError)
    assert "'gut': expected one of isic2018, kvasir" in str(error)
