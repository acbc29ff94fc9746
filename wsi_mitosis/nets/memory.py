"""Memory of tensors: a setting of the whole process, and what it means that memory has run out."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of mallopt(3), numbered as in glibc's malloc.h."""
KEPT_BYTES = 256 * 2**20
"""Most freed memory that is kept at the end of the heap."""
BLOCK_BYTES = 32 * 2**20
"""Size of the largest blocks that are kept: the most that mallopt(3) allows."""
MOST_BYTES = 2**31 - 1
"""The largest value that mallopt(3) takes, an int of C."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    By default glibc returns memory to the kernel as soon as a few MiB are free. The result of each layer then
    needs new pages, which the kernel fills with zeros first. The setting cannot be undone, so that library
    code does not call this function.

    Returns:
        Whether the C library accepted the setting. Only glibc has `mallopt`.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    taken = mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES), mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return taken == (1, 1)


def _mallopt() -> Any:
    """Return glibc's `mallopt`, or None. On Windows a process cannot be opened as a library."""
    return None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)


def keep_large_blocks() -> bool:
    """Let this process keep all freed memory, whatever the size of its blocks, for a training.

    The feature maps of a batch are larger than `BLOCK_BYTES`. By default they come from `mmap` and return to
    the kernel when they are freed. Afterwards they come from one heap, which never shrinks. Threads that
    exist already keep the heaps that they have.

    Returns:
        Whether the C library accepted the settings.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    taken = mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, MOST_BYTES)
    return bool(taken == (1, 1, 1))


LARGE_BLOCKS_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(MOST_BYTES),
}
"""Variables by which glibc starts a process with the settings of `keep_large_blocks` (mallopt(3))."""
OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",  # c10/core/impl/alloc_cpu.cpp
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "can't start new thread",  # CPython, and the next one of libstdc++: no memory for a stack
    "Resource temporarily unavailable",
)
"""Messages of RuntimeErrors that torch, its libraries and Python raise without memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the process, of the machine or of the GPU ran out."""
    torch = sys.modules.get("torch")  # without torch, no error is torch's
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
