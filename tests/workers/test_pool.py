"""The pool: the same in this process and on Ray; what a lost worker means."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.interrupts import Interrupts
from wsi_mitosis.nets.memory import LARGE_BLOCKS_ENVIRONMENT
from wsi_mitosis.specs import PlacementOptions
from wsi_mitosis.workers import pool
from wsi_mitosis.workers.crews import RayCrew
from wsi_mitosis.workers.losses import Loss
from wsi_mitosis.workers.placement import Placement
from wsi_mitosis.workers.pool import TRIES, Hooks, Pool, Retries, Work, run_tasks
from wsi_mitosis.workers.runtime import ray_runtime

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
"""For what another process does; a failure waits for it, a success does not."""

Emit = Callable[[Any], None]


@dataclass
class Notes:
    """What the pool reports beside its results."""

    starts: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: dict[str, Any] = field(default_factory=dict)

    @property
    def hooks(self) -> Hooks[Any, Any, Any]:
        return Hooks(self.starts.append, self._event, self.warnings.append, self.refused.get)

    def _event(self, task: str, event: Any) -> None:
        assert task in self.starts
        self.events.append(event)


class OnceOnly(Notes):
    """Refuses a task that has begun before."""

    @property
    def hooks(self) -> Hooks[Any, Any, Any]:
        refuse = lambda task: "once" if task in self.starts else None  # noqa: E731
        return replace(super().hooks, refuse=refuse)


@dataclass(frozen=True)
class Lost:
    task: str
    reason: str
    cause: str


def lost(task: str, loss: Loss) -> Lost:
    return Lost(task, loss.reason, loss.cause)


def work(do: Callable[[str, Any, Emit], Any], build: Callable[[int], Any] = int) -> Work[str, Any, Any, Any]:
    return Work(build, do, lost, str, "Finished tasks are kept.")


def small(task: str) -> str:
    """The form of a task that needs less memory."""
    return task.upper()


def trying(do: Callable[[str, Any, Emit], Any]) -> Work[str, Any, Any, Any]:
    """Work whose results that are a `Loss` are tried again."""
    transient = lambda result: result if isinstance(result, Loss) else None  # noqa: E731
    return replace(work(do), transient=transient, smaller=small)


# What workers do. Files in a folder are what their processes leave behind.


def count(task: str, threads: int, emit: Emit) -> str:
    for number in range(5):
        emit((task, number))
    return f"{task} with {threads}"


def read_variable(name: str, _threads: int, _emit: Emit) -> str:
    return os.environ[name]


def note_process(folder: Path, task: str, _threads: int, _emit: Emit) -> int:
    with (folder / task).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def die(folder: Path, times: int, task: str, threads: int, emit: Emit) -> int:
    """Task b kills its process so many times."""
    emit((task, "begins"))
    process = note_process(folder, task, threads, emit)
    if task == "b" and len(processes(folder, task)) <= times:
        os.kill(process, signal.SIGKILL)
    return process


def processes(folder: Path, task: str) -> list[int]:
    path = folder / task
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_and_note(folder: Path, task: str, threads: int, emit: Emit) -> None:
    """Note the process, and then work until it is killed."""
    note_process(folder, task, threads, emit)
    emit(task)
    time.sleep(600)


def follow_driver(folder: Path, task: str, _threads: int, emit: Emit) -> bool:
    """Go on when the driver has taken the event; return whether it did so during the task."""
    emit(task)
    return wait_for(lambda: (folder / task).exists())


def lose(folder: Path, cause: Any, times: int, task: str, threads: int, emit: Emit) -> Any:
    """Task b has no result so many times."""
    note_process(folder, task.lower(), threads, emit)
    if task.lower() == "b" and len(processes(folder, "b")) <= times:
        return Loss(cause, "there is no more")
    return task


def hang(folder: Path, times: int, task: str, threads: int, emit: Emit) -> str:
    """Task b blocks in open(2) so many times; the others take longer than a hanging one, step by step."""
    note_process(folder, task, threads, emit)
    if task == "b" and len(processes(folder, task)) <= times:
        os.close(os.open(folder / "pipe", os.O_RDONLY))
    for step in range(6):
        time.sleep(0.5)
        emit(step)
    return task


def build_slowly(_threads: int) -> int:
    time.sleep(4)
    return 1


def fail_to_build_once(folder: Path, _threads: int) -> int:
    try:
        (folder / "started").mkdir()
    except FileExistsError:
        return 1
    raise MemoryError("no more")


def fail(task: str, _threads: int, _emit: Emit) -> str:
    raise KeyError(task)


def refuse(_threads: int) -> int:
    raise InputError("no such device", subject="--device cuda:99")


def refuse_after(folder: Path, _threads: int) -> int:
    """The first worker starts, and no other does."""
    try:
        (folder / "started").mkdir()
    except FileExistsError:
        wait_for(lambda: (folder / "ended").exists())
        raise InputError("no such device") from None
    return 1


def die_in_the_end(folder: Path, task: str, threads: int, emit: Emit) -> str:
    """The first task ends, the second takes its worker along."""
    if (folder / "ended").exists():
        os._exit(1)
    (folder / "ended").touch()
    return task


def hold_a_thread(task: str, _threads: int, _emit: Emit) -> Callable[[], str]:
    """Return what cannot be sent to another process."""
    lock = __import__("threading").Lock()
    return lambda: f"{task}{lock}"


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local Ray whose processes can import this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with ray_runtime(None) as ray:
            yield ray


Run = Callable[..., list[Any]]


def pool_on(
    ray: Any, work: Work[str, Any, Any, Any], workers: int, notes: Notes, retries: Retries | None = None
) -> Pool[str, Any, Any]:
    """A pool on a Ray that goes on after it."""
    crew = RayCrew(ray, work.build, work.do, Placement(workers, 1, 0.0), work.environment)
    return Pool(crew, work, workers, notes.hooks, retries or Retries(), Interrupts({}))


@pytest.fixture
def on_ray(ray: Any) -> Run:
    def run(
        tasks: str,
        work: Work[str, Any, Any, Any],
        notes: Notes,
        retries: Retries | None = None,
        workers: int = 1,
    ) -> list[Any]:
        return list(pool_on(ray, work, workers, notes, retries).run(list(tasks)))

    return run


@pytest.fixture(params=["here", "ray"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run tasks with one worker, in this process or on Ray."""
    if request.param == "ray":
        run: Run = request.getfixturevalue("on_ray")
        return run

    def here(
        tasks: str, work: Work[str, Any, Any, Any], notes: Notes, retries: Retries | None = None
    ) -> list[Any]:
        options = PlacementOptions(workers=0, cpus_per_worker=1)
        return list(run_tasks(list(tasks), work, options, notes.hooks, retries))

    return here


def test_results_and_events_are_the_same_here_and_on_ray(run: Run) -> None:
    notes = Notes()
    assert run("abc", work(count), notes) == ["a with 1", "b with 1", "c with 1"]
    assert notes.events == [(task, number) for task in "abc" for number in range(5)]
    assert notes.warnings == []


def test_a_refused_task_is_not_begun_and_has_the_result_that_the_hook_gives(run: Run) -> None:
    notes = Notes(refused={"a": "not a", "c": "not c"})
    assert sorted(run("abcd", work(count), notes)) == ["b with 1", "d with 1", "not a", "not c"]
    assert notes.starts == ["b", "d"]
    assert {task for task, _ in notes.events} == {"b", "d"}


def test_if_all_tasks_are_refused_none_is_begun(run: Run) -> None:
    notes = Notes(refused=dict.fromkeys("abc", "no"))
    assert run("abc", work(count), notes) == ["no"] * 3
    assert notes.starts == []


def test_a_worker_that_cannot_be_built_is_an_error_before_anything_is_done(run: Run) -> None:
    notes = Notes()
    with pytest.raises(InputError) as raised:
        run("abc", work(count, refuse), notes)
    assert str(raised.value) == "--device cuda:99: no such device"
    assert notes.events == []


def test_an_exception_of_a_task_is_raised(run: Run) -> None:
    with pytest.raises(KeyError, match="a"):
        run("abc", work(fail), Notes())


def test_the_traceback_of_a_worker_is_among_the_notes_of_its_exception(on_ray: Run) -> None:
    with pytest.raises(KeyError) as raised:
        on_ray("a", work(fail), Notes())
    assert "in fail\n" in raised.value.__notes__[0]


def test_without_tasks_nothing_is_built() -> None:
    options = PlacementOptions(workers=2)
    assert list(run_tasks([], work(count, refuse), options, Notes().hooks)) == []


def test_without_workers_ray_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from tests.workers.test_pool import *\n"
        "list(run_tasks(['a'], work(count), PlacementOptions(workers=0), Notes().hooks))\n"
        "print('ray' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout == "False\n"


def test_a_workers_process_has_the_environment_of_its_work(on_ray: Run) -> None:
    """glibc reads its settings when a process starts."""
    folds = replace(work(read_variable), environment=LARGE_BLOCKS_ENVIRONMENT)
    assert on_ray(list(LARGE_BLOCKS_ENVIRONMENT), folds, Notes()) == list(LARGE_BLOCKS_ENVIRONMENT.values())


def test_all_workers_take_part(ray: Any, on_ray: Run) -> None:
    del ray
    notes = Notes()
    results = on_ray("abcdef", work(count), notes, workers=2)
    assert sorted(results) == [f"{task} with 1" for task in "abcdef"]
    for task in "abcdef":
        assert [number for name, number in notes.events if name == task] == list(range(5))


def test_events_arrive_while_a_task_is_at_work(ray: Any, tmp_path: Path) -> None:
    pool = pool_on(ray, work(partial(follow_driver, tmp_path)), 1, Notes())
    pool._hooks = replace(pool._hooks, on_event=lambda task, _: (tmp_path / task).touch())
    assert list(pool.run(["a", "b"])) == [True, True]


def test_a_worker_gets_its_next_task_before_the_caller_gets_a_result(ray: Any, tmp_path: Path) -> None:
    """The caller writes results, which can take long."""
    pool = pool_on(ray, work(partial(note_process, tmp_path)), 1, Notes())
    with closing(pool.run(["a", "b", "c"])) as results:
        next(results)
        assert wait_for((tmp_path / "b").exists)
        time.sleep(0.5)
        assert not (tmp_path / "c").exists()


def test_a_lost_workers_task_is_done_by_a_new_worker(on_ray: Run, tmp_path: Path) -> None:
    notes = Notes()
    results = on_ray("abc", work(partial(die, tmp_path, 1)), notes)
    assert len(results) == 3
    dead, new = processes(tmp_path, "b")
    assert results == [*processes(tmp_path, "a"), *processes(tmp_path, "c"), new]
    assert len({dead, *processes(tmp_path, "c"), new}) == 3
    (warning,) = notes.warnings
    assert warning.startswith("b: its worker died (ActorDiedError: ")
    assert warning.endswith("). It is tried again (attempt 2 of 3).")
    assert notes.events[-1] == ("b", "begins")
    assert notes.starts == ["a", "b", "c", "b"]


def test_a_task_is_tried_again_on_a_worker_that_has_done_nothing_else(on_ray: Run, tmp_path: Path) -> None:
    on_ray("abcdef", work(partial(die, tmp_path, 2)), Notes())
    others = {process for task in "acdef" for process in processes(tmp_path, task)}
    assert len(processes(tmp_path, "b")) == TRIES
    assert not others & set(processes(tmp_path, "b")[1:])


def test_a_task_that_kills_its_workers_is_named_and_costs_no_other_an_attempt(
    on_ray: Run, tmp_path: Path
) -> None:
    notes = Notes()
    results = on_ray("abcd", work(partial(die, tmp_path, 99)), notes, workers=2)
    (gone,) = (result for result in results if isinstance(result, Lost))
    assert gone.task == "b"
    assert gone.reason.startswith("b: its worker died (ActorDiedError: ")
    assert gone.reason.endswith(
        "). It was tried 3 times. Pass fewer --workers, which need less memory, and run again. "
        "Finished tasks are kept."
    )
    assert "\n" not in gone.reason
    assert [len(processes(tmp_path, task)) for task in "abcd"] == [1, 3, 1, 1]
    assert len(notes.warnings) == 2


def test_a_worker_that_cannot_be_built_later_costs_its_task_alone(on_ray: Run, tmp_path: Path) -> None:
    build = partial(refuse_after, tmp_path)
    results = on_ray("abc", work(partial(die_in_the_end, tmp_path), build), Notes())
    assert results[0] == "a"
    reasons = {result.task: result.reason for result in results[1:]}
    assert reasons == {task: f"{task}: its worker cannot start: no such device" for task in "bc"}


def test_a_result_that_cannot_be_sent_loses_its_task(on_ray: Run) -> None:
    (result,) = on_ray("a", work(hold_a_thread), Notes())
    assert "tried 3 times" in result.reason
    assert "pickle" in result.reason


def test_a_pool_that_is_closed_early_leaves_no_process(ray: Any, tmp_path: Path) -> None:
    """Not even on a Ray that goes on."""
    notes = Notes()
    pool = pool_on(ray, work(partial(wait_and_note, tmp_path)), 2, notes)
    with pytest.raises(KeyboardInterrupt):
        list(interrupted(pool, notes))
    gone = [processes(tmp_path, task)[0] for task in "ab"]
    assert wait_for(lambda: not any(map(psutil.pid_exists, gone)))
    assert not (tmp_path / "c").exists()


def interrupted(pool: Pool[str, Any, Any], notes: Notes) -> Iterator[Any]:
    """Interrupt a pool when both of its workers are at work."""

    def interrupt(_task: object, _event: object) -> None:
        notes.events.append(_event)
        if len(notes.events) == 2:
            raise KeyboardInterrupt

    pool._hooks = replace(notes.hooks, on_event=interrupt)
    return pool.run(["a", "b", "c"])


def test_a_finished_pool_leaves_no_process(on_ray: Run, tmp_path: Path) -> None:
    (process,) = set(on_ray("abc", work(partial(note_process, tmp_path)), Notes()))
    assert wait_for(lambda: not psutil.pid_exists(process))


@pytest.mark.parametrize("cause", ["memory", pytest.param("storage", marks=pytest.mark.faults)])
def test_a_transient_failure_is_tried_again_and_memory_in_the_smaller_form(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setattr(pool, "PAUSE_SECONDS", 0.1)
    notes = Notes()
    results = run("abc", trying(partial(lose, tmp_path, cause, 2)), notes)
    assert results == ["a", "c", "B" if cause == "memory" else "b"]
    shrunk = " with smaller batches" if cause == "memory" else ""
    assert notes.warnings[0] == f"b: there is no more. It is tried again{shrunk} (attempt 2 of 3)."
    assert notes.starts[-1] == results[-1]
    # memory once: the third attempt is as small as the second
    assert len(processes(tmp_path, "b")) == 3
    assert [warning for warning in notes.warnings if "smaller" in warning] == notes.warnings[: bool(shrunk)]


def test_a_transient_failure_that_stays_is_named_with_its_cause_and_remedy(run: Run, tmp_path: Path) -> None:
    results = run("abc", trying(partial(lose, tmp_path, "memory", 9)), Notes(), Retries(tries=2))
    (gone,) = (result for result in results if isinstance(result, Lost))
    assert gone == Lost(
        "B",
        "B: there is no more. It was tried 2 times. Pass a smaller --batch-size or fewer --workers, and run "
        "again. Finished tasks are kept.",
        "memory",
    )
    assert len(processes(tmp_path, "b")) == 2


def test_a_task_that_is_refused_after_its_failure_is_not_said_to_be_tried_again(
    run: Run, tmp_path: Path
) -> None:
    notes = OnceOnly()
    assert run("b", trying(partial(lose, tmp_path, "memory", 9)), notes) == ["once"]
    assert (notes.starts, notes.warnings) == (["b"], [])


def test_a_single_try_is_not_repeated(run: Run, tmp_path: Path) -> None:
    (gone,) = run("b", trying(partial(lose, tmp_path, "storage", 9)), Notes(), Retries(tries=1))
    assert gone.reason == (
        "b: there is no more. Check that the storage answers, and run again. Finished tasks are kept."
    )


def test_memory_that_runs_out_while_a_worker_is_built_is_tried_again(run: Run, tmp_path: Path) -> None:
    notes = Notes()
    results = run("ab", work(count, partial(fail_to_build_once, tmp_path)), notes)
    assert sorted(results) == ["a with 1", "b with 1"]
    (warning,) = notes.warnings
    assert warning.startswith("a: its worker could not start (MemoryError: no more). It is tried again")


@pytest.mark.parametrize("times", [1, pytest.param(9, marks=pytest.mark.faults)])
def test_a_task_in_which_nothing_happens_is_given_up_and_tried_again(
    run: Run, tmp_path: Path, times: int
) -> None:
    os.mkfifo(tmp_path / "pipe")
    notes = Notes()
    results = run("abc", work(partial(hang, tmp_path, times)), notes, Retries(2, stall_seconds=2))
    assert results[:2] == ["a", "c"], "three seconds of steps are no stall"
    reason = "nothing has happened for 2 s: its reader or its storage does not answer"
    assert notes.warnings == [f"b: {reason}. It is tried again (attempt 2 of 2)."]
    if times == 1:
        assert results[2] == "b"
    else:
        assert results[2].cause == "stall"
        assert results[2].reason == (
            f"b: {reason}. It was tried 2 times. Check the file and its storage, or raise stall_seconds, and "
            "run again. Finished tasks are kept."
        )


def test_a_worker_that_is_built_slowly_does_not_hang(run: Run) -> None:
    notes = Notes()
    assert run("a", work(count, build_slowly), notes, Retries(1, stall_seconds=1)) == ["a with 1"]
    assert notes.warnings == []


def test_an_unknown_death_is_tried_as_it_is_and_at_last_in_the_smaller_form(
    on_ray: Run, tmp_path: Path
) -> None:
    notes = Notes()
    on_ray("b", trying(partial(die, tmp_path, 9)), notes)
    assert notes.starts == ["b", "b", "B"]


def test_a_hanging_thread_does_not_keep_a_process_from_going_on(tmp_path: Path) -> None:
    """Its thread is abandoned where it hangs."""
    os.mkfifo(tmp_path / "pipe")
    before = set(threading.enumerate())
    options = PlacementOptions(workers=0, cpus_per_worker=1)
    hanging = work(partial(hang, tmp_path, 9))
    with closing(run_tasks(["b"], hanging, options, Notes().hooks, Retries(1, 0.5))) as results:
        assert next(results).cause == "stall"
    (left,) = set(threading.enumerate()) - before
    with (tmp_path / "pipe").open("w"):  # it ends at its next event
        assert wait_for(lambda: not left.is_alive())
