"""Fast CPU code for the parts of EGE-UNet that general kernels do badly: `kernels.c`.

The framework's kernels are made for wide channels; this network has 8 to 64, and its four channel
groups at 128×128 have 5. `kernels.c` computes the same in planes that stay in the cache; see
`egeunet.native` for how it comes to run. Without a compiler, on other devices, in other precisions,
under autocast, compile or export, the plain formulas of `layers.py` and `egeunet.py` run instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from egeunet.native import Long, call, load

_SOURCE = Path(__file__).with_suffix(".c")
_GROUPS = 4
MAX_DILATION = 8  # of a bridge; the border of zeros in `kernels.c`


def usable(*tensors: Tensor) -> bool:
    """Whether `kernels.c` can compute with these tensors here and now."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and type(tensors[0]) is Tensor  # neither traced nor counted
        and not torch._C._len_torch_dispatch_stack()
        and library() is not None
    )


def library() -> Any:
    """Return the compiled `kernels.c`, or None where it cannot be had."""
    return load(_SOURCE)


def norm_pool(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation, then the maximum of 2×2: (B, C, H, W) → (B, C, H/2, W/2)."""
    return _NormPool.apply(x, norm.weight, norm.bias, norm.eps)


def norm_resize(x: Tensor, norm: nn.GroupNorm, size: Sequence[int]) -> Tensor:
    """Group normalisation, then bilinear resizing: (B, C, h, w) → (B, C, *size)."""
    return _NormResize.apply(x, norm.weight, norm.bias, norm.eps, *size)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing with the corners kept: (B, C, h, w) → (B, C, *size)."""
    return _Resize.apply(x, *size)


def gelu(x: Tensor) -> Tensor:
    """Return x Φ(x), Φ the share of the normal distribution below x, of (B, C, H, W)."""
    return _Gelu.apply(x)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation over all channels of each pixel of (B, C, H, W)."""
    return _ChannelNorm.apply(x, weight, bias, eps)


def bridge(
    high: Tensor,
    low: Tensor,
    mask: Tensor | None,
    norm: nn.Module,
    convs: Iterable[Any],
    tail: nn.Sequential,
) -> Tensor:
    """A group aggregation bridge behind its first projection; see `egeunet.models.egeunet.GAB`."""
    convs, (tail_norm, out) = list(convs), tail
    return _Bridge.apply(
        high,
        low,
        mask,
        norm.weight,
        norm.bias,
        torch.cat([conv.weight for conv in convs]),
        torch.cat([conv.bias for conv in convs]),
        tail_norm.weight,
        tail_norm.bias,
        out.weight,
        out.bias,
        tuple(conv.dilation[0] for conv in convs),
    )


def mask_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Σ cross-entropy, Σ p·y, Σ p, Σ y of each image, (B, 4); no gradient for the target."""
    return _MaskSums.apply(logits, target)


def bce_dice(logits: Tensor, target: Tensor, smooth: float) -> Tensor:
    """Binary cross-entropy + Dice loss; see `egeunet.training.losses.dice_loss`."""
    return _BceDice.apply(logits, target, smooth)


class _NormPool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = _packed(x)
        B, C, H, W = x.shape
        out = _empty(B, C, H // 2, W // 2)
        mean, rstd = torch.empty(B, _GROUPS), torch.empty(B, _GROUPS)
        _call("norm_pool", x, weight, bias, eps, out, mean, rstd, B, H, W, C)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        B, C, H, W = x.shape
        dx, dw, db = _empty(B, C, H, W), torch.empty(B, C), torch.empty(B, C)
        grad = _packed(grad)
        _call("norm_pool_back", x, weight, grad, mean, rstd, dx, dw, db, B, H, W, C)
        return dx, dw.sum(0), db.sum(0), None


class _NormResize(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, H: int, W: int
    ) -> Tensor:
        x = _packed(x)
        B, C, h, w = x.shape
        out = _empty(B, C, H, W)
        mean, rstd = torch.empty(B, _GROUPS), torch.empty(B, _GROUPS)
        _call("norm_resize", x, weight, bias, eps, out, mean, rstd, B, h, w, H, W, C)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        B, C, h, w = x.shape
        H, W = grad.shape[-2:]
        dx, dw, db = _empty(B, C, h, w), torch.empty(B, C), torch.empty(B, C)
        grad = _packed(grad)
        _call("norm_resize_back", x, weight, grad, mean, rstd, dx, dw, db, B, h, w, H, W, C)
        return dx, dw.sum(0), db.sum(0), None, None, None


class _Resize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, H: int, W: int) -> Tensor:
        x = _packed(x)
        B, C, h, w = ctx.shape = x.shape
        out = _empty(B, C, H, W)
        _call("resize", x, out, B, h, w, H, W, C)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        B, C, h, w = ctx.shape
        H, W = grad.shape[-2:]
        dx = _empty(B, C, h, w)
        _call("resize_back", _packed(grad), dx, B, h, w, H, W, C)
        return dx, None, None


class _Gelu(Function):
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


class _ChannelNorm(Function):
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
        dx, dw, db = _empty(B, C, H, W), torch.empty(B, C), torch.empty(B, C)
        grad = _packed(grad)
        _call("channel_norm_back", x, weight, grad, ctx.eps, dx, dw, db, B, Long(H * W), C)
        return dx, dw.sum(0), db.sum(0), None


class _BridgeLayout(ctypes.Structure):
    """The `Bridge` of `kernels.c`."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("h", "w", "H", "W", "C", "masked")),
        ("dilation", ctypes.c_int * _GROUPS),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias", "conv_weight")),
        *((name, ctypes.c_void_p) for name in ("conv_bias", "tail_weight", "tail_bias")),
        *((name, ctypes.c_void_p) for name in ("out_weight", "out_bias")),
    )


class _Bridge(Function):
    @staticmethod
    def forward(ctx: Any, high: Tensor, low: Tensor, mask: Tensor | None, *rest: Any) -> Tensor:
        *weights, ctx.dilations = rest
        high, low = _packed(high), _packed(low)
        mask = None if mask is None else mask.contiguous()
        ctx.save_for_backward(high, low, mask, *weights)
        out = _empty(*low.shape)
        layout = _bridge_layout(high, low, mask, weights, ctx.dilations)
        _call("bridge", layout, high, low, mask, out, len(low))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        high, low, mask, *weights = ctx.saved_tensors
        layout = _bridge_layout(high, low, mask, weights, ctx.dilations)
        dmask = None if mask is None else torch.empty_like(mask)
        inputs = [_empty(*high.shape), _empty(*low.shape), dmask]
        per_image = [torch.empty(len(low), *weight.shape) for weight in weights]
        grad = _packed(grad)
        _call("bridge_back", layout, high, low, mask, grad, *inputs, *per_image, len(low))
        return (*inputs, *(part.sum(0) for part in per_image), None)


def _bridge_layout(
    high: Tensor,
    low: Tensor,
    mask: Tensor | None,
    weights: Sequence[Tensor],
    dilations: tuple[int, ...],
) -> Any:
    layout = _BridgeLayout(
        *high.shape[-2:],
        *low.shape[-2:],
        low.shape[1],
        mask is not None,
        (ctypes.c_int * _GROUPS)(*dilations),
        *(weight.data_ptr() for weight in weights),
    )
    return ctypes.byref(layout)


class _MaskSums(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        logits, target, sums = _mask_sums(logits, target)
        ctx.save_for_backward(logits, target)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target = ctx.saved_tensors
        entropy, overlap, said, _ = grad.t().contiguous().unbind()
        return _mask_sums_back(logits, target, entropy, overlap, said), None


class _BceDice(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, smooth: float) -> Tensor:
        logits, target, sums = _mask_sums(logits, target)
        entropy, overlap, said, true = sums.unbind(1)
        size = said + true + smooth
        dice = (2 * overlap + smooth) / size
        ctx.save_for_backward(logits, target, dice, size)
        return entropy.sum() / logits.numel() + 1 - dice.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, dice, size = ctx.saved_tensors
        B = len(logits)
        factor = float(grad)
        entropy = torch.full((B,), factor / logits.numel())
        # d(1 − dice)/dp = (dice − 2 y) / size, averaged over images
        overlap = size.reciprocal() * (-2 * factor / B)
        whole = dice / size * (factor / B)
        return _mask_sums_back(logits, target, entropy, overlap, whole), None, None


def _mask_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if logits.shape != target.shape:  # C would read beyond the smaller one
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ")
    logits, target = logits.contiguous(), target.contiguous()
    B, P = len(logits), logits[0].numel()
    sums = torch.empty(B, 4)
    _call("mask_sums", logits, target, sums, B, Long(P))
    return logits, target, sums


def _mask_sums_back(
    logits: Tensor, target: Tensor, entropy: Tensor, overlap: Tensor, whole: Tensor
) -> Tensor:
    B, P = len(logits), logits[0].numel()
    out = torch.empty_like(logits)
    _call("mask_sums_back", logits, target, entropy, overlap, whole, out, B, Long(P))
    return out


def _call(name: str, *arguments: Any) -> None:
    call(library(), name, *arguments)


def _packed(x: Tensor) -> Tensor:
    """The same values with the channels of a pixel beside each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _empty(B: int, C: int, H: int, W: int) -> Tensor:
    return torch.empty((B, C, H, W), memory_format=torch.channels_last)
