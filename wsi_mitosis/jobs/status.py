"""The state of an output folder, also while a run is at work in it. Nothing is locked or changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import InputError
from wsi_mitosis.io.results.candidates import CandidateFiles, parts_folder
from wsi_mitosis.io.results.folder import ResultFiles

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from wsi_mitosis.core.histories import RunProgress, SlideProgress
    from wsi_mitosis.io.results.lock import Holder

RUNNING = "running"
LOST = "its table is missing, damaged or edited; the next run processes it again"


@dataclass(frozen=True)
class SlideStatus:
    """The state of one slide.

    Attributes:
        slide: Its name in the folder.
        status: A status of `summary.csv`, or `running`.
        attempts: Runs in a row in which it failed.
        reason: Why it failed, is set aside, or waits; empty otherwise.
        since: When the state began, ISO 8601; empty if that is not known.
        progress: How far it is; None unless it is processed now.
    """

    slide: str
    status: str
    attempts: int = 0
    reason: str = ""
    since: str = ""
    progress: SlideProgress | None = None


@dataclass(frozen=True)
class FolderStatus:
    """The state of an output folder.

    Attributes:
        folder: The folder.
        holder: The run that holds it; None if none does.
        is_dead: Whether that run has ended without notice; None if that cannot be known from here.
        progress: How far that run is; None if none is at work.
        last_run: `run.json`; empty if there is none.
        slides: Every slide of the folder, sorted by name.
    """

    folder: Path
    holder: Holder | None
    is_dead: bool | None
    progress: RunProgress | None
    last_run: Mapping[str, Any]
    slides: tuple[SlideStatus, ...]

    @property
    def is_at_work(self) -> bool:
        """Whether a run is at work, as far as can be known."""
        return self.holder is not None and not self.is_dead

    @property
    def counts(self) -> dict[str, int]:
        """Number of slides by status."""
        return dict(sorted(Counter(slide.status for slide in self.slides).items()))

    def as_data(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "folder": str(self.folder),
            "run": self._run(),
            "last_run": {name: self.last_run.get(name) for name in ("started", "ended", "exit_status")},
            "counts": self.counts,
            "slides": [_plain(slide) for slide in self.slides],
        }

    def _run(self) -> dict[str, Any] | None:
        if self.holder is None:
            return None
        holder = self.holder
        run: dict[str, Any] = {"host": holder.host, "pid": holder.pid, "since": holder.since}
        run["alive"] = None if self.is_dead is None else not self.is_dead
        if self.progress is not None:
            run |= self.progress.model_dump(exclude={"schema_", "running"})
            run["patches_per_second"] = self.progress.patches_per_second
            run["remaining_seconds"] = self.progress.remaining_seconds
        return run


def folder_status(path: Path) -> FolderStatus:
    """Return the state of an output folder of `classify` or `run`, or of a search by `detect`.

    While a pipeline searches candidates first, the state of its folder is that of the search.

    Args:
        path: The folder, or the table of candidates that `detect` writes.

    Raises:
        InputError: if no run has written there.
    """
    folder = _opened(path)
    holder, run = folder.holder(), folder.run()
    is_dead = None if holder is None else holder.is_dead()
    progress = folder.progress() if holder is not None and not is_dead else None
    slides = _slides(folder, run, progress, is_at_work=holder is not None and not is_dead)
    return FolderStatus(folder.folder, holder, is_dead, progress, run, slides)


def _opened(path: Path) -> ResultFiles | CandidateFiles:
    candidates = CandidateFiles(path if path.name.endswith(".parts") else parts_folder(path))
    folder = candidates if candidates.folder.is_dir() else ResultFiles(path)
    if (search := _search_in(folder)) is not None:
        return search
    if not folder.run() and folder.holder() is None and not (path / "figures").is_dir():
        raise InputError(
            "no run has written here",
            subject=path,
            stage="reading states",
            remedy="Give the folder named by --out, or the table that `detect` writes",
        )
    return folder


def _search_in(folder: ResultFiles | CandidateFiles) -> CandidateFiles | None:
    """Return the search in a folder of results that works there now, or was all that a run came to."""
    searches = [CandidateFiles(path) for path in sorted(folder.folder.glob(parts_folder(Path("*")).name))]
    working = [search for search in searches if (holder := search.holder()) and not holder.is_dead()]
    if folder.holder() is None and working:
        return working[0]
    begun = [search for search in searches if search.run() or search.holder() is not None]
    return begun[0] if begun and not folder.run() and folder.holder() is None else None


def _slides(
    folder: ResultFiles | CandidateFiles,
    run: Mapping[str, Any],
    progress: RunProgress | None,
    *,
    is_at_work: bool,
) -> tuple[SlideStatus, ...]:
    histories = folder.histories().values()  # before the records: a slide's record is written first
    records = folder.records()
    found = _from_run(run) | dict.fromkeys(records, ("done", ""))
    slides = {name: SlideStatus(name, status, reason=reason) for name, (status, reason) in found.items()}
    for history in histories:
        begun = str(run.get("started", "")) <= history.since
        if is_at_work and history.status not in {"done", RUNNING} and not begun:
            continue  # of an earlier run: this one has not come to it yet
        now = history if is_at_work else history.after_its_run
        slides[now.slide] = SlideStatus(now.slide, now.status, now.attempts, now.reason, now.since)
    for slide in progress.running if progress is not None else ():
        attempts = slides[slide.slide].attempts if slide.slide in slides else 0
        slides[slide.slide] = SlideStatus(slide.slide, RUNNING, attempts, "", slide.since, slide)
    return tuple(_with_result(slides[name], records) for name in sorted(slides))


def _with_result(slide: SlideStatus, records: Container[str]) -> SlideStatus:
    """Return the state of a slide; one that was done and whose table cannot be used is not done any more."""
    if slide.status != "done" or slide.slide in records:
        return slide
    return replace(slide, status="failed", reason=f"{slide.slide}: {LOST}")


def _from_run(run: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the status and reason of each slide of `run.json`; what is malformed is left out."""
    entries = run.get("slides")
    found = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("slide"), str) and entry.get("status"):
            found[entry["slide"]] = (str(entry["status"]), entry.get("error") or entry.get("reason") or "")
    return found


def _plain(slide: SlideStatus) -> dict[str, Any]:
    data: dict[str, Any] = {
        name: getattr(slide, name) for name in ("slide", "status", "attempts", "reason", "since")
    }
    if slide.progress is not None:
        data |= {"patches": slide.progress.patches, "candidates": slide.progress.candidates}
        data["seconds"] = seconds_since(slide.progress.since)
    return data


def seconds_since(moment: str) -> float:
    """Return the time since a moment, s; 0 if the clock was set back since."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
