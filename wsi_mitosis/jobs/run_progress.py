"""How far a run is, kept in a file of the output folder that `status` reads."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from wsi_mitosis.core.histories import RunProgress, SlideProgress
from wsi_mitosis.core.moments import now
from wsi_mitosis.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_mitosis.io.results.held import HeldFolder
    from wsi_mitosis.jobs.plan import SlideTask

SECONDS = 5.0
"""Least time between two versions of the file, s."""


class ProgressFile:
    """Counts slides and patches, and writes them to `progress.json` every few seconds.

    A file that cannot be written is left out: it only informs.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: HeldFolder) -> None:
        self._folder = folder
        self._started = now()
        self._tasks: dict[str, SlideTask] = {}
        self._running: dict[str, SlideProgress] = {}
        self._attempts: dict[str, int] = {}
        self._finished = self._patches = self._candidates = self._unknown = 0
        self._since: float | None = None
        self._written = -SECONDS

    def open(self, tasks: Sequence[SlideTask]) -> None:
        """Enter the slides that will be processed."""
        self._tasks = {task.name: task for task in tasks}
        self._candidates = sum(task.candidates or 0 for task in tasks)
        self._unknown = sum(task.candidates is None for task in tasks)
        self._write()

    def begin(self, name: str) -> int:
        """Enter that a slide begins; return the patches of an earlier attempt, which count no more."""
        task, lost = self._tasks.get(name), self._running.pop(name, None)
        self._since = self._since or monotonic()
        self._attempts[name] = self._attempts.get(name, 0) + 1
        candidates = None if task is None else task.candidates
        self._running[name] = SlideProgress(
            slide=name, since=now(), candidates=candidates, attempt=self._attempts[name]
        )
        repeated = 0 if lost is None else lost.patches
        self._patches -= repeated
        self._write()
        return repeated

    def patches(self, name: str, number: int) -> None:
        """Enter that so many more patches of a slide are classified."""
        self._patches += number
        if (slide := self._running.get(name)) is not None:
            self._running[name] = slide.model_copy(update={"patches": slide.patches + number})
        if monotonic() - self._written >= SECONDS:
            self._write()

    def end(self, name: str) -> None:
        """Enter that a slide has ended."""
        self._finished += self._remove(name)
        self._write()

    def postpone(self, name: str) -> None:
        """Enter that a slide is left for a later run."""
        self._remove(name)

    def close(self) -> None:
        """Remove the file."""
        try:
            self._folder.remove_progress()
        except OSError:
            return  # the folder is gone or read-only; `status` sees that its run has ended

    def _remove(self, name: str) -> bool:
        """Remove a slide from those to process; return whether it was one. Sums over all would take long."""
        self._running.pop(name, None)
        if (task := self._tasks.pop(name, None)) is None:
            return False
        self._candidates -= task.candidates or 0
        self._unknown -= task.candidates is None
        return True

    def _write(self) -> None:
        in_hand = sum(slide.patches for slide in self._running.values())
        progress = RunProgress(
            started=self._started,
            updated=now(),
            slides=self._finished + len(self._tasks),
            finished=self._finished,
            patches=self._patches,
            seconds=0.0 if self._since is None else monotonic() - self._since,
            remaining=None if self._unknown else max(0, self._candidates - in_hand),
            running=tuple(self._running.values()),
        )
        self._written = monotonic()
        try:
            self._folder.write_progress(progress)
        except (OSError, OutputError):
            return  # results are worth more, and writing them says what is wrong
