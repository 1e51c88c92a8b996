"""What a training takes from earlier ones: the masks of a teacher, weights to start with."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from egeunet.data.cache import Arrays
from egeunet.data.loader import scale_batch
from egeunet.data.synthetic import write_dataset
from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.training.checkpoints import WEIGHTS, load_checkpoint, load_weights
from egeunet.training.distillation import load_teachers, predict_soft_masks
from egeunet.training.provenance import EARLIER, seen_in
from egeunet.training.recipe import load_recipe
from egeunet.training.run import SPLIT, load_run, open_split, read_parts
from egeunet.training.trainer import train
from research.run_groups import texts_of


@pytest.fixture
def teacher(words, tmp_path):
    """A run of one epoch, as a setting."""
    more = ["trainer.epochs=1", "seed=5", f"out={tmp_path / 'teacher'}"]
    return f"distill.teacher={train(load_recipe(words[0], [*words[1:], *more]))}"


def test_the_masks_of_teachers_are_their_mean_over_four_mirror_images():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3, 16, 24, 3), np.uint8)
    arrays = Arrays(("a", "b", "c"), images, images[..., 0] // 128, np.ones(3, np.float32))
    teachers = []
    for _ in range(2):
        layers = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 1, 3, 2)
        teachers.append(torch.nn.Sequential(*layers, torch.nn.Upsample((16, 24))).eval())
        for parameter in teachers[-1].parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    soft = predict_soft_masks(teachers, arrays, Fabric(accelerator="cpu", devices=1))
    x = scale_batch(torch.from_numpy(images))
    with torch.no_grad():
        views = [
            teacher(x.flip(axes)).sigmoid().flip(axes)
            for teacher in teachers
            for axes in ((), (2,), (3,), (2, 3))
        ]
    assert soft.std() > 5
    np.testing.assert_allclose(soft / 127, sum(views)[:, 0] / 8, atol=0.51 / 127)


def test_a_student_records_its_teacher_and_resumes_with_it_alone(words, tmp_path, teacher):
    words = [*words, "trainer.epochs=1", teacher]
    recipe = load_recipe(words[0], words[1:])
    folder = train(recipe)
    recorded = load_recipe(folder)
    assert recorded.distill.sha256 == sha256_file(tmp_path / "teacher" / "model.safetensors")
    assert recorded.hash() not in (recipe.hash(), load_recipe(words[0], words[1:-1]).hash())
    assert load_recipe(folder, ["distill.teacher=elsewhere"]).hash() == recorded.hash()
    train(recipe, resume=True)
    alone = train(load_recipe(words[0], [*words[1:-1], f"out={tmp_path / 'alone'}"]))
    assert load_checkpoint(alone)["history"] != load_checkpoint(folder)["history"]

    (tmp_path / "alone" / "model.safetensors").replace(tmp_path / "teacher" / "model.safetensors")
    with pytest.raises(UsageError, match=r"distill\.sha256"):
        train(recipe, resume=True)
    with pytest.raises(UsageError, match=r"has the SHA-256"):
        train(recorded, resume=True)


def test_a_teacher_looks_at_photos_at_its_own_size(words, tmp_path):
    """It tells a student of larger photos what it tells one of its own size."""
    words = [*words[1:], "trainer.epochs=1"]
    folder = train(load_recipe("egeunet-synthetic", [*words, f"out={tmp_path / 'teacher'}"]))
    own, larger = (
        load_recipe("egeunet-synthetic", [*words, f"data.size={size}", f"distill.teacher={folder}"])
        for size in (32, 96)
    )
    _, split = open_split(own.data)
    (network,), (resized,) = (load_teachers(one, "synthetic", split) for one in (own, larger))
    scene = torch.rand(4, 3, 4, 4) * 255
    photos, larger_photos = (F.interpolate(scene, (n, n), mode="bilinear") for n in (32, 96))
    with torch.no_grad():
        expected, found = network(photos), resized(larger_photos)
    assert found.shape == (4, 1, 96, 96)
    centres = found[..., 1::3, 1::3]  # of the pixels at its own size
    assert (centres - expected).abs().mean() < 0.2 * expected.std()


def test_a_training_may_start_from_shipped_weights(words, tmp_path):
    words = [word for word in words[1:] if not word.startswith("options.")]
    more = ["data.size=64", "trainer.epochs=1", "optimizer.lr=1e-12", "start.run=isic2018"]
    recipe = load_recipe("egeunet-synthetic", [*words, *more])
    before, (after, _) = (
        load_run("isic2018").model.state_dict(),
        load_weights(train(recipe) / WEIGHTS),
    )
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6)


def test_shipped_weights_that_know_the_answers_are_refused(words, tmp_path):
    parts = load_run("isic2018").parts
    trained_on = [id for id in parts if parts[id] == "train"][:10]
    write_dataset(tmp_path / "known", 10, size=(32, 32))
    for kind in ("images", "masks"):
        for file, name in zip(
            sorted((tmp_path / "known" / kind).iterdir()), trained_on[:10], strict=True
        ):
            file.rename(file.with_stem(name))
    words = [word for word in words[1:] if not word.startswith("options.")]
    more = [f"data.root={tmp_path / 'known'}", "start.run=isic2018"]
    with pytest.raises(UsageError, match="isic2018 was trained or selected on"):
        train(load_recipe("egeunet-synthetic", [*words, *more]))


def test_a_teacher_that_knows_the_answers_is_refused(words, tmp_path, teacher):
    known = read_parts(tmp_path / "teacher")
    test = [sample for sample, part in known.items() if part == "test"]
    more = ["trainer.epochs=1", "data.protocol=paper", f"out={tmp_path / 'selected'}"]
    train(load_recipe(words[0], [*words[1:], *more]))
    selected = f"distill.teacher={tmp_path / 'selected'}"
    with pytest.raises(UsageError, match=r"trained or selected on \d+ .* use one of the same"):
        train(load_recipe(words[0], [*words[1:], selected]))

    split = tmp_path / "teacher" / SPLIT
    split.write_text(split.read_text().replace(f"{test[0]} test", f"{test[0]} train"))
    with pytest.raises(UsageError, match=rf"on 1 of the \d+ images .* such as {test[0]}"):
        train(load_recipe(words[0], [*words[1:], teacher]))


def test_what_an_earlier_run_knows_is_handed_on(words, tmp_path, teacher):
    """A run on other photos learns from the teacher; a third may not be scored on his."""
    theirs = read_parts(tmp_path / "teacher")
    write_dataset(tmp_path / "other", 20, size=(32, 32))
    for file in sorted((tmp_path / "other").glob("*/*.*")):
        file.rename(file.with_stem(f"other_{file.stem}"))
    more = [f"data.root={tmp_path / 'other'}", "trainer.epochs=1", teacher]
    second = train(load_recipe(words[0], [*words[1:], *more, f"out={tmp_path / 'second'}"]))
    home = load_run(tmp_path / "teacher").dataset
    known = seen_in(load_run(second).seen, home)
    assert {id for id, kind in known.items() if kind == "trained"} == {
        id for id, part in theirs.items() if part == "train"
    }
    third = [*words, "trainer.epochs=1", f"start.run={second}", f"out={tmp_path / 'third'}"]
    train(load_recipe(third[0], third[1:]))  # split as the teacher's
    test = next(id for id, part in theirs.items() if part == "test")
    with (second / EARLIER).open("a") as file:
        file.write(f"{home},{test},trained\n")
    with pytest.raises(UsageError, match=rf"on 1 of the \d+ images .* such as {test}"):
        train(load_recipe(third[0], third[1:]), resume=True)


def test_a_student_records_each_of_its_teachers(words, tmp_path, teacher):
    more = ["trainer.epochs=1", "seed=6", f"out={tmp_path / 'second'}"]
    folders = [tmp_path / "teacher", train(load_recipe(words[0], [*words[1:], *more]))]
    words = [*words, "trainer.epochs=1"]
    both = f"distill.teacher=[{folders[0]}, {folders[1]}]"
    folder = train(load_recipe(words[0], [*words[1:], both]))
    recorded = load_recipe(folder)
    assert recorded.distill.sha256 == tuple(sha256_file(one / WEIGHTS) for one in folders)
    (changed,) = texts_of({"distill.sha256": list(recorded.distill.sha256)})
    assert changed == "distill.sha256=" + "+".join(one[:8] for one in recorded.distill.sha256)
    train(recorded, resume=True)
    swapped = f"distill.teacher=[{folders[1]}, {folders[0]}]"
    with pytest.raises(UsageError, match=r"has the SHA-256"):
        train(load_recipe(folder, [swapped]), resume=True)
    with pytest.raises(UsageError, match="one for each teacher"):
        train(load_recipe(folder, [teacher]), resume=True)


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("data.num_classes=2", "only models with one foreground"),
        ("distill.teacher=nowhere", "not a run folder with weights"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(words, teacher, setting, answer):
    with pytest.raises(UsageError, match=answer):
        train(load_recipe(words[0], [*words[1:], teacher, setting]))


def test_a_training_starts_from_the_weights_of_another(words, tmp_path, teacher):
    earlier = tmp_path / "teacher"
    words = [*words, "trainer.epochs=1", f"start.run={earlier}", "optimizer.lr=1e-7"]
    recipe = load_recipe(words[0], words[1:])
    folder = train(recipe)
    assert load_recipe(folder).start.sha256 == sha256_file(earlier / "model.safetensors")
    ours, theirs = (load_weights(one / "model.safetensors")[0] for one in (folder, earlier))
    for name, values in ours.items():
        torch.testing.assert_close(values, theirs[name], atol=1e-4, rtol=0)
    train(recipe, resume=True)


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("model=malunet", "holds egeunet with 1 classes and options .*, not malunet with 1"),
        ("start.run=nowhere", "start.run: nowhere is not a run folder with weights"),
        ("start.sha256=ab", "start.sha256 is ab"),
    ],
)
def test_weights_that_do_not_fit_are_named(words, tmp_path, teacher, setting, answer):
    with pytest.raises(UsageError, match=answer):
        train(load_recipe(words[0], [*words[1:], f"start.run={tmp_path / 'teacher'}", setting]))


def test_a_folder_of_ones_own_goes_on_from_shipped_weights_and_selects_on_its_own_photos(tmp_path):
    root = write_dataset(tmp_path / "my", 20, size=(32, 32))
    words = (f"data.root={root}", f"out={tmp_path / 'run'}", "data.size=32", "trainer.epochs=1")
    folder = train(load_recipe("own-folder", words))
    assert load_recipe(folder).start.sha256 is not None
    assert set(read_parts(folder).values()) == {"train", "val", "test"}
    theirs, ours = (load_run(one).model.state_dict() for one in ("isic2018", folder))
    moved = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)
    assert 0 < moved < 0.01
