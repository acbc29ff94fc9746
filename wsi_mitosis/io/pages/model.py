"""The content of a report: a table of all slides, and sections of the slides that are shown with pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from wsi_mitosis.core.recount import CHANGES, UNSEEN
from wsi_mitosis.tables import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.core.assessments import Assessment
    from wsi_mitosis.core.histograms import Bar
    from wsi_mitosis.io.pages.drawing import View
    from wsi_mitosis.io.pages.wording import Coordinates

NUMERIC_COLUMNS = frozenset(column.name for column in SUMMARY if column.kind in {"integer", "number"})


class Bundle(NamedTuple):
    """A bundle that classified slides of the folder, and the number of these slides."""

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
        trained: Whether its bundle is trained; True for a slide that was not classified.
        error: Why it failed, or "".
        blurred: Whether its figures are less sharp than the bundle's limit.
        numbers: NUMERIC_COLUMNS; None for an empty cell.
        section: The id of its section in the page; None without one.
    """

    slide: str
    status: str
    trained: bool
    error: str
    blurred: bool
    numbers: Mapping[str, float | None]
    section: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any], section: str | None = None) -> Row:
        """Take a row of `summary.csv`, whose cells may be text."""
        return cls(
            slide=str(row["slide"]),
            status=str(row["status"]),
            trained=str(row.get("trained", "")).lower() != "false",
            error=str(row.get("error") or ""),
            blurred=row.get("sharpness_verdict") == "low",
            numbers=_numbers(row),
            section=section,
        )


@dataclass(frozen=True)
class Reviewed:
    """The recount of a slide after its review.

    Attributes:
        is_current: Whether the review is of the slide's present figures, regions and options.
        numbers: NUMERIC_COLUMNS after the review.
        changes: Number of figures that were relabelled, removed and added, and of those that the reviewer
            did not see.
    """

    is_current: bool
    numbers: Mapping[str, float | None]
    changes: Mapping[str, int]

    @classmethod
    def of(cls, recounted: Mapping[str, Any], *, is_current: bool) -> Reviewed:
        """Take a slide's row of a recount.

        Args:
            recounted: Its row of `reviewed/summary.csv`; cells may be text.
            is_current: As above.
        """
        changes = {change: int(recounted.get(change) or 0) for change in (*CHANGES, UNSEEN)}
        return cls(
            is_current=is_current,
            numbers=_numbers(recounted),
            changes={change: number for change, number in changes.items() if number or change != UNSEEN},
        )


@dataclass(frozen=True)
class Tile:
    """A figure in the gallery.

    Attributes:
        figure: Its row, as `gallery_figures` returns it.
        picture: A data URI, or None if the slide could not be read.
        map: A data URI of where members look; None for a figure without a map.
    """

    figure: Any
    picture: str | None
    map: str | None


@dataclass(frozen=True)
class Section:
    """Everything that the page shows of one slide.

    Attributes:
        row: Its row of the table, with the id of this section.
        assessment: Its hotspots, regions and review list.
        view: The coordinates of the drawing on the overview.
        coordinates: Writes places of the slide.
        overview: A data URI, or None.
        no_picture: Why the overview or the gallery has no pictures; "" if it has.
        atypical, typical: Places of the drawn figures, units of the view.
        marks_omitted: Number of figures that are not drawn, because there are too many.
        tiles: The gallery.
        looking: Whose maps the gallery has, in words; "" without maps.
        probabilities, votes: Histograms.
        excluded: Number of excluded candidates by reason.
        reviewed: Its recount; None without one.
        facts: Names and values that identify the slide and its result.
        warnings: Warnings about this slide's result.
    """

    row: Row
    assessment: Assessment
    view: View
    coordinates: Coordinates
    overview: str | None
    no_picture: str
    atypical: Sequence[tuple[int, int]]
    typical: Sequence[tuple[int, int]]
    marks_omitted: int
    tiles: Sequence[Tile]
    looking: str
    probabilities: Sequence[Bar]
    votes: Sequence[Bar]
    excluded: Mapping[str, int]
    reviewed: Reviewed | None
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]


@dataclass(frozen=True)
class LastRun:
    """The last run into the folder, from `run.json`.

    Attributes:
        version: Version of the program.
        started, ended: Times in ISO 8601; `ended` is None if the run did not end.
        exit_status: None if the run did not end.
        parameters: Names and values.
        warnings: Its warnings.
    """

    version: str | None
    started: str | None
    ended: str | None
    exit_status: int | None
    parameters: Sequence[tuple[str, str]]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: The folder's name.
        rows: Every slide of the folder, sorted.
        sections: The slides that are shown with pictures, sorted.
        notes: Which slides have no pictures, and how to show them.
        run: The last run into the folder; None if `run.json` is missing or damaged.
        bundles: The bundles, untrained ones first.
        program: Version of the program that made the page.
        days: Number of days on which slides were classified.
        trend: Name of the page with control charts; None if there is none.
    """

    title: str
    rows: Sequence[Row]
    sections: Sequence[Section]
    notes: Sequence[str]
    run: LastRun | None
    bundles: Sequence[Bundle]
    program: str
    days: int = 0
    trend: str | None = None

    @property
    def statuses(self) -> dict[str, int]:
        """Number of slides by status."""
        return dict(sorted(Counter(row.status for row in self.rows).items()))

    @property
    def untrained(self) -> int:
        """Number of slides that an untrained bundle classified."""
        return sum(not row.trained for row in self.rows)


def bundles_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Bundle, ...]:
    """Count the slides of each bundle in rows of `summary.csv`; untrained bundles come first."""
    counts = Counter(
        (str(row["bundle"]), str(row["bundle_digest"]), str(row["trained"]).lower() == "true")
        for row in rows
        if row.get("bundle")
    )
    bundles = (Bundle(*identity, slides) for identity, slides in counts.items())
    return tuple(sorted(bundles, key=lambda bundle: (bundle.trained, bundle)))


def _numbers(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: _number(row.get(name)) for name in NUMERIC_COLUMNS}


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)
