"""How good a mask probably is, told from the probabilities it was cut from.

Two numbers of the probability map p are enough: the Dice that it expects of itself, Σp² / Σp, and
its mean. A logistic function of both, fitted on the validation part when weights are exported
(`egeunet.export.quality`), turns them into an expected Dice. It is a statement about photos like
those it was fitted on; no guarantee, and no diagnosis.
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
"""The same as a Dice score: a mask of which less is expected wants to be looked at."""


@dataclass(frozen=True)
class QualityModel:
    """The fitted numbers, one set for one view of a photo and one for the mean of mirror images.

    Args:
        plain: Intercept and the weights of `evidence`.
        tta: Likewise, for test-time augmentation.
        photos: How many it was fitted on.
    """

    plain: tuple[float, ...]
    tta: tuple[float, ...]
    photos: int

    @classmethod
    def from_json(cls, text: str) -> QualityModel:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            values = json.loads(text)
            plain, tta = (tuple(map(float, values[name])) for name in ("plain", "tta"))
            photos = int(values["photos"])
        except (KeyError, TypeError) as error:
            raise ValueError(text) from error
        if len(plain) != 3 or len(tta) != 3 or not all(map(math.isfinite, plain + tta)):
            raise ValueError(text)
        return cls(plain, tta, photos)

    def to_json(self) -> str:
        """Return it as the metadata of a graph holds it."""
        return json.dumps(asdict(self))

    def expect_dice(self, scores: NDArray[np.float32], tta: bool = False) -> float:
        """Return the Dice score to be expected of the mask of a probability map (h, w), 0…1."""
        intercept, *weights = self.tta if tta else self.plain
        return float(1 / (1 + np.exp(-(intercept + np.dot(weights, evidence(scores))))))


def evidence(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what speaks for the quality of a mask.

    Args:
        scores: Probability of the lesion at the network's size, (h, w).

    Returns:
        float64 (2,): log(1.01 - Σp² / Σp), lower when the network is surer of what it marked, and
        log(0.001 + mean p), the size of it: of two masks as sure, the larger is the better one.
    """
    p = scores.ravel()
    total, square = float(p.sum()), float(np.dot(p, p))
    agreement = min(square / total, 1.0) if total else 0.0
    return np.log([1.01 - agreement, 0.001 + total / p.size])
