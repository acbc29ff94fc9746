"""Ending in good order: a scheduler's SIGTERM and a closed terminal interrupt a run like Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.interrupts import ENDING_SIGNALS, current_interrupts, installed_interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130
"""Exit status of an interrupted run: 128 + SIGINT, as shells have it."""
HANGING_THREADS = ("patches", "slide-worker")
"""Names of threads that read slides. One that hangs in a system call would keep the process from ending."""


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP interrupts, and the second one ends the process.

    The first one raises KeyboardInterrupt, or is held (`io.interrupts`), so that finished work is written.
    The second one ends the process at once with status 130, whatever its threads do. A signal that is
    ignored, as SIGHUP is under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread() or current_interrupts() is not None:
        yield
        return
    with _second_signal_ends(), installed_interrupts(lambda handler: handler is not signal.SIG_IGN):
        yield


@contextmanager
def _second_signal_ends() -> Iterator[None]:
    """Count signals in a thread of their own.

    Python runs a handler in the main thread between two instructions. This thread learns of a signal also
    while the main thread waits in a library.
    """
    reader, writer = socket.socketpair()  # Windows takes no pipe (signal.set_wakeup_fd)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_count_signals, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


def _count_signals(reader: socket.socket) -> None:
    ending = 0
    while number := reader.recv(1):  # one byte per signal, its number
        ending += number[0] in ENDING_SIGNALS
        if ending > 1:
            end_at_once()


def end_at_once(*_: object) -> None:
    """End the process with the status of an interrupted one."""
    os.write(2, b"ended at once by a signal\n")
    os._exit(INTERRUPTED)


def on_ending_signals(handler: Any) -> None:
    """Install a handler of the signals that end a run, except of those that are ignored."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def exit_status(end: SystemExit) -> int:
    """Return the status that Python gives a process that ends so."""
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def end_despite_hanging_threads(status: int) -> None:
    """End the process at once if a thread that reads a slide still runs; Python would wait for it."""
    if not any(thread.name.startswith(HANGING_THREADS) for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
