"""A pool of workers: the one place where tasks are handed out, in this process or on Ray."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsi_mitosis.errors import printable
from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.jobs.transient import transient_cause
from wsi_mitosis.workers.crews import HereCrew, RayCrew
from wsi_mitosis.workers.losses import Loss, stall
from wsi_mitosis.workers.nodes import check_nodes
from wsi_mitosis.workers.placement import fit_nodes, place, stays_here
from wsi_mitosis.workers.runtime import ray_runtime
from wsi_mitosis.workers.worker import Begun, Ended, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from wsi_mitosis.io.interrupts import Interrupts
    from wsi_mitosis.specs import PlacementOptions
    from wsi_mitosis.workers.crews import Crew, Report
    from wsi_mitosis.workers.nodes import Needs
    from wsi_mitosis.workers.placement import Placement
    from wsi_mitosis.workers.worker import Ahead

TRIES = 3
"""How often a task is tried whose worker dies each time."""
POLL_SECONDS = 0.25
"""Time between two looks at whether the run shall end."""
BUILD_SECONDS = 300.0
"""For a worker to be built, however little time a task may take. Libraries may come from a slow network."""
PAUSE_SECONDS = 5.0
"""Before a task is tried again whose storage did not answer."""

Task = TypeVar("Task")
State = TypeVar("State")
Event = TypeVar("Event")
Result = TypeVar("Result")


def ignore(*_: object) -> None:
    """A hook that does nothing."""


def granted_threads(number: int) -> int:
    """What a worker keeps if it builds nothing: the number of its CPU threads."""
    return number


def _never(_result: object) -> None:
    """No result is tried again."""


@dataclass(frozen=True)
class Work(Generic[Task, State, Event, Result]):
    """How tasks are done. Workers get `build` and `do`, which must be importable there, or partials of such.

    Attributes:
        build: Called once per worker with its number of CPU threads; makes what the worker keeps.
        do: Does a task, given what the worker keeps and a function that takes each event.
        lost: Makes the result of a task that could not be done, from its loss, whose reason is the whole
            error.
        name: Gives a task's name in messages.
        kept: What a second run finds, as a sentence: "Finished slides are kept."
        transient: Returns why another attempt may give a better result; None if it would not.
        smaller: Returns the task in a form that needs less memory; None if there is none.
        split: Returns the tasks in the parts that so many workers do, largest first; None if tasks are never
            split. Each part is a task.
        needs: Returns what the nodes of a cluster must have for the tasks; None if that is not checked.
        environment: Environment variables of the processes of workers on Ray.
        ahead: What workers do ahead of their tasks; None for nothing.
    """

    build: Callable[[int], State]
    do: Callable[[Task, State, Callable[[Event], None]], Result]
    lost: Callable[[Task, Loss], Result]
    name: Callable[[Task], str]
    kept: str
    transient: Callable[[Result], Loss | None] = _never
    smaller: Callable[[Task], Task] | None = None
    split: Callable[[Sequence[Task], int], Sequence[Task]] | None = None
    needs: Callable[[Sequence[Task]], Needs] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    ahead: Ahead | None = None


@dataclass(frozen=True)
class Retries:
    """How often a task is tried, and when it counts as hanging.

    Attributes:
        tries: Attempts at a task in all.
        stall_seconds: Longest time between two events of a task. The first event is the end of `build`,
            which may take `BUILD_SECONDS` in any case. None means no limit.
    """

    tries: int = TRIES
    stall_seconds: float | None = None


@dataclass(frozen=True)
class Hooks(Generic[Task, Event, Result]):
    """What is called in the caller's process while the tasks are done.

    Attributes:
        on_start: Takes a task each time that it is begun, also when it is tried again.
        on_event: Takes a task and its next event, in the task's order and before its result.
        warn: Takes a sentence for the user about each task that is tried again.
        refuse: Called before a task is begun, and after an attempt that failed, before the next one is
            announced. If it returns a result, the task is not begun, and this is its result.
        on_end: Takes a task and its result, before its worker gets another task; not if it was refused.
    """

    on_start: Callable[[Task], None]
    on_event: Callable[[Task, Event], None]
    warn: Callable[[str], None]
    refuse: Callable[[Task], Result | None]
    on_end: Callable[[Task, Result], None] = ignore


def run_tasks(
    tasks: Sequence[Task],
    work: Work[Task, Any, Event, Result],
    options: PlacementOptions,
    hooks: Hooks[Task, Event, Result],
    retries: Retries | None = None,
    *,
    on_gpus: bool = True,
) -> Generator[Result, None, None]:
    """Do tasks in this process, on a local Ray or on a cluster.

    A task is tried again on a new worker if its worker dies (its process is killed, memory runs out, its node
    is gone), if nothing happens for too long, or if `work.transient` says so of its result. After the last
    attempt, `work.lost` makes its result. If memory was the cause, or perhaps was, `work.smaller` makes the
    task of the next attempt, once. If the generator is closed early, all workers are ended.

    Args:
        tasks: The tasks, largest first.
        work: How they are done.
        options: Where they are done.
        hooks: What is called meanwhile.
        retries: How often a task is tried.
        on_gpus: Whether the work can use GPUs.

    Yields:
        The result of each task, or of each part of it, as it ends.

    Raises:
        WsiMitosisError: by `build` before any task has ended. Later it is the result of the task for which
            a worker was started.
        InputError: if the workers cannot be placed, Ray cannot be used, or a node of the cluster lacks what
            the tasks need.
        KeyboardInterrupt: at the next step after a signal to end, which is held meanwhile.
        Exception: any exception of `do`.
    """
    if not tasks:
        return
    retries = retries or Retries()
    with holding_interrupts() as interrupts:
        if stays_here(options, len(tasks)):
            threads = options.cpus_per_worker or granted_cpus()
            crew = HereCrew(work.build, work.do, threads, work.ahead)
            yield from Pool(crew, work, 1, hooks, retries, interrupts).run(tasks)
            return
        with ray_runtime(options.address) as ray:
            interrupts.check()
            parts = tasks
            if work.split is not None:
                parts = work.split(tasks, _placed(ray, options, None, on_gpus=on_gpus).workers)
            placement = _placed(ray, options, len(parts), on_gpus=on_gpus)
            if options.address is not None and work.needs is not None:
                check_nodes(ray, work.needs(tasks), placement, interrupts)
            on_ray = RayCrew(ray, work.build, work.do, placement, work.environment, work.ahead)
            yield from Pool(on_ray, work, placement.workers, hooks, retries, interrupts).run(parts)


def _placed(ray: Any, options: PlacementOptions, tasks: int | None, *, on_gpus: bool) -> Placement:
    granted = ray.cluster_resources()
    gpus = granted.get("GPU", 0.0) if on_gpus else 0.0
    placement = place(options, tasks, int(granted.get("CPU", 1)), gpus)
    if options.address is None:
        return placement
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return fit_nodes(placement, options, nodes)


@dataclass(frozen=True, eq=False)
class _Attempt(Generic[Task]):
    """One attempt at a task.

    Attributes:
        number: 1 for the first.
        smaller: Whether the task is in its smaller form.
        pause_seconds: Pause before it.
    """

    task: Task
    number: int = 1
    smaller: bool = False
    pause_seconds: float = 0.0


@dataclass
class _Busy(Generic[Task]):
    """A worker's attempt.

    Attributes:
        heard: When the last event arrived; None until the worker's process lives.
        begun: Whether the worker is built and the pause is over.
    """

    attempt: _Attempt[Task]
    heard: float | None = None
    begun: bool = False


class Pool(Generic[Task, Event, Result]):
    """Workers with one task each at a time.

    Args:
        crew: Starts and ends workers.
        work: How tasks are done.
        workers: The number of workers.
        hooks: What is called meanwhile.
        retries: How often a task is tried.
        interrupts: The handler of signals, which is checked at each step.
    """

    def __init__(
        self,
        crew: Crew,
        work: Work[Task, Any, Event, Result],
        workers: int,
        hooks: Hooks[Task, Event, Result],
        retries: Retries,
        interrupts: Interrupts,
    ) -> None:
        self._crew, self._work, self._number, self._hooks = crew, work, workers, hooks
        self._retries, self._interrupts = retries, interrupts
        self._waiting: deque[_Attempt[Task]] = deque()
        self._workers: set[Any] = set()
        self._busy: dict[Any, _Busy[Task]] = {}
        self._reserved: dict[Any, _Attempt[Task]] = {}
        self._results: list[Result] = []
        self._any_ended = False

    def run(self, tasks: Sequence[Task]) -> Generator[Result, None, None]:
        """Do tasks and yield the result of each as it ends; see `run_tasks`."""
        self._waiting.extend(_Attempt(task) for task in tasks)
        try:
            for _ in range(min(self._number, len(tasks))):
                self._assign(None)
            yield from self._taken_results()
            while self._busy:
                self._interrupts.check()
                for report in self._crew.reports(POLL_SECONDS):
                    self._receive(report)
                self._lose_hanging()
                # every idle worker gets its next task before the caller gets a result
                yield from self._taken_results()
        finally:
            for worker in list(self._workers):
                self._retire(worker)

    def _taken_results(self) -> list[Result]:
        results, self._results = self._results, []
        return results

    def _receive(self, report: Report) -> None:
        """Take one report, and give the worker something to do if its task has ended."""
        busy = self._busy[report.worker]
        busy.heard = monotonic()
        for event in report.events:
            if isinstance(event, Begun):
                busy.begun = True
            else:
                self._hooks.on_event(busy.attempt.task, event)
        if report.end is not None:
            del self._busy[report.worker]
            self._end(report.worker, busy.attempt, report.end)

    def _end(self, worker: Any, attempt: _Attempt[Task], end: Ended | Failed | Loss) -> None:
        if isinstance(end, Loss):
            self._lose(worker, attempt, end)
        elif isinstance(end, Failed):
            self._fail(worker, attempt, end)
        else:
            self._any_ended = True
            if (loss := self._work.transient(end.result)) is not None:
                self._lose(worker, attempt, loss)
            else:
                self._finish(attempt.task, end.result)
                self._assign(worker)

    def _fail(self, worker: Any, attempt: _Attempt[Task], end: Failed) -> None:
        cause = transient_cause(end.error) if end.in_build else None
        if cause is not None:
            reason = f"its worker could not start ({type(end.error).__name__}: {end.error})"
            self._lose(worker, attempt, Loss(cause, reason, end.traceback))
            return
        if not (end.in_build and self._any_ended):
            end.error.add_note(end.traceback)
            raise end.error
        reason = printable(f"{self._work.name(attempt.task)}: its worker cannot start: {end.error}")
        self._finish(attempt.task, self._work.lost(attempt.task, Loss("death", reason, end.traceback)))
        self._replace(worker)

    def _lose_hanging(self) -> None:
        """Give up the attempts in which nothing happens, and all if no node can take a worker any more."""
        for worker, busy in list(self._busy.items()):
            limit = self._limit(busy)
            if busy.heard is not None and limit is not None and monotonic() - busy.heard > limit:
                del self._busy[worker]
                self._lose(worker, busy.attempt, stall(limit))
        unplaced = [worker for worker, busy in self._busy.items() if busy.heard is None]
        if unplaced and (reason := self._crew.lacks_nodes()) is not None:
            attempts = [*(self._busy.pop(worker).attempt for worker in unplaced), *self._waiting]
            self._waiting.clear()
            for attempt in attempts:
                self._give_up(attempt.task, Loss("node", reason), tries=1)

    def _limit(self, busy: _Busy[Task]) -> float | None:
        stall_seconds = self._retries.stall_seconds
        if stall_seconds is None or busy.begun:
            return stall_seconds
        return max(stall_seconds, BUILD_SECONDS)

    def _lose(self, worker: Any, attempt: _Attempt[Task], loss: Loss) -> None:
        """Put the task back at the end of the queue, or end it if it was the last attempt or is refused."""
        if attempt.number >= self._retries.tries:
            self._give_up(attempt.task, loss, tries=attempt.number)
        elif (refused := self._hooks.refuse(attempt.task)) is not None:
            self._results.append(refused)
        else:
            self._try_again(attempt, loss)
        self._replace(worker)

    def _give_up(self, task: Task, loss: Loss, *, tries: int) -> None:
        error = loss.text(self._work.name(task), tries, self._work.kept)
        self._finish(task, self._work.lost(task, replace(loss, reason=error)))

    def _finish(self, task: Task, result: Result) -> None:
        self._hooks.on_end(task, result)
        self._results.append(result)

    def _try_again(self, attempt: _Attempt[Task], loss: Loss) -> None:
        tries, number = self._retries.tries, attempt.number + 1
        last_of_unknown_death = loss.cause == "death" and number == tries
        smaller = self._work.smaller
        if smaller is None or attempt.smaller or not (loss.cause == "memory" or last_of_unknown_death):
            task, shrunk = attempt.task, ""
        else:
            task, shrunk = smaller(attempt.task), " with smaller batches"
        pause = PAUSE_SECONDS if loss.cause == "storage" else 0.0
        self._waiting.append(_Attempt(task, number, attempt.smaller or bool(shrunk), pause))
        self._hooks.warn(
            printable(
                f"{self._work.name(attempt.task)}: {loss.reason}. It is tried again{shrunk} "
                f"(attempt {number} of {tries})."
            )
        )

    def _replace(self, worker: Any) -> None:
        self._retire(worker)
        self._assign(None)

    def _assign(self, worker: Any | None) -> None:
        """Give a worker the next task. A task that is tried again gets a new worker, as does None."""
        attempt = self._next(worker)
        if worker is not None and (attempt is None or attempt.number > 1):
            self._retire(worker)
            worker = None
        if attempt is not None:
            worker = worker or self._started()
            self._hooks.on_start(attempt.task)
            self._busy[worker] = _Busy(attempt)
            self._crew.begin(worker, attempt.task, attempt.pause_seconds, self._following(worker))

    def _following(self, worker: Any) -> tuple[Task, ...]:
        """Reserve the task that a worker gets next, so that it can prepare it.

        One that is tried again gets a new worker, and the first ones go to workers that are not started yet.
        """
        if self._work.ahead is None:
            return ()
        to_start = self._number - len(self._workers)
        following = [attempt for attempt in self._unreserved()[to_start:] if attempt.number == 1]
        if not following:
            return ()
        self._reserved[worker] = following[0]
        return (following[0].task,)

    def _unreserved(self) -> list[_Attempt[Task]]:
        taken = self._reserved.values()
        return [attempt for attempt in self._waiting if attempt not in taken]

    def _next(self, worker: Any | None) -> _Attempt[Task] | None:
        """Take the next task that is not refused from the queue; None if there is none.

        It is the one that is reserved for the worker, or one that is not reserved, or, rather than that the
        worker is idle, one that is reserved for another.
        """
        while self._waiting:
            reserved = self._reserved.pop(worker, None)
            if reserved is not None and reserved in self._waiting:
                attempt = reserved
            else:
                attempt = (self._unreserved() or self._waiting)[0]
            self._waiting.remove(attempt)
            refused = self._hooks.refuse(attempt.task)
            if refused is None:
                return attempt
            self._results.append(refused)
        return None

    def _started(self) -> Any:
        worker = self._crew.start()
        self._workers.add(worker)
        return worker

    def _retire(self, worker: Any) -> None:
        """End a worker."""
        self._workers.discard(worker)
        self._reserved.pop(worker, None)
        self._crew.kill(worker)
