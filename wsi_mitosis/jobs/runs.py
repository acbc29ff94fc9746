"""What all runs over slides share: a slide's failure is its own, what is done stands, the log tells of it."""

from __future__ import annotations

import platform
import resource
import traceback
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from wsi_mitosis.errors import UnreadableSlideError, WsiMitosisError, printable
from wsi_mitosis.io.slides import identify
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from wsi_mitosis.io.results.held import HeldFolder
    from wsi_mitosis.io.slides import FoundSlides
    from wsi_mitosis.tables import SlideSource, Status

LIBRARIES = ("numpy", "openslide-python", "pandas", "ray", "tiatoolbox", "torch")

Result = TypeVar("Result")


@dataclass(frozen=True)
class SlideOutcome(Generic[Result]):
    """What became of one slide.

    Attributes:
        result: None where it failed, or where the result that stands is of the same key.
        error: One line for the user; None if all went well.
        details: Traceback of an error that no input explains.
        seconds: Time it took.
        peak_rss_mb: Largest resident memory so far of the process that did it, MB.
    """

    name: str
    status: Literal["done", "failed"]
    result: Result | None = None
    error: str | None = None
    details: str | None = None
    seconds: float = 0.0
    peak_rss_mb: float | None = None


class Task(Protocol):
    """One slide to do."""

    @property
    def name(self) -> str:
        """What it is called in the output folder."""
        ...


class Record(Protocol):
    """What stands of a slide in the output folder."""

    @property
    def source(self) -> str:
        """Absolute path of the slide."""
        ...

    @property
    def identity(self) -> str:
        """Digest of the slide's content."""
        ...

    @property
    def counts(self) -> Mapping[str, float | int | None]:
        """The slide's numbers."""
        ...

    @property
    def told(self) -> str:
        """The numbers in a few words."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about it."""
        ...


class Reporter(Protocol):
    """Whoever shows a run to the user."""

    def warn(self, message: str) -> None:
        """Tell something that the user should know."""
        ...

    def say(self, message: str) -> None:
        """Tell what is being done."""
        ...

    def start(self, slides: int, candidates: int | None) -> None:
        """The work begins; `candidates` is how many patches there are, where that is known."""
        ...

    def patches(self, number: int) -> None:
        """So many more patches are through the model."""
        ...

    def finished(self, outcome: SlideOutcome[Any], record: Record | None) -> None:
        """One slide is through; `record` is what stands of it in the output folder."""
        ...


@dataclass(kw_only=True)
class RunResult:
    """A run's end.

    Attributes:
        statuses: Status by slide name, this run's slides only.
        errors: One line for each failed slide, and for a file of the whole run that failed.
        kept: Slides whose result stood already.
        warnings: All that the user was told.
    """

    statuses: dict[str, Status] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """0 all done, 1 some failed or were left, 130 interrupted."""
        if self.interrupted:
            return 130
        left = any(status in {"failed", "pending", "set_aside"} for status in self.statuses.values())
        return int(left or bool(self.errors))


AnyTask = TypeVar("AnyTask", bound=Task)
AnyRecord = TypeVar("AnyRecord", bound=Record)
AnyResult = TypeVar("AnyResult", bound=RunResult)


class Run(ABC, Generic[AnyTask, Result, AnyRecord, AnyResult]):
    """One run's state, from the lock of its folder to its last file.

    Args:
        folder: Where its results are; held.
        result: To be filled.
        records: What stands in the folder, by slide name.
        reporter: Who tells the user.
        fail_fast: Stop at the first failed slide.
    """

    def __init__(
        self,
        folder: HeldFolder,
        result: AnyResult,
        records: dict[str, AnyRecord],
        reporter: Reporter,
        *,
        fail_fast: bool,
    ) -> None:
        self.result, self.records, self.reporter, self.fail_fast = result, records, reporter, fail_fast
        self._folder = folder
        self.identities: dict[str, str] = {}
        self.started = datetime.now(UTC)

    @abstractmethod
    def tasks(self) -> list[AnyTask]:
        """What is to do, largest first."""

    @abstractmethod
    def begin(self, tasks: Sequence[AnyTask]) -> None:
        """Before the first slide."""

    @abstractmethod
    def keep(self, outcome: SlideOutcome[Result]) -> dict[str, float]:
        """Write a done slide's files, or see that they stand; gives seconds by stage."""

    @abstractmethod
    def end(self) -> None:
        """After the last slide, or an interrupt."""

    def through(
        self, execute: Callable[[Sequence[AnyTask]], Generator[SlideOutcome[Result], None, None]]
    ) -> AnyResult:
        """Do the work and leave the folder consistent, whatever happens."""
        try:
            tasks = self.tasks()
            self.begin(tasks)
            if self.fail_fast and self.result.errors:
                tasks = []
                self.warn(_stopped(next(iter(self.result.errors))))
            with closing(execute(tasks)) as outcomes:
                for outcome in outcomes:
                    self.take(outcome)
                    if outcome.status == "failed" and self.fail_fast:
                        self.warn(_stopped(outcome.name))
                        break
        except KeyboardInterrupt:
            self.result.interrupted = True
        finally:
            self.end()
        return self.result

    def take(self, outcome: SlideOutcome[Result]) -> None:
        """Keep one slide's outcome and tell of it."""
        name = outcome.name
        stages: dict[str, float] = {}
        if outcome.status == "done":
            outcome, stages = self._kept(outcome)
        self.result.statuses[name] = outcome.status
        if outcome.error is not None:
            self.result.errors[name] = outcome.error
            self._folder.log("failed", slide=name, error=outcome.error, details=outcome.details)
        else:
            record = self.records[name]
            self.identities[name] = record.identity
            self._folder.log(
                "done",
                slide=name,
                kept=name in self.result.kept,
                seconds=outcome.seconds,
                stages=stages,
                peak_rss_mb=outcome.peak_rss_mb,
                **record.counts,
            )
            for message in record.warnings:
                self.warn(message)
        self.reporter.finished(outcome, self.records.get(name))

    def _kept(self, outcome: SlideOutcome[Result]) -> tuple[SlideOutcome[Result], dict[str, float]]:
        """The outcome once its files stand, and seconds by stage; failed where they cannot be written."""
        started, name = perf_counter(), outcome.name
        try:
            stages = self.keep(outcome)
        except WsiMitosisError as failure:
            return replace(outcome, status="failed", error=str(failure)), {}
        except Exception as failure:  # noqa: BLE001 - as in `attempt`: that slide's alone, traceback kept
            told = f"{name}: writing results: {type(failure).__name__}: {failure}. Make room and run again"
            return replace(
                outcome, status="failed", error=printable(told), details=traceback.format_exc()
            ), {}
        if outcome.result is None:
            self.result.kept.add(name)
            return outcome, {}
        return outcome, {**stages, "writing": perf_counter() - started}

    def warn(self, message: str) -> None:
        """Tell the user, the log and the result."""
        self.result.warnings.append(message)
        self._folder.log("warning", message=message)
        self.reporter.warn(message)

    def write_run(self, ended: datetime | None, **facts: object) -> None:
        """Write `run.json`; `ended` is None while the run is at work."""
        self._folder.write_run(
            {
                "program": "wsi-mitosis",
                "version": __version__,
                "use": "research use only",
                **facts,
                "libraries": {name: metadata.version(name) for name in LIBRARIES},
                "python": platform.python_version(),
                "warnings": self.result.warnings,
                "started": self.started.isoformat(timespec="seconds"),
                "ended": ended.isoformat(timespec="seconds") if ended else None,
                "exit_status": self.result.exit_status if ended else None,
            }
        )

    def described(self, name: str, source: SlideSource) -> dict[str, Any]:
        """What `run.json` says of a slide."""
        return {
            "slide": name,
            "path": str(source.path),
            "identity": self.identities.get(name),
            "status": self.result.statuses.get(name),
            "kept": name in self.result.kept,
            "error": self.result.errors.get(name),
        }


def _stopped(name: str) -> str:
    return f"Stopped after {name} failed (--fail-fast)."


def attempt(name: str, work: Callable[[], Result | None]) -> SlideOutcome[Result]:
    """Do one slide; whatever goes wrong with it is its outcome, and never the batch's end."""
    started = perf_counter()
    result, error, details = None, None, None
    try:
        result = work()
    except WsiMitosisError as failure:
        error = str(failure)
    except Exception as failure:  # noqa: BLE001 - a slide's failure is that slide's alone; the traceback is kept
        error = printable(
            f"{name}: unexpected {type(failure).__name__}: {failure}; log.jsonl has the traceback"
        )
        details = traceback.format_exc()
    return SlideOutcome(
        name=name,
        status="done" if error is None else "failed",
        result=result,
        error=error,
        details=details,
        seconds=perf_counter() - started,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # KiB on Linux, getrusage(2)
    )


def notes_of(found: FoundSlides) -> tuple[str, ...]:
    """What the user should know of the search for slides."""
    skipped = (
        "1 file that is not a slide was"
        if found.skipped == 1
        else f"{found.skipped} files that are not slides were"
    )
    return (*([f"{skipped} left out"] if found.skipped else []), *found.notes)


def size_bytes(source: SlideSource) -> int:
    """Size of a slide's file; 0 for one that cannot be looked at, which fails when it is opened."""
    try:
        return source.path.stat().st_size
    except OSError:
        return 0


def standing_names(records: Mapping[str, Record], sources: Sequence[SlideSource]) -> dict[str, str]:
    """Names that the folder holds, by path; a slide that was moved since keeps its name.

    A slide that is gone keeps its name too: another of the same file name must not take its results' place.

    Args:
        records: What stands in the folder, by slide name.
        sources: The slides of the run that can be opened.
    """
    here = {record.source for record in records.values()}
    newcomers = [source for source in sources if str(source.path) not in here]
    names = {}
    for name, record in records.items():
        path = Path(record.source)
        namesakes = [] if path.exists() else [s for s in newcomers if s.path.name == path.name]
        moved = next((source for source in namesakes if _is_same(source, record)), None)
        names[record.source if moved is None else str(moved.path)] = name
    return names


def _is_same(source: SlideSource, record: Record) -> bool:
    try:
        return identify(source.path) == record.identity
    except UnreadableSlideError:
        return False  # it will fail under a name of its own
