"""Signals that end a run: they are held while work is handed out or written, and obeyed between two steps.

A signal can arrive between any two instructions, also in a library that does not survive an exception there.
Therefore a run does not let its handler raise an exception. The handler notes the signal, and the run calls
`Interrupts.check` where it can stop.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENDING_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, a scheduler's request to end, a closed terminal. Windows does not have the last one."""


class Interrupts:
    """A handler of the signals that end a run.

    The first signal raises KeyboardInterrupt in the main thread, except within `held`. Further signals go to
    the handlers that were installed before.

    Args:
        before: The handlers that were installed before, by signal.

    Attributes:
        received: Whether a signal has arrived.
        acknowledged: Whether the program knows that it ends, so that `check` does not raise any more.
    """

    def __init__(self, before: Mapping[int, Any]) -> None:
        self.received = self.acknowledged = False
        self._before = before
        self._holds = 0

    def handle(self, number: int, frame: object) -> None:
        """Note a signal, and raise KeyboardInterrupt if signals are not held."""
        first, self.received = not self.received, True
        if first and not self._holds:
            raise KeyboardInterrupt
        if not first and callable(handler := self._before.get(number)):
            handler(number, frame)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived that nobody has acknowledged.

        This includes a signal whose exception was lost, because Python ignores exceptions in finalizers.
        """
        if self.received and not self.acknowledged:
            raise KeyboardInterrupt

    def acknowledge(self) -> bool:
        """Let `check` raise no more for a signal that has arrived; return whether one has."""
        self.acknowledged = self.received
        return self.received

    @property
    def is_held(self) -> bool:
        """Whether signals are held now."""
        return self._holds > 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block a signal raises no exception."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within the block a signal raises KeyboardInterrupt, also if `held` surrounds it.

        Raises:
            KeyboardInterrupt: also if a signal has arrived before.
        """
        holds = self._holds
        try:
            self._holds = 0
            if self.received:
                raise KeyboardInterrupt
            yield
        finally:
            self._holds = holds


def current_interrupts() -> Interrupts | None:
    """Return the handler that is installed; None if there is none, and outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    handlers = (getattr(signal.getsignal(number), "__self__", None) for number in ENDING_SIGNALS)
    return next((handler for handler in handlers if isinstance(handler, Interrupts)), None)


@contextmanager
def holding_interrupts() -> Iterator[Interrupts]:
    """Hold the signals that end a run within the block; call `check` of the handler to obey them.

    At the end of the outermost block, a signal that is not acknowledged raises KeyboardInterrupt. If no
    `Interrupts` is installed, one takes the place of Python's handlers for the time of the block. In another
    thread than the main one, which gets no signals, nothing is held.
    """
    installed = current_interrupts()
    if installed is not None:
        with installed.held():
            yield installed
        if not installed.is_held:
            installed.check()
        return
    with installed_interrupts(lambda handler: callable(handler)) as interrupts:
        with interrupts.held():
            yield interrupts
        interrupts.check()


@contextmanager
def installed_interrupts(replaces: Any) -> Iterator[Interrupts]:
    """Install a handler for the time of the block.

    Args:
        replaces: Whether the handler takes the place of an earlier one, which is the argument.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
        before = {n: handler for n, handler in handlers.items() if handler is not None and replaces(handler)}
    interrupts = Interrupts(before)
    try:
        for number in before:
            signal.signal(number, interrupts.handle)
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def allowing_interrupts() -> Iterator[None]:
    """Within the block a signal raises KeyboardInterrupt at once, also within `holding_interrupts`.

    Raises:
        KeyboardInterrupt: also if a signal has arrived before.
    """
    installed = current_interrupts()
    if installed is None:
        yield
        return
    with installed.allowed():
        yield
