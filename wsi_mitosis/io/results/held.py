"""A folder that one run at a time writes to, with `run.json`, the log, and the states of slides."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from wsi_mitosis.core.histories import RunProgress, SlideHistory
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.limits import parse_json
from wsi_mitosis.io.results.lock import FolderLock, Holder, read_holder
from wsi_mitosis.io.results.log import RunLog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RUN, PROGRESS = "run.json", "progress.json"
TEMPORARY = re.compile(r"\.\d+-.")
"""Start of the name of a file that is being written; see `io.atomic.replacing`."""


class RunFolder:
    """What runs leave in a folder beside their results. Reading it needs no lock and changes nothing.

    Args:
        folder: The folder.
    """

    states_name = "states"
    """The folder of the states of slides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state_path(self, slide: str) -> Path:
        """Return the path of a slide's state, whether it exists or not."""
        return self.folder / self.states_name / f"{slide}.json"

    def histories(self) -> dict[str, SlideHistory]:
        """Return what earlier runs left of each slide, by name; a damaged or misplaced file is left out."""
        files = sorted((self.folder / self.states_name).rglob("*.json"))
        found = ((path, _history(path)) for path in files if not path.name.startswith("."))
        return {h.slide: h for path, h in found if h is not None and self.state_path(h.slide) == path}

    def holder(self) -> Holder | None:
        """Return the run that holds the folder; None if none does."""
        return read_holder(self.folder)

    def progress(self) -> RunProgress | None:
        """Return how far the run is that is at work; None if none is."""
        try:
            return RunProgress.model_validate_json((self.folder / PROGRESS).read_bytes())
        except (OSError, ValidationError):
            return None

    def run(self) -> dict[str, Any]:
        """Return the content of `run.json`; empty if there is none that can be read."""
        try:
            run = parse_json((self.folder / RUN).read_bytes())
        except (OSError, ValueError):
            return {}
        return run if isinstance(run, dict) else {}


class HeldFolder(RunFolder):
    """A folder that this process holds. Use it as a context manager.

    Args:
        folder: Created if it does not exist.
        steal: Take it over from a run of which it cannot be known whether it lives.

    Attributes:
        taken_from: The run that left the folder locked and has ended; None if there was none.

    Raises:
        OutputError: if the folder cannot be written, or another run holds it.
    """

    def __init__(self, folder: Path, *, steal: bool = False) -> None:
        super().__init__(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            self.taken_from = self._lock.acquire(steal=steal)
        except OSError as error:
            remedy = "Name another by --out"
            raise OutputError(f"cannot be written: {error}", subject=folder, remedy=remedy) from error
        self._log = RunLog(folder)
        if self.taken_from is not None:
            self._remove_temporary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def check_held(self) -> None:
        """Check that this process still holds the folder.

        Raises:
            OutputError: if another run has taken it over.
        """
        self._lock.check()

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Write `run.json`."""
        write_text(self.folder / RUN, json.dumps(run, indent=1, ensure_ascii=False, default=str) + "\n")

    def write_progress(self, progress: RunProgress) -> None:
        """Write how far this run is.

        Raises:
            OSError: if it cannot be written.
            OutputError: if the folder was removed or taken over: writing would make it again.
        """
        self.check_held()
        write_text(self.folder / PROGRESS, progress.model_dump_json(indent=1) + "\n", durable=False)

    def remove_progress(self) -> None:
        """Remove the file of the progress, at the end of the run."""
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def start_log(self) -> str | None:
        """Prepare `log.jsonl` for a run; return a message for the user if that failed."""
        return self._log.start()

    def log(self, event: str, **facts: object) -> str | None:
        """Append one event to `log.jsonl`; return a message for the user the first time that this fails."""
        return self._log.append(event, **facts)

    def _remove_temporary(self) -> None:
        """Remove the unfinished files of a run that was killed."""
        for place, _, names in os.walk(self.folder):
            for name in filter(TEMPORARY.match, names):
                self.folder.joinpath(place, name).unlink(missing_ok=True)


def write_history(folder: RunFolder, history: SlideHistory) -> None:
    """Write the state of a slide. One that a loss of power damages is as good as none.

    Raises:
        OSError: if it cannot be written.
        OutputError: if this process held the folder, and it was removed or taken over.
    """
    if isinstance(folder, HeldFolder):
        folder.check_held()
    write_text(folder.state_path(history.slide), history.model_dump_json(indent=1) + "\n", durable=False)


def _history(path: Path) -> SlideHistory | None:
    try:
        return SlideHistory.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
