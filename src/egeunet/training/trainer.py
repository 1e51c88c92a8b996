"""The loop: a recipe in, a run folder out.

Everything random is a function of (seed, epoch, step), so a run that was stopped anywhere goes on
from its checkpoint as if nothing had happened, to the last bit on one kind of machine.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from egeunet.data.augment import Augmentation
from egeunet.data.cache import load_arrays
from egeunet.data.loader import Loader
from egeunet.errors import EgeunetError, InterruptedRunError, UsageError
from egeunet.files import atomic_write
from egeunet.memory import keep_freed_memory
from egeunet.metrics.counts import PixelCounts
from egeunet.models.registry import create_model
from egeunet.reporting import Reporter
from egeunet.training.average import Average
from egeunet.training.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint, save_weights
from egeunet.training.earlier_runs import draw_soft_masks, open_teacher, pin_runs, start_from
from egeunet.training.objective import Objective, make_loss
from egeunet.training.optimizer import learning_rate, make_optimizer, set_rate
from egeunet.training.preview import Board
from egeunet.training.run import (
    HISTORY,
    check_folder,
    describe_epoch,
    describe_run,
    open_split,
    write_json,
)
from egeunet.training.settings import Recipe
from egeunet.training.step import Step
from egeunet.training.stop import StopRequest

# protocol: (what the checkpoint is selected by, whether more is better)
SELECTION = {"paper": ("val_loss", False), "holdout": ("val_iou", True)}


def train(recipe: Recipe, *, resume: bool = False, reporter: Reporter | None = None) -> Path:
    """Train a system and leave a run folder.

    Args:
        recipe: Every setting.
        resume: Go on from the checkpoint in `recipe.out`; without one there, start.
        reporter: Hears of the progress.

    Returns:
        The run folder: `recipe.yaml`, `model.safetensors` (the weights the protocol selects),
        `last.ckpt`, `history.csv`, `metrics.json`, `environment.json`, TensorBoard events.

    Raises:
        UsageError: If the folder holds another run, or a setting cannot be had here.
        InterruptedRunError: After SIGINT or SIGTERM; the checkpoint is written.
        EgeunetError: If the loss is not finite, the data are unusable or the disk is full.
    """
    keep_freed_memory()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), StopRequest() as stop:
        return _Training(pin_runs(recipe), resume, reporter or Reporter(), stop).run()


class _Training:
    def __init__(self, recipe: Recipe, resume: bool, reporter: Reporter, stop: StopRequest) -> None:
        self.recipe, self.reporter, self.stop = recipe, reporter, stop
        self.folder = check_folder(recipe, resume)
        self.fabric = _fabric(recipe)
        self.loss = make_loss(recipe.loss)
        on_cuda = self.fabric.device.type == "cuda"
        num_classes = recipe.data.num_classes

        torch.manual_seed(recipe.seed)
        model = create_model(recipe.system, num_classes=num_classes, **recipe.options)
        self.dataset, split = open_split(recipe.data)
        start_from(model, recipe, self.dataset.name, split)
        # As the images of the loader are, and as convolutions like it.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = self.fabric.to_device(model)
        optimizer = make_optimizer(recipe.optimizer, model, on_cuda)
        self.average = Average(model, recipe.trainer.ema) if recipe.trainer.ema else None
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        # What is validated and kept.
        self.kept = self.fabric.setup_module(self.average.model) if self.average else self.model
        self.train_step = Step(
            self.fabric,
            self.model,
            self.optimizer,
            Objective(self.loss, recipe.distill.weight),
            recipe.optimizer.clip_norm,
            on_cuda and recipe.optimizer.name != "sgd" and recipe.precision != "16-mixed",
            reporter,
        )

        teacher = open_teacher(recipe, self.dataset.name, split)
        arrays, val_arrays = (
            load_arrays(samples, recipe.data.shape, num_classes, reporter=reporter)
            for samples in (split.train, split.val)
        )
        soft = draw_soft_masks(teacher, arrays, self.fabric, reporter) if teacher else None
        self.loader, self.val_loader = (
            Loader(
                part,
                num_classes=num_classes,
                batch_size=recipe.trainer.batch_size,
                augmentation=augmentation,
                seed=recipe.seed,
                device=self.fabric.device,
                workers=0 if on_cuda else recipe.workers,
                soft=part_soft,
            )
            for part, augmentation, part_soft in (
                (arrays, _augmentation(recipe), soft),
                (val_arrays, None, None),
            )
        )
        describe_run(recipe, self.dataset, split)
        self.epoch = 0  # finished epochs
        self.step = 0  # finished steps of the one under way
        self.loss_sum = 0.0
        self.unread: list[
            tuple[tuple[str, ...], Tensor]
        ] = []  # losses that are still on the device
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if resume:
            self._restore()

    def run(self) -> Path:
        epochs = self.recipe.trainer.epochs
        self.reporter.info(
            f"{self.recipe.system} on {self.dataset.name}, protocol {self.recipe.data.protocol}: "
            f"{len(self.loader.arrays.ids)} images to train, "
            f"{len(self.val_loader.arrays.ids)} to validate; run folder {self.folder}"
        )
        if self.epoch or self.step:
            self.reporter.info(f"resuming after epoch {self.epoch}, step {self.step}")
        board = Board(self.folder, self.epoch + 1)
        try:
            while self.epoch < epochs:
                self._train_epoch()
                self._finish_epoch(board)
        finally:
            board.close()
        self._write_summary()
        return self.folder

    def _train_epoch(self) -> None:
        self.model.train()
        title = f"epoch {self.epoch + 1}/{self.recipe.trainer.epochs}"
        with self.reporter.bar(title, len(self.loader)) as bar, self._clock():
            bar.advance(self.step)
            for batch in self.loader.epoch(self.epoch, self.step):
                # For systems with dropout: their masks, too, depend on (seed, epoch, step) alone.
                seeds = np.random.SeedSequence((self.recipe.seed, self.epoch, self.step))
                torch.manual_seed(int(seeds.generate_state(1)[0]))
                set_rate(self.optimizer, self._rate(self.step + 1))
                self.unread.append((batch.ids, self.train_step(batch)))
                self.step += 1
                if self.average:
                    self.average.update(self.epoch * len(self.loader) + self.step)
                if self.fabric.device.type == "cpu":
                    self._read_losses()
                bar.advance(1, **self._latest())
                self._stop_if_asked()
            self._read_losses()

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this epoch, counted from 1."""
        scheduler, epochs = self.recipe.scheduler, self.recipe.trainer.epochs
        progress = step / len(self.loader)
        return learning_rate(scheduler, self.recipe.optimizer.lr, self.epoch, epochs, progress)

    def _read_losses(self) -> None:
        """Add up the losses of the steps since the last time, and stop at one that is none."""
        first = self.step - len(self.unread)
        values = torch.stack([loss for _, loss in self.unread]).tolist() if self.unread else []
        for step, (value, (ids, _)) in enumerate(zip(values, self.unread, strict=True), first):
            if not math.isfinite(value):
                raise EgeunetError(
                    f"The loss is {value} in epoch {self.epoch + 1}, step {step + 1}, on "
                    f"{', '.join(ids)}: look at these images or lower optimizer.lr; the last "
                    "checkpoint is intact."
                )
            self.loss_sum += value
        self.unread.clear()

    def _finish_epoch(self, board: Board) -> None:
        preview = (self.epoch + 1) % self.recipe.trainer.preview_every == 0 or self.epoch == 0
        with self._clock():
            scores = self._validate(board if preview else None)
        row = {
            "epoch": self.epoch + 1,
            "lr": self._rate(self.step),
            "train_loss": self.loss_sum / max(1, self.step),
            **scores,
            "seconds": round(self.seconds, 3),
        }
        self.history.append(row)
        best = self._best()
        if best is row:
            state = dict(self.kept.state_dict())
            save_weights(self.folder / WEIGHTS, state, self._metadata(row["epoch"]))
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self._save()
        _write_csv(self.folder / HISTORY, self.history)
        board.scalars(self.epoch, {key: value for key, value in row.items() if key != "epoch"})
        self.reporter.info(
            describe_epoch(row, self.recipe.trainer.epochs)
            + ("  (selected)" if best is row else "")
        )

    @torch.no_grad()
    def _validate(self, board: Board | None) -> dict[str, float]:
        self.kept.eval()
        counts = PixelCounts(self.recipe.data.num_classes).to(self.fabric.device)
        loss_sum = torch.zeros((), device=self.fabric.device)
        with self.reporter.bar("validation", len(self.val_loader)) as bar:
            for batch in self.val_loader.epoch():
                logits = self.kept(batch.images)
                loss_sum += self.loss(logits, batch.masks).output * len(batch.ids)
                counts.update(logits, batch.masks)
                if board:
                    board.preview(self.epoch + 1, batch.images, batch.masks, logits)
                    board = None
                bar.advance()
                self._stop_if_asked()
        pooled = counts.pooled()
        return {
            "val_loss": float(loss_sum) / len(self.val_loader.arrays.ids),
            "val_iou": pooled["iou"],
            "val_dice": pooled["dice"],
        }

    def _best(self) -> dict[str, float]:
        """The row of the epoch that the protocol selects; the earliest of equals."""
        key, more = SELECTION[self.recipe.data.protocol]
        return (max if more else min)(self.history, key=lambda row: row[key])

    def _latest(self) -> dict[str, float]:
        """What the bar shows beside the progress."""
        read = self.step - len(self.unread)
        latest = {"loss": self.loss_sum / read} if read else {}
        return latest | ({"mIoU": self.history[-1]["val_iou"]} if self.history else {})

    def _metadata(self, epoch: float) -> dict[str, str]:
        return {
            "system": self.recipe.system,
            "dataset": self.dataset.name,
            "protocol": self.recipe.data.protocol,
            "recipe_hash": self.recipe.hash(),
            "epoch": str(int(epoch)),
        }

    def _stop_if_asked(self) -> None:
        if not self.stop.signal_number:
            return
        self._read_losses()
        self._save()
        raise InterruptedRunError(
            f"Stopped after epoch {self.epoch}, step {self.step}; go on with: "
            f"egeunet train {self.folder / 'recipe.yaml'} --resume",
            self.stop.signal_number,
        )

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def _save(self) -> None:
        state = {
            "model": dict(self.model.state_dict()),
            "average": dict(self.kept.state_dict()) if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "history": self.history,
        }
        save_checkpoint(self.folder, state)

    def _restore(self) -> None:
        state = load_checkpoint(self.folder, self.fabric.device)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if self.average:
            self.kept.load_state_dict(state["average"])
        # What depends on the device stays: the run may have begun on another.
        groups = self.optimizer.param_groups
        own = [{k: group[k] for k in group if k in ("lr", "capturable")} for group in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        for name in ("epoch", "step", "loss_sum", "seconds", "history"):
            setattr(self, name, state[name])

    def _write_summary(self) -> None:
        summary: dict[str, Any] = {
            **self._metadata(self._best()["epoch"]),
            "seed": self.recipe.seed,
            "selected_by": SELECTION[self.recipe.data.protocol][0],
            "selected_on": "test" if self.recipe.data.protocol == "paper" else "validation",
            "selected": self._best(),
            "last": self.history[-1],
            "seconds": round(sum(row["seconds"] for row in self.history), 1),
        }
        write_json(self.folder / "metrics.json", summary)
        self.reporter.info(f"selected epoch {summary['epoch']}; weights {self.folder / WEIGHTS}")


def _fabric(recipe: Recipe) -> Fabric:
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda, but torch sees no CUDA device here: use device=cpu.")
    return Fabric(accelerator=device, devices=1, precision=recipe.precision)


def _augmentation(recipe: Recipe) -> Augmentation:
    settings = recipe.augmentation
    angle = None
    if settings.angle == "once":
        angle = float(np.random.default_rng(recipe.seed).uniform(0, 360))
    return Augmentation(**settings.model_dump(exclude={"angle"}), angle=angle)


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
