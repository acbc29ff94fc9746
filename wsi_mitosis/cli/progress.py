"""What a run prints while it works: a live line at a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsi_mitosis.cli.notes import Notes
from wsi_mitosis.errors import listed, printable, several

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.jobs.dataset import PartOutcome
    from wsi_mitosis.jobs.ledger import RunResult
    from wsi_mitosis.jobs.outcomes import SlideOutcome
    from wsi_mitosis.jobs.train import FoldProgress

SIDES = ("training", "validation", "test")
SHOWN = ("training_total", "validation_total", "validation_balanced_accuracy")
PLAIN_SECONDS = 30.0
"""Seconds between two lines of progress in a log."""
STATES = {
    "no_detections": "without detections",
    "pending": "not processed",
    "set_aside": "set aside",
    "waiting": "waiting",
}
"""Words for a status whose own name is none."""


def _without_patch(outcome: SlideOutcome[Any], record: SlideRecord | None) -> int:
    """Candidates of a finished slide that no patch will be counted for."""
    if outcome.status == "failed" or record is None:
        return 0
    return record.counts.candidates if outcome.result is None else record.counts.excluded


def ended(result: RunResult, run_file: Path) -> list[str]:
    """Return the outcome of a run's slides, in lines.

    Args:
        result: The run.
        run_file: Its `run.json`, which has the reason of every failure.
    """
    counts = Counter(result.statuses.values())
    states = ", ".join(f"{number} {STATES.get(status, status)}" for status, number in sorted(counts.items()))
    kept = f" ({len(result.kept)} kept)" if result.kept else ""
    log = run_file.with_name("log.jsonl")
    return [
        f"{several(len(result.statuses), 'slide')}: {states}{kept}",
        *([f"Failed: {listed(result.errors)}. {log} gives each reason."] if result.errors else []),
        *_left(result),
        *(["Interrupted. Run the same command again to continue."] if result.interrupted else []),
    ]


def _left(result: RunResult) -> list[str]:
    """Return which slides are set aside, because an operator must look at them."""
    names = [name for name, status in result.statuses.items() if status == "set_aside"]
    return [f"Set aside: {listed(names)}. Pass --retry to process them again."] if names else []


def _console() -> Console:
    """The console of stderr. A slide's name is printed as it is: no markup, no emoji, no wrapping."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class Reporter:
    """Prints the progress and messages of a run to stderr. Use it as a context manager.

    Args:
        quiet: Errors only.
        verbose: A line for every slide, at a terminal too, and every note.
        unit: What the model processes.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, unit: str = "patches") -> None:
        self._quiet, self._verbose, self._unit = quiet, verbose, unit
        self._console = _console()
        self._live = _is_terminal() and not quiet
        self._slides = self._done = self._failed = self._patches = 0
        self._candidates: int | None = None
        self._started = self._printed = monotonic()
        self._progress: Progress | None = None
        self._notes = Notes(self._print_note, everything=verbose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._notes.end("log.jsonl")

    def warn(self, message: str) -> None:
        """Print something that the user should know; a kind of note only a few times."""
        if not self._quiet:
            self._notes.add(message)

    def _print_note(self, message: str) -> None:
        self._console.print(f"note: {printable(message)}", style="yellow")

    def info(self, message: str) -> None:
        """Print what is being done."""
        self._print(message)

    def start(self, slides: int, candidates: int | None) -> None:
        """Called before the first slide; without a number of candidates the bar has no end.

        Slides that failed before are added to the total, since they are counted as finished.
        """
        self._slides, self._candidates = self._done + slides, candidates
        self._started = self._printed = monotonic()
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(self._line(), total=candidates)
            self._progress.start()
        else:
            what = "" if candidates is None else f", {several(candidates, 'candidate')}"
            self._print(several(slides, "slide") + what)

    def patches(self, number: int) -> None:
        """Called when the model has processed so many more patches."""
        self._patches += number
        if self._progress is not None:
            self._progress.update(self._task, advance=number, description=self._line())
        elif monotonic() - self._printed >= PLAIN_SECONDS:
            self._print(self._line())

    def left(self, status: str, reason: str) -> None:
        """Called for a slide that the run leaves for a later one."""
        if status == "set_aside":
            self._console.print(f"set aside: {printable(reason)}", style="red")
        else:
            self.warn(reason)

    def finished(self, outcome: SlideOutcome[Any], record: SlideRecord | None) -> None:
        """Called when a slide finishes."""
        self._done += 1
        self._failed += outcome.status == "failed"
        if self._candidates is not None:
            self._candidates = self._remaining(self._candidates - _without_patch(outcome, record))
        if self._progress is not None:
            self._progress.update(self._task, description=self._line(), total=self._candidates)
        if outcome.error is not None:
            self._console.print(f"failed: {printable(outcome.error)}", style="red")
        elif record is not None and (self._verbose or self._progress is None):
            self._print(self._slide_line(outcome, record))

    def _remaining(self, candidates: int) -> int:
        """Patches of the whole run. A failed slide's are never counted, so the last slide ends the bar."""
        all_finished = 0 < self._slides <= self._done
        return self._patches if all_finished else max(candidates, self._patches)

    def _total(self) -> int:
        """Slides of the run: a slide may fail that was not announced."""
        return max(self._slides, self._done)

    def _slide_line(self, outcome: SlideOutcome[Any], record: SlideRecord) -> str:
        what = "kept" if outcome.result is None else f"{outcome.seconds:.1f} s"
        return f"[{self._done}/{self._total()}] {outcome.name}: {record.text} ({what})"

    def _line(self) -> str:
        seconds = max(monotonic() - self._started, 1e-6)
        return (
            f"{self._done}/{several(self._total(), 'slide')}, {self._failed} failed, "
            f"{self._patches} {self._unit}, {self._patches / seconds:.0f}/s"
        )

    def _print(self, line: str) -> None:
        self._printed = monotonic()
        if not self._quiet:
            self._console.print(printable(line))


class TrainReporter:
    """Prints the progress of a training to stderr, a line per epoch. Use it as a context manager.

    Args:
        quiet: Errors only.
        verbose: The losses of each epoch in full.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._console = _console()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def warn(self, message: str) -> None:
        """Print something that the user should know."""
        self._print(f"note: {message}", style="yellow")

    def planned(self, plan: pd.DataFrame) -> None:
        """The plan, before anything is trained."""
        for row in plan.to_dict("records"):
            sides = (f"{row[f'{side}_n']} ({row[f'{side}_atypical']} atypical)" for side in SIDES)
            training, validation, test = sides
            selects = f"selects on {validation} of {row['validation']}; "
            self._print(
                f"fold {row['fold']}: trains on {training} of {row['training']}; "
                f"{'' if row['validation'] == row['test'] else selects}tests on {test} of {row['test']}"
            )

    def progress(self, progress: FoldProgress) -> None:
        """Called when an epoch or a fold finishes."""
        if progress.error is not None:
            self._console.print(f"failed: {printable(progress.error)}", style="red")
            if self._verbose and progress.details:
                self._console.print(progress.details)
        elif progress.record is not None:
            self._print(f"{progress.fold}: done{' before' if progress.kept else ''}")
        elif progress.metrics is not None:
            self._print(f"{progress.fold}: {self._epoch(progress, progress.metrics)}")

    def _epoch(self, progress: FoldProgress, metrics: dict[str, Any]) -> str:
        left = (progress.epochs - progress.epoch) * metrics["seconds"] / 60
        shown = ("training", "validation", "learning") if self._verbose else SHOWN
        numbers = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in metrics.items()
            if name.startswith(shown)
        )
        return (
            f"epoch {progress.epoch}/{progress.epochs}: {numbers} "
            f"({metrics['seconds']:.0f} s, about {left:.0f} min left)"
        )

    def _print(self, line: str, style: str | None = None) -> None:
        if not self._quiet:
            self._console.print(printable(line), style=style)


class PartsReporter:
    """Prints the progress of building a dataset to stderr. Use it as a context manager.

    Args:
        quiet: Errors only.
        verbose: A line for every part.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._console = _console()
        self._live = _is_terminal() and not quiet
        self._samples = self._done = 0
        self._printed = monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def warn(self, message: str) -> None:
        """Print something that the user should know."""
        if not self._quiet:
            self._console.print(f"note: {printable(message)}", style="yellow")

    def start(self, parts: int, samples: int) -> None:
        """Called before the first part."""
        self._samples, self._printed = samples, monotonic()
        if self._live:
            self._progress = Progress(
                TextColumn("figures"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=samples)
            self._progress.start()
        else:
            self._print(f"{several(samples, 'figure')} in {several(parts, 'part')}")

    def finished(self, outcome: PartOutcome) -> None:
        """Called when a part finishes."""
        self._done += outcome.samples
        if self._progress is not None:
            self._progress.update(self._task, advance=outcome.samples)
        if self._verbose or (self._progress is None and monotonic() - self._printed >= PLAIN_SECONDS):
            what = "failed" if outcome.faults else "kept" if outcome.kept else "done"
            self._print(f"{self._done}/{self._samples} figures; part {outcome.index + 1} {what}")

    def _print(self, line: str) -> None:
        self._printed = monotonic()
        if not self._quiet:
            self._console.print(printable(line))
