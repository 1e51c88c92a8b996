"""Training loop: a recipe in, a run folder out.

Everything random is a function of (seed, epoch, step), so a run that was stopped anywhere resumes
from its checkpoint with the same bits, on one kind of machine.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from egeunet.compat import keep_freed_memory
from egeunet.data.cache import load_arrays
from egeunet.data.loader import Loader
from egeunet.data.splits import Split
from egeunet.errors import EgeunetError, InterruptedRunError
from egeunet.files import folder_lock, remove_temporary
from egeunet.models.registry import create_model
from egeunet.progress import bar, set_progress
from egeunet.training.checkpoints import (
    LAST,
    WEIGHTS,
    first_line,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from egeunet.training.config import Recipe
from egeunet.training.distillation import load_teachers, predict_soft_masks
from egeunet.training.distributed import Group, is_first, open_fabric, sync_batch_norm
from egeunet.training.ema import ModelEma
from egeunet.training.history import (
    describe_epoch,
    read_history,
    select_epoch,
    write_history,
    write_summary,
)
from egeunet.training.init_from import load_initial_weights, pin_runs, record_earlier
from egeunet.training.losses import TERMS, DeepSupervisionLoss
from egeunet.training.optimizers import (
    learning_rate,
    make_optimizer,
    restore_optimizer,
    set_learning_rate,
)
from egeunet.training.run import check_folder, check_split, open_split, record_setup
from egeunet.training.signals import StopRequest
from egeunet.training.step import TrainStep
from egeunet.training.validation import add_preview, validate

_LOG = logging.getLogger(__name__)


def train(recipe: Recipe, *, resume: bool = False) -> Path:
    """Train a model.

    Args:
        recipe: All settings.
        resume: Continue from the checkpoint in `recipe.out`, if there is one.

    Returns:
        The run folder: `recipe.yaml`, `split.txt`, `environment.json`, `model.safetensors` (the
        selected epoch), `last.ckpt`, `history.csv`, `metrics.json`, TensorBoard events.

    Raises:
        UsageError: If the folder holds another run, another process trains in it, or a setting is
            not possible here.
        InterruptedRunError: After SIGINT or SIGTERM; the checkpoint is written.
        EgeunetError: If the loss is not finite, files are damaged, or the disk is full.
    """
    if not is_first():  # one process reports
        set_progress(False)
        logging.getLogger("egeunet").setLevel(logging.WARNING)
    keep_freed_memory()
    recipe = pin_runs(recipe)
    check_folder(recipe, resume)
    fabric = open_fabric(recipe)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    lock = folder_lock(recipe.out) if is_first() else nullcontext()
    with torch.random.fork_rng(devices=devices), lock, StopRequest() as stop:
        if is_first():
            remove_temporary(recipe.out)
        group = Group(fabric, stop)
        _Trainer(recipe, resume, group).run()
        group.leave()
    return recipe.out


class _Trainer:
    def __init__(self, recipe: Recipe, resume: bool, group: Group) -> None:
        self.recipe, self.group, self.fabric = recipe, group, group.fabric
        self.folder, self.first = recipe.out, group.rank == 0
        self.loss = DeepSupervisionLoss(
            recipe.loss.stage_weights,
            recipe.loss.output_weight,
            TERMS[recipe.loss.name],
            recipe.distill.weight,
        )
        device = self.fabric.device.type
        torch.manual_seed(recipe.seed)
        model = create_model(recipe.model, num_classes=recipe.data.num_classes, **recipe.options)
        self.dataset, split = open_split(recipe.data)
        check_split(self.folder, split)
        load_initial_weights(model, recipe, self.dataset.name, split)
        if group.size > 1:
            model = sync_batch_norm(model, recipe.model, device)
        # As the images of the loader are, and as convolutions are fastest.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = self.fabric.to_device(model)
        optimizer = make_optimizer(recipe.optimizer, model, device == "cuda")
        self.ema = ModelEma(model, recipe.trainer.ema) if recipe.trainer.ema else None
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        # The model that is validated and saved.
        self.kept = self.fabric.setup_module(self.ema.model) if self.ema else self.model
        self.train_step = TrainStep(recipe, group, self.model, self.optimizer, self.loss)
        self.loader, self.val_loader = _make_loaders(recipe, self.dataset.name, split, group)
        if self.first:
            record_setup(recipe, self.dataset, split)
            record_earlier(recipe)
        self.epoch = 0  # finished epochs
        self.step = 0  # finished steps of the current epoch
        self.loss_sum = 0.0
        self.unread: list[Tensor] = []  # losses that are still on the device
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if resume:
            self._restore()

    def run(self) -> None:
        images, val_images = (len(one.arrays.ids) for one in (self.loader, self.val_loader))
        _LOG.info(
            f"{self.recipe.model} on {self.dataset.name}, protocol {self.recipe.data.protocol}: "
            f"{images} training images, {val_images} validation images; run folder {self.folder}",
        )
        if self.epoch or self.step:
            _LOG.info("Resuming after epoch %d, step %d", self.epoch, self.step)
        board = SummaryWriter(str(self.folder), purge_step=self.epoch + 1) if self.first else None
        try:
            while self.epoch < self.recipe.trainer.epochs:
                self._train_epoch()
                self._finish_epoch(board)
        finally:
            if board:
                board.close()
        if self.first:
            if len(read_history(self.folder)) < len(self.history):  # killed before the last row
                write_history(self.folder, self.history)
            epoch = select_epoch(self.history, self.recipe)["epoch"]
            write_summary(self.recipe, self.history, self._metadata(epoch))
            _LOG.info("Selected epoch %.0f; weights %s", epoch, self.folder / WEIGHTS)

    def _train_epoch(self) -> None:
        self.model.train()
        title = f"epoch {self.epoch + 1}/{self.recipe.trainer.epochs}"
        with bar(title, len(self.loader)) as advance, self._clock():
            advance(self.step)
            for batch in self.loader.epoch(self.epoch, self.step):
                # For dropout, which must also be a function of (seed, epoch, step); every process
                # draws its own.
                seeds = np.random.SeedSequence(
                    (self.recipe.seed, self.epoch, self.step),
                    spawn_key=(self.group.rank,) if self.group.rank else (),
                )
                torch.manual_seed(int(seeds.generate_state(1)[0]))
                set_learning_rate(self.optimizer, self._learning_rate(self.step + 1))
                self.unread.append(self.train_step(batch))
                self.step += 1
                if self.ema:
                    self.ema.update(self.epoch * len(self.loader) + self.step)
                if self.fabric.device.type == "cpu":
                    self._read_losses()
                advance(1, **self._latest())
                self._stop_if_asked()
            self._read_losses()

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the current epoch, counted from 1."""
        scheduler, epochs = self.recipe.scheduler, self.recipe.trainer.epochs
        progress = step / len(self.loader)
        return learning_rate(scheduler, self.recipe.optimizer.lr, self.epoch, epochs, progress)

    def _read_losses(self) -> None:
        """Add the losses of the steps since the last call; raise if one is not finite."""
        values = torch.stack(self.unread).tolist() if self.unread else []
        for step, value in enumerate(values, self.step - len(values)):
            if not math.isfinite(value):
                intact = "; the last checkpoint is intact" if self.epoch else ""
                raise EgeunetError(
                    f"The loss is {value} in epoch {self.epoch + 1}, step {step + 1}, on "
                    f"{', '.join(self.loader.ids(self.epoch, step))}: check these images or lower "
                    f"optimizer.lr{intact}."
                )
            self.loss_sum += value
        self.unread.clear()

    def _finish_epoch(self, board: SummaryWriter | None) -> None:
        preview = (self.epoch + 1) % self.recipe.trainer.preview_every == 0 or self.epoch == 0
        with self._clock():
            scores = validate(
                self.kept,
                self.val_loader,
                self.loss,
                self.group,
                total_loss=self.recipe.select_by == "val_total_loss",
                show=partial(add_preview, board, self.epoch + 1) if board and preview else None,
            )
        self._stop_if_asked()
        row = {
            "epoch": self.epoch + 1,
            "lr": self._learning_rate(self.step),
            "train_loss": self.loss_sum / max(1, self.step),
            **scores,
            "seconds": round(self.seconds, 3),
        }
        self.history.append(row)
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        if board:
            self._record(row, board)

    def _record(self, row: dict[str, float], board: SummaryWriter) -> None:
        """Write an epoch to the run folder: weights first, so that a checkpoint has its own."""
        selected = select_epoch(self.history, self.recipe) is row
        if selected:
            state = dict(self.kept.state_dict())
            save_weights(self.folder / WEIGHTS, state, self._metadata(row["epoch"]))
        self._save()
        write_history(self.folder, self.history)
        for name, value in row.items():
            if name != "epoch":
                board.add_scalar(name, value, self.epoch)
        line = describe_epoch(self.history, self.recipe.trainer.epochs)
        _LOG.info(line + ("  (selected)" if selected else ""))

    def _latest(self) -> dict[str, float]:
        """Return what the progress bar shows."""
        read = self.step - len(self.unread)
        latest = {"loss": self.loss_sum / read} if read else {}
        return latest | ({"mIoU": self.history[-1]["val_iou"]} if self.history else {})

    def _metadata(self, epoch: float) -> dict[str, str]:
        return {
            "model": self.recipe.model,
            "dataset": self.dataset.name,
            "protocol": self.recipe.data.protocol,
            "recipe_hash": self.recipe.hash(),
            "epoch": str(int(epoch)),
        }

    def _stop_if_asked(self) -> None:
        number = self.group.stop_signal
        if not number:
            return
        self._read_losses()
        if self.first:
            self._save()
        self.fabric.barrier()  # a process that ends before the checkpoint is written may end others
        raise InterruptedRunError(
            f"Stopped after epoch {self.epoch}, step {self.step}; resume with: "
            f"egeunet train {self.folder / 'recipe.yaml'} --resume",
            number,
        )

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def _save(self) -> None:
        state: dict[str, Any] = {
            "model": dict(self.model.state_dict()),
            "average": dict(self.kept.state_dict()) if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
        }
        names = ("epoch", "step", "loss_sum", "seconds", "history")
        save_checkpoint(self.folder, state | {name: getattr(self, name) for name in names})

    def _restore(self) -> None:
        state = load_checkpoint(self.folder, self.fabric.device)
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            if self.ema:
                self.kept.load_state_dict(state["average"])
            restore_optimizer(self.optimizer, state["optimizer"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise EgeunetError(
                f"{self.folder / LAST} is not a checkpoint of this recipe ({first_line(error)}): "
                "resume with the recipe it was written by."
            ) from error
        for name in ("epoch", "step", "loss_sum", "seconds", "history"):
            setattr(self, name, state[name])


def _make_loaders(
    recipe: Recipe, dataset: str, split: Split, group: Group
) -> tuple[Loader, Loader]:
    """Return this process' part of the training and the validation samples."""
    device, num_classes = group.fabric.device, recipe.data.num_classes
    teachers = load_teachers(recipe, dataset, split)
    arrays, val_arrays = (
        load_arrays(samples, recipe.data.shape, num_classes) for samples in (split.train, split.val)
    )
    make = partial(
        Loader,
        num_classes=num_classes,
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        device=device,
        workers=0 if device.type == "cuda" else recipe.workers,
        rank=group.rank,
        ranks=group.size,
    )
    soft = predict_soft_masks(teachers, arrays, group.fabric) if teachers else None
    return make(arrays, augmentation=recipe.augmentation, soft=soft), make(val_arrays)
