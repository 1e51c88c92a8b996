"""Core ML (`model.mlpackage`), for iOS and macOS. Converts anywhere, runs on macOS only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from egeunet.errors import needs_extra

if TYPE_CHECKING:
    from egeunet.exporting.formats import Writer
    from egeunet.exporting.runtimes import Network
    from egeunet.training.run import Run


def convert(run: Run) -> Writer:
    """Convert `image`, (1, 3, H, W), to `logits`; weights and values are float16."""
    import torch

    from egeunet.exporting.rewrite import for_mobile

    shape = 1, 3, *run.recipe.data.shape
    with needs_extra("coreml"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and what coremltools reads
        import coremltools

        traced = torch.jit.trace(for_mobile(run.model, run.recipe.data.shape), torch.zeros(shape))
        model = coremltools.convert(
            traced,
            inputs=[coremltools.TensorType("image", shape)],
            outputs=[coremltools.TensorType("logits")],
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=True,
        )

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        model.user_defined_metadata.update(metadata)
        model.save(str(path))

    return write


def open_network(path: Path, threads: int) -> Network:  # noqa: ARG001 - the runtime chooses them
    """Open a package in Core ML, on macOS."""
    from egeunet.exporting.runtimes import one_by_one

    with needs_extra("coreml"):
        import coremltools
    model = coremltools.models.MLModel(str(path))
    return one_by_one(lambda image: model.predict({"image": image})["logits"])
