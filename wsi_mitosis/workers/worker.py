"""A worker: a thread that does one task at a time and reports what happens, in this process or in Ray's."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from wsi_mitosis.nets.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENDING_SECONDS = 2.0
"""For the thread of an abandoned worker to end at its next event, such as the end of a batch."""


@dataclass(frozen=True)
class Begun:
    """The first event of each task: the worker is built, and does the task now."""


@dataclass(frozen=True)
class Ended:
    """A task is done."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """An exception ended a task, or kept the worker from being built.

    Attributes:
        traceback: The worker's, because an exception loses it on its way to another process.
        in_build: Whether `build` raised the exception.
    """

    error: Exception
    traceback: str
    in_build: bool


@dataclass(frozen=True)
class Ahead:
    """What workers do ahead of their tasks; the functions must be importable there, or partials of such.

    Attributes:
        prepare: Called with a task and those that this worker probably gets next, before the first is done,
            and with what the worker keeps.
        close: Called with what the worker keeps, at its end, perhaps twice and from another thread.
    """

    prepare: Callable[[Sequence[Any], Any], None]
    close: Callable[[Any], None]


class Abandoned(BaseException):
    """Ends a task whose result nobody waits for. Code that handles every `Exception` does not handle it."""


class Worker:
    """Does one task at a time, in a thread of its own.

    Its methods return what has happened since the last call. Ray's streaming generators would do the same,
    but not for a driver that is connected by `ray://`.

    Args:
        build: Makes what the worker keeps, from its number of CPU threads.
        do: Does a task, given what the worker keeps and a function that takes each event.
        threads: Number of CPU threads.
        ahead: What it does ahead of its tasks.
    """

    def __init__(
        self, build: Callable[[int], Any], do: Callable[..., Any], threads: int, ahead: Ahead | None = None
    ) -> None:
        self._build, self._do, self._threads, self._ahead = build, do, threads, ahead
        self._state: Any = None
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="slide-worker", daemon=True)
        self._thread.start()

    def begin(self, task: Any, pause_seconds: float, following: Sequence[Any] = ()) -> tuple[list[Any], None]:
        """Begin a task after a pause. The answer means that the process of this worker lives."""
        self._tasks.put((task, pause_seconds, following))
        return [], None

    def follow(self, timeout: float | None = None) -> tuple[list[Any], Ended | Failed | None]:
        """Return the events since the last call, and the task's end if it has ended.

        Args:
            timeout: Seconds to wait for an event; without limit if None.
        """
        try:
            events = [self._events.get(timeout=timeout)]
        except Empty:
            return [], None
        while not self._events.empty():
            events.append(self._events.get())
        ended = isinstance(events[-1], Ended | Failed)
        end = events.pop() if ended else None
        return events, end

    def abandon(self) -> None:
        """End the thread; one that does a task ends at the task's next event."""
        self._abandoned.set()
        self._tasks.put(None)
        self._close()
        self._thread.join(ENDING_SECONDS)

    def _close(self) -> None:
        if self._ahead is not None and self._state is not None:
            self._ahead.close(self._state)

    def _serve(self) -> None:
        try:
            self._state = self._build(self._threads)
        except Exception as error:  # noqa: BLE001 - the driver decides what it means
            self._events.put(Failed(error, traceback.format_exc(), in_build=True))
            return
        while (next_task := self._tasks.get()) is not None:
            task, pause_seconds, following = next_task
            try:
                self._abandoned.wait(pause_seconds)
                self._emit(Begun())
                self._events.put(self._end(task, following))
            except Abandoned:
                break
        self._close()  # again, because it may have been abandoned before it was built

    def _end(self, task: Any, following: Sequence[Any]) -> Ended | Failed:
        try:
            if self._ahead is not None:
                self._ahead.prepare((task, *following), self._state)
            return Ended(self._do(task, self._state, self._emit))
        except Exception as error:  # noqa: BLE001 - the driver raises it
            return Failed(error, traceback.format_exc(), in_build=False)

    def _emit(self, event: Any) -> None:
        if self._abandoned.is_set():
            raise Abandoned
        self._events.put(event)


class RayWorker(Worker):
    """A worker whose process is its own, so that it may change settings of the process."""

    def __init__(
        self, build: Callable[[int], Any], do: Callable[..., Any], threads: int, ahead: Ahead | None = None
    ) -> None:
        keep_freed_memory()
        super().__init__(build, do, threads, ahead)
