"""EfficientNet-Lite0 with a plain decoder: the teacher of our own recipes, no row of the paper.

Tan, Le: EfficientNet. ICML 2019, arXiv 1905.11946; Lite0 is its first size without
squeeze-and-excitation, for small devices. It is here for its ImageNet weights: 3.9 million
parameters that a CPU can still train. The decoder is not theirs; see `plain_unet`.
"""

from __future__ import annotations

import functools

from egeunet.models.plain_unet import PlainUNet
from egeunet.models.registry import register

register(
    "efficientnet_lite0",
    functools.partial(PlainUNet, "tf_efficientnet_lite0", {}),
    paper="Tan & Le, EfficientNet, ICML 2019",
    arxiv="1905.11946",
    licence="Apache-2.0 (timm)",
)
