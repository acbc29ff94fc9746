"""A pool of workers: the one place where tasks are handed out, in this process or on Ray."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsi_mitosis.errors import printable
from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.nets.memory import keep_freed_memory
from wsi_mitosis.workers.placement import fit_nodes, place, stays_here
from wsi_mitosis.workers.runtime import ray_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from wsi_mitosis.io.interrupts import Interrupts
    from wsi_mitosis.specs import PlacementOptions
    from wsi_mitosis.workers.placement import Placement

ATTEMPTS = 3
"""How often a task is tried whose worker dies each time."""
POLL_SECONDS = 1.0
CAUSE_CHARACTERS = 200

Task = TypeVar("Task")
State = TypeVar("State")
Event = TypeVar("Event")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Task, State, Event, Result]):
    """How tasks are done. Workers get `build` and `do`, which must be importable there, or partials of such.

    Attributes:
        build: Called once per worker with its number of CPU threads; makes what the worker keeps.
        do: Does a task, given what the worker keeps and a function that takes each event.
        lost: Makes the result of a task that could not be done, from its reason (one line) and details.
        name: Gives a task's name in messages.
        kept: What a second run finds, as a sentence: "Finished slides are kept."
    """

    build: Callable[[int], State]
    do: Callable[[Task, State, Callable[[Event], None]], Result]
    lost: Callable[[Task, str, str | None], Result]
    name: Callable[[Task], str]
    kept: str


@dataclass(frozen=True)
class Hooks(Generic[Task, Event, Result]):
    """What is called in the caller's process while the tasks are done.

    Attributes:
        on_start: Takes a task each time that it is begun, also when it is tried again.
        on_event: Takes a task and its next event, in the task's order and before its result.
        warn: Takes a sentence for the user about each task that is tried again.
        refuse: Called before a task is begun, also before it is tried again. If it returns a result, the
            task is not begun, and this is its result.
    """

    on_start: Callable[[Task], None]
    on_event: Callable[[Task, Event], None]
    warn: Callable[[str], None]
    refuse: Callable[[Task], Result | None]


def run_tasks(
    tasks: Sequence[Task],
    work: Work[Task, Any, Event, Result],
    options: PlacementOptions,
    hooks: Hooks[Task, Event, Result],
    *,
    on_gpus: bool = True,
) -> Generator[Result, None, None]:
    """Do tasks in this process, on a local Ray or on a cluster.

    A task whose worker dies (its process is killed, memory runs out, its node is gone) is tried again on a
    new worker, `ATTEMPTS` times in all; then `work.lost` makes its result. If the generator is closed early,
    all workers are killed.

    Args:
        tasks: The tasks, largest first.
        work: How they are done.
        options: Where they are done.
        hooks: What is called meanwhile.
        on_gpus: Whether the work can use GPUs.

    Yields:
        The result of each task as it ends.

    Raises:
        WsiMitosisError: by `build` before any task has ended. Later it is the result of the task for which
            a worker was started.
        InputError: if the workers cannot be placed or Ray cannot be used.
        Exception: any exception of `do`.
    """
    if not tasks:
        return
    with holding_interrupts() as interrupts:
        hooks = replace(hooks, on_event=partial(_checked, interrupts, hooks.on_event))
        if stays_here(options, len(tasks)):
            yield from _run_here(tasks, work, hooks, options.cpus_per_worker or granted_cpus())
            return
        with ray_runtime(options.address) as ray:
            placement = _placed(ray, options, len(tasks), on_gpus=on_gpus)
            yield from RayPool(ray, work, placement, hooks).run(tasks)


def _checked(interrupts: Interrupts, on_event: Callable[..., None], *event: Any) -> None:
    interrupts.check()
    on_event(*event)


def _run_here(
    tasks: Sequence[Task],
    work: Work[Task, Any, Event, Result],
    hooks: Hooks[Task, Event, Result],
    threads: int,
) -> Generator[Result, None, None]:
    state = work.build(threads)
    for task in tasks:
        refused = hooks.refuse(task)
        if refused is not None:
            yield refused
            continue
        hooks.on_start(task)
        yield work.do(task, state, partial(hooks.on_event, task))


def _placed(ray: Any, options: PlacementOptions, tasks: int, *, on_gpus: bool) -> Placement:
    granted = ray.cluster_resources()
    gpus = granted.get("GPU", 0.0) if on_gpus else 0.0
    placement = place(options, tasks, int(granted.get("CPU", 1)), gpus)
    if options.address is None:
        return placement
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return fit_nodes(placement, options, nodes)


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


class Worker:
    """A Ray actor that does one task at a time, in a thread of its own.

    Its methods return what has happened since the last call and wait until something has. Ray's streaming
    generators would do the same, but not for a driver that is connected by `ray://`.
    """

    def __init__(self, build: Callable[[int], Any], do: Callable[..., Any], threads: int) -> None:
        self._build, self._do, self._threads = build, do, threads
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        self._events: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def run(self, task: Any) -> tuple[list[Any], Ended | Failed | None]:
        """Begin a task; return as `follow` does."""
        self._tasks.put(task)
        return self.follow()

    def follow(self) -> tuple[list[Any], Ended | Failed | None]:
        """Return the events since the last call, at least one, and the task's end if it has ended."""
        events = [self._events.get()]
        while not self._events.empty():
            events.append(self._events.get())
        ended = isinstance(events[-1], Ended | Failed)
        end = events.pop() if ended else None
        return events, end

    def _serve(self) -> None:
        keep_freed_memory()
        try:
            state = self._build(self._threads)
        except Exception as error:  # noqa: BLE001 - the driver decides what it means
            self._events.put(Failed(error, traceback.format_exc(), in_build=True))
            return
        while True:
            self._events.put(self._end(self._tasks.get(), state))

    def _end(self, task: Any, state: Any) -> Ended | Failed:
        try:
            return Ended(self._do(task, state, self._events.put))
        except Exception as error:  # noqa: BLE001 - the driver raises it
            return Failed(error, traceback.format_exc(), in_build=False)


@dataclass(frozen=True)
class _Attempt(Generic[Task]):
    task: Task
    number: int = 1


class RayPool(Generic[Task, Event, Result]):
    """Workers on Ray, each with one task at a time.

    Args:
        ray: The module `ray`, connected.
        work: How tasks are done.
        placement: The workers.
        hooks: What is called meanwhile.
    """

    def __init__(
        self,
        ray: Any,
        work: Work[Task, Any, Event, Result],
        placement: Placement,
        hooks: Hooks[Task, Event, Result],
    ) -> None:
        self._ray, self._work, self._placement, self._hooks = ray, work, placement, hooks
        self._actor = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus)(Worker)
        self._waiting: deque[_Attempt[Task]] = deque()
        self._workers: set[Any] = set()
        self._busy: dict[Any, tuple[Any, _Attempt[Task]]] = {}
        self._refused: list[Result] = []
        self._any_ended = False

    def run(self, tasks: Sequence[Task]) -> Generator[Result, None, None]:
        """Do tasks and yield the result of each as it ends; see `run_tasks`."""
        self._waiting.extend(_Attempt(task) for task in tasks)
        try:
            for _ in range(min(self._placement.workers, len(tasks))):
                self._assign(None)
            yield from self._taken_refused()
            while self._busy:
                # every idle worker gets its next task before the caller gets a result
                yield from [result for answer in self._answers() for result in self._received(answer)]
                yield from self._taken_refused()
        finally:
            for worker in list(self._workers):
                self._retire(worker)

    def _answers(self) -> list[Any]:
        """Wait for a worker's answer, at most POLL_SECONDS; return all that have arrived."""
        answers = list(self._busy)
        ready, _ = self._ray.wait(answers, timeout=POLL_SECONDS)
        if ready:
            ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        return list(ready)

    def _received(self, answer: Any) -> Iterator[Result]:
        """Take one answer and give the worker something to do; yield the result of a task that ended."""
        worker, attempt = self._busy.pop(answer)
        try:
            events, end = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            self._retire(worker)
            yield from self._worker_died(attempt, error)
            return
        for event in events:
            self._hooks.on_event(attempt.task, event)
        if end is None:
            self._busy[worker.follow.remote()] = worker, attempt
        else:
            yield self._result(worker, attempt, end)

    def _result(self, worker: Any, attempt: _Attempt[Task], end: Ended | Failed) -> Result:
        if isinstance(end, Ended):
            self._any_ended = True
            self._assign(worker)
            result: Result = end.result
            return result
        if not (end.in_build and self._any_ended):
            end.error.add_note(end.traceback)
            raise end.error
        self._retire(worker)
        self._assign(None)
        reason = f"{self._work.name(attempt.task)}: its worker cannot start: {end.error}"
        return self._work.lost(attempt.task, printable(reason), end.traceback)

    def _worker_died(self, attempt: _Attempt[Task], error: Exception) -> Iterator[Result]:
        """Put the task back at the end of the queue, or give it up after the last attempt."""
        task, number = attempt.task, attempt.number
        name, cause = self._work.name(task), _cause(error)
        if number < ATTEMPTS:
            self._waiting.append(replace(attempt, number=number + 1))
            self._hooks.warn(
                f"{name}: its worker died ({cause}). It is tried again on a new worker "
                f"(attempt {number + 1} of {ATTEMPTS})."
            )
        else:
            reason = (
                f"{name}: its worker died {ATTEMPTS} times ({cause}). "
                f"Pass fewer --workers, which need less memory, and run again. {self._work.kept}"
            )
            yield self._work.lost(task, printable(reason), str(error))
        self._assign(None)

    def _assign(self, worker: Any | None) -> None:
        """Give a worker the next task. A task that is tried again gets a new worker, as does None."""
        attempt = self._next()
        if worker is not None and (attempt is None or attempt.number > 1):
            self._retire(worker)
            worker = None
        if attempt is not None:
            worker = worker or self._started()
            self._hooks.on_start(attempt.task)
            self._busy[worker.run.remote(attempt.task)] = worker, attempt

    def _next(self) -> _Attempt[Task] | None:
        """Take the next task that is not refused from the queue; None if there is none."""
        while self._waiting:
            attempt = self._waiting.popleft()
            refused = self._hooks.refuse(attempt.task)
            if refused is None:
                return attempt
            self._refused.append(refused)
        return None

    def _taken_refused(self) -> list[Result]:
        refused, self._refused = self._refused, []
        return refused

    def _started(self) -> Any:
        worker = self._actor.remote(self._work.build, self._work.do, self._placement.cpus)
        self._workers.add(worker)
        return worker

    def _retire(self, worker: Any) -> None:
        """Kill a worker: its process ends, and its CPUs, GPUs and memory are free."""
        self._workers.discard(worker)
        self._ray.kill(worker)


def _cause(error: Exception) -> str:
    """Return why a worker died: the last line of Ray's explanation is the most specific one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:CAUSE_CHARACTERS]}" if lines else type(error).__name__
