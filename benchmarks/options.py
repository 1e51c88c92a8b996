"""What the options of the Segmenter do to the score, and reduced decoding to the mask.

    python benchmarks/options.py --weights isic2018 --data ../shared/data/isic2018

A row per set of options is added to options.jsonl: scores on the test part of the holdout
split, and the difference to no option on the same photos. Nothing is chosen by them. The last row
is the IoU between the masks of large JPEG files decoded at reduced scale and in full; the large
photos are photos of the test part, enlarged to 12 megapixels.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from egeunet.data.cache import load_arrays
from egeunet.data.datasets import open_folder
from egeunet.data.splits import split_dataset
from egeunet.environment import environment
from egeunet.evaluation.evaluator import evaluate_arrays
from egeunet.evaluation.predictors import Predictor
from egeunet.evaluation.results_store import append_result
from egeunet.evaluation.statistics import compare_pooled
from egeunet.files import sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights
from inference import enlarged

OPTIONS: dict[str, dict[str, bool]] = {
    "none": {},
    "tta": {"tta": True},
    "largest component": {"largest_component": True},
    "fill holes": {"fill_holes": True},
    "largest component, fill holes": {"largest_component": True, "fill_holes": True},
    "all": {"tta": True, "largest_component": True, "fill_holes": True},
}


def predictor(segmenter: Segmenter) -> Predictor:
    """The whole of the Segmenter, options included, as what the evaluator takes."""

    def predict(images: NDArray[np.uint8]) -> Tensor:
        scores = np.stack([segmenter(image).scores for image in images])[:, None]
        return torch.from_numpy(scores) - segmenter.threshold  # the sign decides

    return predict


def reduced_decoding(segmenter: Segmenter, photos: list[Path]) -> dict[str, Any]:
    """IoU between masks of enlarged photos that are decoded at reduced scale and in full."""
    ious = []
    for photo in photos:
        data = enlarged(photo)
        reduced = segmenter(data).mask
        whole = segmenter(np.asarray(Image.open(io.BytesIO(data)))).mask
        union = np.count_nonzero(reduced | whole)
        ious.append(np.count_nonzero(reduced & whole) / union if union else 1.0)
    return {"photos": len(ious), "iou_mean": float(np.mean(ious)), "iou_min": min(ious)}


def main() -> None:
    """Score every set of options, then compare the two ways to decode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None, help="as Segmenter takes them")
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--limit", type=int, help="take the first photos of the test part only")
    parser.add_argument("--large", type=int, default=50, help="large photos to decode")
    parser.add_argument("-o", "--output", type=Path, default=Path("research/results/options.jsonl"))
    options = parser.parse_args()
    dataset = open_folder(options.data)
    test = split_dataset(dataset, "holdout").test[: options.limit]
    common = {
        "dataset": dataset.name,
        "protocol": "holdout",
        "split": "test",
        "weights": options.weights or "isic2018",
        "weights_sha256": sha256_file(find_weights(options.weights)),
    }
    arrays = load_arrays(test, Segmenter(options.weights).metadata.size)
    plain = None
    for name, chosen in OPTIONS.items():
        result = evaluate_arrays(predictor(Segmenter(options.weights, **chosen)), arrays)
        plain = plain or result
        paired = compare_pooled(result.counts, plain.counts)
        row = {
            **common,
            "options": name,
            **result.to_dict(),
            "iou_difference": paired.difference,
            "iou_difference_interval": list(paired.interval),
        }
        append_result(options.output, {**row, **environment()})
        low, high = paired.interval
        print(
            f"{name:30} DSC {result.pooled['dice']:.2%}   mIoU {result.pooled['iou']:.2%} "
            f"({100 * paired.difference:+.2f}, {100 * low:+.2f} … {100 * high:+.2f})",
            flush=True,
        )
    photos = [sample.image for sample in test[:: max(1, len(test) // options.large)]]
    found = reduced_decoding(Segmenter(options.weights), photos[: options.large])
    append_result(
        options.output, {**common, "options": "reduced decoding", **found, **environment()}
    )
    print(f"reduced decoding: IoU {found['iou_mean']:.5f}, least {found['iou_min']:.5f}")


if __name__ == "__main__":
    main()
