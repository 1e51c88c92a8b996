"""Pixel counts, overlap scores and surface distances."""

from egeunet.compat import mend_torchvision

mend_torchvision()  # torchmetrics imports torchvision where there is one
