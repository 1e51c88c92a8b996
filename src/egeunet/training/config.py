"""The typed settings of a training: what may be set, its default, and what it means."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from egeunet.data.splits import Protocol
from egeunet.files import atomic_write
from egeunet.training.losses import STAGE_WEIGHTS

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)

# Marks a setting that came after the first results: the hash of a recipe knows it only where it
# differs from its default, so that the recipes of older results keep theirs.
LATER = "later"

WHERE = ("out", "device", "devices", "workers")
"""Settings of a recipe that say where it runs and lies, and do not decide its result."""


class Settings(BaseModel):
    """Typed values that a YAML file gives; names that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Side = Annotated[int, Field(ge=16, multiple_of=16)]
Factor = Annotated[float, Field(ge=0.1, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(Settings):
    """What is learned from."""

    name: str | None = Field(None, description="A dataset of `egeunet data list`; null: any folder")
    root: Path | None = Field(
        None, description="Its folder; null: the one below the variable EGEUNET_DATA"
    )
    protocol: Protocol = Field("holdout", description="How it is split and the checkpoint selected")
    size: Side | tuple[Side, Side] = Field(
        256, description="What photos are resized to: the side of a square, or height and width"
    )
    num_classes: int = Field(1, ge=1, le=255, description="1: a foreground; K > 1: with background")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width that photos are resized to."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class AugmentationSettings(Settings):
    """What is done to a training sample, with which probability."""

    horizontal_flip: float = Field(0.5, ge=0, le=1, description="Probability of left-right")
    vertical_flip: float = Field(0.5, ge=0, le=1, description="Probability of upside down")
    rotation: float = Field(0.5, ge=0, le=1, description="Probability of a rotation")
    angle: Literal["per_sample", "once"] = Field(
        "per_sample",
        description="Draw the angle per sample, or once per run as the published code does",
    )
    scale: Annotated[tuple[Factor, Factor], LATER] = Field(
        (1.0, 1.0), description="Least and greatest enlargement of each sample"
    )
    shear: Annotated[float, LATER] = Field(
        0.0, ge=0, le=45, description="Greatest shear to either side, in degrees"
    )
    translation: Annotated[float, LATER] = Field(
        0.0, ge=0, le=1, description="Greatest shift to any side, as a share of the image"
    )
    hair: Annotated[float, LATER] = Field(
        0.0, ge=0, le=1, description="Probability of drawn hair over the image"
    )
    gain: Annotated[float, LATER] = Field(
        0.0, ge=0, lt=1, description="Each channel is multiplied by a factor from 1 ± this"
    )
    gamma: Annotated[float, LATER] = Field(
        0.0, ge=0, lt=1, description="Brightness is raised to a power from 1 ± this"
    )
    saturation: Annotated[float, LATER] = Field(
        0.0, ge=0, le=1, description="Distances from grey are multiplied by a factor from 1 ± this"
    )
    light: Annotated[float, LATER] = Field(
        0.0, ge=0, le=1, description="Largest share of its light that one side of the image lacks"
    )
    camera: Annotated[float, LATER] = Field(
        0.0, ge=0, le=1, description="Probability of blur, grain or compression"
    )

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the least enlargement is greater than the greatest")
        return scale


class OptimizerSettings(Settings):
    """What turns gradients into steps."""

    name: Literal["adamw", "adam", "sgd", "soap"] = Field(
        "adamw",
        description="AdamW (Loshchilov & Hutter 2019), Adam, SGD with Nesterov momentum, or SOAP "
        "(Vyas et al. 2024), which takes betas of 0.95",
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate at the start")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="Decay of the two moments; SGD takes the first as its momentum"
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay; decoupled in AdamW and SOAP")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient; null: not clipped"
    )


class SchedulerSettings(Settings):
    """The learning rate of each epoch: cosine annealing, or steps where there are milestones."""

    t_max: int | None = Field(
        50,
        ge=1,
        description="Epochs of a half swing; the published 50 swings with period 100 over 300 "
        "epochs and ends at the full rate; null: one decay over the whole run",
    )
    eta_min: float = Field(1e-5, ge=0, description="Lowest learning rate")
    milestones: tuple[int, ...] = Field(
        (), description="Epochs after which the rate is multiplied by gamma, instead of annealing"
    )
    gamma: float = Field(0.5, gt=0, le=1, description="The factor at each milestone")
    warmup: Annotated[float, LATER] = Field(
        0.0, ge=0, description="Epochs in which the rate rises to the schedule's, step by step"
    )


class LossSettings(Settings):
    """One term on the output and one on each further mask that a system predicts in training."""

    name: Literal[
        "bce_dice",
        "bce_jaccard",
        "bce_jaccard_batch",
        "bce_lovasz",
        "lovasz",
        "tversky",
        "focal_tversky",
        "structure",
    ] = Field("bce_dice", description="The term; the paper's is cross-entropy + Dice")
    output_weight: float = Field(1.0, gt=0, description="λ of the output")
    stage_weights: tuple[float, ...] = Field(
        STAGE_WEIGHTS,
        description="λ of the further masks, deepest first; a system with fewer takes the last",
    )


class DistillSettings(Settings):
    """The teacher, or several, whose masks are a further target of the output."""

    teacher: Path | tuple[Path, ...] | None = Field(
        None,
        description="A run folder, or several, of whose probabilities the mean is taken; null: no "
        "teacher",
    )
    weight: float = Field(1.0, gt=0, description="Of the cross-entropy to its probabilities")
    sha256: str | tuple[str, ...] | None = Field(
        None, description="Of its weights, or of each; the recipe in the run folder has it"
    )

    @property
    def teachers(self) -> tuple[Path, ...]:
        """The run folders."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, Path) else self.teacher


class StartSettings(Settings):
    """Where the weights are at the start."""

    run: Path | None = Field(
        None,
        description="The run folder, or shipped name, whose weights are taken; null: random ones",
    )
    sha256: str | None = Field(
        None, description="Of these weights; the recipe in the run folder has it"
    )


class TrainerSettings(Settings):
    """The loop."""

    epochs: int = Field(300, ge=1, description="Passes over the training part")
    batch_size: int = Field(8, ge=1, description="Samples per step")
    ema: Annotated[float | None, LATER] = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, such as 0.999, that is validated "
        "and kept instead of them; null: none",
    )
    preview_every: int = Field(10, ge=1, description="Epochs between previews in TensorBoard")


class Recipe(Settings):
    """How a system is trained: every setting, its default the paper's."""

    system: str = Field("egeunet", description="A name of `egeunet models`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the system's constructor, such as widths"
    )
    data: DataSettings = DataSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    loss: LossSettings = LossSettings()
    distill: Annotated[DistillSettings, LATER] = DistillSettings()
    start: Annotated[StartSettings, LATER] = StartSettings()
    trainer: TrainerSettings = TrainerSettings()
    seed: int = Field(42, ge=0, lt=1 << 63, description="Start of all random numbers")
    out: Path = Field(Path("runs/egeunet"), description="The run folder")
    device: Device = Field("auto", description="Where to compute")
    devices: int = Field(
        1, ge=1, description="How many devices share each batch, a process for each"
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="Arithmetic of the forward pass"
    )
    workers: int = Field(
        0, ge=0, description="Threads that prepare batches; 0 is fastest where cores are few"
    )

    def hash(self) -> str:
        """Return 12 hexadecimal digits of what decides the result (not where it runs or lies)."""
        content = self.model_dump(mode="json", exclude=_unset(self))
        for name in WHERE:
            del content[name]
        del content["data"]["root"]
        content.get("distill", {}).pop("teacher", None)  # their sha256 say which ones they are
        content.get("start", {}).pop("run", None)
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def write(self, path: Path) -> None:
        """Write the recipe as YAML."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _unset(settings: Settings) -> dict[str, Any]:
    """The settings marked LATER that are at their default, as pydantic's `exclude` wants them."""
    found: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if LATER in field.metadata and value == field.default:
            found[name] = True
        elif isinstance(value, Settings):
            found[name] = _unset(value)
    return found
