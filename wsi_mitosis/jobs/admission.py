"""Whether a slide may begin: the time is not over, and the disk has room for its results."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.schedule import deadline
from wsi_mitosis.jobs.outcomes import SlideOutcome

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.specs import ScheduleOptions

LEAST_BYTES = 64 * 2**20
"""Room that a slide must find: for the files of the run as a whole, and for those of other slides in hand."""
BYTES_PER_CANDIDATE = 2048
"""Room per candidate. GeoJSON takes about 440 bytes for each, and the figures table about 140
 (docs/operations.md, "Disk"). Both exist twice while they are replaced."""


class Admission:
    """Decides for each slide whether it may begin.

    Args:
        folder: The output folder.
        schedule: When slides may begin.
        begun: When the run began, if it did before now.
    """

    def __init__(self, folder: Path, schedule: ScheduleOptions, begun: datetime | None = None) -> None:
        self._folder = folder
        self._deadline = (
            deadline(schedule.until, schedule.timezone, begun or datetime.now(UTC))
            if schedule.until
            else None
        )

    @property
    def note(self) -> str | None:
        """What the user should know about the time."""
        return None if self._deadline is None else f"no slide is begun after {self._deadline.text}"

    def refuse(self, task: SlideTask) -> SlideOutcome[Any] | None:
        """Return the outcome of a slide that must not begin; None if it may."""
        if self._deadline is not None and datetime.now(UTC) >= self._deadline.moment:
            return SlideOutcome(task.name, "pending", error=f"not begun after {self._deadline.text}")
        free, needed = self._free_bytes(), LEAST_BYTES + BYTES_PER_CANDIDATE * (task.candidates or 0)
        if free is None or free >= needed:
            return None
        error = (
            f"{task.name}: not begun: {self._folder} has {free // 2**20} MB free and this slide needs "
            f"{needed // 2**20}. Make room and run again; finished slides are kept"
        )
        return SlideOutcome(task.name, "failed", error=error, transient="output")

    def _free_bytes(self) -> int | None:
        """Return the free space; None if it cannot be known, and then writing says what is wrong."""
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return None
