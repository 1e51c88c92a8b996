"""Typed settings of a training: names, types, defaults, bounds and descriptions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.splits import Protocol
from egeunet.files import atomic_write
from egeunet.training.losses import STAGE_WEIGHTS

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)

WHERE = ("out", "device", "devices", "workers")
"""Settings of where a run is stored and computed, which do not change its result."""


class Settings(BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Side = Annotated[int, Field(ge=16, multiple_of=16)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(Settings):
    """Training data."""

    name: str | None = Field(None, description="Dataset of `egeunet data list`; null: any folder")
    root: Path | None = Field(
        None, description="Folder of the dataset; null: the one below $EGEUNET_DATA"
    )
    protocol: Protocol = Field(
        "holdout", description="How the data is split and the checkpoint selected"
    )
    size: Side | tuple[Side, Side] = Field(
        256, description="Size images are resized to: side of a square, or height and width"
    )
    num_classes: int = Field(
        1, ge=1, le=255, description="1: one foreground; K > 1: K classes with the background"
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width that images are resized to."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class OptimizerSettings(Settings):
    """Optimizer."""

    name: Literal["adamw", "adam", "sgd", "soap"] = Field(
        "adamw",
        description="AdamW (Loshchilov & Hutter 2019), Adam, SGD with Nesterov momentum, or SOAP "
        "(Vyas et al. 2024, with betas of 0.95)",
    )
    lr: float = Field(1e-3, gt=0, description="Initial learning rate")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="Decay of the two moments; SGD uses the first as its momentum"
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay; decoupled in AdamW and SOAP")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; null: no clipping"
    )


class SchedulerSettings(Settings):
    """Learning rate of each epoch: cosine annealing, or steps if there are milestones."""

    t_max: int | None = Field(
        50,
        ge=1,
        description="Epochs from the highest to the lowest learning rate; with the published 50 "
        "it rises and falls over the 300 epochs and ends high; null: one decay over the whole run",
    )
    eta_min: float = Field(1e-5, ge=0, description="Lowest learning rate")
    milestones: tuple[int, ...] = Field(
        (), description="Epochs after which the learning rate is multiplied by gamma"
    )
    gamma: float = Field(0.5, gt=0, le=1, description="Factor at each milestone")
    warmup: float = Field(
        0.0, ge=0, description="Epochs in which the learning rate rises linearly to the schedule's"
    )


class LossSettings(Settings):
    """One loss term on the output and one on each stage mask of a model."""

    name: Literal[
        "bce_dice",
        "bce_jaccard",
        "bce_jaccard_batch",
        "bce_lovasz",
        "lovasz",
        "tversky",
        "focal_tversky",
        "structure",
    ] = Field("bce_dice", description="Loss term; the paper's is cross-entropy + Dice")
    output_weight: float = Field(1.0, gt=0, description="Weight of the output")
    stage_weights: tuple[float, ...] = Field(
        STAGE_WEIGHTS,
        description="Weights of the stage masks, deepest first; a model with fewer uses the last",
    )


class DistillSettings(Settings):
    """Knowledge distillation: a teacher's masks as a further target of the output."""

    teacher: Path | tuple[Path, ...] | None = Field(
        None, description="Run folder of the teacher, or several to average; null: no teacher"
    )
    weight: float = Field(1.0, gt=0, description="Weight of the cross-entropy to the teacher")
    sha256: str | tuple[str, ...] | None = Field(
        None, description="SHA-256 of the weights of each teacher; recorded in the run folder"
    )

    @property
    def teachers(self) -> tuple[Path, ...]:
        """The run folders."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, Path) else self.teacher


class StartSettings(Settings):
    """Initial weights."""

    run: Path | None = Field(
        None, description="Run folder or shipped name to take weights from; null: random weights"
    )
    sha256: str | None = Field(
        None, description="SHA-256 of these weights; recorded in the run folder"
    )


class TrainerSettings(Settings):
    """Training loop."""

    epochs: int = Field(300, ge=1, lt=1 << 31, description="Passes over the training split")
    batch_size: int = Field(8, ge=1, lt=1 << 31, description="Samples per step")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, such as 0.999, which is validated "
        "and saved instead of them; null: off",
    )
    select_by: Literal["val_loss", "val_total_loss", "val_iou"] | None = Field(
        None,
        description="Score that selects the epoch: validation loss of the output, with all stages "
        "as in the published code, or mIoU; null: val_loss for `paper`, val_iou for `holdout`",
    )
    preview_every: int = Field(10, ge=1, description="Epochs between previews in TensorBoard")


class Recipe(Settings):
    """All settings of a training; the defaults are the paper's."""

    model: str = Field("egeunet", description="Model, a name of `egeunet models`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the model's constructor, such as widths"
    )
    data: DataSettings = DataSettings()
    augmentation: Augmentation = Augmentation()
    optimizer: OptimizerSettings = OptimizerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    loss: LossSettings = LossSettings()
    distill: DistillSettings = DistillSettings()
    start: StartSettings = StartSettings()
    trainer: TrainerSettings = TrainerSettings()
    seed: int = Field(42, ge=0, lt=1 << 63, description="Seed of all random numbers")
    out: Path = Field(Path("runs/egeunet"), description="Run folder")
    device: Device = Field("auto", description="Device to train on")
    devices: int = Field(1, ge=1, description="Devices that share each batch, one process each")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="Floating-point precision of the forward pass"
    )
    workers: int = Field(
        0, ge=0, description="Threads that prepare batches; 0 is fastest on few cores"
    )

    @property
    def select_by(self) -> str:
        """Score that selects the epoch, a column of `history.csv`."""
        defaults = {"paper": "val_loss", "holdout": "val_iou"}
        return self.trainer.select_by or defaults[self.data.protocol]

    def hash(self) -> str:
        """Return 12 hexadecimal digits of the settings that decide the result.

        Settings at their default do not enter, so a new setting leaves the hashes of recorded runs.
        """
        # The runs that a training starts from or learns from are identified by their SHA-256.
        left_out: dict[str, Any] = dict.fromkeys(WHERE, True)
        left_out |= {"data": {"root"}, "distill": {"teacher"}, "start": {"run"}}
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def write(self, path: Path) -> None:
        """Write the recipe as YAML, atomically."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
