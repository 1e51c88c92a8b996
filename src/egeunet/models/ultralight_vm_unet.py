"""UltraLight VM-UNet: Parallel Vision Mamba for skin lesion segmentation.

Wu, Liu, Ning, Liang, Chang. UltraLight VM-UNet: Parallel Vision Mamba Significantly Reduces
Parameters for Skin Lesion Segmentation. Patterns 6, 2025, arXiv 2403.20035.

Six stages of 8 … 64 channels. The deep stages run one small state space model (Mamba: Gu & Dao
2023, arXiv 2312.00752) over the pixels of four channel groups in parallel; all skips together pass
the attention bridge of MALUNet. One output, trained with cross-entropy + Dice.

As in the published code, the bottleneck takes the fifth encoder feature from before the bridge, the
final 1×1 convolution comes before the last upsampling, both norms of a stage share their
parameters, and the biases of the time steps start at 0. The scan is plain PyTorch and, as in
published counts, not part of the MACs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.malunet import GROUPS, MALUNet
from egeunet.models.registry import register

STATES = 16  # N, per channel
KERNEL = 4  # of the causal convolution
EXPANSION = 2


def scan(decay: Tensor, value: Tensor) -> Tensor:
    """Return h_t = decay_t · h_{t-1} + value_t for every t along dimension 1, h_{-1} being 0.

    Two steps in a row are one with decay a₂ a₁ and value a₂ v₁ + v₂. So the odd steps are a scan of
    half the length, from which the even ones follow: about 2 log₂ L operations in a row instead of
    L. Nothing is divided, so that decays near 0 are exact.

    Args:
        decay: (B, L, …), in 0…1.
        value: The same shape.
    """
    length = value.shape[1]
    if length == 1:
        return value
    if length % 2:
        last = value[:, -1:]
        head = scan(decay[:, :-1], value[:, :-1])
        return torch.cat((head, decay[:, -1:] * head[:, -1:] + last), dim=1)
    early, late = decay.unflatten(1, (-1, 2)).unbind(2)
    first, second = value.unflatten(1, (-1, 2)).unbind(2)  # (B, L/2, …)
    odd = scan(late * early, late * first + second)
    even = torch.cat((first[:, :1], early[:, 1:] * odd[:, :-1] + first[:, 1:]), dim=1)
    return torch.stack((even, odd), dim=2).flatten(1, 2)


class Mamba(nn.Module):
    """Selective state space model over a sequence (Gu & Dao, Algorithm 2 and Figure 3).

    Args:
        channels: C of the sequence.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        self.rank = math.ceil(channels / 16)
        self.enter = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, KERNEL, padding=KERNEL - 1, groups=inner)
        self.select = nn.Linear(inner, self.rank + 2 * STATES, bias=False)
        self.step = nn.Linear(self.rank, inner)
        rates = torch.arange(1, STATES + 1, dtype=torch.float32)
        self.log_rate = nn.Parameter(torch.log(rates).repeat(inner, 1))
        self.direct = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) to the same shape."""
        content, gate = self.enter(x).chunk(2, dim=-1)  # (B, L, D) each, D = 2 C
        content = self.conv(content.mT)[..., : x.shape[1]].mT  # of this and the three steps before
        content = F.silu(content)
        sizes = self.rank, STATES, STATES
        step, write, read = self.select(content).split(sizes, dim=-1)
        step = F.softplus(self.step(step)).unsqueeze(-1)  # (B, L, D, 1)
        decay = torch.exp(-step * torch.exp(self.log_rate))  # (B, L, D, N)
        state = scan(decay, step * content.unsqueeze(-1) * write.unsqueeze(-2))
        y = (state * read.unsqueeze(-2)).sum(-1) + self.direct * content
        return self.leave(y * F.silu(gate))


class ParallelMamba(nn.Module):
    """PVM layer: one Mamba over four channel groups, between two norms with shared parameters.

    Args:
        in_channels: C_in, divisible by 4.
        out_channels: C_out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mamba = Mamba(in_channels // GROUPS)
        self.residual_scale = nn.Parameter(torch.ones(1))
        self.mix = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        tokens = self.norm(x.flatten(2).mT)  # (B, H·W, C_in)
        groups = tokens.unflatten(-1, (GROUPS, -1)).transpose(1, 2).flatten(0, 1)
        groups = self.mamba(groups) + self.residual_scale * groups  # (4 B, H·W, C_in / 4)
        tokens = groups.unflatten(0, (-1, GROUPS)).transpose(1, 2).flatten(2)
        return self.mix(self.norm(tokens)).mT.unflatten(-1, x.shape[-2:])


class UltraLightVMUNet(MALUNet):
    """UltraLight VM-UNet: MALUNet with parallel Mamba in its deep stages.

    Args:
        in_channels: Channels of the image, in 0…255, min-max scaled per image.
        num_classes: See `create_model`.
    """

    ONE_SIZE: ClassVar[bool] = True  # an exported graph has the scan of one image size

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__(
            in_channels=in_channels, num_classes=num_classes, down=ParallelMamba, up=ParallelMamba
        )
        self.apply(_init_linear)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


register(
    "ultralight_vm_unet",
    UltraLightVMUNet,
    paper="Wu et al., UltraLight VM-UNet, Patterns 2025",
    arxiv="2403.20035",
    licence="MIT",
)
