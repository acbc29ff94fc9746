"""Which failures another attempt may not meet."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.jobs.outcomes import SlideOutcome, attempt
from wsi_mitosis.jobs.transient import transient_cause


def raised(cause: Exception, error: Exception) -> Exception:
    """An error that is raised from another one."""
    try:
        raise error from cause
    except type(error) as chained:
        return chained


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ECONNRESET, errno.ENOTCONN]
)
def test_a_storage_that_does_not_answer(number: int) -> None:
    error = OSError(number, os.strerror(number), "/slides/a.svs")
    assert transient_cause(error) == "storage"
    assert transient_cause(raised(error, UnreadableSlideError("it cannot be read"))) == "storage"
    assert transient_cause(UnreadableSlideError(f"cannot be read: {os.strerror(number)}")) == "storage"


@pytest.mark.parametrize(
    "number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOSPC, errno.EINVAL, errno.ELOOP]
)
def test_a_file_that_is_missing_or_forbidden_is_the_same_the_next_time(number: int) -> None:
    assert transient_cause(OSError(number, os.strerror(number), "/slides/a.svs")) is None


def test_a_damaged_slide_is_the_same_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(openslide.OpenSlideError) as refused:
        openslide.OpenSlide(path)
    assert transient_cause(refused.value) is None
    assert transient_cause(ValueError("Input/output is wrong")) is None


def test_what_numpy_and_torch_raise_without_memory() -> None:
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**60, np.uint8)
    assert transient_cause(of_numpy.value) == "memory"
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**60, dtype=torch.uint8)
    assert transient_cause(of_torch.value) == "memory"
    assert transient_cause(torch.OutOfMemoryError("CUDA out of memory")) == "memory"
    assert transient_cause(RuntimeError("shapes do not fit")) is None


def fails(error: Exception) -> SlideOutcome[int]:
    def work() -> int:
        raise error

    return attempt("a.svs", work)


def test_an_attempt_says_why_another_one_may_help() -> None:
    memory = fails(MemoryError("Unable to allocate 3 GiB"))
    assert (memory.transient, memory.error) == ("memory", "a.svs: memory ran out (Unable to allocate 3 GiB)")
    storage = fails(OSError(errno.ESTALE, "Stale file handle", "/slides/a.svs"))
    assert storage.transient == "storage"
    assert storage.error == (
        "a.svs: its storage did not answer ([Errno 116] Stale file handle: '/slides/a.svs')"
    )
    damaged = fails(UnreadableSlideError("it is damaged", subject="a.svs"))
    assert (damaged.transient, damaged.error, damaged.details) == (None, "a.svs: it is damaged", None)
    bug = fails(KeyError("x"))
    assert bug.transient is None
    assert bug.error == "a.svs: unexpected KeyError: 'x'; log.jsonl has the traceback"
