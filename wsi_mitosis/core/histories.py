"""What an output folder knows of a slide from run to run, and of the run that is at work in it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from wsi_mitosis.core.moments import Moment
from wsi_mitosis.schema import Spec
from wsi_mitosis.tables import Status

KILLED = "its run was killed while this slide was processed"
"""The error of a slide that a run began and did not end: no run leaves one behind unless it is killed."""


class SlideHistory(Spec):
    """The state of one slide, which is written when the slide begins and when it ends.

    Attributes:
        schema_: Version of this schema.
        slide: Its name in the folder.
        path: Absolute path of its file.
        status: Its state; `running` between beginning and end.
        attempts: Runs in a row that tried it and failed by its own fault.
        reason: Why it failed last, is set aside, or waits; empty otherwise.
        inputs: Digest of what the attempts depended on. If it changes, they do not count any more.
        files: The states of its files and of its own file of candidates when the state began. If they are
            still the same later, nobody writes them any more.
        key: Key of its result; empty unless it is done.
        since: When the state began, ISO 8601.
    """

    schema_: Literal[1] = 1
    slide: str
    path: str
    status: Status | Literal["running"]
    attempts: int = 0
    reason: str = ""
    inputs: str = ""
    files: str = ""
    key: str = ""
    since: Moment

    @property
    def since_time(self) -> datetime:
        """`since` as a time with a zone."""
        return datetime.fromisoformat(self.since)

    @property
    def after_its_run(self) -> SlideHistory:
        """The history now that its run has ended: a slide that was left running has failed."""
        if self.status != "running":
            return self
        return self.model_copy(
            update={"status": "failed", "attempts": self.attempts + 1, "reason": f"{self.slide}: {KILLED}"}
        )

    def set_aside(self, inputs: str, most: int) -> str | None:
        """Return why the slide is not tried again; None if it is.

        Args:
            inputs: Digest of what an attempt would depend on now.
            most: Number of attempts after which a slide is set aside.
        """
        if self.attempts < most or self.inputs != inputs:
            return None
        runs = "1 run" if self.attempts == 1 else f"{self.attempts} runs"
        error = self.reason.removeprefix(f"{self.slide}: ")
        return f"{self.slide}: failed in {runs}, so it is left until it changes or --retry is passed: {error}"


class SlideProgress(Spec):
    """A slide that is processed now.

    Attributes:
        slide: Its name in the folder.
        since: When this attempt began, ISO 8601.
        candidates: Patches to classify; None if that is not known.
        patches: Patches classified so far.
        attempt: Number of the attempt in this run, from 1.
    """

    slide: str
    since: Moment
    candidates: int | None = None
    patches: int = 0
    attempt: int = 1


class RunProgress(Spec):
    """How far a run is. A file of it exists while the run is at work.

    Attributes:
        schema_: Version of this schema.
        started: When the run began, ISO 8601.
        updated: When this was written, ISO 8601.
        slides: Slides to process.
        finished: Slides that have ended.
        patches: Patches classified so far.
        seconds: Time since the first slide began, s.
        remaining: Patches that are left; None if that is not known.
        running: The slides that are processed now.
    """

    schema_: Literal[1] = 1
    started: str
    updated: str
    slides: int
    finished: int
    patches: int
    seconds: float
    remaining: int | None
    running: tuple[SlideProgress, ...] = ()

    @property
    def patches_per_second(self) -> float:
        """Patches per second since the first slide began."""
        return self.patches / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time that the run will still take, s; None if that cannot be said yet."""
        rate = self.patches_per_second
        return None if self.remaining is None or rate <= 0 else self.remaining / rate
