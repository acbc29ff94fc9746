"""What workers are told ahead of their tasks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.workers.test_pool import Notes, work
from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.workers.crews import Report
from wsi_mitosis.workers.losses import Loss
from wsi_mitosis.workers.pool import Pool, Retries
from wsi_mitosis.workers.worker import Ahead, Ended, Worker


class Crew:
    """Workers that end their tasks in an order that a test states; `loses` is lost the first time."""

    def __init__(self, order: Sequence[str], loses: str = "") -> None:
        self.order, self.loses = list(order), loses
        self.begun: list[tuple[int, str, tuple[str, ...]]] = []
        self.busy: dict[int, str] = {}
        self.started = 0

    def start(self) -> int:
        self.started += 1
        return self.started

    def begin(self, worker: int, task: str, _pause: float, following: Sequence[str]) -> None:
        self.begun.append((worker, task, tuple(following)))
        self.busy[worker] = task

    def reports(self, _seconds: float) -> list[Report]:
        task = next(name for name in self.order if name in self.busy.values())
        self.order.remove(task)
        worker = next(number for number, name in self.busy.items() if name == task)
        del self.busy[worker]
        is_lost, self.loses = task == self.loses, "" if task == self.loses else self.loses
        return [Report(worker, [], Loss("storage", "no answer") if is_lost else Ended(task.upper()))]

    def kill(self, worker: int) -> None:
        self.busy.pop(worker, None)

    def lacks_nodes(self) -> None:
        return None


def nothing(*_: object) -> None:
    """Prepare and close nothing."""


def pooled(crew: Crew, tasks: str, workers: int, notes: Notes | None = None) -> list[Any]:
    staged = replace(work(nothing), ahead=Ahead(nothing, nothing))
    with holding_interrupts() as interrupts:
        return list(Pool(crew, staged, workers, (notes or Notes()).hooks, Retries(), interrupts).run(tasks))


def test_a_worker_gets_the_task_that_it_was_told_of() -> None:
    crew = Crew("badc")
    assert pooled(crew, "abcd", 2) == ["B", "A", "D", "C"]
    assert crew.begun == [(1, "a", ("c",)), (2, "b", ("d",)), (2, "d", ()), (1, "c", ())]


def test_an_idle_worker_takes_what_another_was_told_of_rather_than_nothing() -> None:
    crew = Crew("bca")
    assert pooled(crew, "abc", 2) == ["B", "C", "A"]
    assert crew.begun == [(1, "a", ("c",)), (2, "b", ()), (2, "c", ())]


def test_no_worker_is_told_of_a_task_that_a_worker_to_be_started_gets() -> None:
    crew = Crew("ab")
    pooled(crew, "ab", 2)
    assert crew.begun == [(1, "a", ()), (2, "b", ())]


def test_a_task_that_is_tried_again_is_no_worker_s_next() -> None:
    crew = Crew("aba", loses="a")
    assert pooled(crew, "ab", 1) == ["B", "A"]
    assert crew.begun == [(1, "a", ("b",)), (2, "b", ()), (3, "a", ())]


def test_a_refused_task_is_not_begun_although_a_worker_was_told_of_it() -> None:
    notes = Notes(refused={"b": "not b"})
    assert sorted(pooled(Crew("ac"), "abc", 1, notes)) == ["A", "C", "not b"]


def test_a_worker_prepares_a_task_and_the_next_one_and_ends_that_when_it_is_abandoned() -> None:
    told, closed, busy = [], threading.Event(), threading.Event()

    def do(task: str, state: str, emit: Any) -> None:
        busy.set()
        assert closed.wait(30)
        emit("goes on")

    def close(state: str) -> None:
        closed.set()

    ahead = Ahead(lambda tasks, state: told.append((tasks, state)), close)
    worker = Worker(lambda threads: f"state of {threads}", do, 2, ahead)
    worker.begin("a", 0.0, ("b",))
    assert busy.wait(30)
    worker.abandon()
    assert told == [(("a", "b"), "state of 2")]
    assert closed.is_set()
    assert not worker._thread.is_alive()
