"""`trend.html` of one or several output folders: control charts over the nights. It needs no slide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wsi_mitosis.core.control_charts import REFERENCE
from wsi_mitosis.core.trends import (
    Bundle,
    TrendSlide,
    night_of,
    samples_of,
    short_names,
    signals,
    trends_of,
)
from wsi_mitosis.errors import UNWRITABLE, InputError, OutputError, SlideError, listed, several
from wsi_mitosis.io.csv_files import read_rows, write_rows
from wsi_mitosis.io.pages.charts import slides_text
from wsi_mitosis.io.pages.trend import TrendPage, signal_row, write_trend
from wsi_mitosis.io.results.digests import write_digests
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.results.folder import ResultFiles, check_results, open_results
from wsi_mitosis.tables import TREND_COLUMNS
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

    from wsi_mitosis.core.control_charts import Sample
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.trends import By, Chart, Group, Per, Point, Series, Signal, Trends
    from wsi_mitosis.io.pages.trend import SignalRow

FILE, TABLE = "trend.html", "trend.csv"
STAGE = "drawing control charts"
MOST_POINTS = 5_000
"""Slides that are drawn one by one: the page then has some megabytes."""
FIGURE_NAMES = ("label", "p_atypical", "votes_atypical", "votes_cast")


@dataclass(frozen=True)
class TrendResult:
    """Control charts that were written.

    Attributes:
        path: The page.
        table: The table of every number on it.
        slides: Number of slides on the charts.
        groups: The groups, the largest first.
        signals: Points outside and runs, by time.
        rows: The same in words.
        notes: What is left out, and why.
        size_bytes: Size of the page.
        seconds: Time it took.
    """

    path: Path
    table: Path
    slides: int
    groups: tuple[Group, ...]
    signals: tuple[Signal, ...]
    rows: tuple[SignalRow, ...]
    notes: tuple[str, ...]
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Found:
    """The record and the values of a slide, the name of its output folder, and when it was classified."""

    folder: str
    record: SlideRecord
    made: datetime
    values: Mapping[str, Sample]


def draw_trend(
    folders: Sequence[Path],
    *,
    by: By = "scanner",
    per: Per = "auto",
    reference: tuple[date, date] | None = None,
    timezone: str | None = None,
    out: Path | None = None,
) -> TrendResult:
    """Draw control charts of the slides in output folders of `classify`.

    Only what runs have written is read, and folders that are only read need not be held. A slide whose table
    is damaged, or that does not say when it was classified, is named and left out.

    Args:
        folders: The output folders; their order changes nothing except where the page is written.
        by: What slides are grouped by.
        per: What a point is of.
        reference: First and last night of the reference period; None for the first points of each chart.
        timezone: The zone of nights, such as `Europe/Rome`; None for this machine's.
        out: The page, `trend.html` in the first folder if None. The table is beside it.

    Raises:
        InputError: if a folder has no results, if no slide can be drawn, or an argument is impossible.
        OutputError: if the page cannot be written, or another run holds the first folder.
    """
    started = perf_counter()
    zone = _zone(timezone)
    for folder in folders:
        check_results(folder, STAGE)
    if out is not None:
        _check_out(out)
        return _written(out, _read_and_draw(folders, by, per, reference, zone), started)
    with open_results(folders[0], STAGE) as held:
        page = _read_and_draw(folders, by, per, reference, zone)
        result = _written(held.folder / FILE, page, started)
        write_digests(held.folder, [FILE, TABLE])
        return result


def _zone(timezone: str | None) -> tzinfo | None:
    if timezone is None:
        return None
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(
            f"there is no time zone '{timezone}'",
            stage=STAGE,
            remedy="Name one as in the IANA database, such as Europe/Rome",
        ) from error


def _check_out(out: Path) -> None:
    """Refuse a name whose table would take the place of another table."""
    if out.suffix.lower() not in {".html", ".htm"}:
        raise InputError(
            "is not the name of a page",
            subject=out,
            stage=STAGE,
            remedy="Let the name end in .html. The table is written beside it, with the ending .csv",
        )
    table = out.with_suffix(".csv")
    if table.exists() and not _is_trend(table):
        raise OutputError(
            "exists and is not a table of control charts",
            subject=table,
            stage=STAGE,
            remedy="Give --out another name: the table is written beside the page, with the ending .csv",
        )


def _is_trend(table: Path) -> bool:
    try:
        rows = read_rows(table)
    except (OSError, ValueError):
        return False
    return bool(rows) and tuple(rows[0]) == TREND_COLUMNS


# Reading the results


def _read_and_draw(
    folders: Sequence[Path],
    by: By,
    per: Per,
    reference: tuple[date, date] | None,
    zone: tzinfo | None,
) -> TrendPage:
    resolved = sorted({folder.resolve() for folder in folders})
    labels = short_names(str(folder) for folder in resolved)
    faults: list[str] = []
    found = [one for folder in resolved for one in _slides_of(folder, labels[str(folder)], zone, faults)]
    kept = _without_copies(found, faults)
    if not kept:
        raise InputError(
            f"no slide can be drawn{': ' if faults else ''}{'; '.join(faults)}",
            subject=listed(labels.values()),
            stage=STAGE,
            remedy="Classify slides first: `wsi-mitosis classify`",
        )
    slides = [_slide(one, with_folder=len(resolved) > 1) for one in kept]
    _check_reference(slides, reference)
    trends = trends_of(slides, by=by, per=per, reference=reference)
    _check_points(trends.groups)
    return _page(slides, trends, sorted(labels.values()), by, reference, zone, faults)


def _slides_of(folder: Path, label: str, zone: tzinfo | None, faults: list[str]) -> Iterator[_Found]:
    """Yield the slides of a folder; what cannot be drawn is added to the faults."""
    files = ResultFiles(folder)
    records = files.records()
    tables = (path for path in (folder / "figures").rglob("*.parquet") if not path.name.startswith("."))
    damaged = {files.slide_of(path) for path in tables} - set(records)
    undated = []
    for name, record in sorted(records.items()):
        made = _moment(record, zone)
        if made is None:
            undated.append(name)
            continue
        try:
            figures = read_figures(files.figures_path(name), FIGURE_NAMES)
        except SlideError:
            damaged.add(name)
            continue
        yield _Found(label, record, made, samples_of(record, figures))
    if damaged:
        faults.append(
            f"{label}: {several(len(damaged), 'table')} of figures cannot be used (damaged or edited): "
            f"{listed(sorted(damaged))}"
        )
    if undated:
        faults.append(
            f"{label}: {several(len(undated), 'slide')} left out, classified by a version that did not state "
            f"when: {listed(undated)}"
        )


def _moment(record: SlideRecord, zone: tzinfo | None) -> datetime | None:
    """Return when a slide was classified, in a zone; None if the record does not state it."""
    try:
        made = datetime.fromisoformat(record.origin.made) if record.origin is not None else None
    except ValueError:
        return None
    return None if made is None or made.tzinfo is None else made.astimezone(zone)


def _without_copies(found: Sequence[_Found], faults: list[str]) -> list[_Found]:
    """Return each result once: a folder may be a copy of another one."""
    once: dict[tuple[str, str, str, datetime], _Found] = {}
    for one in sorted(found, key=lambda one: (one.record.name, one.folder)):
        record = one.record
        once.setdefault((record.slide.digest, record.key, record.model.digest, one.made), one)
    if len(once) < len(found):
        number = several(len(found) - len(once), "result")
        faults.append(
            f"{number} counted once: the same slide, classified at the same time, is in two folders"
        )
    return list(once.values())


def _slide(one: _Found, *, with_folder: bool) -> TrendSlide:
    record = one.record
    return TrendSlide(
        made=one.made,
        name=f"{one.folder}/{record.name}" if with_folder else record.name,
        bundle=Bundle(record.model.digest, record.model.name, record.model.trained),
        night=night_of(one.made),
        scanner=record.slide.scanner,
        folder=Path(record.slide.path).parent.as_posix(),
        samples=one.values,
    )


def _check_reference(slides: Sequence[TrendSlide], reference: tuple[date, date] | None) -> None:
    if reference is None or any(reference[0] <= slide.night <= reference[1] for slide in slides):
        return
    nights = sorted(slide.night for slide in slides)
    raise InputError(
        f"no slide was classified from {reference[0]} to {reference[1]}",
        subject="--reference",
        stage=STAGE,
        remedy=f"The slides were classified from {nights[0]} to {nights[-1]}",
    )


def _check_points(groups: Sequence[Group]) -> None:
    most = max(len(chart.points) for group in groups for chart in group.charts)
    total = sum(max(len(chart.points) for chart in group.charts) for group in groups)
    if total > MOST_POINTS:
        raise InputError(
            f"{total} points are too many for one page (a chart has up to {most})",
            stage=STAGE,
            remedy="Pass --per night, or name fewer folders",
        )


# Writing


def _page(
    slides: Sequence[TrendSlide],
    trends: Trends,
    labels: Sequence[str],
    by: By,
    reference: tuple[date, date] | None,
    zone: tzinfo | None,
    faults: Sequence[str],
) -> TrendPage:
    nights = sorted({slide.night for slide in slides})
    return TrendPage(
        title=", ".join(labels),
        slides=len(slides),
        nights=(str(nights[0]), str(nights[-1]), len(nights)),
        groups=trends.groups,
        signals=signals(trends.groups),
        by="A group is a scanner" if by == "scanner" else "A group is a folder of slides",
        point="A point is a night" if trends.of_night else "A point is a slide",
        reference=_reference_text(reference),
        timezone="this machine" if zone is None else str(zone),
        notes=[*_group_notes(slides, by), *faults],
        untrained=sum(not slide.bundle.trained for slide in slides),
        program=__version__,
    )


def _reference_text(reference: tuple[date, date] | None) -> str:
    if reference is None:
        return f"The reference period of a series is its first {REFERENCE} points."
    return f"The reference period is {reference[0]} to {reference[1]}."


def _group_notes(slides: Sequence[TrendSlide], by: By) -> Iterator[str]:
    silent = sum(slide.scanner is None for slide in slides)
    if by == "scanner" and silent:
        states = "states" if silent == 1 else "state"
        yield f"{several(silent, 'slide')} {states} no scanner; their group is the folder that they were in"
    bundles = {slide.bundle for slide in slides}
    if len(bundles) > 1:
        yield f"{len(bundles)} bundles classified these slides; each begins a series with limits of its own"


def _written(path: Path, page: TrendPage, started: float) -> TrendResult:
    table = path.with_suffix(".csv")
    try:
        write_rows(table, TREND_COLUMNS, _rows(page.groups))
        write_trend(path, page)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error}", subject=path, stage=STAGE, remedy=UNWRITABLE
        ) from error
    return TrendResult(
        path=path,
        table=table,
        slides=page.slides,
        groups=tuple(page.groups),
        signals=tuple(page.signals),
        rows=tuple(map(signal_row, page.signals)),
        notes=tuple(page.notes),
        size_bytes=path.stat().st_size,
        seconds=perf_counter() - started,
    )


def _rows(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for chart in group.charts:
            for series in chart.series:
                yield from (_row(group.name, chart, series, point) for point in series.points)


def _row(group: str, chart: Chart, series: Series, point: Point) -> dict[str, Any]:
    shown = chart.quantity.shown
    values = {
        "value": point.sample.mean,
        "low": point.low,
        "centre": None if series.fitted is None else series.fitted.centre,
        "high": point.high,
    }
    return {
        "group": group,
        "quantity": chart.quantity.name,
        "bundle": series.bundle.name,
        "bundle_digest": series.bundle.digest,
        "night": str(point.night),
        "made": point.made.isoformat(),
        "slide": slides_text(point.slides),
        "slides": len(point.slides),
        "number": point.sample.number,
        **{name: None if value is None else round(shown(value), 6) for name, value in values.items()},
        "reference": str(point.in_reference).lower(),
        "verdict": point.verdict or "",
    }
