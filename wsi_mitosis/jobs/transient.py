"""Failures that another attempt may not meet: memory that ran out, and storage that did not answer."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal

from wsi_mitosis.errors import StorageError
from wsi_mitosis.nets.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

Transient = Literal["memory", "storage"]

STORAGE_ERRORS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ETIME, errno.EREMOTEIO, errno.ENOLINK),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
        *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENOTCONN, errno.ESHUTDOWN),
    }
)
"""What Linux reports of a disk or of a network file system that fails for the moment (errno(3)). A file that
is missing, forbidden or damaged is the same at the next attempt."""
STORAGE_TEXTS = (*map(os.strerror, sorted(STORAGE_ERRORS)), "I/O error reading file")
"""The same errors in messages of libraries written in C, which do not pass the number on. The last one is
OpenSlide's (openslide-file.c)."""


def transient_cause(error: BaseException) -> Transient | None:
    """Return why another attempt may not meet an error, also if it is the cause of another error."""
    for link in _chain(error):
        if is_out_of_memory(link):
            return "memory"
        if _is_of_storage(link):
            return "storage"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those from which it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_storage(error: BaseException) -> bool:
    if isinstance(error, StorageError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in STORAGE_ERRORS
    return any(text in str(error) for text in STORAGE_TEXTS)
