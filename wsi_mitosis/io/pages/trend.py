"""`trend.html`: control charts on a page without a script, which opens without a network like the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.core.control_charts import REFERENCE, RUN
from wsi_mitosis.core.trends import LEAST_FIGURES, QUANTITIES
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.pages import charts
from wsi_mitosis.io.pages.template import render_page, template_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.core.trends import Chart, Group, Quantity, Signal

MOST_GROUPS = 24
"""Groups that are drawn, those with the most slides; the table has the others too."""
MOST_SIGNALS = 200
"""Points outside that are listed, the latest ones; the table has the others too."""


@dataclass(frozen=True)
class TrendPage:
    """The content of the page.

    Attributes:
        title: Names of the output folders.
        slides: Number of slides.
        nights: First and last night, and the number of nights on which slides were classified.
        groups: The groups, the largest first.
        signals: Points outside and runs, by time.
        by: What the groups are, in words.
        point: What a point is, in words.
        reference: What the reference period is, in words.
        timezone: The zone of all times, in words.
        notes: What is left out, and why.
        untrained: Number of slides that an untrained bundle classified.
        program: Version of the program that made the page.
    """

    title: str
    slides: int
    nights: tuple[str, str, int]
    groups: Sequence[Group]
    signals: Sequence[Signal]
    by: str
    point: str
    reference: str
    timezone: str
    notes: Sequence[str]
    untrained: int
    program: str

    @property
    def drawn(self) -> Sequence[Group]:
        """The groups that have charts on the page."""
        return self.groups[:MOST_GROUPS]


class SignalRow(NamedTuple):
    """A row of the table of points outside, in words."""

    night: str
    group: str
    quantity: str
    slides: str
    value: str
    limits: str
    text: str
    chart: str | None


class ChartView(NamedTuple):
    """A chart of a group, with its id in the page."""

    id: str
    chart: Chart
    drawing: charts.Drawing
    status: str
    summary: str
    series: Sequence[tuple[str, str]]


class GroupView(NamedTuple):
    """A group, with its id in the page; `charts` has those of its quantities by name."""

    id: str
    group: Group
    charts: Mapping[str, ChartView]


def write_trend(path: Path, page: TrendPage) -> None:
    """Write a page; if it fails, an existing file is not changed."""
    write_text(path, render_trend(page))


def render_trend(page: TrendPage) -> str:
    """Return the page as HTML."""
    groups = [_group(group, index) for index, group in enumerate(page.drawn, start=1)]
    places = {(view.group.name, name): chart.id for view in groups for name, chart in view.charts.items()}
    return render_page(
        "trend.html.j2",
        style=template_text("trend.css"),
        page=page,
        groups=groups,
        quantities=QUANTITIES,
        rows=[_row(signal, places) for signal in page.signals[-MOST_SIGNALS:][::-1]],
        more_signals=max(len(page.signals) - MOST_SIGNALS, 0),
        table=charts.table,
        size=charts,
        reference=REFERENCE,
        run=RUN,
        least_figures=LEAST_FIGURES,
    )


def signal_row(signal: Signal) -> SignalRow:
    """Return a point outside in words, without a place in a page."""
    return _row(signal, {})


def _row(signal: Signal, places: Mapping[tuple[str, str], str]) -> SignalRow:
    point, quantity = signal.point, signal.quantity
    low, centre, high = (
        charts.value_text(quantity, value) for value in (point.low, signal.centre, point.high)
    )
    return SignalRow(
        night=str(point.night),
        group=signal.group,
        quantity=quantity.title,
        slides=charts.slides_text(point.slides),
        value=charts.value_text(quantity, point.sample.mean),
        limits=f"{low} to {high}, centre {centre}",
        text=signal.text,
        chart=places.get((signal.group, quantity.name)),
    )


def _group(group: Group, index: int) -> GroupView:
    views = {
        chart.quantity.name: _chart(chart, f"group-{index}-{chart.quantity.name}") for chart in group.charts
    }
    return GroupView(f"group-{index}", group, views)


def _chart(chart: Chart, place: str) -> ChartView:
    series = list(_series(chart.quantity, chart))
    return ChartView(
        place, chart, charts.draw(chart), charts.status_text(chart), charts.summary(chart), series
    )


def _series(quantity: Quantity, chart: Chart) -> Iterator[tuple[str, str]]:
    """Yield the bundle of each series and its limits, in words."""
    for one in chart.series:
        text = charts.limits_text(quantity, one)
        yield charts.bundle_text(one), text if one.fitted is not None else f"no limits: {text}"
