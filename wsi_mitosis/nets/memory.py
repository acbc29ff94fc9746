"""The memory of tensors on a CPU."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h; their meaning: mallopt(3)."""
KEPT_BYTES = 256 * 2**20
"""Freed memory that is kept at most, at the end of the heap."""
BLOCK_BYTES = 32 * 2**20
"""Blocks that it is kept of: the highest that mallopt(3) allows."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep some memory of freed tensors, for the next ones.

    Left alone, glibc gives memory back to the kernel as soon as a few MiB are free. Each layer's result then
    comes in new pages, which the kernel fills with zeros first.

    Returns:
        Whether the C library does so from now on; only glibc has `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES), mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return taken == (1, 1)
