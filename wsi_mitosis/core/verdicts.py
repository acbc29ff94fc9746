"""What a reviewer's files say of one slide, by figure of the present result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wsi_mitosis.core.qupath import UNMOVED_PX
from wsi_mitosis.core.recount import match_figures
from wsi_mitosis.core.reviews import STAGE
from wsi_mitosis.errors import DetectionsError, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.review_files import Design, PageSlide, ReviewedFigure, ReviewFile, Verdict

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""In place of the moment of a verdict that states none."""


class GivenVerdict(NamedTuple):
    """A verdict on one of the ensemble's figures.

    Attributes:
        label: The verdict.
        at: When it was given.
        blind: Whether the ensemble's label was hidden.
        note: What the reviewer wrote.
        seconds: How long the figure was on the screen, s; NaN if unknown.
        by: Whether the figure has the same id as in the file, or only lies there.
        decides: Whether it was given on a page of the figures on which reviewers disagree.
    """

    label: Verdict
    at: datetime
    blind: bool
    note: str
    seconds: float
    by: Literal["id", "distance"]
    decides: bool = False


class SlideVerdicts(NamedTuple):
    """What a reviewer said of a slide.

    Attributes:
        given: The verdict that counts, by figure id of the present result.
        notes: What the user should know.
    """

    given: Mapping[str, GivenVerdict]
    notes: tuple[str, ...]


class _Fits(NamedTuple):
    """The figures of a file that are figures of the present result.

    Attributes:
        of_file: Their positions among the file's figures of the slide, (k,).
        machine: Their rows among the ensemble's figures, (k,).
        by_id: (k,) whether the ids are the same.
    """

    of_file: NDArray[np.intp]
    machine: NDArray[np.intp]
    by_id: NDArray[np.bool_]


def verdicts_on_slide(
    files: Sequence[tuple[str, ReviewFile]], record: SlideRecord, machine: pd.DataFrame, distance_um: float
) -> SlideVerdicts:
    """Return what one reviewer said of one slide in several files; of a figure the latest verdict counts.

    If a file shows the present result, its figures are known by their ids. If it shows another one, they are
    matched by id, which is made from the slide and the place, or else by distance. A verdict on a figure
    that matches none is not counted, and a note names it.

    Args:
        files: The reviewer's files, each with its name for messages, of which each has figures of the slide.
        record: The slide's record.
        machine: The ensemble's figures: FIGURE_COLUMNS without `geometry`, with a label each.
        distance_um: Figures that are farther apart than this are not the same.

    Raises:
        DetectionsError: if a file shows another slide of this name, or contradicts the result that it shows,
            or if two files have different verdicts of the same moment.
    """
    found: dict[str, list[GivenVerdict]] = {}
    notes: list[str] = []
    for name, file in files:
        page = next(one for one in file.slides if one.slide == record.name)
        figures = [one for one in file.figures if one.slide == record.name]
        fits = _fits(name, page, figures, record, machine, distance_um)
        for figure_id, given in _given(figures, fits, machine, file.design):
            found.setdefault(figure_id, []).append(given)
        if page.key != record.key:
            notes.append(_note(name, page, figures, fits, record.name, distance_um))
    latest = {name: _latest(name, verdicts, record.name) for name, verdicts in found.items()}
    changed = sum(len({one.label for one in verdicts}) > 1 for verdicts in found.values())
    if changed:
        text = "verdicts that a later file changes, and of which the latest count"
        notes.append(f"{record.name}: {text}: {changed}")
    return SlideVerdicts(latest, tuple(notes))


def _fits(
    name: str,
    page: PageSlide,
    figures: Sequence[ReviewedFigure],
    record: SlideRecord,
    machine: pd.DataFrame,
    distance_um: float,
) -> _Fits:
    """Match the figures of a file with those of the present result."""
    if page.digest != record.slide.digest:
        raise DetectionsError(
            f"{name} shows another slide of this name, or another scan: its content differs",
            subject=record.name,
            stage=STAGE,
            remedy="Give the folder of results that the page was made from",
        )
    ids = np.array([one.figure_id for one in figures], dtype=object)
    places = np.array([(one.x_px0, one.y_px0) for one in figures], dtype=np.float64).reshape(-1, 2)
    if page.key == record.key:
        return _present(name, ids, places, record.name, machine)
    if ((places < 0) | (places >= np.array(record.scale.size_px0))).any():
        raise DetectionsError(
            f"figures of {name} lie outside the slide",
            subject=record.name,
            stage=STAGE,
            remedy="Give the file as the page saved it",
        )
    scale = np.array(record.scale.mpp)
    match = match_figures(
        machine["figure_id"].to_numpy(object), _places(machine) * scale, ids, places * scale, distance_um
    )
    return _Fits(match.reviewed, match.machine, match.by_id)


def _present(
    name: str, ids: NDArray[np.object_], places: NDArray[np.float64], slide: str, machine: pd.DataFrame
) -> _Fits:
    """Find the figures of a file that shows the present result: each is there, at its place."""
    rows = {figure: row for row, figure in enumerate(machine["figure_id"])}
    found = np.array([rows.get(figure, -1) for figure in ids], dtype=np.intp)
    away = np.full(len(ids), np.inf)
    known = found >= 0
    away[known] = np.abs(places[known] - _places(machine)[found[known]]).max(axis=1, initial=0)
    if (wrong := away > UNMOVED_PX).any():
        raise DetectionsError(
            f"{name} says that it shows the present result, which has no such figures at these places: "
            f"{listed(ids[wrong])}",
            subject=slide,
            stage=STAGE,
            remedy="Give the file as the page saved it",
        )
    return _Fits(np.arange(len(ids)), found, np.ones(len(ids), dtype=bool))


def _places(machine: pd.DataFrame) -> NDArray[np.float64]:
    return machine[["x_px0", "y_px0"]].to_numpy(np.float64)


def _given(
    figures: Sequence[ReviewedFigure], fits: _Fits, machine: pd.DataFrame, design: Design
) -> Iterator[tuple[str, GivenVerdict]]:
    """Yield the verdicts of a file by the figure id of the present result."""
    ids = machine["figure_id"].tolist()
    for place, row, by_id in zip(*(values.tolist() for values in fits), strict=True):
        one = figures[place]
        if one.label is not None:
            at = _LONG_AGO if one.at is None else datetime.fromisoformat(one.at)
            seconds = np.nan if one.seconds is None else one.seconds
            by: Literal["id", "distance"] = "id" if by_id else "distance"
            yield ids[row], GivenVerdict(one.label, at, design.blind, one.note, seconds, by, design.decides)


def _note(
    name: str,
    page: PageSlide,
    figures: Sequence[ReviewedFigure],
    fits: _Fits,
    slide: str,
    distance_um: float,
) -> str:
    """Say how many verdicts on figures of another result were matched with the present ones."""
    matched = set(fits.of_file.tolist())
    decided = {place: one for place, one in enumerate(figures) if one.label is not None}
    lost = [one.figure_id for place, one in decided.items() if place not in matched]
    others = f"; that fit none, and are not counted: {len(lost)} ({listed(lost)})" if lost else ""
    return (
        f"{slide}: {name} shows another result, of the bundle {page.bundle}. Verdicts on figures that the "
        f"present result has at their place, within {distance_um:g} um: {len(decided) - len(lost)}{others}"
    )


def _latest(figure_id: str, verdicts: Sequence[GivenVerdict], slide: str) -> GivenVerdict:
    """Return the latest verdict on a figure."""
    latest = max(one.at for one in verdicts)
    last = [one for one in verdicts if one.at == latest]
    if len({one.label for one in last}) > 1:
        raise DetectionsError(
            f"two files of one reviewer have different verdicts of the same moment on the figure {figure_id}",
            subject=slide,
            stage=STAGE,
            remedy="Leave out the earlier file",
        )
    # of equal labels any one will do; this one does not depend on the order of the files
    return max(
        last,
        key=lambda one: (one.decides, one.by, not one.blind, one.note, float(np.nan_to_num(one.seconds))),
    )
