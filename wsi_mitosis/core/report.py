"""What a report shows of slides: which figures, in which order, where, and in which words. No pixels."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_mitosis.core.recount import CHANGES
from wsi_mitosis.core.voting import agreement
from wsi_mitosis.tables import SUMMARY_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from wsi_mitosis.core.assessments import Assessment, ReviewItem
    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.units import Mpp

Places = TypeVar("Places", float, NDArray[np.float64])

CROP_UM = 32.0
"""Side of a picture in the gallery, um: a figure and the nuclei beside it."""
CROP_MPP = 0.25
"""um/px of those pictures; a coarser slide keeps its own, for nothing is gained by enlarging."""
VIEW_UNITS = 1000
"""Longer side of an overview's drawing, units."""
BINS = 20
REGIONS_DRAWN = 100
"""Regions on an overview; `regions.csv` counts the others too."""
REVIEW_SHOWN = 10
"""Figures of the review list that a report names; `review.csv` has the others."""
NOTHING = "–"
_FINGERPRINT = ("candidates", "classified", "atypical", "mean_agreement")
"""Numbers that another result of the same slide would hardly share all."""


class Bar(NamedTuple):
    """One bar of a histogram: figures of each label."""

    label: str
    atypical: int
    typical: int


class Bundle(NamedTuple):
    """An ensemble that slides of the folder were classified by."""

    name: str
    digest: str
    trained: bool
    slides: int


@dataclass(frozen=True)
class Row:
    """A slide in the table.

    Attributes:
        slide: Its name.
        status: As in `summary.csv`.
        trained: Whether its labels mean anything; True where it has none.
        error: Why it failed, or "".
        numbers: The numeric columns of `summary.csv`; None for an empty cell.
        section: The id of its section in the page; None without one.
    """

    slide: str
    status: str
    trained: bool
    error: str
    numbers: Mapping[str, float | None]
    section: str | None


@dataclass(frozen=True)
class Limits:
    """What one slide may take of a report, so that the report of 50 slides stays under 10 MB.

    Attributes:
        overview_chars: Of its overview, as text.
        crops_chars: Of all its gallery's pictures, as text.
        crops: How many of these at most.
        marks: Figures drawn on its overview at most.
    """

    overview_chars: int
    crops_chars: int
    crops: int
    marks: int

    @classmethod
    def shared(cls, slides: int) -> Limits:
        """An equal share for each of so many slides; what a single one may take is bounded too."""
        share = min(600_000, 7_500_000 // max(slides, 1))
        crops = min(48, max(4, share // 2 // 6_500))  # a JPEG of 128 px of tissue takes 4 to 7 kB as text
        return cls(share // 2, share // 2, crops, min(5_000, max(200, 100_000 // max(slides, 1))))


@dataclass(frozen=True)
class View:
    """A part of a slide and how it is drawn: in units, VIEW_UNITS along its longer physical side.

    Attributes:
        left, top, width, height: The part, level-0 px, slide frame.
        mpp: um per level-0 px.
    """

    left: int
    top: int
    width: int
    height: int
    mpp: Mpp

    @classmethod
    def of(cls, size_px0: tuple[int, int], bounds: tuple[int, int, int, int] | None, mpp: Mpp) -> View:
        """The slide within its bounds, as QuPath shows it; the whole of it where it states none.

        Args:
            size_px0: (width, height) of level 0, px.
            bounds: (left, top, width, height), level-0 px, slide frame.
            mpp: um per level-0 px.
        """
        left, top, width, height = bounds or (0, 0, *size_px0)
        left, top = max(left, 0), max(top, 0)
        width, height = min(width, size_px0[0] - left), min(height, size_px0[1] - top)
        if width <= 0 or height <= 0:
            left, top, (width, height) = 0, 0, size_px0
        return cls(left, top, width, height, mpp)

    @property
    def um_per_unit(self) -> float:
        """Of both axes."""
        return max(self.width * self.mpp.x, self.height * self.mpp.y) / VIEW_UNITS

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) in units."""
        return self.across(self.left + self.width), self.down(self.top + self.height)

    def across(self, x_px0: Places) -> Places:
        """Where an x in level-0 px, slide frame, is drawn, units."""
        return (x_px0 - self.left) * self.mpp.x / self.um_per_unit

    def down(self, y_px0: Places) -> Places:
        """Where a y in level-0 px, slide frame, is drawn, units."""
        return (y_px0 - self.top) * self.mpp.y / self.um_per_unit

    def box(self, hotspot: Hotspot) -> tuple[float, float, float, float]:
        """(left, top, width, height) of a hotspot in units."""
        left, top = self.across(hotspot.x_px0), self.down(hotspot.y_px0)
        right = self.across(hotspot.x_px0 + hotspot.width_px0)
        return left, top, right - left, self.down(hotspot.y_px0 + hotspot.height_px0) - top

    def outline(self, region: Region) -> str:
        """A region's rings as path data of SVG, in units, without the corners that nobody could see."""
        import shapely

        drawn = shapely.transform(
            region.geometry, lambda xy: np.column_stack([self.across(xy[:, 0]), self.down(xy[:, 1])])
        )
        rings = shapely.get_rings(shapely.get_parts(shapely.simplify(drawn, 1.0)))
        return "".join(f"M{_corners(ring)}Z" for ring in rings)

    @property
    def scale_bar(self) -> tuple[float, str]:
        """Its length in units, about a fifth of the width, and what it says."""
        um = round_length(self.size[0] / 5 * self.um_per_unit)
        return um / self.um_per_unit, f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


@dataclass(frozen=True)
class Coordinates:
    """In which frame a reader is told where things are: that in which QuPath shows the slide.

    Attributes:
        origin: (x, y) of the frame's origin, level-0 px, slide frame.
        mpp: um per level-0 px.
        told: The frame in words.
    """

    origin: tuple[int, int]
    mpp: Mpp
    told: str

    @classmethod
    def drawn(cls, frame: str, bounds: tuple[int, int, int, int] | None, mpp: Mpp) -> Coordinates:
        """Those of the slide's GeoJSON, in the frame it states: `qupath` begins at the bounds' corner."""
        if bounds is None or bounds[:2] == (0, 0):
            return cls((0, 0), mpp, "from the slide's corner, as in QuPath")
        corner = f"{bounds[0]}, {bounds[1]}"
        if frame == "slide":
            return cls(
                (0, 0), mpp, f"from the slide's corner; QuPath crops {corner} px unless run with --no-crop"
            )
        told = f"from the corner of the slide's bounds, as in QuPath; the tables' are {corner} px more"
        return cls((bounds[0], bounds[1]), mpp, told)

    def px(self, x_px0: float, y_px0: float) -> str:
        """`12050, 8034`, level-0 px."""
        return f"{x_px0 - self.origin[0]:.0f}, {y_px0 - self.origin[1]:.0f}"

    def um(self, x_px0: float, y_px0: float) -> str:
        """`3012.5, 2008.5`, um."""
        return f"{(x_px0 - self.origin[0]) * self.mpp.x:.1f}, {(y_px0 - self.origin[1]) * self.mpp.y:.1f}"


@dataclass(frozen=True)
class Tile:
    """A figure in the gallery; `picture` is a data URI, None where the slide could not be read."""

    figure: Any
    picture: str | None


@dataclass(frozen=True)
class Reviewed:
    """What a recount made of a slide.

    Attributes:
        is_current: Whether what was reviewed is the result that stands.
        numbers: As of a Row, as reviewed.
        changes: How many figures were relabelled, removed, added.
    """

    is_current: bool
    numbers: Mapping[str, float | None]
    changes: Mapping[str, int]


@dataclass(frozen=True)
class Section:
    """All that the page shows of one slide.

    Attributes:
        row: Its row of the table, which names the section.
        assessment: Hotspots, regions, the review list.
        view: How the overview is drawn.
        coordinates: How places are told.
        overview: A data URI, or None.
        no_picture: Why there is no overview or no gallery; "" where both are there.
        atypical, typical: Where figures are drawn, units.
        marks_left_out: Figures that are not drawn, for there are too many.
        tiles: The gallery.
        probabilities, votes: Histograms.
        excluded: Candidates that are no figures, by reason.
        reviewed: What a recount made of it; None without one.
        facts: Name and value of what a reader may want to check.
        warnings: What was told of this slide.
    """

    row: Row
    assessment: Assessment
    view: View
    coordinates: Coordinates
    overview: str | None
    no_picture: str
    atypical: Sequence[tuple[int, int]]
    typical: Sequence[tuple[int, int]]
    marks_left_out: int
    tiles: Sequence[Tile]
    probabilities: Sequence[Bar]
    votes: Sequence[Bar]
    excluded: Mapping[str, int]
    reviewed: Reviewed | None
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: The folder's name.
        rows: Every slide of the folder, sorted.
        sections: The slides that are shown with pictures, sorted.
        notes: What was left out, and how to get it.
        bundles: The ensembles; untrained ones first.
        run: `run.json` of the last run into the folder; empty where it is missing.
        parameters: What that run was asked for.
        program: Version of the program that made the page.
    """

    title: str
    rows: Sequence[Row]
    sections: Sequence[Section]
    notes: Sequence[str]
    bundles: Sequence[Bundle]
    run: Mapping[str, Any]
    parameters: Sequence[tuple[str, str]]
    program: str
    statuses: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counted = Counter(row.status for row in self.rows)
        object.__setattr__(self, "statuses", dict(sorted(counted.items())))

    @property
    def untrained(self) -> int:
        """Slides whose labels mean nothing."""
        return sum(not row.trained for row in self.rows)


def _corners(ring: Any) -> str:
    """The corners of a closed ring, the last one left out."""
    return "L".join(f"{x:.0f} {y:.0f}" for x, y in ring.coords[:-1])


def round_length(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... (and their tenths) that is not longer than `most`, > 0."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))


def table_row(row: Mapping[str, Any], section: str | None = None) -> Row:
    """A row of `summary.csv`, whose cells may be text, for the table."""
    numeric = set(SUMMARY_COLUMNS) - {
        "slide",
        "status",
        "error",
        "mpp_source",
        "bundle",
        "bundle_digest",
        "trained",
    }
    return Row(
        slide=str(row["slide"]),
        status=str(row["status"]),
        trained=str(row.get("trained", "")).lower() != "false",
        error=str(row.get("error") or ""),
        numbers={name: _number(row.get(name)) for name in numeric},
        section=section,
    )


def reviewed_of(row: Mapping[str, Any], recounted: Mapping[str, Any] | None) -> Reviewed | None:
    """A slide's row of a recount beside its row of `summary.csv`; cells may be text.

    It is current where the machine's numbers that it was made beside are those that stand.
    """
    if recounted is None:
        return None
    same = all(_number(row.get(name)) == _number(recounted[f"machine_{name}"]) for name in _FINGERPRINT)
    return Reviewed(
        is_current=same and row.get("bundle_digest") == recounted["machine_bundle_digest"],
        numbers=table_row(recounted).numbers,
        changes={change: int(recounted[change]) for change in CHANGES},
    )


def bundles_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Bundle, ...]:
    """The ensembles of the rows of `summary.csv`, untrained ones first."""
    found = Counter(
        (str(row["bundle"]), str(row["bundle_digest"]), str(row["trained"]).lower() == "true")
        for row in rows
        if row.get("bundle")
    )
    bundles = (Bundle(*identity, slides) for identity, slides in found.items())
    return tuple(sorted(bundles, key=lambda bundle: (bundle.trained, bundle)))


def gallery(figures: pd.DataFrame, review: Sequence[ReviewItem], most: int) -> pd.DataFrame:
    """The figures whose pictures are shown: atypical ones first, then the most disputed.

    Where there are more than `most`, the first of the review list take up to half of the room: what a
    reviewer is asked to look at is to be seen.

    Args:
        figures: Rows of FIGURE_COLUMNS with a label each.
        review: The slide's rows of `review.csv`.
        most: How many.

    Returns:
        The rows to show, with `agreement` and `rank` (in the review list; NaN for others).
    """
    votes = tuple(figures[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    ranks = {item.figure_id: float(item.rank) for item in review}
    ordered = figures.assign(
        typical=figures["label"] != "atypical",
        agreement=agreement(*votes),
        certain=(figures["p_atypical"] - 0.5).abs(),
        rank=figures["figure_id"].map(ranks).astype(float),
    ).sort_values(["typical", "agreement", "certain", "y_px0", "x_px0"], kind="stable")
    first = (ordered["rank"] <= most // 2).to_numpy(bool)
    room = max(most - int(first.sum()), 0)
    kept = first | (np.cumsum(~first) <= room) & ~first
    return ordered[kept].drop(columns=["typical", "certain"])


def crop_side(mpp: Mpp) -> tuple[int, float]:
    """Side of a gallery's picture in px, and its um/px: together CROP_UM exactly, and never enlarged."""
    side = 2 * max(4, round(CROP_UM / max(CROP_MPP, mpp.mean) / 2))
    return side, CROP_UM / side


def marks(view: View, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Where figures are drawn, whole units; those that would lie on one another once, in the order given."""
    placed = zip(np.rint(view.across(x_px0)), np.rint(view.down(y_px0)), strict=True)
    return list(dict.fromkeys((int(x), int(y)) for x, y in placed))


def probability_bars(figures: pd.DataFrame) -> tuple[Bar, ...]:
    """Figures by P(atypical), in BINS equal bins from 0 to 1; 1 is in the last one."""
    edges = np.linspace(0, 1, BINS + 1)
    counted = {
        label: np.histogram(figures.loc[figures["label"] == label, "p_atypical"], edges)[0]
        for label in ("atypical", "typical")
    }
    labels = (f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges))
    both = zip(labels, counted["atypical"], counted["typical"], strict=True)
    return tuple(Bar(label, int(atypical), int(typical)) for label, atypical, typical in both)


def vote_bars(figures: pd.DataFrame) -> tuple[Bar, ...]:
    """Figures by their votes, `atypical of cast`; the surest typical ones first."""
    counted = Counter(
        zip(
            figures["votes_atypical"].astype(int),
            figures["votes_cast"].astype(int),
            figures["label"],
            strict=True,
        )
    )
    votes = sorted({(atypical, cast) for atypical, cast, _ in counted}, key=lambda v: (v[0] / v[1], v[1]))
    return tuple(
        Bar(f"{n} of {cast}", counted[n, cast, "atypical"], counted[n, cast, "typical"]) for n, cast in votes
    )


def parameters(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a run was asked for, as `run.json` has it, by name; of paths their last part, of slides none.

    A path may name a patient, and a report is passed on more easily than `run.json`.
    """
    asked = run.get("parameters", {})
    for section in ("input", "result", "output"):
        for name, value in asked.get(section, {}).items():
            if (section, name) in {("input", "slides"), ("output", "folder")}:
                continue
            if name in {"detections", "regions"} and value is not None:
                value = PurePath(str(value)).name
            yield f"{section}.{name}", _told(value)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or NOTHING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None else str(value)


def percent(share: float | None) -> str:
    """`20.7 %`."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """`13.4 to 30.7 %`."""
    return NOTHING if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def number(value: float | None, digits: int = 0) -> str:
    """`1,234` or, with digits, `0.26`."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def area(mm2: float | None) -> str:
    """`0.5 mm²`."""
    return NOTHING if mm2 is None else f"{mm2:g} mm²"


def moment(time: str) -> str:
    """`2026-01-02 03:04 UTC` of a time in ISO 8601, as `run.json` has it."""
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
