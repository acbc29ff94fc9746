"""Tags of TIFFs, and what tifffile says of them meanwhile."""

from __future__ import annotations

import logging
from threading import Barrier, Thread

import pytest

from wsi_mitosis.io.slides.tiff import quiet_tifffile


def test_tifffile_is_quiet_in_the_thread_that_asks_and_loud_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two blocks that overlap, neither inside the other, left tifffile's logger disabled for good."""
    logger = logging.getLogger("tifffile")
    step = Barrier(2, timeout=30)

    def other() -> None:
        step.wait()  # the first block is entered
        with quiet_tifffile():
            step.wait()
            step.wait()  # the first block is left
            logger.error("unheard in the other")
        logger.error("heard from the other")

    thread = Thread(target=other)
    thread.start()
    with quiet_tifffile():
        logger.error("unheard")
        step.wait()
        step.wait()
    logger.error("heard while the other is quiet")
    step.wait()
    thread.join()
    logger.error("heard at the end")
    assert caplog.messages == ["heard while the other is quiet", "heard from the other", "heard at the end"]
