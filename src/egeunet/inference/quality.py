"""Estimated Dice score of a mask, from the probabilities it was cut from.

A logistic function of two features of the probability map p, fitted on the validation split when
weights are exported (`egeunet.exporting.quality`). The estimate holds for images like those it was
fitted on; it is no guarantee and no diagnosis.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

FAILURE = 0.65
"""A Jaccard index below it is a failure, as in the ISIC 2018 challenge."""
REVIEW = 2 * FAILURE / (1 + FAILURE)
"""The same as a Dice score: masks with a lower estimate should be reviewed."""


@dataclass(frozen=True)
class DiceEstimator:
    """Coefficients of the estimate.

    Args:
        plain: Intercept and the weights of `features`.
        tta: Likewise, for test-time augmentation.
        images: Number of images it was fitted on.
    """

    plain: tuple[float, ...]
    tta: tuple[float, ...]
    images: int

    @classmethod
    def from_json(cls, text: str) -> DiceEstimator:
        """Parse what `to_json` wrote.

        Raises:
            ValueError: The text is something else.
        """
        try:
            values = json.loads(text)
            plain, tta = (tuple(map(float, values[name])) for name in ("plain", "tta"))
            images = int(values["images"])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(text[:100]) from error
        if len(plain) != 3 or len(tta) != 3 or not all(map(math.isfinite, plain + tta)):
            raise ValueError(text[:100])
        return cls(plain, tta, images)

    def to_json(self) -> str:
        """Return the coefficients as JSON, for the metadata of an exported graph."""
        return json.dumps(asdict(self))

    def estimate(self, scores: NDArray[np.float32], tta: bool = False) -> float:
        """Estimate the Dice score, 0…1, of the mask of a probability map (h, w)."""
        intercept, *weights = self.tta if tta else self.plain
        return float(1 / (1 + np.exp(-(intercept + np.dot(weights, features(scores))))))


def features(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the features that the Dice score is estimated from.

    Args:
        scores: Foreground probability at the network's size, float32 (h, w) in 0…1.

    Returns:
        float64 (2,): log(1.01 - Σp² / Σp), lower when the network is more certain, and
        log(0.001 + mean p), the size of the mask: of two equally sure masks the larger is better.
    """
    p = scores.ravel()
    total, square = float(p.sum()), float(np.dot(p, p))
    agreement = min(square / total, 1.0) if total else 0.0
    return np.log([1.01 - agreement, 0.001 + total / p.size])
