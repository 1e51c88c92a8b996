"""The loop: a recipe in, a run folder out.

Everything random is a function of (seed, epoch, step), so a run that was stopped anywhere goes on
from its checkpoint as if nothing had happened, to the last bit on one kind of machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egeunet.errors import EgeunetError, InterruptedRunError
from egeunet.files import held, remove_temporary
from egeunet.memory import keep_freed_memory
from egeunet.models.registry import create_model
from egeunet.reporting import Reporter
from egeunet.training.checkpoint import (
    LAST,
    WEIGHTS,
    first_line,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from egeunet.training.config import Recipe
from egeunet.training.distillation import describe_earlier, pin_runs, start_from
from egeunet.training.distributed import Ranks, is_first, open_fabric
from egeunet.training.ema import Average
from egeunet.training.loaders import make_loaders
from egeunet.training.objective import Objective, make_loss
from egeunet.training.optimizers import (
    learning_rate,
    make_optimizer,
    restore_optimizer,
    set_rate,
)
from egeunet.training.preview import Board
from egeunet.training.run import (
    check_folder,
    check_split,
    describe_epoch,
    describe_run,
    open_split,
    read_history,
    select_epoch,
    write_history,
    write_summary,
)
from egeunet.training.signals import StopRequest
from egeunet.training.step import Step
from egeunet.training.sync_batchnorm import share_statistics
from egeunet.training.validation import validate


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
        UsageError: If the folder holds another run, another process trains in it, or a setting
            cannot be had here.
        InterruptedRunError: After SIGINT or SIGTERM; the checkpoint is written.
        EgeunetError: If the loss is not finite, the data are unusable or the disk is full.
    """
    keep_freed_memory()
    recipe = pin_runs(recipe)
    check_folder(recipe, resume)
    fabric = open_fabric(recipe)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    alone = held(recipe.out) if is_first() else nullcontext()
    with torch.random.fork_rng(devices=devices), alone, StopRequest() as stop:
        if is_first():
            remove_temporary(recipe.out)
        ranks = Ranks(fabric, stop)
        _Training(recipe, resume, reporter or Reporter(), ranks).run()
        ranks.leave()
    return recipe.out


class _Training:
    def __init__(self, recipe: Recipe, resume: bool, reporter: Reporter, ranks: Ranks) -> None:
        self.recipe, self.ranks, self.fabric = recipe, ranks, ranks.fabric
        self.reporter = reporter if ranks.first else Reporter()
        self.folder = recipe.out
        self.loss = make_loss(recipe.loss)
        on_cuda = self.fabric.device.type == "cuda"

        torch.manual_seed(recipe.seed)
        model = create_model(recipe.system, num_classes=recipe.data.num_classes, **recipe.options)
        self.dataset, split = open_split(recipe.data)
        check_split(self.folder, split)
        start_from(model, recipe, self.dataset.name, split)
        if ranks.size > 1:
            share_statistics(model, recipe.system)
        # As the images of the loader are, and as convolutions like it.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = self.fabric.to_device(model)
        optimizer = make_optimizer(recipe.optimizer, model, on_cuda)
        self.average = Average(model, recipe.trainer.ema) if recipe.trainer.ema else None
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        # What is validated and kept.
        self.kept = self.fabric.setup_module(self.average.model) if self.average else self.model
        alone_on_cuda = on_cuda and ranks.size == 1
        self.train_step = Step(
            ranks,
            self.model,
            self.optimizer,
            Objective(self.loss, recipe.distill.weight),
            recipe.optimizer.clip_norm,
            alone_on_cuda
            and recipe.optimizer.name in ("adam", "adamw")
            and recipe.precision != "16-mixed",
            reporter,
        )
        self.loader, self.val_loader = make_loaders(
            recipe, self.dataset.name, split, ranks, self.reporter
        )
        if ranks.first:
            describe_run(recipe, self.dataset, split)
            describe_earlier(recipe)
        self.epoch = 0  # finished epochs
        self.step = 0  # finished steps of the one under way
        self.loss_sum = 0.0
        self.unread: list[Tensor] = []  # losses that are still on the device
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        if resume:
            self._restore()

    def run(self) -> None:
        epochs = self.recipe.trainer.epochs
        images, val_images = (len(one.arrays.ids) for one in (self.loader, self.val_loader))
        self.reporter.info(
            f"{self.recipe.system} on {self.dataset.name}, protocol {self.recipe.data.protocol}: "
            f"{images} images to train, {val_images} to validate; run folder {self.folder}"
        )
        if self.epoch or self.step:
            self.reporter.info(f"resuming after epoch {self.epoch}, step {self.step}")
        board = Board(self.folder, self.epoch + 1) if self.ranks.first else None
        try:
            while self.epoch < epochs:
                self._train_epoch()
                self._finish_epoch(board)
        finally:
            if board:
                board.close()
        if self.ranks.first:
            if len(read_history(self.folder)) < len(self.history):  # killed before the last row
                write_history(self.folder, self.history)
            epoch = select_epoch(self.history, self.recipe.data.protocol)["epoch"]
            write_summary(self.recipe, self.history, self._metadata(epoch))
            self.reporter.info(f"selected epoch {epoch:.0f}; weights {self.folder / WEIGHTS}")

    def _train_epoch(self) -> None:
        self.model.train()
        title = f"epoch {self.epoch + 1}/{self.recipe.trainer.epochs}"
        with self.reporter.bar(title, len(self.loader)) as bar, self._clock():
            bar.advance(self.step)
            for batch in self.loader.epoch(self.epoch, self.step):
                # For systems with dropout: their masks, too, depend on (seed, epoch, step), and of
                # several processes each draws its own.
                seeds = np.random.SeedSequence(
                    (self.recipe.seed, self.epoch, self.step),
                    spawn_key=(self.ranks.rank,) if self.ranks.rank else (),
                )
                torch.manual_seed(int(seeds.generate_state(1)[0]))
                set_rate(self.optimizer, self._rate(self.step + 1))
                self.unread.append(self.train_step(batch))
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
        values = torch.stack(self.unread).tolist() if self.unread else []
        for step, value in enumerate(values, self.step - len(values)):
            if not math.isfinite(value):
                raise EgeunetError(
                    f"The loss is {value} in epoch {self.epoch + 1}, step {step + 1}, on "
                    f"{', '.join(self.loader.ids(self.epoch, step))}: look at these images or "
                    f"lower optimizer.lr{'; the last checkpoint is intact' * bool(self.epoch)}."
                )
            self.loss_sum += value
        self.unread.clear()

    def _finish_epoch(self, board: Board | None) -> None:
        preview = (self.epoch + 1) % self.recipe.trainer.preview_every == 0 or self.epoch == 0
        with self._clock():
            scores = validate(
                self.kept,
                self.val_loader,
                self.loss,
                self.ranks,
                self.reporter,
                show=partial(board.preview, self.epoch + 1) if board and preview else None,
                stop_if_asked=self._stop_if_asked,
            )
        row = {
            "epoch": self.epoch + 1,
            "lr": self._rate(self.step),
            "train_loss": self.loss_sum / max(1, self.step),
            **scores,
            "seconds": round(self.seconds, 3),
        }
        self.history.append(row)
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        if board:
            self._record(row, board)

    def _record(self, row: dict[str, float], board: Board) -> None:
        """Write an epoch into the run folder: weights first, so that a checkpoint has its own."""
        selected = select_epoch(self.history, self.recipe.data.protocol) is row
        if selected:
            state = dict(self.kept.state_dict())
            save_weights(self.folder / WEIGHTS, state, self._metadata(row["epoch"]))
        self._save()
        write_history(self.folder, self.history)
        board.scalars(self.epoch, {key: value for key, value in row.items() if key != "epoch"})
        self.reporter.info(
            describe_epoch(row, self.recipe.trainer.epochs) + ("  (selected)" if selected else "")
        )

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
        number = self.ranks.stop_signal
        if not number:
            return
        self._read_losses()
        if self.ranks.first:
            self._save()
        self.ranks.wait()  # who ends before the checkpoint is written may take the others with it
        raise InterruptedRunError(
            f"Stopped after epoch {self.epoch}, step {self.step}; go on with: "
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
        try:
            self.model.load_state_dict(state["model"])
            if self.average:
                self.kept.load_state_dict(state["average"])
            restore_optimizer(self.optimizer, state["optimizer"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise EgeunetError(
                f"{self.folder / LAST} is not a checkpoint of this recipe's training "
                f"({first_line(error)}): resume with the recipe it was written by."
            ) from error
        for name in ("epoch", "step", "loss_sum", "seconds", "history"):
            setattr(self, name, state[name])
