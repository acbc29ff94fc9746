"""Processing slides one after the other: the failure of a slide is its own, and finished work is kept."""

from __future__ import annotations

import traceback
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from wsi_mitosis.errors import OutputError, WsiMitosisError, printable
from wsi_mitosis.io.processors import peak_memory_mb
from wsi_mitosis.jobs.transient import transient_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.jobs.ledger import Ledger
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.jobs.transient import Transient

Result = TypeVar("Result")
Task = TypeVar("Task")


@dataclass(frozen=True)
class SlideOutcome(Generic[Result]):
    """The outcome of processing one slide.

    Attributes:
        name: The slide's name in the output folder.
        status: Whether it is done; `pending` if it was not begun.
        result: None if the slide failed, or if an up-to-date result exists on disk.
        error: One line for the user; None if the slide is done.
        details: Traceback of an error that no input explains.
        seconds: Time that it took.
        copying_seconds: Part of it that it waited for the copy of the slide; None if none was made.
        peak_rss_mb: Largest resident memory so far of the process that did it, MB.
        transient: The cause of a failure that another attempt may not meet: memory ran out, the storage did
            not answer, a node of the cluster was lost, or the output folder could not be written. None for
            every other failure.
    """

    name: str
    status: Literal["done", "failed", "pending"]
    result: Result | None = None
    error: str | None = None
    details: str | None = None
    seconds: float = 0.0
    copying_seconds: float | None = None
    peak_rss_mb: float | None = None
    transient: Transient | Literal["node", "output"] | None = None


class Progress(Protocol):
    """Takes what happens while slides are processed."""

    def warn(self, message: str) -> None:
        """Take something that the user should know."""
        ...

    def started(self, name: str) -> None:
        """Called each time that a slide is begun, also when it is tried again."""
        ...

    def patches(self, name: str, number: int) -> None:
        """Called when the model has processed so many more patches of a slide."""
        ...

    def refuse(self, task: SlideTask) -> SlideOutcome[Any] | None:
        """Return the outcome of a slide that shall not be begun; None if it may be."""
        ...


class Reporter(Protocol):
    """Displays the progress and messages of a run."""

    def warn(self, message: str) -> None:
        """Display something that the user should know."""
        ...

    def patches(self, number: int) -> None:
        """Called when the model has processed so many more patches; fewer if a slide is tried again."""
        ...

    def info(self, message: str) -> None:
        """Display what is being done."""
        ...

    def start(self, slides: int, candidates: int | None) -> None:
        """Called before the first slide; `candidates` is the number of patches, None if it is not known."""
        ...

    def left(self, status: str, reason: str) -> None:
        """Called for a slide that the run leaves for a later one; `status` says how."""
        ...

    def finished(self, outcome: SlideOutcome[Any], record: SlideRecord | None) -> None:
        """Called when a slide finishes; `record` describes its results on disk, None if there are none."""
        ...


def process(
    tasks: Sequence[Task],
    execute: Callable[[Sequence[Task]], Generator[SlideOutcome[Result], None, None]],
    write: Callable[[SlideOutcome[Result]], tuple[SlideRecord, Mapping[str, float]]],
    ledger: Ledger,
    *,
    fail_fast: bool,
) -> None:
    """Process slides, write the files of each as it finishes, and enter it in the ledger.

    Args:
        tasks: The slides, largest first.
        execute: Takes the tasks and yields an outcome for each as it ends.
        write: Writes the files of a done slide, or brings those on disk up to date; returns the slide's
            record and seconds by stage.
        ledger: The run's ledger; a slide that failed before counts for `fail_fast`.
        fail_fast: Stop at the first failed slide.
    """
    if fail_fast and ledger.result.errors:
        ledger.warn(_stopped(next(iter(ledger.result.errors))))
        return
    with closing(execute(tasks)) as outcomes:
        for outcome in outcomes:
            finished, record, stages = _written(outcome, write, ledger)
            ledger.enter(finished, record, stages)
            if finished.status == "failed" and fail_fast:
                ledger.warn(_stopped(finished.name))
                return
            if ledger.has_lost_folder():
                ledger.warn("Stopped, because this run does not hold the output folder any more.")
                return


def _written(
    outcome: SlideOutcome[Result],
    write: Callable[[SlideOutcome[Result]], tuple[SlideRecord, Mapping[str, float]]],
    ledger: Ledger,
) -> tuple[SlideOutcome[Result], SlideRecord | None, Mapping[str, float]]:
    """Return the outcome after the slide's files are written; it is failed if they cannot be."""
    if outcome.status != "done":
        return outcome, None, {}
    started = perf_counter()
    try:
        ledger.check_held()
        record, stages = write(outcome)
    except WsiMitosisError as failure:
        transient: Literal["output"] | None = "output" if isinstance(failure, OutputError) else None
        return replace(outcome, status="failed", error=str(failure), transient=transient), None, {}
    except Exception as failure:  # noqa: BLE001 - it fails this slide alone, and the traceback is kept
        cause = f"{outcome.name}: writing results: {type(failure).__name__}: {failure}"
        remedy = "Check that the output folder can be written and has room, and run again"
        error = f"{cause}. {remedy if isinstance(failure, OSError) else 'log.jsonl has the traceback'}"
        return _not_written(outcome, printable(error), failure), None, {}
    if outcome.copying_seconds is not None:
        stages = {"copying": outcome.copying_seconds, **stages}
    if outcome.result is not None:
        stages = {**stages, "writing": perf_counter() - started}
    return outcome, record, stages


def _not_written(outcome: SlideOutcome[Result], error: str, failure: Exception) -> SlideOutcome[Result]:
    """Return the outcome of a slide whose files could not be written."""
    return replace(
        outcome,
        status="failed",
        error=error,
        details=traceback.format_exc(),
        transient="output" if isinstance(failure, OSError) else None,
    )


def _stopped(name: str) -> str:
    return f"Stopped after {name} failed (--fail-fast)."


def ignore_progress(_number: int) -> None:
    """Take no notice of progress."""


def attempt(name: str, work: Callable[[], Result | None]) -> SlideOutcome[Result]:
    """Process one slide; an exception becomes the outcome of this slide and never ends the run."""
    started = perf_counter()
    result, error, details, transient = None, None, None, None
    try:
        result = work()
    except Exception as failure:  # noqa: BLE001 - it fails this slide alone, and the traceback is kept
        transient = transient_cause(failure)
        error = printable(_message(name, failure, transient))
        details = None if isinstance(failure, WsiMitosisError) else traceback.format_exc()
    return SlideOutcome(
        name=name,
        status="done" if error is None else "failed",
        result=result,
        error=error,
        details=details,
        seconds=perf_counter() - started,
        peak_rss_mb=peak_memory_mb(),
        transient=transient,
    )


def _message(name: str, failure: Exception, transient: Transient | None) -> str:
    if transient == "memory":
        return f"{name}: memory ran out ({_first_line(failure)})"
    if isinstance(failure, WsiMitosisError):
        return str(failure)
    if transient == "storage":
        return f"{name}: its storage did not answer ({_first_line(failure)})"
    return f"{name}: unexpected {type(failure).__name__}: {failure}; log.jsonl has the traceback"


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(failure).__name__
