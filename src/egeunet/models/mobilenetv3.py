"""MobileNetV3-Small with a plain decoder.

Howard et al.: Searching for MobileNetV3. ICCV 2019, arXiv 1905.02244. The decoder is not theirs;
see `plain_unet`.
"""

from __future__ import annotations

import functools

from egeunet.models.plain_unet import PlainUNet
from egeunet.models.registry import register

register(
    "mobilenetv3",
    functools.partial(PlainUNet, "mobilenetv3_small_100", {}),
    paper="Howard et al., MobileNetV3, ICCV 2019",
    arxiv="1905.02244",
    licence="Apache-2.0 (timm)",
    table=("1.19", "0.10"),
)
