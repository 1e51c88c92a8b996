"""Public functions of the package: create, train, evaluate and export models.

The module imports without torch; a function that needs it says so when it is called.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egeunet.errors import ParityError, UsageError, needs_extra
from egeunet.files import atomic_write, check_folder

if TYPE_CHECKING:
    from torch import nn

    from egeunet.evaluation.evaluator import Evaluation
    from egeunet.evaluation.target import EvaluationTarget
    from egeunet.exporting.formats import Exported
    from egeunet.training.config import Recipe

_logger = logging.getLogger(__name__)

__all__ = ["create_model", "evaluate", "export", "list_models", "train"]

_LOG = logging.getLogger(__name__)


def list_models() -> list[str]:
    """Return the names of all models, sorted."""
    with needs_extra("train"):
        from egeunet.models.registry import list_models as names
    return names()


def create_model(
    name: str = "egeunet",
    *,
    weights: str | Path | None = None,
    in_channels: int = 3,
    num_classes: int = 1,
    **options: Any,
) -> nn.Module:
    """Create a model, with random or trained weights.

    Args:
        name: A name of `list_models()`.
        weights: Name of shipped weights ("isic2018", "kvasir") or a run folder; None: random
            weights, drawn from torch's global generator.
        in_channels: Channels of the input image.
        num_classes: 1 for one foreground logit; K > 1 for K logits, class 0 being the background.
        **options: Further arguments of the model's constructor, such as `widths` of EGE-UNet.

    Returns:
        A module from float32 images (B, in_channels, H, W), min-max scaled to 0…255 each as
        `egeunet.inference.preprocess` does, to logits (B, num_classes, H, W). With `weights` it is
        in eval mode. In training mode, models with deep supervision return
        `(logits, (stage5, …, stage1))`.

    Raises:
        UsageError: Unknown name, option or weights, or weights of another model.
        EgeunetError: The weights are damaged.
        MissingExtraError: torch is not installed.
    """
    with needs_extra("train"):
        from egeunet.models.registry import create_model as build
        from egeunet.models.registry import model_info
        from egeunet.training.run import load_run
    if weights is None:
        return build(name, in_channels=in_channels, num_classes=num_classes, **options)
    model_info(name)
    run = load_run(weights)
    if run.recipe.model != name:
        raise UsageError(
            f"The weights {weights} belong to the model {run.recipe.model!r}, not to {name!r}."
        )
    if options or (in_channels, num_classes) != (3, 1):
        raise UsageError("Options of a model are stored with its weights: leave them out.")
    return run.model


def train(
    recipe: str | Path | Recipe,
    *settings: str,
    resume: bool = False,
    at_once: int | None = None,
) -> Path:
    """Train a model, and write its ONNX file beside the weights.

    Args:
        recipe: Recipe, YAML file, or name of a shipped recipe.
        *settings: `key=value` that override settings of a file, such as `trainer.epochs=4`.
            `seeds=0-4` or `seeds=1,3` trains several seeds side by side. With `devices=2` a
            training has one process per device; under torchrun this process is one of them.
        resume: Continue from the checkpoint in the run folder, if there is one.
        at_once: Number of seeds that train at a time; None: one per core, all on a GPU.

    Returns:
        The run folder; see `egeunet.training.trainer.train` for its files and the errors. With
        several seeds: the folder of their runs, `seed-0` and so on, and of `seeds.json` with mean
        and standard deviation.

    Raises:
        UsageError: Unknown recipe or setting, or a run folder that cannot be used.
        MissingExtraError: torch is not installed.
    """
    with needs_extra("train"):
        from egeunet.training.config import Recipe
        from egeunet.training.launcher import train_side_by_side
        from egeunet.training.recipe import load_recipe
        from egeunet.training.seeds import describe_seeds, split_seeds, summarize_seeds
    if isinstance(recipe, Recipe):
        if settings:
            raise UsageError("Settings go with the name of a recipe, not with a Recipe object.")
        return _train_one(recipe, resume)
    seeds, others = split_seeds(settings)
    if not seeds:
        return _train_one(load_recipe(recipe, others), resume)
    folder = load_recipe(recipe, others).out
    recipes = [load_recipe(recipe, [*others, f"seed={seed}"]) for seed in seeds]
    recipes = [r.model_copy(update={"out": folder / f"seed-{r.seed}"}) for r in recipes]
    runs = train_side_by_side(recipes, resume=resume, at_once=at_once)
    _LOG.info(describe_seeds(summarize_seeds(folder, runs)))
    return folder


def _train_one(recipe: Recipe, resume: bool) -> Path:
    from egeunet.evaluation.figures import save_figure, training_curves
    from egeunet.exporting.formats import export_run
    from egeunet.training.distributed import is_first, world_size
    from egeunet.training.history import HISTORY, selected_on
    from egeunet.training.launcher import train_side_by_side
    from egeunet.training.run import load_run
    from egeunet.training.trainer import train as train_recipe

    if recipe.devices > 1 and world_size() == 1:
        return train_side_by_side([recipe], resume=resume)[0]
    folder = train_recipe(recipe, resume=resume)
    if is_first():
        curves = training_curves({"": [folder / HISTORY]}, selected_on(recipe.data.protocol))
        save_figure(curves, folder / "curves.png")
        try:
            export_run(load_run(folder))
        except ParityError as error:  # as of models that have hardly learned
            _LOG.warning("The run is trained, but %s", error)
    return folder


def evaluate(
    weights: str | Path,
    *,
    data: str | Path | None = None,
    protocol: str | None = None,
    split: str = "test",
    last: bool = False,
    tta: bool = False,
    corruptions: bool = False,
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    record: str | Path | None = None,
) -> Evaluation:
    """Score a trained model on a split of a dataset.

    Args:
        weights: A run folder, or an .egeu or .onnx file, its name or URL, as `Segmenter` takes. The
            Dice estimates of an exported file are scored too.
        data: A dataset's name or folder; the run's own by default.
        protocol: "paper", "holdout", or "external": all images of `data` that were not seen in
            training or selection, as far as the weights say. By default that of the run, and of an
            exported file on the dataset it was trained on; "external" on another dataset.
        split: "train", "val" or "test"; "external" has no splits.
        last: Take the last epoch of a run instead of the selected one.
        tta: Average over four mirror images; needs an exported file.
        corruptions: Also score eight corruptions at five severities each, and groups by lesion size
            and skin tone: 41 times the work.
        device: "auto", "cpu" or "cuda"; exported files run on the CPU.
        out: Folder for `metrics.json`, `per_image.csv` and `worst_cases.png`. By default the folder
            `evaluation` of a run, `evaluation-NAME` for other data than its own; none for an
            exported file.
        overwrite: Replace an evaluation in that folder.
        record: A `.jsonl` file to which a row of results is appended. The pixel counts per image go
            to `per_image/` beside it and the epochs of a run to `history/`, so that runs can be
            compared without their folders.

    Raises:
        UsageError: If the arguments do not fit together, images to be scored were trained on, the
            folder has an evaluation, or the run to record is not finished.
    """
    with needs_extra("train"):
        from egeunet.data.cache import load_arrays
        from egeunet.environment import environment
        from egeunet.evaluation.results_store import append_result
        from egeunet.evaluation.target import (
            PROTOCOLS,
            SPLITS,
            choose_samples,
            evaluate_target,
            open_target,
        )
        from egeunet.training.run import check_finished

    if split not in SPLITS:
        raise UsageError(f"There is no split {split!r}: expected one of {', '.join(SPLITS)}.")
    if protocol not in (None, *PROTOCOLS):
        raise UsageError(f"There is no protocol {protocol!r}: expected {', '.join(PROTOCOLS)}.")
    if out:
        check_folder(out)
    target = open_target(weights, last, tta, device)
    if record and target.run:
        check_finished(target.run)
    protocol, dataset, samples = choose_samples(target, data, protocol, split)
    split = "all" if protocol == "external" else split
    if target.run and not out:
        elsewhere = "" if dataset.name == target.dataset else f"-{dataset.name}"
        out = target.run.folder / f"evaluation{elsewhere}"
    if out and not overwrite and (Path(out) / "metrics.json").exists():
        raise UsageError(f"{out} holds an evaluation: choose another folder or overwrite it.")
    _logger.info(
        "%d of %d images of %s: protocol %s, split %s",
        *(len(samples), len(dataset.samples), dataset.name, protocol, split),
    )
    arrays = load_arrays(samples, target.size, target.num_classes)
    result = evaluate_target(target, arrays, corruptions)
    about = {
        "weights_sha256": target.row["weights_sha256"],
        "weights_epoch": "last" if last else "selected",
        "dataset": dataset.name,
        "protocol": protocol,
        "split": split,
    }
    result = replace(result, about=about)
    if out:
        result.write(Path(out), arrays)
        _logger.info("Wrote metrics.json, per_image.csv and figures to %s.", out)
    if record:
        row = {**target.row, **_keep_beside(Path(record).parent, target, result)}
        row |= {**result.to_dict(), **environment()}
        if result.quality:
            columns = result.per_image[["quality", "dice", "jaccard"]]
            row["quality_images"] = columns.round(4).to_numpy().tolist()
        append_result(Path(record), row)
        _logger.info("Appended a row to %s.", record)
    return result


def _keep_beside(folder: Path, target: EvaluationTarget, result: Evaluation) -> dict[str, str]:
    """Write what does not fit into a row of results; return the files, relative to `folder`."""
    from egeunet.evaluation.results_store import write_counts
    from egeunet.training.history import HISTORY

    weights = str(target.row["weights_sha256"])[:16]
    name = "{dataset}-{protocol}-{split}".format(**result.about)
    views = "-tta" if target.row.get("tta") else ""
    files = {"per_image": f"per_image/{weights}-{name}{views}.csv"}
    write_counts(folder / files["per_image"], result.ids, result.counts)
    if target.run:
        files["history"] = f"history/{target.row['recipe_hash']}-{result.about['dataset']}.csv"
        with atomic_write(folder / files["history"]) as path:
            shutil.copyfile(target.run.folder / HISTORY, path)
    return files


def export(
    run: str | Path,
    output: str | Path | None = None,
    *,
    formats: Sequence[str] | None = None,
) -> list[Exported]:
    """Export trained weights to other formats; each file is checked against torch.

    Args:
        run: A run folder, or the name of shipped weights.
        output: The folder to write to; the run folder by default.
        formats: Names of `egeunet.exporting.formats.FORMATS`. Default: "onnx", and "engine" for
            EGE-UNet with one class.

    Returns:
        The files, each with its measured difference from torch.

    Raises:
        UsageError: Unknown run or format, a format that is not for this model, or `output` is a
            file.
        ParityError: A file differs from torch by more than its format allows; it is not kept.
    """
    with needs_extra("train"):
        from egeunet.exporting.formats import export_run
        from egeunet.inference.weights import run_folder
        from egeunet.training.run import load_run
    opened = load_run(run)
    if not output and not run_folder(run):
        raise UsageError(f"{run} are shipped weights: name an output folder.")
    return export_run(opened, Path(output) if output else None, formats)
