"""Weights blobs for the C engine (`src/egeunet/engine`), which runs EGE-UNet alone.

The parameters stand in the order in which `read_layers` in `engine.c` reads them. The layer
normalization before a bridge's last convolution is part of it: with C = I - 11ᵀ/n,
`W norm(x) + b = (W diag(w) C) x / σ + (W shift + b)`. So is the head, in the last bridge.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from egeunet.errors import UsageError
from egeunet.exporting.layers import Array, affine_of, centring, matrix_of, numpy_of
from egeunet.models.egeunet import GAB, GHPA, EGEUNet
from egeunet.training.run import Run

_BLOCK = 4  # CONV_BLOCK in model.h
_DILATIONS = ((1, 1), (2, 2), (5, 5), (7, 7))
_HEADER_BYTES = 96
_VERSION = 1


def has_engine(run: Run) -> bool:
    """Return whether the engine runs a model: the whole EGE-UNet with one class."""
    model: Any = run.model
    if not isinstance(run.model, EGEUNet):
        return False
    convs = [stage.block for stage in (*model.encoder[:3], *model.decoder[3:])]
    blocks = [stage.block for stage in (*model.encoder[3:], *model.decoder[:3])]
    return (
        (model.in_channels, model.head.out_channels) == (3, 1)
        and len(model.mask_heads) == len(model.bridges) == len(model.decoder)
        and all(isinstance(conv, nn.Conv2d) for conv in convs)
        and all(isinstance(block, GHPA) for block in (*blocks, model.bottleneck))
        and all(isinstance(block.height_width.refine, nn.Sequential) for block in blocks)
        and all(isinstance(bridge, GAB) for bridge in model.bridges)
        and all([conv.dilation for conv in b.convs] == [*_DILATIONS] for b in model.bridges)
        and max(stage.norm.num_channels for stage in model.encoder) <= 256
    )


def pack(run: Run, metadata: Mapping[str, str], half: bool = False) -> bytes:
    """Return the weights blob of a trained model.

    Args:
        run: The trained model.
        metadata: Key-value pairs for the blob.
        half: Store the parameters in float16; the engine computes in float32.

    Raises:
        UsageError: The engine does not run this model.
    """
    if not has_engine(run):
        raise UsageError(
            f"The engine runs EGE-UNet with one class, not this {run.recipe.model}: use the "
            "format onnx."
        )
    model: Any = run.model
    values = np.concatenate([np.ravel(one) for one in _parameters(model)])
    parameters = values.astype("<f2" if half else "<f4").tobytes()
    text = json.dumps(dict(metadata), ensure_ascii=False).encode()
    widths = [stage.norm.num_channels for stage in model.encoder]
    widths.append(model.bottleneck.mix[-1].out_channels)
    header = struct.pack(
        "<4s12I",
        *(b"EGEU", _VERSION, int(half), *run.recipe.data.shape, *widths, len(text), values.size),
    )
    digest = hashlib.sha256(text + parameters).digest()
    return header.ljust(_HEADER_BYTES - len(digest), b"\0") + digest + text + parameters


def _parameters(model: Any) -> Iterator[Array]:
    for stage in model.encoder:
        yield from _block(stage.block)
        yield from affine_of(stage.norm)
    yield from _block(model.bottleneck)
    levels = zip(model.decoder, model.mask_heads, model.bridges, strict=True)
    for level, (stage, mask_head, bridge) in enumerate(levels, start=1):
        yield from _block(stage.block)
        yield from affine_of(stage.norm)
        yield from _conv(mask_head)
        yield from _conv(bridge.project)
        yield from affine_of(bridge.norm)
        yield from (numpy_of(conv.weight) for conv in bridge.convs)
        yield from (numpy_of(conv.bias) for conv in bridge.convs)
        norm, conv = bridge.tail
        (weight, shift), (matrix, bias) = affine_of(norm), matrix_of(conv)
        bias = bias + matrix @ shift
        matrix = matrix * weight @ centring(len(weight))
        if level == len(model.decoder):
            head, _ = matrix_of(model.head)
            matrix, bias = head @ matrix, head @ bias
        yield from (_in_blocks(matrix[:, :, None]), bias)
    yield from _conv(model.head)


def _block(block: nn.Module) -> Iterator[Array]:
    if not isinstance(block, GHPA):
        yield from _conv(block)
        return
    ghpa: Any = block
    yield from affine_of(ghpa.norm)
    for attention in (ghpa.height_width, ghpa.channel_height, ghpa.channel_width):
        depthwise, _, pointwise = attention.refine
        yield numpy_of(attention.tensor)
        for conv in (depthwise, pointwise):
            yield from (numpy_of(conv.weight), numpy_of(conv.bias))
    pointwise, _, depthwise = ghpa.local
    yield from _conv(pointwise)
    yield from affine_of(depthwise)
    norm, depthwise, _, pointwise = ghpa.mix
    yield from affine_of(norm)
    yield from affine_of(depthwise)
    yield from _conv(pointwise)


def _conv(conv: Any) -> Iterator[Array]:
    yield _in_blocks(numpy_of(conv.weight).reshape(conv.out_channels, conv.in_channels, -1))
    yield numpy_of(conv.bias)


def _in_blocks(weight: Array) -> Array:
    """Weights (out, in, taps) as [out / 4][in][taps][4], and what fills no block as they are."""
    whole = len(weight) // _BLOCK * _BLOCK
    blocks = weight[:whole].reshape(-1, _BLOCK, *weight.shape[1:]).transpose(0, 2, 3, 1)
    return np.concatenate([blocks.ravel(), weight[whole:].ravel()])
