"""The states of the slides of one run, written to the output folder as they change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from wsi_mitosis.core.histories import SlideHistory
from wsi_mitosis.core.moments import now
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.held import write_history
from wsi_mitosis.io.slides.parts import files_state
from wsi_mitosis.io.slides.staging import slide_state
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.results.held import RunFolder
    from wsi_mitosis.jobs.inputs import Left
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.specs import RetryOptions
    from wsi_mitosis.tables import SlideSource, Status

AnyTask = TypeVar("AnyTask", bound="SlideTask")


class Histories:
    """Keeps the states of slides from run to run.

    A state that cannot be written ends no run: what is done is known by the results themselves.

    Args:
        folder: The output folder. Only one that this process holds can be written to.
        retries: After how many attempts a slide is set aside.
        basis: Digest of everything but the slide and its candidates that an attempt depends on.
        own_files: The file of candidates that is a slide's own.

    Attributes:
        known: What is known of each slide, by name.
        fault: Why states cannot be written; None if they can.
    """

    def __init__(
        self,
        folder: RunFolder,
        retries: RetryOptions,
        basis: str,
        own_files: Mapping[SlideSource, Path] | None = None,
    ) -> None:
        self._folder, self._retries, self._basis = folder, retries, basis
        self._own_files = own_files or {}
        self.known = {name: history.after_its_run for name, history in folder.histories().items()}
        self._running: set[str] = set()
        self.fault: str | None = None

    def set_aside(self, task: SlideTask) -> str | None:
        """Return why a slide is not tried in this run; None if it is."""
        history = self.known.get(task.name)
        if history is None or not history.attempts or self._retries.retry:
            return None
        return history.set_aside(self._inputs(task), self._retries.max_failures)

    def with_origin(self, task: AnyTask, record: SlideRecord | None) -> AnyTask:
        """Return a task that says how its result was made, if a store says that nothing has changed since.

        The slide need not be copied then to find out whether its result is up to date.
        """
        remote, history = task.source.remote, self.known.get(task.name)
        if remote is None or not remote.version or record is None or history is None:
            return task
        is_same = (history.status, history.key) == ("done", task.known_key)
        return replace(task, made=record.origin) if is_same and history.inputs == self._inputs(task) else task

    def begin(self, task: SlideTask) -> None:
        """Enter that a slide is processed now."""
        inputs, history = self._inputs(task), self.known.get(task.name)
        counts = history is not None and history.inputs == inputs
        attempts = history.attempts if history is not None and counts else 0
        self._running.add(task.name)
        self._write(
            SlideHistory(
                slide=task.name,
                path=task.source.place,
                status="running",
                attempts=attempts,
                inputs=inputs,
                files=self._files(task.source),
                since=now(),
            )
        )

    def end(self, name: str, status: Status, *, reason: str = "", key: str = "", counts: bool = True) -> None:
        """Enter how an attempt has ended.

        Args:
            name: The slide.
            status: Its state.
            reason: Why it failed.
            key: Key of its result.
            counts: Whether a failure counts as an attempt: it does not if the slide is not to blame. One of a
                slide that was not begun never counts, because `inputs` is of an earlier attempt.
        """
        was_begun = name in self._running
        self._running.discard(name)
        if (history := self.known.get(name)) is None:
            return
        attempts = history.attempts + int(status == "failed" and counts and was_begun)
        changes = {
            "status": status,
            "attempts": 0 if status == "done" else attempts,
            "reason": reason,
            "key": key,
            "since": now(),
        }
        self._write(history.model_copy(update=changes))

    def postpone(self, name: str) -> None:
        """Enter that a slide in hand is left for a later run; its state is unchanged if it was not begun."""
        if name in self._running:
            self.end(name, "pending")

    def _leave(self, name: str, source: SlideSource, status: Status, reason: str) -> None:
        """Enter that a slide is not processed in this run; its failed attempts are not forgotten.

        Args:
            name: The slide.
            source: Its file.
            status: Its state, which is `waiting`, `set_aside` or `no_detections`.
            reason: Why.
        """
        history = self.known.get(name)
        if history is not None and status == "set_aside":
            self._write(history.model_copy(update={"status": status}))
            return
        files = self._files(source)
        if history is not None and history.status == status and history.files == files:
            return
        if history is None:
            history = SlideHistory(slide=name, path=source.place, status=status, since=now())
        changes = {"status": status, "reason": reason, "files": files, "key": "", "since": now()}
        self._write(history.model_copy(update=changes))

    def leave_all(self, left: Mapping[str, Left], sources: Mapping[str, SlideSource]) -> None:
        """Enter the slides that this run leaves for a later one.

        Args:
            left: Their states and reasons by name.
            sources: The run's slides by name.
        """
        for name, (status, reason) in left.items():
            if status != "pending":
                self._leave(name, sources[name], status, reason)

    def enter_absent(self, slides: Mapping[str, SlideSource]) -> None:
        """Enter slides without detections and without a result, so that their files are known later."""
        for name, source in slides.items():
            self._leave(name, source, "no_detections", "")

    def abandon(self) -> None:
        """Enter that the slides in hand are pending again; the run was stopped, and they are not to blame."""
        for name in sorted(self._running):
            self.postpone(name)

    def _inputs(self, task: SlideTask) -> str:
        try:
            files = slide_state(task.source)
        except OSError:
            files = ""
        return hashlib.sha256("\n".join((files, task.depends_on, self._basis)).encode()).hexdigest()

    def _files(self, source: SlideSource) -> str:
        """Return the states of a slide's files, and of its own file of candidates, as one text."""
        own = self._own_files.get(source)
        files: list[Callable[[], str]] = [lambda: slide_state(source)]
        files += [] if own is None else [lambda: files_state(own).digest]
        return _digests(files)

    def _write(self, history: SlideHistory) -> None:
        self.known[history.slide] = history
        try:
            write_history(self._folder, history)
        except (OSError, OutputError) as error:
            self.fault = f"the states of slides cannot be written: {error}"


def basis_of(*parts: object) -> str:
    """Return the digest of what the attempts at all slides of a run depend on: plain JSON data."""
    return hashlib.sha256(json.dumps([*parts, __version__], sort_keys=True).encode()).hexdigest()


def _digests(files: Iterable[Callable[[], str]]) -> str:
    """Return the states of files as one text; a file that is gone counts as such."""
    states = []
    for state in files:
        try:
            states.append(state())
        except OSError:
            states.append("gone")
    return " ".join(states)
