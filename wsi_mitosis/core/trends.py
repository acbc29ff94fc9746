"""What a laboratory watches from night to night: quantities of slides, in order of time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from wsi_mitosis.core.control_charts import REFERENCE, RUN, Kind, Sample, Verdict, fit, judge, pooled, runs
from wsi_mitosis.core.voting import agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.control_charts import Fit
    from wsi_mitosis.core.records import SlideRecord

By = Literal["scanner", "folder"]
"""What slides are grouped by."""
Per = Literal["auto", "slide", "night"]
"""What a point is of; `auto` is a slide, or a night if there are many slides."""
Unit = Literal["count", "share", "score"]

MOST_SLIDE_POINTS = 200
"""Slides of a group above which a point is a night: more points cannot be told apart on a page."""
LEAST_FIGURES = 10
"""Figures that a mean over figures needs before it is judged: the mean of fewer is far from normal."""
NIGHT_ENDS = timedelta(hours=12)
"""A night is named after the day on which it begins, and ends at noon."""


class Quantity(NamedTuple):
    """What a chart shows.

    Attributes:
        name: Its name in tables.
        title: Its name on the page.
        meaning: What a point is.
        kind: How its limits are computed.
        unit: How its values are written.
        least: Values that a point needs to be judged.
        of_night: Whether a point is always a night.
    """

    name: str
    title: str
    meaning: str
    kind: Kind
    unit: Unit
    least: int = 1
    of_night: bool = False

    def shown(self, value: float) -> float:
        """Return a value of a chart as a reader knows it: counts are on a logarithmic scale."""
        return max(math.expm1(value), 0.0) if self.unit == "count" else value

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value that are possible, on the chart's scale."""
        return (0.0, math.inf) if self.unit == "count" else (0.0, 1.0)


QUANTITIES = (
    Quantity(
        "figures", "Figures per slide", "figures of a slide; the geometric mean of a night", "mean", "count"
    ),
    Quantity("atypical_fraction", "Atypical fraction", "atypical figures of all figures", "share", "share"),
    Quantity(
        "mean_agreement",
        "Agreement of members",
        "mean over figures of the share of votes for the label",
        "mean",
        "score",
        LEAST_FIGURES,
    ),
    Quantity(
        "mean_p_atypical",
        "Mean P(atypical)",
        "mean over figures of the calibrated P(atypical)",
        "mean",
        "score",
        LEAST_FIGURES,
    ),
    Quantity(
        "low_sharpness",
        "Slides of low sharpness",
        "slides below the bundle's limit of sharpness, of those that have a sharpness",
        "share",
        "share",
        of_night=True,
    ),
    Quantity(
        "excluded", "Excluded candidates", "candidates without a label, of all candidates", "share", "share"
    ),
)
"""What is watched.

Counts of figures are skewed, and vary far more than Poisson's. Their chart is one of individuals of
ln(count + 1), the transformation of a negative binomial count whose variance grows with its mean's square
(Anscombe 1948, The transformation of Poisson, binomial and negative-binomial data, Biometrika 35:246, with
k = 2). In simulations with limits of 20 points, 0.4 % to 1.7 % of negative binomial and log-normal counts are
beyond them, as 1.0 % of a normal distribution are; without the logarithm 1.9 % to 4.9 % are. The limits are
those of a count again, and never below 0. A u chart, and Laney's u', would need the area of the tissue, which
no result states."""


class Bundle(NamedTuple):
    """The bundle that classified a slide. Limits never mix bundles."""

    digest: str
    name: str
    trained: bool


@dataclass(frozen=True, order=True)
class TrendSlide:
    """A classified slide; slides are ordered by time.

    Attributes:
        made: When it was classified.
        name: Its name, with its output folder if there are several.
        bundle: The bundle.
        night: The night in which it was classified.
        scanner: The scanner that it states; None if it states none.
        folder: The folder or URL that it was in.
        samples: Its values of each quantity, by name.
    """

    made: datetime
    name: str
    bundle: Bundle
    night: date
    scanner: str | None = field(compare=False)
    folder: str = field(compare=False)
    samples: Mapping[str, Sample] = field(compare=False)


@dataclass(frozen=True)
class Point:
    """A point of a chart.

    Attributes:
        slides: Names of its slides, by time.
        made: When the first of them was classified.
        night: The night.
        sample: Its values.
        in_reference: Whether limits were computed from it.
        low, high: Its limits on the chart's scale; None if there are none, or if it is not judged.
        verdict: None if it is not judged.
    """

    slides: tuple[str, ...]
    made: datetime
    night: date
    sample: Sample
    in_reference: bool = False
    low: float | None = None
    high: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Series:
    """The points of one bundle, in order of time.

    Attributes:
        bundle: The bundle.
        points: The points.
        fitted: Centre line and variances; None without limits.
        no_limits: Why there are no limits; empty if there are.
        runs: The points of each run on one side of the centre line.
    """

    bundle: Bundle
    points: tuple[Point, ...]
    fitted: Fit | None
    no_limits: str
    runs: tuple[tuple[Point, ...], ...] = ()


@dataclass(frozen=True)
class Chart:
    """One quantity of one group; a series for each bundle."""

    quantity: Quantity
    series: tuple[Series, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """All points, series after series."""
        return tuple(point for one in self.series for point in one.points)


@dataclass(frozen=True)
class Group:
    """The slides of one scanner, or of one folder.

    Attributes:
        name: Its name.
        slides: Number of slides.
        charts: A chart of each quantity that has points.
    """

    name: str
    slides: int
    charts: tuple[Chart, ...]


class Trends(NamedTuple):
    """The groups by number of slides, the largest first, and whether a point is a night."""

    groups: tuple[Group, ...]
    of_night: bool


class Signal(NamedTuple):
    """A point outside, or a run of points on one side.

    Attributes:
        group: The group.
        quantity: The quantity.
        bundle: The bundle.
        point: The point; of a run, the one with which it became one.
        centre: The centre line, on the chart's scale.
        text: What is wrong, in words.
    """

    group: str
    quantity: Quantity
    bundle: Bundle
    point: Point
    centre: float
    text: str

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, with values as a reader knows them."""
        values = {
            "value": self.point.sample.mean,
            "low": self.point.low,
            "centre": self.centre,
            "high": self.point.high,
        }
        return {
            "slides": self.point.slides,
            "night": str(self.point.night),
            "made": self.point.made.isoformat(),
            "group": self.group,
            "quantity": self.quantity.name,
            "bundle": self.bundle.name,
            "bundle_digest": self.bundle.digest,
            **{name: None if value is None else self.quantity.shown(value) for name, value in values.items()},
            "text": self.text,
        }


def samples_of(record: SlideRecord, figures: pd.DataFrame) -> dict[str, Sample]:
    """Return a slide's values of each quantity.

    Args:
        record: The slide's record.
        figures: `label`, `p_atypical`, `votes_atypical` and `votes_cast` of its figures table.
    """
    counts, classified = record.counts, figures[figures["label"].notna()]
    votes = (classified[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    sharpness = record.sharpness
    has_sharpness = sharpness is not None and sharpness.value is not None
    is_low = sharpness is not None and sharpness.verdict == "low"
    return {
        "figures": _values(np.log1p(np.array([counts.classified], np.float64))),
        "atypical_fraction": _events(counts.atypical, counts.classified),
        "mean_agreement": _values(agreement(*votes)),
        "mean_p_atypical": _values(classified["p_atypical"].to_numpy(np.float64)),
        "low_sharpness": _events(int(is_low), int(has_sharpness)),
        "excluded": _events(counts.excluded, counts.candidates),
    }


def night_of(made: datetime) -> date:
    """Return the day on which the night of a local time begins."""
    return (made - NIGHT_ENDS).date()


def trends_of(
    slides: Iterable[TrendSlide],
    *,
    by: By = "scanner",
    per: Per = "auto",
    reference: tuple[date, date] | None = None,
) -> Trends:
    """Compute the charts of all groups; the order of the slides changes nothing.

    Args:
        slides: The slides.
        by: What they are grouped by. A slide that states no scanner is in the group of its folder.
        per: What a point is of.
        reference: First and last night of the reference period; None for the first REFERENCE points that can
            be judged.
    """
    ordered = sorted(slides)
    members: dict[str, list[TrendSlide]] = defaultdict(list)
    folders = short_names({slide.folder for slide in ordered})
    for slide in ordered:
        members[group_name(slide, by, folders)].append(slide)
    of_night = points_are_nights(members.values(), per)
    groups = [
        Group(name, len(group), _charts(group, of_night=of_night, reference=reference))
        for name, group in members.items()
    ]
    return Trends(tuple(sorted(groups, key=lambda group: (-group.slides, group.name))), of_night)


def points_are_nights(groups: Iterable[Sequence[TrendSlide]], per: Per) -> bool:
    """Return whether a point is a night.

    With `auto` it is if a group has more than MOST_SLIDE_POINTS slides, and enough nights for limits.
    """
    if per != "auto":
        return per == "night"
    return any(
        len(group) > MOST_SLIDE_POINTS and len({slide.night for slide in group}) >= REFERENCE
        for group in groups
    )


def group_name(slide: TrendSlide, by: By, folders: Mapping[str, str]) -> str:
    """Return the name of a slide's group; `folders` has the short names of the slides' folders."""
    if by == "scanner" and slide.scanner is not None:
        return slide.scanner
    return f"folder {folders[slide.folder]}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the last parts of paths, as many as make each distinct: the others may name a patient."""
    parts = {path: PurePosixPath(path).parts for path in paths}
    ends = Counter(own[-depth:] for own in parts.values() for depth in range(1, len(own) + 1))

    def name(path: str) -> str:
        own = parts[path]
        shortest = (own[-depth:] for depth in range(1, len(own) + 1) if ends[own[-depth:]] == 1)
        return str(PurePosixPath(*next(shortest, own)))

    return {path: name(path) for path in parts}


def signals(groups: Iterable[Group]) -> list[Signal]:
    """Return the points outside and the runs of all groups, in order of time."""
    found = (
        signal
        for group in groups
        for chart in group.charts
        for series in chart.series
        for signal in _signals(group.name, chart.quantity, series)
    )
    order = {quantity.name: index for index, quantity in enumerate(QUANTITIES)}
    return sorted(found, key=lambda one: (one.point.made, one.group, order[one.quantity.name], one.text))


def _signals(group: str, quantity: Quantity, series: Series) -> Iterator[Signal]:
    if series.fitted is None:
        return
    for point in series.points:
        if point.verdict in {"above", "below"}:
            text = "above the upper limit" if point.verdict == "above" else "below the lower limit"
            yield Signal(group, quantity, series.bundle, point, series.fitted.centre, text)
    for points in series.runs:
        side = "above" if points[0].sample.mean > series.fitted.centre else "below"
        nights = f"{points[0].night} to {points[-1].night}"
        text = f"{len(points)} points in a row {side} the centre line, {nights}"
        yield Signal(group, quantity, series.bundle, points[RUN - 1], series.fitted.centre, text)


def _charts(
    slides: Sequence[TrendSlide], *, of_night: bool, reference: tuple[date, date] | None
) -> tuple[Chart, ...]:
    series: dict[Bundle, list[TrendSlide]] = defaultdict(list)
    for slide in slides:
        series[slide.bundle].append(slide)
    charts = (
        Chart(
            quantity,
            tuple(
                _series(bundle, points, quantity, reference)
                for bundle, members in series.items()
                if (points := _points(members, quantity, of_night=of_night or quantity.of_night))
            ),
        )
        for quantity in QUANTITIES
    )
    return tuple(chart for chart in charts if chart.series)


def _points(slides: Sequence[TrendSlide], quantity: Quantity, *, of_night: bool) -> list[Point]:
    """Return the points that have values; slides are in order of time."""
    units: dict[object, list[TrendSlide]] = defaultdict(list)
    for index, slide in enumerate(slides):
        if slide.samples[quantity.name].number:
            units[slide.night if of_night else index].append(slide)
    return [
        Point(
            slides=tuple(slide.name for slide in unit),
            made=unit[0].made,
            night=unit[0].night,
            sample=pooled(slide.samples[quantity.name] for slide in unit),
        )
        for unit in units.values()
    ]


def _series(
    bundle: Bundle, points: Sequence[Point], quantity: Quantity, reference: tuple[date, date] | None
) -> Series:
    enough = [index for index, point in enumerate(points) if point.sample.number >= quantity.least]
    taken = _reference(points, enough, reference)
    if len(taken) < REFERENCE:
        return Series(bundle, tuple(points), None, _too_few(quantity, len(taken), reference))
    fitted = fit(quantity.kind, [points[index].sample for index in taken])
    if fitted is None:
        return Series(bundle, tuple(points), None, "all points of the reference period are equal")
    judged = _judged(points, enough, set(taken), fitted)
    sides = fitted.sides([points[index].sample for index in enough])
    in_runs = tuple(tuple(judged[index] for index in enough[start:stop]) for start, stop in runs(sides))
    return Series(bundle, tuple(judged), fitted, "", in_runs)


def _reference(
    points: Sequence[Point], enough: Sequence[int], reference: tuple[date, date] | None
) -> list[int]:
    if reference is None:
        return list(enough[:REFERENCE])
    first, last = reference
    return [index for index in enough if first <= points[index].night <= last]


def _too_few(quantity: Quantity, number: int, reference: tuple[date, date] | None) -> str:
    where = "" if reference is None else " in the reference period"
    least = f" of {quantity.least} figures or more" if quantity.least > 1 else ""
    return f"limits need {REFERENCE} points{least}, and there are {number}{where}"


def _judged(points: Sequence[Point], enough: Sequence[int], taken: set[int], fitted: Fit) -> list[Point]:
    samples = [points[index].sample for index in enough]
    low, high = fitted.limits(np.array([one.number for one in samples], np.int64))
    verdicts = judge(fitted, samples)
    judged = list(points)
    for at, index in enumerate(enough):
        judged[index] = replace(
            points[index],
            in_reference=index in taken,
            low=float(low[at]),
            high=float(high[at]),
            verdict=verdicts[at],
        )
    return judged


def _events(events: int, number: int) -> Sample:
    return Sample(number, float(events), float(events))


def _values(values: NDArray[np.float64]) -> Sample:
    return Sample(len(values), math.fsum(values), math.fsum(values**2))
