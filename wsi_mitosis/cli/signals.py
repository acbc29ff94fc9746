"""Ending politely: a scheduler's SIGTERM is an interrupt like the user's Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, so that what is done is written down."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
