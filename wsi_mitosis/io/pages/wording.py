"""How the report writes values, places, times and the parameters of a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core import qupath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wsi_mitosis.units import Frame, Mpp

NOTHING = "–"
SECTIONS = ("input", "result", "output")
"""Sections of a run's parameters in the report. Placement does not change a result."""
_OMITTED = frozenset({("input", "slides"), ("output", "folder")})
_PATHS = frozenset({"detections", "regions"})


@dataclass(frozen=True)
class Coordinates:
    """Writes places in the frame in which QuPath shows the slide.

    Attributes:
        origin: (x, y) of the frame's origin, level-0 px, slide frame.
        mpp: um per level-0 px.
        frame_text: A description of the frame, after `x, y at level 0`.
    """

    origin: tuple[int, int]
    mpp: Mpp
    frame_text: str

    @classmethod
    def of(cls, frame: Frame, bounds: tuple[int, int, int, int] | None, mpp: Mpp) -> Coordinates:
        """Use the frame of a slide's GeoJSON.

        Args:
            frame: The frame.
            bounds: (left, top, width, height), level-0 px, slide frame; None if the slide has none.
            mpp: um per level-0 px.
        """
        corner = qupath.frame_origin("qupath", bounds)
        origin = qupath.frame_origin(frame, bounds)
        if corner == (0, 0):
            text = "from the slide's corner, as in QuPath"
        elif origin == corner:
            offset = f"coordinates in the tables are {_pair(corner)} px larger"
            text = f"from the corner of the slide's bounds, as in QuPath; {offset}"
        else:
            text = f"from the slide's corner; without --no-crop, QuPath crops {_pair(corner)} px"
        return cls(origin, mpp, text)

    def px(self, x_px0: float, y_px0: float) -> str:
        """Write a place in px, such as `12050, 8034`."""
        return f"{x_px0 - self.origin[0]:.0f}, {y_px0 - self.origin[1]:.0f}"

    def um(self, x_px0: float, y_px0: float) -> str:
        """Write a place in um, such as `3012.5, 2008.5`."""
        return f"{(x_px0 - self.origin[0]) * self.mpp.x:.1f}, {(y_px0 - self.origin[1]) * self.mpp.y:.1f}"


def parameters(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a run's parameters, without slides and output folder.

    Paths are reduced to their last part: a folder's name may identify a patient, and a report is more likely
    to be passed on than `run.json`.

    Args:
        run: The content of `run.json`.
    """
    given = run.get("parameters", {})
    for section in SECTIONS:
        for name, value in given.get(section, {}).items():
            if (section, name) not in _OMITTED:
                yield f"{section}.{name}", _setting(_without_folders(name, value))


def _without_folders(name: str, value: Any) -> Any:
    return PurePath(str(value)).name if name in _PATHS and value is not None else value


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None else str(value)


def percent(share: float | None) -> str:
    """Write a share, such as `20.7 %`."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval of shares, such as `13.4 to 30.7 %`."""
    return NOTHING if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def number(value: float | None, digits: int = 0) -> str:
    """Write a number, such as `1,234` or, with two digits, `0.26`."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def area(mm2: float | None) -> str:
    """Write an area in mm^2, such as `0.5 mm²`."""
    return NOTHING if mm2 is None else f"{mm2:g} mm²"


def moment(time: str) -> str:
    """Write a time in ISO 8601 as `2026-01-02 03:04 UTC`."""
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pair(place: tuple[int, int]) -> str:
    return f"{place[0]}, {place[1]}"
