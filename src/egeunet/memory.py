"""How freed memory is treated."""

from __future__ import annotations

import numpy as np

_BLOCK = 30 * 2**20  # bytes; glibc's limit for what follows is 32 MB


def keep_freed_memory() -> None:
    """Have the C library keep what large arrays leave, for the next ones.

    Once a block of some size was freed, glibc takes blocks up to that size from memory it holds
    and gives less back (mallopt(3), M_MMAP_THRESHOLD). Without it, arrays of some hundred kilobytes
    are taken from the system anew each time, page by page: a sixth of the time of a small photo,
    and 10 ms of a training step. Other C libraries are not affected.
    """
    np.empty(_BLOCK, np.uint8)  # and freed; its pages are never touched
