"""The ledger of a run: the state of each slide, the warnings, the log, and `run.json`."""

from __future__ import annotations

import platform
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.interrupts import holding_interrupts
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.results.held import HeldFolder
    from wsi_mitosis.jobs.outcomes import Reporter
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.tables import SlideSource, Status

LIBRARIES = ("numpy", "openslide-python", "pandas", "ray", "tiatoolbox", "torch")
"""Libraries whose versions `run.json` states."""
UNFINISHED = {"failed", "pending", "set_aside"}


@dataclass(kw_only=True)
class RunResult:
    """The result of a run.

    Attributes:
        statuses: Status by slide name, of this run's slides only.
        errors: One line for each failed slide, and for each file of the whole run that failed.
        kept: Slides whose results on disk were up to date.
        warnings: All warnings.
        interrupted: Whether the user or a signal ended the run.
    """

    statuses: dict[str, Status] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """0 if every slide is done, 1 if some failed or were not processed, 130 after an interrupt."""
        if self.interrupted:
            return 130
        return int(bool(self.errors) or not UNFINISHED.isdisjoint(self.statuses.values()))


class Ledger:
    """Keeps the account of one run.

    Args:
        folder: The output folder, whose log and `run.json` it writes.
        result: The result to fill.
        reporter: Displays warnings and finished slides.
        sources: The slides of the run by name in the folder.
        facts: What `run.json` states of the run as a whole.
    """

    def __init__(
        self,
        folder: HeldFolder,
        result: RunResult,
        reporter: Reporter,
        sources: Mapping[str, SlideSource],
        facts: Mapping[str, object],
    ) -> None:
        self.result = result
        self._folder, self._reporter, self._sources, self._facts = folder, reporter, sources, facts
        self._identities: dict[str, str] = {}
        self._patches: Counter[str] = Counter()
        self._started = datetime.now(UTC)

    def open(
        self,
        pending: Collection[str],
        failures: Mapping[str, str],
        notes: Iterable[str],
        *,
        candidates: int | None = None,
        **facts: object,
    ) -> None:
        """Enter what is known before the first slide.

        Args:
            pending: Names of the slides to process.
            failures: Slides that cannot be processed, by name, and why.
            notes: What the user should know about the inputs.
            candidates: Number of patches of all slides; None if it is not known.
            facts: What the log states of the start.
        """
        self.result.statuses |= dict.fromkeys(pending, "pending")
        self.log("start", program=__version__, **facts)
        for note in notes:
            self.warn(note)
        self._reporter.start(len(pending) + len(failures), candidates)
        for name, error in failures.items():
            self.enter(SlideOutcome(name, "failed", error=error), None, {})
        self.write_run(ended=False)

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
            finally:
                self.result.interrupted |= interrupts.acknowledge()
                finish()
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
        self.result.statuses[name] = outcome.status
        if outcome.error is not None:
            self.fail(name, outcome.error, outcome.details)
        elif record is not None:
            self._done(outcome, record, stages)
        self._reporter.finished(outcome, record)

    def fail(self, name: str, error: str, details: str | None = None) -> None:
        """Enter the failure of a slide, or of a file of the whole run."""
        self.result.errors[name] = error
        key = "slide" if name in self.result.statuses else "file"
        self.log("failed", **{key: name}, error=error, details=details)

    def warn(self, message: str) -> None:
        """Enter a warning and display it."""
        self.result.warnings.append(message)
        self.log("warning", message=message)
        self._reporter.warn(message)

    def info(self, message: str) -> None:
        """Display what is being done."""
        self._reporter.info(message)

    def started(self, name: str) -> None:
        """Note that a slide is begun. The patches of an earlier attempt no longer count."""
        if earlier := self._patches.pop(name, 0):
            self._reporter.patches(-earlier)

    def patches(self, name: str, number: int) -> None:
        """Display that the model has processed so many more patches of a slide."""
        self._patches[name] += number
        self._reporter.patches(number)

    def refuse(self, task: SlideTask) -> SlideOutcome[Any] | None:  # noqa: ARG002 - every slide is begun
        """Return the outcome of a slide that shall not be begun; None if it may be."""
        return None

    def log(self, event: str, **facts: object) -> None:
        """Append an event to `log.jsonl`."""
        self._folder.log(event, **facts)

    def write_run(self, *, ended: bool, notes: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Write `run.json`.

        Args:
            ended: Whether the run has ended.
            notes: What else to state of single slides, by name.
        """
        notes = notes or {}
        slides = [{**self._slide(name), **notes.get(name, {})} for name in self._sources]
        self._folder.write_run(
            {
                "program": "wsi-mitosis",
                "version": __version__,
                "use": "research use only",
                **self._facts,
                "slides": slides,
                "libraries": {name: metadata.version(name) for name in LIBRARIES},
                "python": platform.python_version(),
                "warnings": self.result.warnings,
                "started": _moment(self._started),
                "ended": _moment(datetime.now(UTC)) if ended else None,
                "exit_status": self.result.exit_status if ended else None,
            }
        )

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
        )
        for message in record.warnings:
            self.warn(message)

    def _slide(self, name: str) -> dict[str, object]:
        return {
            "slide": name,
            "path": str(self._sources[name].path),
            "identity": self._identities.get(name),
            "status": self.result.statuses.get(name),
            "kept": name in self.result.kept,
            "error": self.result.errors.get(name),
        }


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
