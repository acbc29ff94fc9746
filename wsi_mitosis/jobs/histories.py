"""The states of the slides of one run, written to the output folder as they change."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wsi_mitosis.core.histories import SlideHistory
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.held import write_history
from wsi_mitosis.io.slides.parts import files_state
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from wsi_mitosis.io.results.held import RunFolder
    from wsi_mitosis.jobs.inputs import Left
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.specs import RetryOptions
    from wsi_mitosis.tables import SlideSource, Status


class Histories:
    """Keeps the states of slides from run to run.

    A state that cannot be written ends no run: what is done is known by the results themselves.

    Args:
        folder: The output folder. Only one that this process holds can be written to.
        retries: After how many attempts a slide is set aside.
        basis: Digest of everything but the slide and its candidates that an attempt depends on.

    Attributes:
        known: What is known of each slide, by name.
        fault: Why states cannot be written; None if they can.
    """

    def __init__(self, folder: RunFolder, retries: RetryOptions, basis: str) -> None:
        self._folder, self._retries, self._basis = folder, retries, basis
        self.known = {name: history.after_its_run for name, history in folder.histories().items()}
        self._running: set[str] = set()
        self.fault: str | None = None

    def set_aside(self, task: SlideTask) -> str | None:
        """Return why a slide is not tried in this run; None if it is."""
        history = self.known.get(task.name)
        if history is None or not history.attempts or self._retries.retry:
            return None
        return history.set_aside(self._inputs(task), self._retries.max_failures)

    def begin(self, task: SlideTask) -> None:
        """Enter that a slide is processed now."""
        inputs, history = self._inputs(task), self.known.get(task.name)
        counts = history is not None and history.inputs == inputs
        attempts = history.attempts if history is not None and counts else 0
        self._running.add(task.name)
        self._write(_history(task.name, task.source.path, "running", attempts=attempts, inputs=inputs))

    def end(self, name: str, status: Status, *, reason: str = "", key: str = "", counts: bool = True) -> None:
        """Enter how an attempt has ended.

        Args:
            name: The slide.
            status: Its state.
            reason: Why it failed.
            key: Key of its result.
            counts: Whether a failure counts as an attempt: it does not if the slide is not to blame.
        """
        self._running.discard(name)
        if (history := self.known.get(name)) is None:
            return
        attempts = history.attempts + counts if status == "failed" else history.attempts
        changes = {
            "status": status,
            "attempts": 0 if status == "done" else attempts,
            "reason": reason,
            "key": key,
            "since": _now(),
        }
        self._write(history.model_copy(update=changes))

    def postpone(self, name: str) -> None:
        """Enter that a slide that failed in an earlier run is left for a later one by the clock."""
        if (history := self.known.get(name)) is not None and history.status == "running":
            self._write(history.model_copy(update={"status": "pending", "since": _now()}))
        self._running.discard(name)

    def _leave(self, name: str, path: Path, status: Status, reason: str, inputs: str = "") -> None:
        """Enter that a slide is not processed in this run.

        Args:
            name: The slide.
            path: Its file.
            status: Its state, which is `waiting` or `set_aside`.
            reason: Why.
            inputs: The states of the files that a waiting slide waits for.
        """
        history = self.known.get(name)
        if history is not None and status == "set_aside":
            self._write(history.model_copy(update={"status": status}))
        elif history is None or history.status != status or history.inputs != inputs:
            self._write(_history(name, path, status, reason=reason, inputs=inputs))

    def leave_all(
        self,
        left: Mapping[str, Left],
        sources: Mapping[str, SlideSource],
        own_files: Mapping[SlideSource, Path] | None = None,
    ) -> None:
        """Enter the slides that this run leaves for a later one.

        Args:
            left: Their states and reasons by name.
            sources: The run's slides by name.
            own_files: The detections file that is a slide's own.
        """
        for name, (status, reason) in left.items():
            if status == "pending":
                continue
            source, own = sources[name], (own_files or {}).get(sources[name])
            seen = _files_digest([source.path, *([own] if own is not None else [])])
            self._leave(name, source.path, status, reason, seen)

    def abandon(self) -> None:
        """Enter that the slides in hand are pending again; the run was stopped, and they are not to blame."""
        for name in sorted(self._running):
            self.end(name, "pending")

    def _inputs(self, task: SlideTask) -> str:
        try:
            files = files_state(task.source.path).digest
        except OSError:
            files = ""
        return hashlib.sha256("\n".join((files, task.depends_on, self._basis)).encode()).hexdigest()

    def _write(self, history: SlideHistory) -> None:
        self.known[history.slide] = history
        try:
            write_history(self._folder, history)
        except (OSError, OutputError) as error:
            self.fault = f"the states of slides cannot be written: {error}"


def basis_of(*parts: object) -> str:
    """Return the digest of what the attempts at all slides of a run depend on: plain JSON data."""
    return hashlib.sha256(json.dumps([*parts, __version__], sort_keys=True).encode()).hexdigest()


def _files_digest(paths: Iterable[Path]) -> str:
    """Return the states of files as one text; a file that is gone counts as such."""
    states = []
    for path in paths:
        try:
            states.append(files_state(path).digest)
        except OSError:
            states.append("gone")
    return " ".join(states)


def _history(
    name: str, path: Path, status: str, *, attempts: int = 0, reason: str = "", inputs: str = ""
) -> SlideHistory:
    return SlideHistory.model_validate(
        {
            "slide": name,
            "path": str(path),
            "status": status,
            "attempts": attempts,
            "reason": reason,
            "inputs": inputs,
            "since": _now(),
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
