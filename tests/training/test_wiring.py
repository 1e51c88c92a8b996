"""A training against the same training written in plain torch, and each setting's effect."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import load_arrays
from egeunet.data.loader import Loader
from egeunet.models.registry import create_model
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.distillation import predict_soft_masks
from egeunet.training.losses import cross_entropy_dice
from egeunet.training.recipe import load_recipe
from egeunet.training.run import load_run, open_split
from egeunet.training.trainer import train

# Every value differs from its default, and is large enough to tell in a few steps. Batches of the
# validation split are of unequal size.
SETTINGS = [
    *("data.size=32", "trainer.epochs=2", "trainer.batch_size=4", "seed=3", "data.protocol=paper"),
    *("optimizer.lr=0.002", "optimizer.betas=[0.8,0.99]", "optimizer.eps=1e-6"),
    *("optimizer.weight_decay=0.5", "scheduler.t_max=3", "scheduler.eta_min=0.0003"),
    *("trainer.ema=0.5", "augmentation={rotation: 0.9, horizontal_flip: 0.2, scale: [0.7, 1.1]}"),
]


def in_plain_torch(recipe, clip_norm=None, teacher=None):
    """Two epochs as the paper, the recipe and `SETTINGS` describe them."""
    _, split = open_split(recipe.data)
    arrays, val_arrays = (load_arrays(part, (32, 32)) for part in (split.train, split.val))
    soft = None
    if teacher:
        networks = [load_run(teacher).model]
        soft = predict_soft_masks(networks, arrays, Fabric(accelerator="cpu", devices=1))
    augmentation = Augmentation(rotation=0.9, horizontal_flip=0.2, scale=(0.7, 1.1))
    loader = Loader(arrays, batch_size=4, augmentation=augmentation, seed=3, soft=soft)
    assert len(arrays.ids) > 8
    assert 4 < len(val_arrays.ids) < 8
    val_loader = Loader(val_arrays, batch_size=len(val_arrays.ids))
    torch.manual_seed(3)
    model = create_model("egeunet", widths=[8] * 6).to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, 0.002, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.5, fused=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3, 0.0003)
    average = [weight.detach().clone() for weight in parameters]
    history, steps = [], 0
    for epoch in range(2):
        losses, rate = [], scheduler.get_last_lr()[0]
        model.train()
        for batch in loader.epoch(epoch):
            logits, stages = model(batch.images)
            loss = cross_entropy_dice(logits, batch.masks)
            for weight, stage in zip((0.1, 0.2, 0.3, 0.4, 0.5), stages, strict=True):
                loss = loss + weight * cross_entropy_dice(stage, batch.masks)
            if teacher:
                loss = loss + 3 * F.binary_cross_entropy_with_logits(logits, batch.soft)
            optimizer.zero_grad()
            loss.backward()
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            losses.append(loss.item())
            steps += 1
            decay = min(0.5, (1 + steps) / (10 + steps))
            for mean, weight in zip(average, parameters, strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
        scheduler.step()
        trained = [weight.detach().clone() for weight in parameters]
        for weight, mean in zip(parameters, average, strict=True):
            weight.data.copy_(mean)
        model.eval()
        (batch,) = val_loader.epoch()
        with torch.no_grad():
            val_loss = cross_entropy_dice(model(batch.images), batch.masks).item()
        for weight, value in zip(parameters, trained, strict=True):
            weight.data.copy_(value)
        history.append((rate, np.mean(losses), val_loss))
    names = [name for name, _ in model.named_parameters()]
    return history, list(zip(names, trained, average, strict=True))


@pytest.mark.parametrize("kind", ["plain", "clipped", "distilled"])
def test_a_training_is_the_same_training_in_plain_torch(words, tmp_path, kind):
    settings, how = [*words[1:], *SETTINGS], {}
    if kind == "clipped":
        settings, how = [*settings, "optimizer.clip_norm=0.3"], {"clip_norm": 0.3}
    if kind == "distilled":
        more = ["trainer.epochs=1", f"out={tmp_path / 'teacher'}"]
        teacher = train(load_recipe(words[0], [*words[1:], *more]))
        settings += [f"distill.teacher={teacher}", "distill.weight=3"]
        how = {"teacher": teacher}
    recipe = load_recipe(words[0], settings)
    checkpoint = load_checkpoint(train(recipe))
    history, weights = in_plain_torch(recipe, **how)
    for row, (rate, train_loss, val_loss) in zip(checkpoint["history"], history, strict=True):
        assert row["lr"] == pytest.approx(rate, rel=1e-6)
        assert row["train_loss"] == pytest.approx(train_loss, rel=1e-5)
        assert row["val_loss"] == pytest.approx(val_loss, rel=1e-4)
    for name, trained, average in weights:
        torch.testing.assert_close(checkpoint["model"][name], trained, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(checkpoint["average"][name], average, rtol=1e-4, atol=1e-6)


def test_initial_weights_have_the_published_spread():
    """Normal with std √(2 / fan out), of a convolution fan out = k² · outputs / groups."""
    model = create_model("egeunet", widths=[32] * 6)
    found = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.groups == 1]
    drawn = torch.cat(
        [
            (m.weight * (m.kernel_size[0] ** 2 * m.out_channels / 2) ** 0.5).flatten()
            for m in found
            if m.weight.numel() > 500
        ]
    )
    assert drawn.std().item() == pytest.approx(1, abs=0.03)


@pytest.fixture(scope="module")
def base(samples, tmp_path_factory):
    """The weights of a training of one epoch, by its settings."""

    def weights(*settings):
        words = ["options.widths=[8, 8, 8, 8, 8, 8]", "data.size=32", "data.name=null"]
        words += ["data.protocol=holdout", "trainer.epochs=1", f"data.root={samples}"]
        words += ["trainer.batch_size=8", f"out={tmp_path_factory.mktemp('run') / 'run'}"]
        folder = train(load_recipe("egeunet-synthetic", [*words, *settings]))
        checkpoint = load_checkpoint(folder)
        values = torch.cat([value.double().flatten() for value in checkpoint["model"].values()])
        row = {key: checkpoint["history"][0][key] for key in ("train_loss", "val_loss", "val_iou")}
        return values.tolist(), row

    weights.plain = weights()
    return weights


CHANGES_WEIGHTS = [
    *("data.size=64", "augmentation.horizontal_flip=0", "augmentation.vertical_flip=0"),
    *("augmentation.rotation=0", "augmentation.angle=once", "augmentation.scale=[0.8,1.2]"),
    *("augmentation.shear=10", "augmentation.translation=0.2", "augmentation.hair=1"),
    *("augmentation.gain=0.3", "augmentation.gamma=0.3", "augmentation.saturation=0.3"),
    *("augmentation.light=0.6", "augmentation.camera=1", "optimizer.name=adam"),
    *("optimizer.name=sgd", "optimizer.name=soap", "optimizer.lr=0.003"),
    *("optimizer.betas=[0.5,0.999]", "optimizer.betas=[0.9,0.5]", "optimizer.eps=0.1"),
    *("optimizer.weight_decay=0.3", "optimizer.clip_norm=0.01", "scheduler.warmup=2"),
    *("loss.name=bce_jaccard", "loss.output_weight=3", "loss.stage_weights=[9,0.2,0.3,0.4,0.5]"),
    *("trainer.batch_size=4", "seed=7", "precision=bf16-mixed"),
]


@pytest.mark.parametrize("setting", CHANGES_WEIGHTS)
def test_a_setting_changes_the_weights(base, setting):
    assert base(setting)[0] != base.plain[0]


def test_the_average_is_what_is_validated(base):
    weights, row = base("trainer.ema=0.9")
    assert weights == base.plain[0]
    assert row["train_loss"] == base.plain[1]["train_loss"]
    assert row["val_loss"] != base.plain[1]["val_loss"]


def test_settings_of_where_a_run_computes_change_nothing(base):
    assert base("workers=2", "trainer.preview_every=1", "device=cpu") == base.plain


def test_pictures_are_recorded_after_the_first_and_every_nth_epoch(words, tmp_path):
    settings = ["trainer.epochs=5", "trainer.preview_every=2", f"out={tmp_path / 'run'}"]
    folder = train(load_recipe(words[0], [*words[1:], *settings]))
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["images"]
    assert tags
    for tag in tags:
        assert [event.step for event in events.Images(tag)] == [1, 2, 4]
