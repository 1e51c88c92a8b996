"""Compiled CPU kernels for EGE-UNet's layers and loss, and the checks that decide when they run.

Torch's kernels suit wide layers; this network has 8 to 64 channels, and its four channel groups at
128×128 have 5. `egeunet/engine/kernels.c` computes the same in planes that stay in the cache.
Callers ask `usable`, `usable_channel_norm`, `usable_norm` or `usable_bridge` first and
compute the plain formulas of `layers.py` and `egeunet.py` where the answer is no.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from egeunet.engine.library import load_kernels
from egeunet.models.kernel_functions import (
    GROUPS,
    Bridge,
    ChannelNorm,
    Gelu,
    GroupNormThen,
    MaskSums,
    Resize,
)

_BRIDGE_EPS = 1e-6  # EPS_BRIDGE in `kernels.c`
_MAX_DILATION = 8  # PAD in `kernels.c`, the border of zeros around a plane
_MAX_ROW = 1 << 16  # floats of one row of a map, which `kernels.c` keeps on the stack


def usable(*tensors: Tensor) -> bool:
    """Return whether the kernels may compute with these tensors here and now.

    They take plain float32 tensors on the CPU, the first of shape (B, C, H, W), outside of
    autocast, tracing, compilation, export, `torch.func` and forward-mode differentiation.
    """
    return (
        _mode_is_plain()
        and all(type(t) is Tensor or type(t) is nn.Parameter for t in tensors)
        and tensors[0].dim() == 4
        and tensors[0].numel() > 0
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not any(t.layout != torch.strided or t.is_neg() for t in tensors)
        and load_kernels() is not None
    )


def usable_channel_norm(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Return whether `channel_norm` takes these; weight and bias are (C,)."""
    return usable(x, weight, bias) and weight.shape == bias.shape == x.shape[1:2]


def usable_norm(x: Tensor, norm: Any) -> bool:
    """Return whether `norm_pool` and `norm_resize` may stand for `norm` and what follows it."""
    return (
        _mode_is_plain()
        and type(norm) is nn.GroupNorm
        and _untouched(norm)
        and norm.num_groups == GROUPS
        and norm.weight is not None
        and usable(x, norm.weight, norm.bias)
        and norm.weight.shape == norm.bias.shape == x.shape[1:2]
        and x.shape[2] % 2 == x.shape[3] % 2 == 0
    )


def usable_bridge(
    high: Tensor,
    low: Tensor,
    mask: Tensor | None,
    norm: Any,
    convs: Iterable[Any],
    tail: Iterable[Any],
) -> bool:
    """Return whether `bridge` computes what these layers of a GAB do; see `bridge`."""
    from egeunet.models.layers import ChannelLayerNorm

    if not _mode_is_plain() or type(tail) is not nn.Sequential:
        return False
    kinds = [ChannelLayerNorm, *[nn.Conv2d] * GROUPS, nn.Sequential, ChannelLayerNorm, nn.Conv2d]
    layers = [norm, *convs, tail, *tail]
    if [type(layer) for layer in layers] != kinds or not all(map(_untouched, layers)):
        return False
    tail_norm, out = tail
    inputs = [low, high] if mask is None else [low, high, mask]
    weights = [t for one in (norm, *convs, tail_norm, out) for t in (one.weight, one.bias)]
    if any(weight is None for weight in weights) or not usable(*inputs, *weights):
        return False
    B, C, H, W = low.shape
    group = C // GROUPS * 2 + (mask is not None)
    return (
        _is_channel_norm(norm, GROUPS * group, GROUPS)
        and all(_is_conv(conv, (group, 1, 3, 3), group) for conv in convs)
        and all(conv.padding == conv.dilation for conv in convs)
        and all(d[0] == d[1] <= _MAX_DILATION for d in (conv.dilation for conv in convs))
        and _is_channel_norm(tail_norm, GROUPS * group, groups=1)
        and _is_conv(out, (C, GROUPS * group, 1, 1), groups=1)
        and out.padding == (0, 0)
        and high.shape[:2] == low.shape[:2]
        and (mask is None or mask.shape == (B, 1, H, W))
        and C * W <= _MAX_ROW
    )


def _mode_is_plain() -> bool:
    """Whether operators run one by one on real values, in the precision of their inputs."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def _is_channel_norm(norm: Any, channels: int, groups: int) -> bool:
    return (norm.groups, norm.eps, norm.weight.shape) == (groups, _BRIDGE_EPS, (channels,))


def _is_conv(conv: Any, shape: tuple[int, ...], groups: int) -> bool:
    """Whether it is a convolution of that weight shape with zeros around and stride 1."""
    return (
        conv.weight.shape == shape
        and conv.groups == groups
        and conv.stride == (1, 1)
        and conv.padding_mode == "zeros"
    )


def _untouched(layer: nn.Module) -> bool:
    """Whether calling the layer would do what its class says and nothing else.

    Hooks also are how pruning and the old weight normalisation work.
    """
    return "forward" not in layer.__dict__ and not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def norm_pool(x: Tensor, norm: Any) -> Tensor:
    """Group normalization, then 2×2 max-pooling: (B, C, H, W) → (B, C, H/2, W/2)."""
    height, width = x.shape[-2:]
    return GroupNormThen.apply("norm_pool", x, *_affine(norm), height // 2, width // 2)


def norm_resize(x: Tensor, norm: Any, size: Sequence[int]) -> Tensor:
    """Group normalization, then bilinear resizing: (B, C, h, w) → (B, C, *size)."""
    return GroupNormThen.apply("norm_resize", x, *_affine(norm), *size)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing with aligned corners: (B, C, h, w) → (B, C, *size)."""
    return Resize.apply(x, *size)


def gelu(x: Tensor) -> Tensor:
    """Return x Φ(x) of (B, C, H, W), Φ being the normal distribution function."""
    return Gelu.apply(x)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalization over all channels of each pixel of (B, C, H, W)."""
    return ChannelNorm.apply(x, weight.contiguous(), bias.contiguous(), float(eps))


def bridge(
    high: Tensor,
    low: Tensor,
    mask: Tensor | None,
    norm: Any,
    convs: Iterable[Any],
    tail: Iterable[Any],
) -> Tensor:
    """A group aggregation bridge after its first projection; see `egeunet.models.egeunet.GAB`."""
    tail_norm, out = tail
    return Bridge.apply(
        high,
        low,
        mask,
        tuple(conv.dilation[0] for conv in convs),
        *_affine(norm)[:2],
        torch.cat([conv.weight for conv in convs]).contiguous(),
        torch.cat([conv.bias for conv in convs]),
        *_affine(tail_norm)[:2],
        out.weight.contiguous(),
        out.bias.contiguous(),
    )


def mask_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Σ cross-entropy, Σ p·y, Σ p, Σ y of each image, (B, 4); no gradient for the target."""
    return MaskSums.apply(logits, target)


def bce_dice(logits: Tensor, target: Tensor, smooth: float) -> Tensor:
    """Binary cross-entropy + Dice loss; see `egeunet.training.losses.dice_loss`."""
    entropy, overlap, predicted, true = mask_sums(logits, target).unbind(1)
    dice = (2 * overlap + smooth) / (predicted + true + smooth)
    return entropy.sum() / logits.numel() + 1 - dice.mean()


def _affine(norm: Any) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and eps as C reads them: contiguous, and a float even if it was set to 1."""
    return norm.weight.contiguous(), norm.bias.contiguous(), float(norm.eps)
