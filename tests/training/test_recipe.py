"""Recipes: what is written, what is overridden, what is refused."""

import json
from pathlib import Path

import pytest

from egeunet.errors import UsageError
from egeunet.models import list_models
from egeunet.training.config import Recipe
from egeunet.training.recipe import load_recipe, recipe_folder

RESULTS = Path(__file__).parents[2] / "research" / "results" / "weights.jsonl"


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_states_its_command(path):
    assert load_recipe(path).model in list_models()
    assert "egeunet train" in path.read_text(encoding="utf-8").split("\nsystem")[0]


def test_defaults_are_the_papers():
    paper = load_recipe("egeunet-isic2018")
    assert paper.optimizer == Recipe().optimizer
    assert paper.scheduler == Recipe().scheduler
    assert paper.trainer == Recipe().trainer
    assert paper.augmentation == Recipe().augmentation


def test_words_replace_settings(tmp_path):
    recipe = load_recipe("egeunet-isic2018", ["trainer.epochs=4", "seed=3", f"out={tmp_path}"])
    assert (recipe.trainer.epochs, recipe.seed, recipe.out) == (4, 3, tmp_path)
    assert recipe.trainer.batch_size == 8


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trainer.epoch=4", "did you mean 'trainer.epochs'"),
        ("optimiser.lr=1", "did you mean 'optimizer.lr'"),
        ("sed=4", "did you mean 'seed'"),
        ("trainer.epochs=0", "trainer.epochs"),
        ("trainer.epochs=many", "trainer.epochs"),
        ("precision=8", "precision"),
        ("optimizer.betas=[1.5, 0.9]", "less than 1"),
        ("augmentation.scale=[1.2, 0.8]", "scale: the smallest zoom factor is greater"),
        ("seed.x=4", "seed"),
        ("seed", "expected key=value"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_word_is_answered(word, answer):
    with pytest.raises(UsageError, match=answer):
        load_recipe("egeunet-isic2018", [word])


def test_a_wrong_name_is_answered():
    with pytest.raises(UsageError, match="did you mean 'egeunet-kvasir'"):
        load_recipe("egeunet-kvasr")


@pytest.mark.parametrize("text", ["- 1", "a: [", "\ttab"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml"):
        load_recipe(tmp_path / "x.yaml")


def test_what_is_written_reads_the_same(tmp_path):
    recipe = load_recipe("egeunet-isic2018", ["options.widths=[4, 4, 4, 4, 8, 8]", "seed=7"])
    recipe.write(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_hash_is_of_what_decides_the_result():
    base = load_recipe("egeunet-isic2018")
    elsewhere = load_recipe("egeunet-isic2018", ["out=x", "workers=0", "data.root=y", "device=cpu"])
    assert base.hash() == elsewhere.hash()
    assert base.hash() != load_recipe("egeunet-isic2018", ["seed=1"]).hash()


def test_later_settings_leave_the_hash_of_older_results():
    rows = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
    assert rows
    for row in rows:
        assert Recipe.model_validate(row["recipe"]).hash() == row["recipe_hash"]


def test_a_later_setting_changes_the_hash_where_it_is_set():
    base = load_recipe("egeunet-isic2018")
    assert base.hash() != load_recipe("egeunet-isic2018", ["scheduler.warmup=5"]).hash()
    assert base.hash() == load_recipe("egeunet-isic2018", ["scheduler.warmup=0"]).hash()


def test_settings_cannot_run_code(tmp_path):
    (tmp_path / "x.yaml").write_text("seed: !!python/object/apply:os.getpid []")
    with pytest.raises(UsageError):
        load_recipe(tmp_path / "x.yaml")
