"""Segmentation models, one file each, and what they cost."""

from egeunet.models.cost import Cost, count_cost
from egeunet.models.official import convert_official_state_dict, read_official_checkpoint
from egeunet.models.registry import create_model, list_models

__all__ = [
    "Cost",
    "convert_official_state_dict",
    "count_cost",
    "create_model",
    "list_models",
    "read_official_checkpoint",
]
