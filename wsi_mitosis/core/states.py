"""The state of one slide in an output folder: one row of `summary.csv`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import listed
from wsi_mitosis.tables import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wsi_mitosis.core.assessments import AssessedSlide, Assessment
    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.summary import Counts
    from wsi_mitosis.tables import Status


@dataclass(frozen=True)
class SlideState:
    """What an output folder knows of one slide.

    Attributes:
        name: Its name in the folder.
        status: Its status.
        record: Its record; None unless it is done.
        assessed: Its assessment on disk; None if there is no valid one.
        error: Why it failed; empty otherwise.
    """

    name: str
    status: Status
    record: SlideRecord | None = None
    assessed: AssessedSlide | None = None
    error: str = ""

    @property
    def assessment(self) -> Assessment | None:
        """What was found on it; None without a valid assessment on disk."""
        return None if self.assessed is None else self.assessed.assessment

    @property
    def counts(self) -> Counts | None:
        """What was counted; None unless the slide is done."""
        return None if self.record is None else self.record.counts

    @property
    def hotspot(self) -> Hotspot | None:
        """The densest hotspot; None without one."""
        return None if self.assessment is None else next(iter(self.assessment.hotspots), None)

    @property
    def no_hotspot(self) -> str | None:
        """Why there is no hotspot; None if there is one, or if none was requested."""
        return None if self.assessment is None else self.assessment.hotspot_reason

    @property
    def seconds(self) -> float | None:
        """Time that the slide took, s; None unless it is done."""
        return None if self.record is None else round(self.record.cost.seconds, 3)

    def row(self) -> dict[str, Any]:
        """Return the slide's row of `summary.csv`; None for an empty cell."""
        values = {column.name: _value(self, column.value) for column in SUMMARY}
        flags = {column.name for column in SUMMARY if column.kind == "flag"}
        return {name: str(v).lower() if name in flags and v is not None else v for name, v in values.items()}


def summary_rows(states: Iterable[SlideState]) -> list[dict[str, Any]]:
    """Return the rows of `summary.csv`, sorted by slide."""
    return [state.row() for state in sorted(states, key=lambda state: state.name)]


def lost_results(earlier: Iterable[SlideState], found: Collection[str]) -> list[str]:
    """Return a warning about slides that were done in an earlier run and have no record any more.

    Args:
        earlier: The states in `summary.csv`.
        found: Names of the slides that have a record or a state of this run.
    """
    lost = [state.name for state in earlier if state.status == "done" and state.name not in found]
    if not lost:
        return []
    table, them = ("table", "this slide") if len(lost) == 1 else ("tables", "these slides")
    return [
        f"the figures {table} of {listed(lost)} cannot be used: missing, damaged or edited. "
        f"Classify {them} again"
    ]


def missing_assessments(states: Iterable[SlideState]) -> list[str]:
    """Return a warning about finished slides of earlier runs whose assessment is missing or damaged."""
    missing = [state.name for state in states if state.status == "done" and state.assessment is None]
    if not missing:
        return []
    verb = "has" if len(missing) == 1 else "have"
    return [
        f"{listed(missing)} {verb} no valid assessment, so hotspots, regions and review list are missing. "
        "Classify these slides again: their labels are kept"
    ]


def _value(state: SlideState, path: str) -> Any:
    """Follow a path of attributes; None if one on the way is None."""
    value: Any = state
    for name in path.split("."):
        value = getattr(value, name)
        if value is None:
            return None
    return value
