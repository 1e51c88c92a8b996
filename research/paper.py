"""What the EGE-UNet paper reports: Tables 1 and 2 of Ruan et al., MICCAI 2023, arXiv 2307.08473.

Pooled over all pixels of the 30 % of a 7:3 split on which the checkpoint was also selected; those
of EGE-UNet are means of five runs. The paper had 2150 and 2694 images; 1921 and 2594 of them are
in the archive copy used here. The cost of each model is kept in `egeunet.models.registry`.
"""

from __future__ import annotations

from typing import NamedTuple


class Score(NamedTuple):
    """Pooled foreground IoU (the paper's "mIoU") and Dice, in percent, ± over runs where given."""

    iou: float
    dice: float
    iou_std: float | None = None
    dice_std: float | None = None


TITLES = {
    "unet": "UNet",
    "unetpp": "UNet++",
    "attunet": "Att-UNet",
    "utnetv2": "UTNetV2",
    "sanet": "SANet",
    "transfuse": "TransFuse",
    "mobilevitv2": "MobileViTv2",
    "mobilenetv3": "MobileNetV3",
    "unext_s": "UNeXt-S",
    "malunet": "MALUNet",
    "egeunet": "EGE-UNet",
    "egeunet_baseline": "baseline",
    "egeunet_baseline_ghpa": "baseline + GHPA",
    "egeunet_baseline_gab": "baseline + GAB",
    "egeunet_no_multi_axis": "GHPA w/o multi-axis grouping",
    "egeunet_no_dw": "GHPA w/o DW",
    "egeunet_no_mask": "GAB w/o mask",
    "egeunet_no_dilation": "GAB w/o dilation",
}
"""Model: its name in the paper."""

DATASETS = {"isic2017": "ISIC 2017", "isic2018": "ISIC 2018", "kvasir_seg": "Kvasir-SEG"}
"""Dataset: its name in papers."""

TABLE_1 = {
    "isic2017": {
        "unet": Score(76.98, 86.99),
        "utnetv2": Score(77.35, 87.23),
        "transfuse": Score(79.21, 88.40),
        "mobilevitv2": Score(78.72, 88.09),
        "mobilenetv3": Score(77.69, 87.44),
        "unext_s": Score(78.26, 87.80),
        "malunet": Score(78.78, 88.13),
        "egeunet": Score(79.81, 88.77, 0.10, 0.06),
    },
    "isic2018": {
        "unet": Score(77.86, 87.55),
        "unetpp": Score(78.31, 87.83),
        "attunet": Score(78.43, 87.91),
        "utnetv2": Score(78.97, 88.25),
        "sanet": Score(79.52, 88.59),
        "transfuse": Score(80.63, 89.27),
        "mobilevitv2": Score(79.88, 88.81),
        "mobilenetv3": Score(78.55, 87.98),
        "unext_s": Score(79.09, 88.33),
        "malunet": Score(80.25, 89.04),
        "egeunet": Score(80.94, 89.46, 0.11, 0.07),
    },
}
"""Dataset: {model: score}."""

TABLE_2 = {
    "egeunet_baseline": Score(76.30, 86.56),
    "egeunet_baseline_ghpa": Score(78.82, 88.16),
    "egeunet_baseline_gab": Score(78.78, 88.13),
    "egeunet_no_multi_axis": Score(79.13, 88.35),
    "egeunet_no_dw": Score(79.03, 88.29),
    "egeunet_no_mask": Score(78.97, 88.25),
    "egeunet_no_dilation": Score(79.11, 88.34),
    "egeunet": TABLE_1["isic2018"]["egeunet"],
}
"""Model: score on ISIC 2018."""
