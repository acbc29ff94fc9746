"""Where workers are: a thread of this process, or actors on Ray."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from wsi_mitosis.workers.losses import Loss, loss_of
from wsi_mitosis.workers.nodes import takes_worker
from wsi_mitosis.workers.worker import ENDING_SECONDS, Ended, Failed, RayWorker, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wsi_mitosis.workers.placement import Placement
    from wsi_mitosis.workers.worker import Ahead

NODE_SECONDS = 60.0
"""How long no node may have room for a worker before the work is given up. A node restarts in this time."""
NODE_POLL_SECONDS = 2.0
CLOSE_SECONDS = ENDING_SECONDS + 3.0
"""For a worker to remove what it has prepared, before its process is killed."""


class Report(NamedTuple):
    """What has happened to a worker's task since the last report.

    Attributes:
        worker: The worker. Its first report after a task is begun means that its process lives.
        events: The events of the task.
        end: The task's end or loss; None if it goes on.
    """

    worker: Any
    events: list[Any]
    end: Ended | Failed | Loss | None


class Crew(Protocol):
    """Starts workers, gives them tasks and takes their reports."""

    def start(self) -> Any:
        """Start a worker and return its handle."""
        ...

    def begin(self, worker: Any, task: Any, pause_seconds: float, following: Sequence[Any]) -> None:
        """Give a task to a worker that has none, to be begun after a pause; and those that may follow."""
        ...

    def reports(self, seconds: float) -> list[Report]:
        """Wait for reports, at most so long; return those that have arrived."""
        ...

    def kill(self, worker: Any) -> None:
        """End a worker, whatever it does."""
        ...

    def lacks_nodes(self) -> str | None:
        """Return why no worker can be started any more; None if one can."""
        ...


class HereCrew:
    """Workers in threads of this process.

    A thread that hangs in a library cannot be ended. It is abandoned, and the process can end without it.

    Args:
        build: As for `Worker`.
        do: As for `Worker`.
        threads: CPU threads of a worker.
        ahead: As for `Worker`.
    """

    def __init__(
        self, build: Callable[[int], Any], do: Callable[..., Any], threads: int, ahead: Ahead | None = None
    ) -> None:
        self._build, self._do, self._threads, self._ahead = build, do, threads, ahead
        self._busy: Worker | None = None

    def start(self) -> Worker:
        """Start a worker."""
        return Worker(self._build, self._do, self._threads, self._ahead)

    def begin(self, worker: Worker, task: Any, pause_seconds: float, following: Sequence[Any]) -> None:
        """Begin a task; there is one worker at a time."""
        self._busy = worker
        worker.begin(task, pause_seconds, following)

    def reports(self, seconds: float) -> list[Report]:
        """Wait for events of the worker."""
        if self._busy is None:
            return []
        events, end = self._busy.follow(seconds)
        return [Report(self._busy, events, end)] if events or end is not None else []

    def kill(self, worker: Worker) -> None:
        """Abandon a worker."""
        worker.abandon()

    def lacks_nodes(self) -> None:
        """Return None: this process is there."""


class RayCrew:
    """Workers that are actors on Ray, each in a process of its own.

    Args:
        ray: The module `ray`, connected.
        build: As for `Worker`.
        do: As for `Worker`.
        placement: What each worker gets.
        environment: Environment variables of the workers' processes.
        ahead: As for `Worker`.
    """

    def __init__(
        self,
        ray: Any,
        build: Callable[[int], Any],
        do: Callable[..., Any],
        placement: Placement,
        environment: Mapping[str, str],
        ahead: Ahead | None = None,
    ) -> None:
        self._ray, self._build, self._do, self._placement = ray, build, do, placement
        self._ahead = ahead
        self._actor = ray.remote(num_cpus=placement.cpus, num_gpus=placement.gpus)(RayWorker)
        if environment:
            self._actor = self._actor.options(runtime_env={"env_vars": dict(environment)})
        if ahead is not None:
            self._actor = self._actor.options(max_concurrency=2)  # it can be abandoned while it is followed
        self._answers: dict[Any, Any] = {}
        self._had_nodes = self._asked = monotonic()

    def start(self) -> Any:
        """Start an actor. Ray places it when a node has room."""
        return self._actor.remote(self._build, self._do, self._placement.cpus, self._ahead)

    def begin(self, worker: Any, task: Any, pause_seconds: float, following: Sequence[Any]) -> None:
        """Begin a task on an actor, also on one that is not placed yet."""
        self._answers[worker.begin.remote(task, pause_seconds, following)] = worker

    def reports(self, seconds: float) -> list[Report]:
        """Wait for the actors' answers and return all that have arrived."""
        answers = list(self._answers)
        ready, _ = self._ray.wait(answers, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        return [self._report(answer) for answer in ready]

    def _report(self, answer: Any) -> Report:
        worker = self._answers.pop(answer)
        try:
            events, end = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return Report(worker, [], loss_of(error, self._ray.exceptions))
        if end is None:
            self._answers[worker.follow.remote()] = worker
        return Report(worker, events, end)

    def kill(self, worker: Any) -> None:
        """Kill an actor: its process ends, and its CPUs, GPUs and memory are free."""
        self._answers = {answer: other for answer, other in self._answers.items() if other is not worker}
        if self._ahead is not None:
            with suppress(self._ray.exceptions.RayError):  # it has died, or it does not answer
                self._ray.get(worker.abandon.remote(), timeout=CLOSE_SECONDS)
        self._ray.kill(worker)

    def lacks_nodes(self) -> str | None:
        """Return a reason if no node that is alive has been large enough for `NODE_SECONDS`."""
        now = monotonic()
        if now - self._asked < NODE_POLL_SECONDS:
            return None
        self._asked = now
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(takes_worker(node, self._placement) for node in alive):
            self._had_nodes = now
        if now - self._had_nodes < NODE_SECONDS:
            return None
        return (
            f"no node of the cluster has been able to take a worker for {NODE_SECONDS:g} s: a worker needs "
            f"{self._placement.cpus} CPUs and {self._placement.gpus:g} GPUs, and {len(alive)} nodes are alive"
        )
