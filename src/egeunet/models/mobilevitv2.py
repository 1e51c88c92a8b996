"""MobileViTv2 (width 0.5) with a plain decoder.

Mehta, Rastegari: Separable Self-attention for Mobile Vision Transformers. TMLR 2023, arXiv
2206.02680. The decoder is not theirs; see `plain_unet`.
"""

from __future__ import annotations

import functools

from egeunet.models.plain_unet import PlainUNet
from egeunet.models.registry import register

register(
    "mobilevitv2",
    # timm's own start silences every residual block, the authors' does not.
    functools.partial(PlainUNet, "mobilevitv2_050", {"zero_init_last": False}),
    paper="Mehta & Rastegari, MobileViTv2, TMLR 2023",
    arxiv="2206.02680",
    licence="Apache-2.0 (timm)",
    table=("1.87", "0.70"),
)
