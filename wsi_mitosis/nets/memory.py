"""Memory of tensors on a CPU: a setting of the whole process, which the command line and workers change."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), numbered as in glibc's malloc.h."""
KEPT_BYTES = 256 * 2**20
"""Most freed memory that is kept at the end of the heap."""
BLOCK_BYTES = 32 * 2**20
"""Size of the largest blocks that are kept: the most that mallopt(3) allows."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    By default glibc returns memory to the kernel as soon as a few MiB are free. The result of each layer then
    needs new pages, which the kernel fills with zeros first. The setting cannot be undone, so that library
    code does not call this function.

    Returns:
        Whether the C library accepted the setting. Only glibc has `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES), mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return taken == (1, 1)
