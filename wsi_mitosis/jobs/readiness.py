"""Which slides are not complete yet: a scanner still writes them, or parts of them have not come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import listed
from wsi_mitosis.io.slides.parts import files_state, missing_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from wsi_mitosis.core.histories import SlideHistory
    from wsi_mitosis.io.slides.parts import FilesState
    from wsi_mitosis.tables import SlideSource


def waiting_slides(
    slides: Mapping[str, SlideSource],
    own_files: Mapping[SlideSource, Path],
    histories: Mapping[str, SlideHistory],
    settle_seconds: float,
    now: datetime,
) -> dict[str, str]:
    """Return the slides to leave for the next run, by name, and why.

    Args:
        slides: The slides whose files may be looked at, by name.
        own_files: The detections file that is a slide's own.
        histories: What earlier runs left of slides, by name.
        settle_seconds: How long the files of a slide must have been unchanged; 0 = none waits.
        now: The present.
    """
    if not settle_seconds:
        return {}
    reasons = {
        name: _reason(name, source.path, own_files.get(source), histories.get(name), settle_seconds, now)
        for name, source in slides.items()
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(
    name: str,
    slide: Path,
    own_file: Path | None,
    history: SlideHistory | None,
    settle_seconds: float,
    now: datetime,
) -> str | None:
    try:
        if missing := missing_parts(slide):
            return f"{name}: waits for parts of the slide: {listed(missing)}"
        states = [("its file", files_state(slide))]
        states += [("its detections file", files_state(own_file))] if own_file is not None else []
    except OSError:
        return None  # what opens it says what is wrong
    return _unsettled(name, states, history, settle_seconds, now)


def _unsettled(
    name: str,
    states: Iterable[tuple[str, FilesState]],
    history: SlideHistory | None,
    settle_seconds: float,
    now: datetime,
) -> str | None:
    """Return that one of the files still changes, or None."""
    for what, state in states:
        age = now.timestamp() - state.changed
        if age >= settle_seconds or _was_seen(state, history, settle_seconds, now):
            continue
        when = f"{age:.0f} s ago" if age >= 0 else "in the future, by this machine's clock"
        return f"{name}: waits, because {what} changed {when}; it is complete after {settle_seconds:g} s"
    return None


def _was_seen(state: FilesState, history: SlideHistory | None, settle_seconds: float, now: datetime) -> bool:
    """Whether an earlier run saw the same files long enough ago, so that clocks need not agree."""
    if history is None or state.digest not in history.files:
        return False
    elapsed = (now - history.since_time).total_seconds()
    return elapsed >= settle_seconds or elapsed < 0
