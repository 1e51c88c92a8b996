"""The structure loss: cross-entropy and IoU that look hardest where the mask changes.

Wei, Wang, Huang. F³Net: Fusion, Feedback and Focus for Salient Object Detection. AAAI 2020, section
"Pixel Position Aware Loss"; taken up by PraNet (Fan et al., MICCAI 2020) and TransFuse (Zhang et
al., MICCAI 2021), which weighs it over three outputs.

The public code of F³Net and PraNet loses the weights of the cross-entropy through a misspelt
argument (its mean is taken first); TransFuse's does not, nor does this.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from egeunet.training.losses import at_least_float32, cross_entropy, foreground

WINDOW = 31  # pixels, the neighbourhood a pixel is compared with
FOCUS = 5.0
SMOOTH = 1.0


def boundary_weights(truth: Tensor) -> Tensor:
    """Return 1 + 5 |mean of the 31×31 neighbourhood − truth| per pixel: 1 … 6.

    Args:
        truth: (B, K, H, W), 0 or 1 for each of K foreground classes; of several classes the
            largest difference counts. Beyond the border there is background.

    Returns:
        (B, 1, H, W).
    """
    # A mean over a square is one over rows of means over columns: 62 sums a pixel, not 961.
    around = F.avg_pool2d(truth, (WINDOW, 1), stride=1, padding=(WINDOW // 2, 0))
    around = F.avg_pool2d(around, (1, WINDOW), stride=1, padding=(0, WINDOW // 2))
    return 1 + FOCUS * (around - truth).abs().amax(1, keepdim=True)


def structure_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over images of weighted cross-entropy + weighted IoU loss.

    With w of `boundary_weights`, sums over the pixels of an image, probability p and truth y:
    Σ w CE / Σ w + 1 − (Σ w p y + 1) / (Σ w (p + y − p y) + 1).

    Args:
        logits: (B, 1, H, W), or (B, K, H, W) where the IoU loss is the mean over the classes
            1 … K-1.
        target: (B, 1, H, W) in 0…1, or class indices (B, H, W) of an integer type for K > 1.
    """
    logits = at_least_float32(logits)
    probability, truth = foreground(logits, target)
    entropy = cross_entropy(logits, target, reduction="none").view_as(truth[:, :1])
    weights = boundary_weights(truth)
    entropy = (weights * entropy).sum((2, 3)) / weights.sum((2, 3))  # (B, 1)
    overlap = (weights * probability * truth).sum((2, 3))  # (B, K)
    union = (weights * (probability + truth)).sum((2, 3)) - overlap
    return (entropy + 1 - (overlap + SMOOTH) / (union + SMOOTH)).mean()
