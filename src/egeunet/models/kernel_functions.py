"""Autograd functions of the compiled CPU kernels (`egeunet/engine/kernels.c`).

Arguments and shapes are those of the functions in `kernels.py`, which are what callers use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from egeunet.engine.library import Long, call, load_kernels

GROUPS = 4


class GroupNormThen(Function):
    """Group normalization, then 2×2 max-pooling ("norm_pool") or resizing ("norm_resize")."""

    @staticmethod
    def forward(
        ctx: Any, name: str, x: Tensor, weight: Tensor, bias: Tensor, eps: float, H: int, W: int
    ) -> Tensor:
        x = _packed(x)
        B, C, h, w = x.shape
        ctx.name = name
        ctx.sizes = (B, h, w, C) if name == "norm_pool" else (B, h, w, H, W, C)
        out, mean, rstd = _empty(B, C, H, W), _empty(B, GROUPS), _empty(B, GROUPS)
        _call(name, x, weight, bias, eps, out, mean, rstd, *ctx.sizes)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        B, C, h, w = x.shape
        dx, dw, db = _empty(B, C, h, w), _empty(B, C), _empty(B, C)
        back = f"{ctx.name}_back"
        _call(back, x, weight, _packed(grad), mean, rstd, dx, dw, db, *ctx.sizes)
        return None, dx, dw.sum(0), db.sum(0), None, None, None


class Resize(Function):
    """Bilinear resizing with aligned corners."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, H: int, W: int) -> Tensor:
        B, C, h, w = ctx.shape = x.shape
        out = _empty(B, C, H, W)
        _call("resize", _packed(x), out, B, h, w, H, W, C)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        B, C, h, w = ctx.shape
        dx = _empty(B, C, h, w)
        _call("resize_back", _packed(grad), dx, B, h, w, *grad.shape[-2:], C)
        return dx, None, None


class Gelu(Function):
    """x Φ(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = _packed(x)
        out = torch.empty_like(x)
        _call("gelu", x, out, Long(x.numel()))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call("gelu_back", x, _packed(grad), dx, Long(x.numel()))
        return dx


class ChannelNorm(Function):
    """Layer normalization over the channels of each pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x, ctx.eps = _packed(x), eps
        B, C, H, W = x.shape
        out = _empty(B, C, H, W)
        _call("channel_norm", x, weight, bias, eps, out, B, Long(H * W), C)
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        B, C, H, W = x.shape
        dx, dw, db = _empty(B, C, H, W), _empty(B, C), _empty(B, C)
        sizes = (B, Long(H * W), C)
        _call("channel_norm_back", x, weight, _packed(grad), ctx.eps, dx, dw, db, *sizes)
        return dx, dw.sum(0), db.sum(0), None


class _BridgeLayout(ctypes.Structure):
    """The `Bridge` of `kernels.c`."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("h", "w", "H", "W", "C", "masked")),
        ("dilation", ctypes.c_int * GROUPS),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias", "conv_weight")),
        *((name, ctypes.c_void_p) for name in ("conv_bias", "tail_weight", "tail_bias")),
        *((name, ctypes.c_void_p) for name in ("out_weight", "out_bias")),
    )


class Bridge(Function):
    """A group aggregation bridge after its first projection."""

    @staticmethod
    def forward(
        ctx: Any,
        high: Tensor,
        low: Tensor,
        mask: Tensor | None,
        dilations: tuple[int, ...],
        *weights: Tensor,
    ) -> Tensor:
        high, low, ctx.dilations = _packed(high), _packed(low), dilations
        mask = None if mask is None else mask.contiguous()
        ctx.save_for_backward(high, low, mask, *weights)
        out = _empty(*low.shape)
        layout = _bridge_layout(high, low, mask, weights, dilations)
        _call("bridge", layout, high, low, mask, out, len(low))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        high, low, mask, *weights = ctx.saved_tensors
        layout = _bridge_layout(high, low, mask, weights, ctx.dilations)
        dmask = None if mask is None else torch.empty_like(mask)
        inputs = [_empty(*high.shape), _empty(*low.shape), dmask]
        per_image = [_empty(len(low), weight.numel()) for weight in weights]
        _call("bridge_back", layout, high, low, mask, _packed(grad), *inputs, *per_image, len(low))
        sums = (part.sum(0) for part in per_image)
        return (
            *inputs,
            None,
            *(part.view_as(one) for part, one in zip(sums, weights, strict=True)),
        )


def _bridge_layout(
    high: Tensor,
    low: Tensor,
    mask: Tensor | None,
    weights: Sequence[Tensor],
    dilations: tuple[int, ...],
) -> Any:
    sizes = (*high.shape[-2:], *low.shape[-2:], low.shape[1], mask is not None)
    pointers = (weight.data_ptr() for weight in weights)
    return ctypes.byref(_BridgeLayout(*sizes, (ctypes.c_int * GROUPS)(*dilations), *pointers))


class MaskSums(Function):
    """Σ cross-entropy, Σ p·y, Σ p, Σ y of each image."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:  # C would read beyond the smaller one
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ"
            )
        logits, target = logits.contiguous(), target.contiguous()
        sums = _empty(len(logits), 4)
        _call("mask_sums", logits, target, sums, len(logits), Long(logits[0].numel()))
        ctx.save_for_backward(logits, target)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target = ctx.saved_tensors
        out = torch.empty_like(logits)
        entropy, overlap, predicted, _ = grad.t().contiguous().unbind()
        sizes = (len(logits), Long(logits[0].numel()))
        _call("mask_sums_back", logits, target, entropy, overlap, predicted, out, *sizes)
        return out, None


def _call(name: str, *arguments: Any) -> None:
    call(load_kernels(), name, *arguments)


def _packed(x: Tensor) -> Tensor:
    """The same values with the channels of a pixel next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _empty(*shape: int) -> Tensor:
    """An uninitialized tensor; a map (B, C, H, W) has channels last."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    # Explicit, whatever the caller has set as torch's default type and device.
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=layout)
