"""What a run shows while it works: a live line at a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import pandas as pd

    from wsi_mitosis.jobs.dataset import PartOutcome
    from wsi_mitosis.jobs.runs import Record, RunResult, SlideOutcome
    from wsi_mitosis.jobs.train import FoldProgress

SIDES = ("training", "validation", "test")
SHOWN = ("training_total", "validation_total", "validation_balanced_accuracy")
PLAIN_SECONDS = 30.0
"""Between two lines of a log that nobody watches."""


def _never_asked(outcome: SlideOutcome[Any], record: Record | None) -> int:
    """Candidates of a finished slide that no patch will be counted for."""
    if outcome.status == "failed" or record is None:
        return 0
    return int(record.counts["candidates" if outcome.result is None else "excluded"] or 0)


def several(number: int, noun: str) -> str:
    """`1 slide`, `2 slides`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ended(result: RunResult) -> list[str]:
    """What became of a run's slides, in lines."""
    counts = Counter(result.statuses.values())
    states = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    kept = f" ({len(result.kept)} kept)" if result.kept else ""
    return [
        f"{several(len(result.statuses), 'slide')}: {states}{kept}",
        *(f"failed: {error}" for error in result.errors.values()),
        *(["interrupted: run the same command again to go on from here"] if result.interrupted else []),
    ]


class Reporter:
    """Tells a run to stderr. Use it as a context manager.

    Args:
        quiet: Errors only.
        verbose: A line for every slide, at a terminal too.
        unit: What goes through the model.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, unit: str = "patches") -> None:
        self._quiet, self._verbose, self._unit = quiet, verbose, unit
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = sys.stderr.isatty() and not quiet
        self._slides = self._done = self._failed = self._patches = 0
        self._candidates: int | None = None
        self._started = self._told = monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def warn(self, message: str) -> None:
        """Tell something that the user should know."""
        if not self._quiet:
            self._console.print(f"note: {message}", style="yellow", markup=False)

    def say(self, message: str) -> None:
        """Tell what is being done."""
        self._say(message)

    def start(self, slides: int, candidates: int | None) -> None:
        """The work begins; without a number of candidates the bar has no end."""
        self._slides, self._candidates = slides, candidates
        self._started = self._told = monotonic()
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(self._line(), total=candidates)
            self._progress.start()
        else:
            what = "" if candidates is None else f", {several(candidates, 'candidate')}"
            self._say(several(slides, "slide") + what)

    def patches(self, number: int) -> None:
        """So many more patches are through the model."""
        self._patches += number
        if self._progress is not None:
            self._progress.update(self._task, advance=number, description=self._line())
        elif monotonic() - self._told >= PLAIN_SECONDS:
            self._say(self._line())

    def finished(self, outcome: SlideOutcome[Any], record: Record | None) -> None:
        """One slide is through."""
        self._done += 1
        self._failed += outcome.status == "failed"
        if self._candidates is not None:
            self._candidates -= _never_asked(outcome, record)
        if self._progress is not None:
            self._progress.update(self._task, description=self._line(), total=self._candidates)
        if outcome.error is not None:
            self._console.print(f"failed: {outcome.error}", style="red", markup=False)
        elif record is not None and (self._verbose or self._progress is None):
            self._say(self._slide_line(outcome, record))

    def _slide_line(self, outcome: SlideOutcome[Any], record: Record) -> str:
        what = "kept" if outcome.result is None else f"{outcome.seconds:.1f} s"
        return f"[{self._done}/{self._slides}] {outcome.name}: {record.told} ({what})"

    def _line(self) -> str:
        seconds = max(monotonic() - self._started, 1e-6)
        return (
            f"{self._done}/{self._slides} slides, {self._failed} failed, "
            f"{self._patches} {self._unit}, {self._patches / seconds:.0f}/s"
        )

    def _say(self, line: str) -> None:
        self._told = monotonic()
        if not self._quiet:
            self._console.print(line, markup=False)


class TrainReporter:
    """Tells a training to stderr, a line per epoch. Use it as a context manager.

    Args:
        quiet: Errors only.
        verbose: The losses of each epoch in full.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def warn(self, message: str) -> None:
        """Tell something that the user should know."""
        self._say(f"note: {message}", style="yellow")

    def planned(self, plan: pd.DataFrame) -> None:
        """The plan, before anything is trained."""
        for row in plan.to_dict("records"):
            sides = (f"{row[f'{side}_n']} ({row[f'{side}_atypical']} atypical)" for side in SIDES)
            training, validation, test = sides
            self._say(
                f"fold {row['fold']}: trains on {training} of {row['training']}; "
                f"selects on {validation} of {row['validation']}; tests on {test} of {row['test']}"
            )

    def progress(self, progress: FoldProgress) -> None:
        """An epoch or a fold is through."""
        if progress.error is not None:
            self._console.print(f"failed: {progress.error}", style="red", markup=False)
            if self._verbose and progress.details:
                self._console.print(progress.details, markup=False)
        elif progress.record is not None:
            self._say(f"{progress.fold}: done{' before' if progress.kept else ''}")
        elif progress.metrics is not None:
            self._say(f"{progress.fold}: {self._epoch(progress, progress.metrics)}")

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

    def _say(self, line: str, style: str | None = None) -> None:
        if not self._quiet:
            self._console.print(line, markup=False, style=style)


class PartsReporter:
    """Tells the building of a dataset to stderr. Use it as a context manager; arguments as for `Reporter`."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = sys.stderr.isatty() and not quiet
        self._samples = self._done = 0
        self._told = monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def start(self, parts: int, samples: int) -> None:
        """The work begins."""
        self._samples, self._told = samples, monotonic()
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
            self._say(f"{several(samples, 'figure')} in {several(parts, 'part')}")

    def finished(self, outcome: PartOutcome) -> None:
        """One part is through."""
        self._done += outcome.samples
        if self._progress is not None:
            self._progress.update(self._task, advance=outcome.samples)
        if self._verbose or (self._progress is None and monotonic() - self._told >= PLAIN_SECONDS):
            what = "failed" if outcome.faults else "kept" if outcome.kept else "done"
            self._say(f"{self._done}/{self._samples} figures; part {outcome.index + 1} {what}")

    def _say(self, line: str) -> None:
        self._told = monotonic()
        if not self._quiet:
            self._console.print(line, markup=False)
