"""The states of the slides of one run, written to the output folder as they change."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wsi_mitosis.core.histories import SlideHistory
from wsi_mitosis.io.slides.parts import files_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wsi_mitosis.io.results.held import HeldFolder
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.specs import RetryOptions
    from wsi_mitosis.tables import Status


class Histories:
    """Keeps the states of slides from run to run.

    A state that cannot be written ends no run: what is done is known by the results themselves.

    Args:
        folder: The output folder.
        retries: After how many attempts a slide is set aside.
        basis: Digest of everything but the slide and its candidates that an attempt depends on.
        warn: Takes a sentence if states cannot be written; it is called once at most.
    """

    def __init__(
        self, folder: HeldFolder, retries: RetryOptions, basis: str, warn: Callable[[str], None]
    ) -> None:
        self._folder, self._retries, self._basis, self._warn = folder, retries, basis, warn
        self._known = {name: history.after_its_run for name, history in folder.histories().items()}
        self._running: set[str] = set()
        self._warned = False

    def get(self, name: str) -> SlideHistory | None:
        """Return what is known of a slide; None for a new one."""
        return self._known.get(name)

    def set_aside(self, task: SlideTask) -> str | None:
        """Return why a slide is not tried in this run; None if it is."""
        history = self._known.get(task.name)
        if history is None or not history.attempts or self._retries.retry:
            return None
        return history.set_aside(self._inputs(task), self._retries.max_failures)

    def begin(self, task: SlideTask) -> None:
        """Enter that a slide is processed now."""
        inputs, history = self._inputs(task), self._known.get(task.name)
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
        if (history := self._known.get(name)) is None:
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

    def leave(self, name: str, path: Path, status: Status, reason: str, inputs: str = "") -> None:
        """Enter that a slide is not processed in this run.

        Args:
            name: The slide.
            path: Its file.
            status: Its state, which is `waiting` or `set_aside`.
            reason: Why.
            inputs: The states of the files that a waiting slide waits for.
        """
        history = self._known.get(name)
        if history is not None and status == "set_aside":
            self._write(history.model_copy(update={"status": status}))
        elif history is None or history.status != status or history.inputs != inputs:
            self._write(_history(name, path, status, reason=reason, inputs=inputs))

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
        self._known[history.slide] = history
        try:
            self._folder.write_history(history)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"the states of slides cannot be written: {error}")


def files_digest(paths: Iterable[Path]) -> str:
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
