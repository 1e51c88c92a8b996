"""Pixel counts, overlap scores and surface distances."""

from egeunet.compat import import_torchvision

import_torchvision()  # torchmetrics imports torchvision where there is one
