"""The ledger of a run: the state of each slide, the warnings, the log, and `run.json`."""

from __future__ import annotations

import platform
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from wsi_mitosis.errors import InputError, WsiMitosisError, printable
from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.io.processors import host_class
from wsi_mitosis.io.results.held import RUN
from wsi_mitosis.io.results.log import LOG
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.run_progress import ProgressFile
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.results.held import HeldFolder
    from wsi_mitosis.jobs.admission import Admission
    from wsi_mitosis.jobs.histories import Histories
    from wsi_mitosis.jobs.inputs import Left
    from wsi_mitosis.jobs.outcomes import Reporter
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.tables import SlideSource, Status

LIBRARIES = ("numpy", "openslide-python", "pandas", "ray", "tiatoolbox", "torch")
"""Libraries whose versions `run.json` states."""
UNFINISHED = {"failed", "pending", "set_aside"}
BLAMELESS = {"storage", "node", "output"}
"""Causes of a failure for which the slide is not to blame, and after which it is not set aside."""


@dataclass(kw_only=True)
class RunResult:
    """The result of a run.

    Attributes:
        statuses: Status by slide name, of this run's slides only.
        errors: One line for each failed slide, and for each file of the whole run that failed.
        reasons: One line for each slide that is waiting or set aside.
        kept: Slides whose results on disk were up to date.
        warnings: All warnings.
        interrupted: Whether the user or a signal ended the run.
        refused: Whether the run ended before its first slide, because something that it needs is missing.
    """

    statuses: dict[str, Status] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    refused: bool = False

    @property
    def exit_status(self) -> int:
        """0: every slide is done or waits; 1: some failed or are left; 2: refused; 130: interrupted."""
        if self.interrupted:
            return 130
        if self.refused:
            return 2
        return int(bool(self.errors) or not UNFINISHED.isdisjoint(self.statuses.values()))


class Ledger:
    """Keeps the account of one run.

    Args:
        folder: The output folder, whose log, states and `run.json` it writes.
        result: The result to fill.
        reporter: Displays warnings and finished slides.
        sources: The slides of the run by name in the folder.
        facts: What `run.json` states of the run as a whole.
        histories: The states of the folder's slides.
        admission: Decides whether a slide may begin.
    """

    def __init__(
        self,
        folder: HeldFolder,
        result: RunResult,
        reporter: Reporter,
        sources: Mapping[str, SlideSource],
        facts: Mapping[str, object],
        histories: Histories,
        admission: Admission,
    ) -> None:
        self.result = result
        self._folder, self._reporter, self._sources, self._facts = folder, reporter, sources, facts
        self._histories, self._admission = histories, admission
        self._tasks: dict[str, SlideTask] = {}
        self._progress = ProgressFile(folder)
        self._identities: dict[str, str] = {}
        self._started = datetime.now(UTC)

    @property
    def started_at(self) -> datetime:
        """When the run began, UTC."""
        return self._started

    def open(
        self,
        tasks: Sequence[SlideTask],
        failures: Mapping[str, str],
        left: Mapping[str, Left],
        notes: Iterable[str],
        **facts: object,
    ) -> None:
        """Enter what is known before the first slide.

        Args:
            tasks: The slides to process.
            failures: Slides that cannot be processed, by name, and why.
            left: Slides that this run leaves for a later one, by name, and why.
            notes: What the user should know about the inputs.
            facts: What the log states of the start.
        """
        self._tasks = {task.name: task for task in tasks}
        self.result.statuses |= dict.fromkeys(self._tasks, "pending")
        self._log_start(facts)
        for note in (*notes, *filter(None, [self._admission.note])):
            self.warn(note)
        candidates = [task.candidates for task in tasks]
        known = None if None in candidates else sum(number or 0 for number in candidates)
        self._reporter.start(len(tasks) + len(failures), known)
        self._progress.open(tasks)
        for name, error in failures.items():
            self.enter(SlideOutcome(name, "failed", error=error), None, {})
        for name, (status, reason) in left.items():
            self._leave(name, status, reason)
        self.write_run(ended=False)

    def _log_start(self, facts: Mapping[str, object]) -> None:
        self._report_log(self._folder.start_log())
        self.log("start", program=__version__, **facts)
        if (dead := self._folder.taken_from) is not None:
            self.warn(f"the folder is taken over from {dead}, which has not released it")

    def _leave(self, name: str, status: Literal["waiting", "set_aside", "pending"], reason: str) -> None:
        """Enter a slide that this run leaves for a later one."""
        self.result.statuses[name] = status
        self.result.reasons[name] = reason
        if status == "waiting":
            self.log("waiting", slide=name, reason=reason)
        elif status == "set_aside":
            self.log("set_aside", slide=name, error=reason)
        self._reporter.left(status, reason)

    @contextmanager
    def closing(self, finish: Callable[[], None]) -> Iterator[None]:
        """Call `finish` at the end of the block, whatever happens in it; an interrupt ends the block.

        A signal that arrives while `finish` runs does not end it.

        Args:
            finish: Writes the files of the run as a whole.
        """
        with holding_interrupts() as interrupts:
            try:
                yield
            except KeyboardInterrupt:
                self.result.interrupted = True
            except InputError as error:  # something that all slides need is missing
                self.result.refused = True
                self.warn(str(error))
                raise
            except Exception as error:
                bug = f"unexpected {type(error).__name__}: {error}; {LOG} has the traceback"
                self.fail("run", printable(bug), traceback.format_exc())
                raise
            finally:
                self.result.interrupted |= interrupts.acknowledge()
                self._histories.abandon()
                finish()
                self._progress.close()
                self.result.interrupted |= interrupts.acknowledge()

    def enter(
        self, outcome: SlideOutcome[Any], record: SlideRecord | None, stages: Mapping[str, float]
    ) -> None:
        """Enter the outcome of one slide.

        Args:
            outcome: The outcome.
            record: The slide's record on disk; None if there is none.
            stages: Seconds by stage.
        """
        name = outcome.name
        if outcome.status == "pending":
            self._postpone(outcome)
            return
        self.result.statuses[name] = outcome.status
        self._progress.end(name)
        if outcome.error is not None:
            counts = outcome.transient not in BLAMELESS
            self._histories.end(name, "failed", reason=outcome.error, counts=counts)
            self.fail(name, outcome.error, outcome.details)
        elif record is not None:
            self._histories.end(name, "done", key=record.key)
            self._done(outcome, record, stages)
        self._reporter.finished(outcome, record)

    def _postpone(self, outcome: SlideOutcome[Any]) -> None:
        """Enter a slide that is not begun; the reason is the same for all, and is displayed once."""
        reason = outcome.error or ""
        if reason not in self.result.reasons.values():
            self.warn(reason)
        self.result.reasons[outcome.name] = reason
        self._progress.postpone(outcome.name)
        self._histories.postpone(outcome.name)

    def fail(self, name: str, error: str, details: str | None = None) -> None:
        """Enter the failure of a slide, or of a file of the whole run."""
        self.result.errors[name] = error
        if name not in self.result.statuses:
            self.log("failed", file=name, error=error, details=details)
            return
        history = self._histories.known.get(name)
        failures = history.attempts or None if history is not None else None
        self.log("failed", slide=name, error=error, details=details, failures=failures)

    def write(self, name: str, write: Callable[[], None]) -> None:
        """Write a file of the run as a whole; its failure is entered and ends nothing.

        Args:
            name: The file.
            write: Writes it.
        """
        try:
            self.check_held()
            write()
        except WsiMitosisError as failure:
            self.fail(name, str(failure))
        except OSError as failure:
            remedy = "Make room or permit it, and run the same command again; finished slides are kept"
            self.fail(name, printable(f"{name}: writing: {failure.strerror or failure}. {remedy}"))

    def check_held(self) -> None:
        """Check that this run still holds the folder.

        Raises:
            OutputError: if another run has taken it over, or if it was removed.
        """
        self._folder.check_held()

    def has_lost_folder(self) -> bool:
        """Return whether this run does not hold the folder any more."""
        try:
            self.check_held()
        except WsiMitosisError:
            return True
        return False

    def warn(self, message: str) -> None:
        """Enter a warning and display it."""
        self._note(message)
        self.log("warning", message=message)

    def _note(self, message: str) -> None:
        self.result.warnings.append(message)
        self._reporter.warn(message)

    def info(self, message: str) -> None:
        """Display what is being done."""
        self._reporter.info(message)

    def started(self, name: str) -> None:
        """Enter that a slide is begun. The patches of an earlier attempt no longer count."""
        if repeated := self._progress.begin(name):
            self._reporter.patches(-repeated)
        if (task := self._tasks.get(name)) is not None:
            self._histories.begin(task)

    def patches(self, name: str, number: int) -> None:
        """Enter and display that the model has processed so many more patches of a slide."""
        self._progress.patches(name, number)
        self._reporter.patches(number)

    def refuse(self, task: SlideTask) -> SlideOutcome[Any] | None:
        """Return the outcome of a slide that shall not be begun; None if it may be."""
        return self._admission.refuse(task)

    def log(self, event: str, **facts: object) -> None:
        """Append an event to `log.jsonl`, without those facts that are None."""
        known = {name: fact for name, fact in facts.items() if fact is not None}
        self._report_log(self._folder.log(event, **known))

    def _report_log(self, fault: str | None) -> None:
        if fault is not None:
            self._note(fault)

    def log_end(self) -> None:
        """Append the end of the run to `log.jsonl`."""
        if self._histories.fault is not None:
            self.warn(self._histories.fault)
        seconds = (datetime.now(UTC) - self._started).total_seconds()
        statuses = dict(sorted(Counter(self.result.statuses.values()).items()))
        self.log("end", exit_status=self.result.exit_status, seconds=seconds, statuses=statuses)

    def write_run(self, *, ended: bool, notes: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Write `run.json`.

        Args:
            ended: Whether the run has ended.
            notes: What else to state of single slides, by name.
        """
        slides = [{**self._slide(name), **(notes or {}).get(name, {})} for name in self._sources]
        run = {
            "program": "wsi-mitosis",
            "version": __version__,
            "use": "research use only",
            **self._facts,
            "slides": slides,
            "libraries": {name: metadata.version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "host": host_class(),
            "warnings": self.result.warnings,
            "started": _moment(self._started),
            "ended": _moment(datetime.now(UTC)) if ended else None,
            "exit_status": self.result.exit_status if ended else None,
        }
        self.write(RUN, lambda: self._folder.write_run(run))

    def _done(self, outcome: SlideOutcome[Any], record: SlideRecord, stages: Mapping[str, float]) -> None:
        name = outcome.name
        if outcome.result is None:
            self.result.kept.add(name)
        self._identities[name] = record.slide.digest
        self.log(
            "done",
            slide=name,
            kept=outcome.result is None,
            seconds=outcome.seconds,
            stages=stages,
            peak_rss_mb=outcome.peak_rss_mb,
            **record.logged_counts,
            **record.logged_sharpness,
        )
        for message in record.warnings:
            self.warn(message)

    def _slide(self, name: str) -> dict[str, object]:
        return {
            "slide": name,
            "path": self._sources[name].place,
            "identity": self._identities.get(name),
            "status": self.result.statuses.get(name),
            "kept": name in self.result.kept,
            "error": self.result.errors.get(name),
            "reason": self.result.reasons.get(name),
        }


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
