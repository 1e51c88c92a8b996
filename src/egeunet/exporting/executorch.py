"""ExecuTorch (`model.pte`), for PyTorch's runtime on phones, with XNNPACK."""

from __future__ import annotations

import json
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
    """Convert for images (1, 3, H, W); the metadata lies beside the file, in `model.pte.json`."""
    import torch

    from egeunet.exporting.rewrite import for_mobile

    size = run.recipe.data.shape
    with needs_extra("executorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's dependencies
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(for_mobile(run.model, size), (torch.zeros(1, 3, *size),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        converted = lowered.to_executorch().buffer

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        path.write_bytes(converted)
        path.with_name(f"{path.name}.json").write_text(json.dumps(dict(metadata), indent=2))

    return write


def open_network(path: Path, threads: int) -> Network:  # noqa: ARG001 - the runtime chooses them
    """Open a file in ExecuTorch's runtime."""
    import torch

    from egeunet.exporting.runtimes import one_by_one

    with needs_extra("executorch"):
        from executorch.runtime import Runtime
    method = Runtime.get().load_program(path).load_method("forward")
    return one_by_one(lambda image: method.execute([torch.from_numpy(image)])[0].numpy())
