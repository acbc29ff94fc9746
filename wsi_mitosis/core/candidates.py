"""From a file's detections to candidates in the slide frame: the one place of conversion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.core import qupath
from wsi_mitosis.core.classes import are_unexplained, is_kind, is_look_alike, is_mitotic
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.tables import CANDIDATE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.tables import Detections
    from wsi_mitosis.units import Bounds, LengthUnit, Mpp

_UM_PER_UNIT = {"um": 1.0, "mm": 1000.0}
_SAME_MPP = 0.001
"""Relative; pixel sizes that differ by less move no figure of a slide by more than a hundred px."""
_MOST_OUTSIDE = 0.5
"""Share of a slide's candidates that may lie outside it, as those of a neighbouring scan do."""
_LEAST_IN_CORNER, _CORNER = 3, 0.01
"""So many candidates, all in such a part of the slide, may be percentages or of another unit."""
_MOST_INSIDE = 0.9
"""Share of the candidates that a factor must bring onto the slide: a stray one is no reason against it."""
_LEAST_SPREAD = 0.02
"""Of the slide's longer side: a factor that gathers all candidates in less is none that explains them."""
_DOWNSAMPLES = (2, 4, 8, 16, 32, 64)
"""Of the levels whose coordinates may have been taken for level 0's."""


def prepare_candidates(
    detections: Detections,
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
    mpp_stated: bool,
    bounds: Bounds | None,
    classes: Sequence[str] = (),
    min_score: float | None = None,
    merge_um: float | None = None,
    name: str | None = None,
) -> pd.DataFrame:
    """Convert one slide's detections and say which of them are not to be classified.

    Lengths in um and mm become pixels by `mpp`, the size that is finally used.

    Args:
        detections: The slide's detections; every row is taken to be this slide's.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_stated: Whether the slide itself states a pixel size. Where it does not, Grand Challenge's
            millimetres may be pixels, and are if only those lie on the slide.
        bounds: The slide's bounds, whose corner is the origin of the `qupath` frame; None for (0, 0).
        classes: Names of the classes that are candidates, in upper or lower case; empty for the file's
            own rule.
        min_score: Candidates below it are excluded, those without a score are not; None for no limit.
        merge_um: Of candidates nearer to each other than this, um, only the best is kept; None for off.
        name: The slide, for messages.

    Returns:
        A row per detection in the same order: `candidate_id` (the input's, else the row's number from 1),
        `x_px0`, `y_px0` (float64, slide frame), `detector_score` (float64), `excluded_reason` (None or the
        first of EXCLUDED_REASONS that holds), `detector_class` if any row has one, then the input's other
        columns.

    Raises:
        DetectionsError: if more than half of the candidates lie outside the slide; if the file's classes do
            not say which of them are mitotic figures.
    """
    table = detections.table
    place = _Place(size_px0, mpp, bounds)
    x_px0, y_px0 = place.to_px0(detections, _units(detections, place, mpp_stated))
    score = table["score"].to_numpy(dtype=np.float64)
    reason = np.full(len(table), None, dtype=object)

    def exclude(flags: NDArray[np.bool_], why: str) -> None:
        reason[flags & (reason == None)] = why  # noqa: E711 - element by element

    exclude(~_is_candidate_class(detections, classes, mpp, name), "class")
    exclude(~(np.isfinite(x_px0) & np.isfinite(y_px0)), "not_finite")
    _refuse_misplaced(detections, place, x_px0, y_px0, reason == None, name)  # noqa: E711 - element by element
    exclude(~_inside(x_px0, y_px0, size_px0), "outside")
    if min_score is not None:
        exclude(score < min_score, "score")
    _exclude_duplicates(reason, x_px0, y_px0, score, mpp, merge_um)

    rows = pd.Series(np.arange(1, len(table) + 1).astype(str), index=table.index, dtype=object)
    columns: dict[str, Any] = {
        "candidate_id": table["id"].where(table["id"].notna(), rows),
        "x_px0": x_px0,
        "y_px0": y_px0,
        "detector_score": score,
        "excluded_reason": pd.Series(reason, index=table.index, dtype=object),
    }
    if table["detector_class"].notna().any():
        columns["detector_class"] = table["detector_class"]
    extras = {name: table[name] for name in table.columns if name not in CANDIDATE_COLUMNS}
    return pd.DataFrame({**columns, **extras}, index=table.index).reset_index(drop=True)


def conversion_notes(
    detections: Detections,
    *,
    name: str,
    size_px0: tuple[int, int],
    mpp: Mpp,
    stated_mpp: Mpp | None,
    bounds: Bounds | None,
) -> tuple[str, ...]:
    """What the user should know of how lengths became pixels.

    Args:
        detections: The slide's detections.
        name: The slide, for the messages.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px, as it is used.
        stated_mpp: What the slide itself states; None where it states none that is usable.
        bounds: As for `prepare_candidates`.
    """
    if detections.units not in _UM_PER_UNIT or detections.table.empty:
        return ()
    if _units(detections, _Place(size_px0, mpp, bounds), stated_mpp is not None) == "px":
        return (f"{name}: the slide states no pixel size, and only as pixels do the points lie on it",)
    if stated_mpp is None or np.allclose(stated_mpp, mpp, rtol=_SAME_MPP):
        return ()
    return (
        f"{name}: coordinates in {detections.units} became pixels by the {mpp.mean:g} um/px that were given; "
        f"the slide states {stated_mpp.mean:g}",
    )


def doubtful_notes(
    detections: Detections,
    candidates: pd.DataFrame,
    *,
    name: str,
    size_px0: tuple[int, int],
    classes: Sequence[str] = (),
) -> tuple[str, ...]:
    """What the user should look at twice, since a run cannot know whether it is meant.

    Args:
        detections: The slide's detections.
        candidates: What `prepare_candidates` made of them.
        name: The slide, for the messages.
        size_px0: (width, height) of level 0, px.
        classes: As for `prepare_candidates`.
    """
    notes = []
    names = detections.table["detector_class"].dropna().unique()
    present = [str(text) for text in (detections.file_classes or names)]
    if classes and not {text.strip().casefold() for text in classes} & {text.casefold() for text in present}:
        there = f"has the classes {listed(present)}" if present else "names no classes"
        notes.append(f"{name}: no candidate is of a class that --class names. The detections file {there}")
    others = [text for text in present if not (is_mitotic(text) or is_look_alike(text) or is_kind(text))]
    if not classes and others and any(map(is_mitotic, present)) and detections.class_rule != "mitotic":
        notes.append(
            f"{name}: candidates of other classes are classified beside mitotic figures: {listed(others)}. "
            "Name those that count with --class"
        )
    x, y = (
        candidates[axis].to_numpy() / side for axis, side in zip(("x_px0", "y_px0"), size_px0, strict=True)
    )
    if len(x) >= _LEAST_IN_CORNER and ((x < _CORNER) & (y < _CORNER)).all():
        notes.append(
            f"{name}: all {len(x)} candidates lie in the top-left {_CORNER:.0%} of width and height. "
            "If they are in another unit, pass --units"
        )
    return tuple(notes)


class _Place(NamedTuple):
    """Where candidates may lie: a slide's size, its pixels, and the part that QuPath shows."""

    size_px0: tuple[int, int]
    mpp: Mpp
    bounds: Bounds | None

    def to_px0(
        self, detections: Detections, units: LengthUnit
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres in level-0 px, slide frame."""
        x = detections.table["x"].to_numpy(dtype=np.float64, copy=True)
        y = detections.table["y"].to_numpy(dtype=np.float64, copy=True)
        if units == "fraction":
            width, height = qupath.frame_size(detections.frame, self.size_px0, self.bounds)
            x, y = x * width, y * height
        elif units != "px":
            x, y = x * _UM_PER_UNIT[units] / self.mpp.x, y * _UM_PER_UNIT[units] / self.mpp.y
        left, top = qupath.frame_origin(detections.frame, self.bounds)
        return x + left, y + top

    def holds(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie on the slide, (n,)."""
        return _inside(x_px0, y_px0, self.size_px0)

    def holds_most(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> bool:
        """Whether the points lie on the slide, but for a few."""
        return bool(self.holds(x_px0, y_px0).mean() >= _MOST_INSIDE)

    def are_spread(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> bool:
        """Whether points lie apart, and not all in one place of the slide as after too large a divisor."""
        reach = _LEAST_SPREAD * max(self.size_px0)
        return len(x_px0) == 1 or bool(max(np.ptp(x_px0), np.ptp(y_px0)) >= reach)


def _units(detections: Detections, place: _Place, mpp_stated: bool) -> LengthUnit:
    """The unit that the coordinates are in.

    Grand Challenge's tools write pixels in the place of mm where a TIFF has no resolution.
    """
    if detections.format != "grand-challenge" or detections.units != "mm" or mpp_stated:
        return detections.units
    in_mm, in_px = (place.holds(*place.to_px0(detections, unit)).any() for unit in ("mm", "px"))
    return "px" if in_px and not in_mm else "mm"


def _refuse_misplaced(
    detections: Detections,
    place: _Place,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    counted: NDArray[np.bool_],
    name: str | None,
) -> None:
    """Refuse coordinates of another level, slide or unit: most of them lie outside the slide."""
    x, y = x_px0[counted], y_px0[counted]
    outside = int((~place.holds(x, y)).sum())
    if outside <= _MOST_OUTSIDE * len(x):
        return
    width, height = place.size_px0
    fit = _what_would_fit(detections, place, x, y)
    read = f"read in {detections.units}, frame {detections.frame}"
    if detections.units in _UM_PER_UNIT:
        read += f", at {place.mpp.mean:g} um/px"
    raise DetectionsError(
        f"{outside} of {len(x)} candidates ({read}) lie outside the slide, which has {width} x {height} px",
        subject=name,
        stage="placing candidates",
        remedy=f"{fit or 'They may be of another slide'}. Check their level, unit, frame and slide",
    )


def _what_would_fit(
    detections: Detections, place: _Place, x: NDArray[np.float64], y: NDArray[np.float64]
) -> str | None:
    """How all of the points would lie on the slide: by another frame, order of axes, unit or level."""
    if (bounds := place.bounds) is not None:
        sign, frame = 1 if detections.frame == "slide" else -1, qupath.other_frame(detections.frame)
        if place.holds_most(x + sign * bounds.x, y + sign * bounds.y):
            return f"They would lie inside with --frame {frame}"
    if place.holds_most(y, x):
        return "They would lie inside with x and y exchanged"
    scales = [
        (_factor(detections.units, units, place), f"with --units {units}")
        for units in ("px", "um", "mm")
        if units != detections.units
    ]
    if detections.units == "fraction":
        scales.append(((0.01, 0.01), "as percentages, after dividing the coordinates by 100"))
    scales += [((1 / by, 1 / by), f"after dividing the coordinates by {by}") for by in _DOWNSAMPLES]
    for (across, down), how in sorted(scales, key=lambda scale: abs(math.log(scale[0][0]))):
        if place.holds_most(x * across, y * down) and place.are_spread(x * across, y * down):
            return f"They would lie inside {how}, a factor of {across:g}"
    return None


def _factor(taken: LengthUnit, other: LengthUnit, place: _Place) -> tuple[float, float]:
    """What (x, y) in px are multiplied by where the numbers are of another unit than was taken."""

    def px(unit: LengthUnit, axis: int) -> float:
        if unit == "fraction":
            return float(place.size_px0[axis])
        return 1.0 if unit == "px" else _UM_PER_UNIT[unit] / place.mpp[axis]

    return px(other, 0) / px(taken, 0), px(other, 1) / px(taken, 1)


def _is_candidate_class(
    detections: Detections, classes: Sequence[str], mpp: Mpp, name: str | None
) -> NDArray[np.bool_]:
    """Which rows are of a class that is classified, (n,)."""
    names = detections.table["detector_class"]
    if classes:
        wanted = {name.strip().casefold() for name in classes}
        return _by_name(names, lambda text: text.casefold() in wanted, unnamed=False)
    whole = detections.file_classes
    present = [str(text) for text in (names.dropna().unique() if whole is None else whole)]
    _refuse_unexplained(present, name)
    if detections.class_rule == "mitotic":
        _check_mitotic_rule(present, name)
        known = any(map(is_mitotic, present))
        return _by_name(names, is_mitotic if known else _is_no_look_alike, unnamed=not present)
    if detections.class_rule == "qupath":
        small = ~(_extent_um(detections, mpp) > qupath.LEAST_REGION_UM)
        return small & _by_name(names, _is_qupath_object, unnamed=True)
    return _by_name(names, _is_no_look_alike, unnamed=True)


def _by_name(names: pd.Series, accepts: Any, *, unnamed: bool) -> NDArray[np.bool_]:
    """Ask `accepts` once per distinct class; `unnamed` holds for rows without a class."""
    codes, distinct = pd.factorize(names)
    # The last entry is that of code -1, a row without a class.
    return np.array([*(accepts(str(name)) for name in distinct), unnamed], dtype=bool)[codes]


def _is_no_look_alike(name: str) -> bool:
    return not is_look_alike(name)


def _is_qupath_object(name: str) -> bool:
    return not (qupath.is_ignored_class(name) or qupath.is_hotspot_class(name) or is_look_alike(name))


def _refuse_unexplained(present: Sequence[str], name: str | None) -> None:
    if are_unexplained(present):
        raise DetectionsError(
            f"the classes {listed(sorted(present))} do not say which of them are mitotic figures",
            subject=name,
            stage="choosing candidates",
            remedy="Name those that are candidates with --class",
        )


def _check_mitotic_rule(present: Sequence[str], name: str | None) -> None:
    """Let the user choose among classes that say nothing about mitosis; a file without any is taken whole."""
    if present and not any(is_mitotic(text) or is_look_alike(text) for text in present):
        raise DetectionsError(
            f"none of the file's classes is of mitotic figures by its name: {listed(present)}",
            subject=name,
            stage="choosing candidates",
            remedy="Name those that are candidates with --class",
        )


def _extent_um(detections: Detections, mpp: Mpp) -> NDArray[np.float64]:
    """The longer sides of boxes and areas, (n,) um; NaN for points, and for shares of an image."""
    extent = detections.table["extent"].to_numpy(dtype=np.float64)
    return extent * (mpp.mean if detections.units == "px" else _UM_PER_UNIT.get(detections.units, np.nan))


def _inside(
    x_px0: NDArray[np.float64], y_px0: NDArray[np.float64], size_px0: tuple[int, int]
) -> NDArray[np.bool_]:
    width, height = size_px0
    return (x_px0 >= 0) & (x_px0 < width) & (y_px0 >= 0) & (y_px0 < height)


def _exclude_duplicates(
    reason: NDArray[np.object_],
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    score: NDArray[np.float64],
    mpp: Mpp,
    merge_um: float | None,
) -> None:
    """Mark, among the rows without a reason, all but the best of those that are one."""
    kept = np.flatnonzero(reason == None)  # noqa: E711 - element by element
    # Best first: highest score, then file order; lexsort puts NaN, and so those without a score, last.
    kept = kept[np.lexsort((kept, -score[kept]))]
    steps = pd.DataFrame(
        {"x": qupath.coordinate_steps(x_px0[kept]), "y": qupath.coordinate_steps(y_px0[kept])}
    )
    same = steps.duplicated().to_numpy()
    reason[kept[same]] = "duplicate"
    if merge_um is not None:
        kept = kept[~same]
        points_um = np.stack([x_px0[kept] * mpp.x, y_px0[kept] * mpp.y], axis=1)
        reason[kept[near_a_better_one(points_um, merge_um)]] = "duplicate"


def near_a_better_one(points_um: NDArray[np.float64], distance_um: float) -> NDArray[np.bool_]:
    """Greedy merging: going down the list, drop what is nearer than the distance to one that was kept.

    Args:
        points_um: (n, 2) x, y in um, the best first.
        distance_um: Points nearer to each other than this are one.

    Returns:
        (n,) True for the points that are dropped.
    """
    dropped = np.zeros(len(points_um), dtype=bool)
    if len(points_um) < 2:
        return dropped
    tree = cKDTree(points_um)
    # Slightly wider, because the tree rounds otherwise than the comparison that decides.
    reach = distance_um * (1 + 1e-9)
    nearest = tree.query(points_um, k=2)[0][:, 1]
    for point in np.flatnonzero(nearest <= reach):
        if not dropped[point]:
            around = np.asarray(tree.query_ball_point(points_um[point], reach), dtype=np.intp)
            apart = np.hypot(*(points_um[around] - points_um[point]).T)
            dropped[around[(apart < distance_um) & (around > point)]] = True
    return dropped
