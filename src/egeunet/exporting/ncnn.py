"""ncnn (`model.ncnn.param` and `model.ncnn.bin`), a small C++ runtime for phones and boards."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from egeunet.errors import EgeunetError, needs_extra

if TYPE_CHECKING:
    from egeunet.exporting.formats import Writer
    from egeunet.exporting.runtimes import Batch, Network
    from egeunet.training.run import Run


def convert(run: Run) -> Writer:
    """Convert with pnnx; the metadata lies beside the files, in `model.ncnn.json`.

    Raises:
        EgeunetError: pnnx fails.
    """
    import torch

    from egeunet.exporting.rewrite import fit_float16

    with needs_extra("ncnn"):
        import pnnx
    shape = 1, 3, *run.recipe.data.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and what pnnx reads
        traced = torch.jit.trace(fit_float16(run.model).eval(), torch.zeros(shape))

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            traced.save(folder / "model.pt")
            sizes = f"inputshape={[*shape]}".replace(" ", "")
            command = [pnnx.EXEC_PATH, "model.pt", sizes, "fp16=0"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if not (folder / "model.ncnn.bin").is_file():
                raise EgeunetError(f"pnnx cannot convert {run.recipe.model}: {done.stderr[-200:]}")
            for suffix in (".param", ".bin"):
                shutil.copy(folder / f"model.ncnn{suffix}", path.with_suffix(suffix))
        path.with_suffix(".json").write_text(json.dumps(dict(metadata), indent=2))

    return write


def open_network(path: Path, threads: int) -> Network:
    """Open files in ncnn, computing in float32."""
    from egeunet.exporting.runtimes import one_by_one

    with needs_extra("ncnn"):
        import ncnn
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(image: Batch) -> Batch:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0]))
        return np.array(extractor.extract("out0")[1])[None]

    return one_by_one(run)
