"""Control charts as drawings: the places of points, lines and labels in units of an SVG, and its words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.io.pages.drawing import round_length
from wsi_mitosis.io.pages.wording import NOTHING, number, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wsi_mitosis.core.control_charts import Verdict
    from wsi_mitosis.core.trends import Chart, Point, Quantity, Series

WIDTH, HEIGHT = 640, 230
"""Size of a drawing, units."""
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 22, 24
"""Margins for labels, units."""
MOST_DATES = 6
MOST_TICKS = 6
NAMED = 3
"""Slides of a night that are named."""
LARGE_MARK, SMALL_MARK = 3.4, 2.0
FEW_POINTS = 120
"""Points up to which marks are large."""
COUNT_TICKS = (0, 1, 2, 5, *(factor * 10**power for power in range(1, 8) for factor in (1, 2, 5)))
SHAPES: dict[Verdict | None, str] = {
    "inside": "inside",
    "above": "outside",
    "below": "outside",
    "run above": "run",
    "run below": "run",
    None: "unjudged",
}
WORDS: dict[Verdict | None, str] = {
    "inside": "",
    "above": "above the upper limit",
    "below": "below the lower limit",
    "run above": "in a run above the centre line",
    "run below": "in a run below the centre line",
    None: "not judged",
}


class Label(NamedTuple):
    """A text at a place along one axis, units."""

    at: float
    text: str


class Mark(NamedTuple):
    """A point: its place, its shape (a class of the style sheet), its size in units and its words."""

    x: float
    y: float
    shape: str
    size: float
    text: str


class Line(NamedTuple):
    """A row of the table of values, in words."""

    night: str
    slides: str
    number: str
    value: str
    low: str
    centre: str
    high: str
    remark: str


@dataclass(frozen=True)
class Drawing:
    """A chart.

    Attributes:
        ticks: Places and texts along the vertical axis.
        dates: Places and texts along the horizontal axis.
        references: (x, width) of the reference periods.
        breaks: Places along the horizontal axis where another bundle begins, with the bundle's name.
        lines: Path data that connect the points.
        centres, limits: Path data of centre lines and of limits.
        marks: The points.
    """

    ticks: Sequence[Label]
    dates: Sequence[Label]
    references: Sequence[tuple[float, float]]
    breaks: Sequence[Label]
    lines: Sequence[str]
    centres: Sequence[str]
    limits: Sequence[str]
    marks: Sequence[Mark]


class _Axes:
    """Converts positions of points and values on the chart's scale to units."""

    def __init__(self, chart: Chart) -> None:
        self.low, self.high = _extent(chart)
        self.step = (WIDTH - LEFT - RIGHT) / len(chart.points)

    def x(self, position: float) -> float:
        """Return the place of the left edge of a point, which is a step wide."""
        return LEFT + position * self.step

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def draw(chart: Chart) -> Drawing:
    """Draw a chart: its series stand beside each other, each in order of time."""
    axes, starts = _Axes(chart), _starts(chart.series)
    placed = list(zip(chart.series, starts, strict=True))
    return Drawing(
        ticks=[Label(axes.y(value), text) for value, text in _ticks(chart.quantity, axes.low, axes.high)],
        dates=list(_dates(chart.points, axes)),
        references=[one for series, start in placed for one in _references(series, start, axes)],
        breaks=[Label(axes.x(start), bundle_text(series)) for series, start in placed if len(placed) > 1],
        lines=[_connected(series.points, start, axes) for series, start in placed],
        centres=[
            _steps([series.fitted.centre] * len(series.points), start, axes)
            for series, start in placed
            if series.fitted is not None
        ],
        limits=[
            _steps([getattr(point, end) for point in series.points], start, axes)
            for series, start in placed
            for end in ("low", "high")
        ],
        marks=[
            _mark(chart.quantity, series, point, axes, start + index, len(chart.points))
            for series, start in placed
            for index, point in enumerate(series.points)
        ],
    )


def bundle_text(series: Series) -> str:
    """Return the name of a bundle with the start of its digest."""
    return f"{series.bundle.name} {series.bundle.digest[:8]}"


def value_text(quantity: Quantity, value: float | None) -> str:
    """Write a value of a chart."""
    if value is None:
        return NOTHING
    shown = quantity.shown(value)
    if quantity.unit == "share":
        return percent(shown)
    if quantity.unit == "score":
        return number(shown, 3)
    is_whole = abs(shown - round(shown)) < 1e-6  # the logarithm of a count is not exact
    return number(shown, 0 if is_whole or shown >= 100 else 1)


def slides_text(slides: Sequence[str]) -> str:
    """Write the slides of a point: the first few, and how many more."""
    more = len(slides) - NAMED
    return ", ".join(slides[:NAMED]) + (f" and {more} more" if more > 0 else "")


def table(chart: Chart) -> Iterator[Line]:
    """Yield what is drawn, point by point."""
    for series in chart.series:
        centre = None if series.fitted is None else series.fitted.centre
        for point in series.points:
            yield Line(
                night=str(point.night),
                slides=slides_text(point.slides),
                number=number(point.sample.number),
                value=value_text(chart.quantity, point.sample.mean),
                low=value_text(chart.quantity, point.low),
                centre=value_text(chart.quantity, centre),
                high=value_text(chart.quantity, point.high),
                remark=_remark(series, point),
            )


def status_text(chart: Chart) -> str:
    """Return what a chart says in two words."""
    if all(series.fitted is None for series in chart.series):
        return "no limits"
    outside = sum(point.verdict in {"above", "below"} for point in chart.points)
    in_runs = sum(len(series.runs) for series in chart.series)
    found = [f"{outside} outside"] if outside else []
    found += [f"{in_runs} run" + ("s" if in_runs > 1 else "")] if in_runs else []
    return ", ".join(found) or "in control"


def summary(chart: Chart) -> str:
    """Return what a chart shows in sentences, for those who do not see it."""
    first, last = min(p.night for p in chart.points), max(p.night for p in chart.points)
    series = chart.series[-1]
    point = series.points[-1]
    value = value_text(chart.quantity, point.sample.mean)
    return (
        f"{chart.quantity.title}: {len(chart.points)} points from {first} to {last}, {status_text(chart)}. "
        f"Last value {value}; {limits_text(chart.quantity, series)}."
    )


def limits_text(quantity: Quantity, series: Series) -> str:
    """Return the centre line of a series and the limits of its last judged point, in words."""
    if series.fitted is None:
        return series.no_limits
    judged = [point for point in series.points if point.verdict is not None][-1]
    low, high = (value_text(quantity, end) for end in (judged.low, judged.high))
    return f"centre line {value_text(quantity, series.fitted.centre)}, last limits {low} to {high}"


def _remark(series: Series, point: Point) -> str:
    if series.fitted is None:
        return ""
    reference = ["reference"] if point.in_reference else []
    return ", ".join([*reference, *filter(None, [WORDS[point.verdict]])])


def _starts(series: Sequence[Series]) -> list[int]:
    starts = [0]
    for one in series[:-1]:
        starts.append(starts[-1] + len(one.points))
    return starts


def _extent(chart: Chart) -> tuple[float, float]:
    """Return the values at the lower and the upper end of the vertical axis."""
    drawn = [point.sample.mean for point in chart.points]
    drawn += [end for point in chart.points for end in (point.low, point.high) if end is not None]
    least, most = chart.quantity.range
    low, high = max(min(drawn), least), min(max(drawn), most)
    margin = 0.06 * (high - low) or 0.05
    return max(low - margin, least - margin / 2), min(high + margin, most + margin / 2)


def _ticks(quantity: Quantity, low: float, high: float) -> Iterator[tuple[float, str]]:
    if quantity.unit == "count":
        counts = [count for count in COUNT_TICKS if low <= math.log1p(count) <= high]
        every = math.ceil(len(counts) / MOST_TICKS) or 1
        yield from ((math.log1p(count), number(count)) for count in counts[::every])
        return
    step = round_length((high - low) / (MOST_TICKS - 2))
    digits = max(0, -math.floor(math.log10(step)))
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        value = index * step
        is_share = quantity.unit == "share"
        yield value, f"{100 * value:.{max(digits - 2, 0)}f} %" if is_share else f"{value:.{digits}f}"


def _dates(points: Sequence[Point], axes: _Axes) -> Iterator[Label]:
    shown = min(MOST_DATES, len(points))
    positions = {round((index + 0.5) * len(points) / shown - 0.5) for index in range(shown)}
    for position in sorted(positions):
        yield Label(axes.x(position + 0.5), str(points[position].night))


def _references(series: Series, start: int, axes: _Axes) -> Iterator[tuple[float, float]]:
    """Yield where the reference period is; points that are not judged may lie in it."""
    taken = [index for index, point in enumerate(series.points) if point.in_reference]
    if taken:
        left, right = axes.x(start + taken[0]), axes.x(start + taken[-1] + 1)
        yield left, right - left


def _connected(points: Sequence[Point], start: int, axes: _Axes) -> str:
    places = (
        f"{axes.x(start + index + 0.5):.1f} {axes.y(point.sample.mean):.1f}"
        for index, point in enumerate(points)
    )
    return "M" + "L".join(places)


def _steps(values: Iterable[float | None], start: int, axes: _Axes) -> str:
    """Return a line that is level over each point; it is interrupted where there is no value."""
    parts: list[str] = []
    before: float | None = None
    for index, value in enumerate(values, start):
        if value is not None:
            y = axes.y(min(max(value, axes.low), axes.high))
            corner = f"V{y:.1f}" if before is not None else f"M{axes.x(index):.1f} {y:.1f}"
            parts.append(f"{corner}H{axes.x(index + 1):.1f}")
        before = value
    return "".join(parts)


def _mark(quantity: Quantity, series: Series, point: Point, axes: _Axes, position: int, points: int) -> Mark:
    remark = _remark(series, point)
    text = f"{point.night}, {slides_text(point.slides)}: {value_text(quantity, point.sample.mean)}"
    return Mark(
        axes.x(position + 0.5),
        axes.y(point.sample.mean),
        SHAPES[point.verdict],
        LARGE_MARK if points <= FEW_POINTS else SMALL_MARK,
        f"{text}, {remark}" if remark else text,
    )
