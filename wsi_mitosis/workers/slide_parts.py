"""Slides in parts: workers do the parts, and the run sees each slide once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.parts import WHOLE
from wsi_mitosis.io.slides.parts import check_unchanged, files_digest
from wsi_mitosis.jobs.outcomes import SlideOutcome, attempt
from wsi_mitosis.jobs.plan import split_large
from wsi_mitosis.jobs.predictions import differing, result_of_parts
from wsi_mitosis.workers.pool import Hooks

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.outcomes import Progress
    from wsi_mitosis.jobs.plan import ClassifyTask
    from wsi_mitosis.jobs.predictions import PredictedSlide
    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.specs import ResultOptions

Outcome = SlideOutcome[Any]


@dataclass
class _Slide:
    """A slide in parts.

    Attributes:
        task: The whole slide.
        parts: Number of its parts.
        files: Digest of its files when it was begun.
        patches: Patches of each part that is begun, by its number.
        done: The outcomes of the parts that are done.
        opened: When the first of them opened the slide, as by `perf_counter`.
        outcome: That of the slide; None as long as it is not known.
        is_reported: Whether the outcome is with the caller.
    """

    task: ClassifyTask
    parts: int
    files: str | None = None
    patches: dict[int, int] = field(default_factory=dict)
    done: list[SlideOutcome[PredictedSlide]] = field(default_factory=list)
    opened: float = float("inf")
    outcome: SlideOutcome[SlideResult] | None = None
    is_reported: bool = False


class SlideParts:
    """Splits large slides and puts their results together.

    A slide is refused or begun once, and its outcome is yielded once. When it is known that the slide fails,
    or that its result on disk is kept, no further part of it is begun.

    Args:
        bundle: The ensemble.
        options: What changes a result.
        progress: Takes what happens to slides.
    """

    def __init__(self, bundle: Bundle, options: ResultOptions, progress: Progress) -> None:
        self._bundle, self._options, self._progress = bundle, options, progress
        self._slides: dict[str, _Slide] = {}

    def split(self, tasks: Sequence[ClassifyTask], workers: int) -> list[ClassifyTask]:
        """Split slides that are too large for one worker; see `split_large`."""
        parts = split_large(tasks, workers)
        numbers = {part.name: part.part.of for part in parts if part.part != WHOLE}
        self._slides = {task.name: _Slide(task, numbers[task.name]) for task in tasks if task.name in numbers}
        return parts

    @property
    def hooks(self) -> Hooks[ClassifyTask, int, Outcome]:
        """What is called while tasks are done, which may be parts."""
        return Hooks(self._start, self._count, self._progress.warn, self._refuse, self._end)

    def whole(
        self, outcomes: Generator[Outcome, None, None]
    ) -> Generator[SlideOutcome[SlideResult], None, None]:
        """Yield the outcome of each slide, given those of tasks, which may be parts."""
        with closing(outcomes):
            for outcome in outcomes:
                slide = self._slides.get(outcome.name)
                if slide is None:
                    yield outcome
                elif not slide.is_reported and (known := self._outcome(slide)) is not None:
                    slide.is_reported, slide.outcome = True, replace(known, result=None)
                    slide.done.clear()
                    yield known

    def _start(self, task: ClassifyTask) -> None:
        """Report that a slide is begun, with its first part or because a part is tried again."""
        if (slide := self._slides.get(task.name)) is None:
            self._progress.started(task.name)
            return
        if not slide.patches:
            slide.files = files_digest(task.source.path)
        is_new = task.part.number not in slide.patches
        slide.patches[task.part.number] = 0
        if is_new and len(slide.patches) > 1:
            return
        self._progress.started(task.name)
        if others := sum(slide.patches.values()):
            self._progress.patches(task.name, others)

    def _count(self, task: ClassifyTask, number: int) -> None:
        slide = self._slides.get(task.name)
        if not number or (slide is not None and slide.outcome is not None):
            return
        if slide is not None:
            slide.patches[task.part.number] += number
        self._progress.patches(task.name, number)

    def _refuse(self, task: ClassifyTask) -> Outcome | None:
        if (slide := self._slides.get(task.name)) is None:
            return self._progress.refuse(task)
        if not slide.patches and slide.outcome is None:
            slide.outcome = self._progress.refuse(slide.task)
        return slide.outcome

    def _end(self, task: ClassifyTask, of_part: Outcome) -> None:
        """Take the outcome of a part. Unless it is done, it is that of the slide."""
        slide = self._slides.get(task.name)
        if slide is None or slide.outcome is not None:
            return
        if of_part.result is not None:
            slide.done.append(of_part)
            slide.opened = min(slide.opened, perf_counter() - of_part.seconds)
        elif of_part.status == "done" and slide.done:  # now its files are those of the result on disk
            slide.outcome = replace(of_part, status="failed", error=str(differing(task.name)))
        else:
            slide.outcome = of_part

    def _outcome(self, slide: _Slide) -> SlideOutcome[SlideResult] | None:
        """Return the outcome of a slide; None if parts of it are still missing."""
        return self._merged(slide) if len(slide.done) == slide.parts else slide.outcome

    def _merged(self, slide: _Slide) -> SlideOutcome[SlideResult]:
        def merge() -> SlideResult:
            check_unchanged(slide.task.source.path, slide.files)
            parts = [outcome.result for outcome in slide.done if outcome.result is not None]
            return result_of_parts(slide.task, parts, self._bundle, self._options, slide.opened)

        merged = attempt(slide.task.name, merge)
        peaks = [outcome.peak_rss_mb for outcome in slide.done if outcome.peak_rss_mb is not None]
        waits = [outcome.copying_seconds for outcome in slide.done if outcome.copying_seconds is not None]
        return replace(
            merged,
            seconds=perf_counter() - slide.opened,
            copying_seconds=sum(waits) if waits else None,
            peak_rss_mb=max(peaks, default=None),
        )
