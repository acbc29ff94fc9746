"""Candidates: a slide's detections in level-0 pixels, and which of them are excluded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.core import qupath
from wsi_mitosis.core.classes import are_unexplained, is_kind, is_look_alike, is_mitotic
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.tables import CANDIDATE_COLUMNS
from wsi_mitosis.units import UM_PER_UNIT, InputFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.tables import Detections
    from wsi_mitosis.units import Bounds, Frame, LengthUnit, Mpp

_SAME_MPP = 0.001
"""Relative. Pixel sizes that differ by less move a figure by at most a hundred px on the largest slides."""
_MOST_OUTSIDE = 0.5
"""Largest share of a slide's candidates that may lie outside it, such as those of a neighbouring scan."""
_LEAST_IN_CORNER, _CORNER = 3, 0.01
"""This many candidates, all within this share of width and height, may be in percent or another unit."""
_MOST_INSIDE = 0.9
"""Smallest share of the candidates that a factor must bring onto the slide, since a few may be stray."""
_LEAST_SPREAD = 0.02
"""Share of the slide's longer side. A factor that gathers all candidates in less does not explain them."""
_UNBOUNDED_UNITS: tuple[LengthUnit, ...] = ("px", *UM_PER_UNIT)
"""Units that are not bounded by the image's size."""
_DOWNSAMPLES = (2, 4, 8, 16, 32, 64)
"""Downsamples of the levels whose coordinates may have been written instead of level 0's."""


def prepare_candidates(
    detections: Detections,
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
    mpp_stated: bool,
    bounds: Bounds | None,
    objective_power: float | None = None,
    classes: Sequence[str] = (),
    min_score: float | None = None,
    merge_um: float | None = None,
    name: str | None = None,
    centre_offset_um: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Convert one slide's detections to level-0 pixels, and exclude those that must not be classified.

    Lengths in um, mm and nm are divided by `mpp`, which is the pixel size that is finally used.

    Args:
        detections: The slide's detections. Every row belongs to this slide.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_stated: Whether the slide itself states a pixel size. If it does not, the millimetres of Grand
            Challenge may be pixels, and are read as pixels if only those lie on the slide.
        bounds: The slide's bounds, whose corner is the origin of the `qupath` frame; None for (0, 0).
        objective_power: The magnification of level 0 that the slide states; None if it states none. It
            converts coordinates that are px at another magnification.
        classes: Names of the classes that are candidates, in upper or lower case; empty for the file's
            own rule.
        min_score: Candidates with a lower score are excluded, and those without a score are not; None for
            no limit.
        merge_um: Of candidates nearer to each other than this, um, only the best is kept; None for off.
        name: The slide, for messages.
        centre_offset_um: Where the middle of level 0 lies from the middle of the glass slide, (x, y) um; None
            if the slide does not state it.

    Returns:
        A row per detection in the same order: `candidate_id` (the input's, or the row's number from 1),
        `x_px0`, `y_px0` (float64, slide frame), `detector_score` (float64), `excluded_reason` (None or the
        first of EXCLUDED_REASONS that holds), `detector_class` if any row has one, then the input's other
        columns.

    Raises:
        DetectionsError: if more than half of the candidates lie outside the slide, if they are of an image of
            another size or of a magnification that cannot be converted, if they are measured from the middle
            of the glass and the slide does not state where its image is, or if the file's classes do not say
            which of them are mitotic figures.
    """
    place = _Place(size_px0, mpp, bounds, centre_offset_um)
    _refuse_unknown_origin(detections, place, name)
    _refuse_other_size(detections, place, name)
    detections = _at_level_0(detections, objective_power, name)
    x_px0, y_px0 = place.to_px0(detections, _units(detections, place, mpp_stated))
    score = detections.table["score"].to_numpy(dtype=np.float64)
    reason = np.full(len(score), None, dtype=object)
    _exclude(reason, ~_is_candidate_class(detections, classes, mpp, name), "class")
    _exclude(reason, ~(np.isfinite(x_px0) & np.isfinite(y_px0)), "not_finite")
    included = pd.isna(reason)
    _refuse_misplaced(detections, place, x_px0[included], y_px0[included], name)
    _exclude(reason, ~place.holds(x_px0, y_px0), "outside")
    if min_score is not None:
        _exclude(reason, score < min_score, "score")
    _exclude_duplicates(reason, x_px0, y_px0, score, mpp, merge_um)
    return _candidate_table(detections.table, x_px0, y_px0, score, reason)


def _exclude(reason: NDArray[np.object_], flags: NDArray[np.bool_], why: str) -> None:
    """Set the reason of those flagged rows that have none."""
    reason[flags & pd.isna(reason)] = why


def _candidate_table(
    table: pd.DataFrame,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    score: NDArray[np.float64],
    reason: NDArray[np.object_],
) -> pd.DataFrame:
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
    objective_power: float | None = None,
) -> tuple[str, ...]:
    """Return notes for the user on how coordinates became pixels at level 0.

    Args:
        detections: The slide's detections.
        name: The slide, for the messages.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px, which is used.
        stated_mpp: What the slide itself states; None if it states no usable pixel size.
        bounds: As for `prepare_candidates`.
        objective_power: As for `prepare_candidates`.
    """
    made_at = detections.magnification
    if made_at is not None and objective_power not in {None, made_at} and not detections.table.empty:
        return (
            f"{name}: coordinates at {made_at:g}x became pixels at level 0, which the slide states to have "
            f"{objective_power:g}x",
        )
    if detections.units not in UM_PER_UNIT or detections.table.empty:
        return ()
    if _units(detections, _Place(size_px0, mpp, bounds), stated_mpp is not None) == "px":
        return (f"{name}: the slide states no pixel size; the points only lie on it if they are in pixels",)
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
    """Return notes on what the user should check, because a run cannot know whether it is intended.

    Args:
        detections: The slide's detections.
        candidates: What `prepare_candidates` returned for them.
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


def _at_level_0(detections: Detections, objective_power: float | None, name: str | None) -> Detections:
    """Return detections in px of level 0 that are in px at a magnification; others as they are."""
    if detections.magnification is None or detections.table.empty:
        return detections
    if objective_power is None:
        raise DetectionsError(
            f"the coordinates are pixels at {detections.magnification:g}x, and the slide does not state the "
            "magnification of its level 0",
            subject=name,
            stage="placing candidates",
            remedy="Pass --units px if they are pixels at level 0; else convert them to level 0",
        )
    factor = objective_power / detections.magnification
    table = detections.table.assign(**{of: detections.table[of] * factor for of in ("x", "y", "extent")})
    return replace(detections, table=table, magnification=None)


def _refuse_other_size(detections: Detections, place: _Place, name: str | None) -> None:
    """Refuse coordinates of an image whose stated size is not the slide's: they are of another level."""
    names = detections.table["slide"].dropna().unique()
    stated = {detections.image_sizes[text] for text in names if text in detections.image_sizes}
    width, height = place.image_px(detections.frame)
    for across, down in sorted(stated):
        if abs(across - width) > 1 or abs(down - height) > 1:
            raise DetectionsError(
                f"the detections are of an image of {across:g} x {down:g} px, and the slide has "
                f"{width} x {height} px at level 0",
                subject=name,
                stage="placing candidates",
                remedy="They are of another level, crop or slide. Convert them to level 0, or pass --units "
                "px if they are pixels at level 0 all the same",
            )


class _Place(NamedTuple):
    """Where candidates may lie: a slide's size, its pixel size, the part that QuPath shows, its glass."""

    size_px0: tuple[int, int]
    mpp: Mpp
    bounds: Bounds | None
    centre_offset_um: tuple[float, float] | None = None

    def origin(self, frame: InputFrame) -> tuple[float, float] | None:
        """The origin of a frame, (x, y) level-0 px, slide frame; None if the slide does not state it.

        The middle of the glass lies, from the corner of level 0, half of level 0 less the offset of its
        middle: https://openslide.org/formats/hamamatsu (XOffsetFromSlideCentre).
        """
        if frame != "slide-centre":
            return qupath.frame_origin(frame, self.bounds)
        if self.centre_offset_um is None:
            return None
        sides = zip(self.size_px0, self.centre_offset_um, self.mpp, strict=True)
        x, y = (side / 2 - offset_um / mpp for side, offset_um, mpp in sides)
        return x, y

    def image_px(self, frame: InputFrame) -> tuple[int, int]:
        """The size of the image in a frame, (width, height) level-0 px."""
        image: Frame = "slide" if frame == "slide-centre" else frame
        return qupath.frame_size(image, self.size_px0, self.bounds)

    def to_px0(
        self, detections: Detections, units: LengthUnit
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres in level-0 px, slide frame."""
        x = detections.table["x"].to_numpy(dtype=np.float64, copy=True)
        y = detections.table["y"].to_numpy(dtype=np.float64, copy=True)
        if units == "fraction":
            width, height = self.image_px(detections.frame)
            x, y = x * width, y * height
        elif units != "px":
            x, y = x * UM_PER_UNIT[units] / self.mpp.x, y * UM_PER_UNIT[units] / self.mpp.y
        left, top = self.origin(detections.frame) or (math.nan, math.nan)
        return x + left, y + top

    def holds(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie on the slide, (n,)."""
        width, height = self.size_px0
        return (x_px0 >= 0) & (x_px0 < width) & (y_px0 >= 0) & (y_px0 < height)

    def holds_most(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> bool:
        """Whether all points except a few lie on the slide."""
        return bool(self.holds(x_px0, y_px0).mean() >= _MOST_INSIDE)

    def are_spread(self, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> bool:
        """Whether points lie apart, and not all in one place, as after a division by too large a number."""
        reach = _LEAST_SPREAD * max(self.size_px0)
        return len(x_px0) == 1 or bool(max(np.ptp(x_px0), np.ptp(y_px0)) >= reach)


def _units(detections: Detections, place: _Place, mpp_stated: bool) -> LengthUnit:
    """The unit that the coordinates are in.

    Grand Challenge's tools write pixels instead of mm if a TIFF states no resolution.
    """
    if detections.format != "grand-challenge" or detections.units != "mm" or mpp_stated:
        return detections.units
    in_mm, in_px = (place.holds(*place.to_px0(detections, unit)).any() for unit in ("mm", "px"))
    return "px" if in_px and not in_mm else "mm"


def _refuse_unknown_origin(detections: Detections, place: _Place, name: str | None) -> None:
    """Refuse coordinates from the middle of the glass for a slide that does not state where that is."""
    if place.origin(detections.frame) is None:
        raise DetectionsError(
            "its candidates are measured from the middle of the glass slide (frame slide-centre), and the "
            "slide does not state where on the glass its image is, as Hamamatsu's do "
            "(XOffsetFromSlideCentre)",
            subject=name,
            stage="placing candidates",
            remedy="Give the NDPI or VMS file that the scanner wrote, or export the annotations in pixels, "
            "for example as GeoJSON from QuPath",
        )


def _refuse_misplaced(
    detections: Detections,
    place: _Place,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    name: str | None,
) -> None:
    """Refuse coordinates most of which lie outside the slide: they are of another level, slide or unit."""
    outside = int((~place.holds(x_px0, y_px0)).sum())
    if outside <= _MOST_OUTSIDE * len(x_px0):
        return
    width, height = place.size_px0
    fit = _what_would_fit(detections, place, x_px0, y_px0)
    read = f"read in {detections.units}, frame {detections.frame}"
    if detections.units in UM_PER_UNIT:
        read += f", at {place.mpp.mean:g} um/px"
    raise DetectionsError(
        f"{outside} of {len(x_px0)} candidates ({read}) lie outside the slide, "
        f"which has {width} x {height} px",
        subject=name,
        stage="placing candidates",
        remedy=f"{fit or 'They may be of another slide'}. Check their level, unit, frame and slide",
    )


def _what_would_fit(
    detections: Detections, place: _Place, x: NDArray[np.float64], y: NDArray[np.float64]
) -> str | None:
    """The other frame, order of axes, unit or level by which the points would lie on the slide."""
    if frame := _fitting_frame(detections, place, x, y):
        return f"They would lie inside with --frame {frame}"
    if place.holds_most(y, x):
        return "They would lie inside with x and y exchanged"
    for (across, down), how in _other_scales(detections.units, place):
        if place.holds_most(x * across, y * down) and place.are_spread(x * across, y * down):
            return f"They would lie inside {how}, a factor of {across:g}"
    return None


def _fitting_frame(
    detections: Detections, place: _Place, x: NDArray[np.float64], y: NDArray[np.float64]
) -> InputFrame | None:
    """Another frame by which points lie on the slide; the middle of the glass only for lengths on it."""
    own = place.origin(detections.frame)
    for frame in get_args(InputFrame):
        other = place.origin(frame)
        if other is None or own is None or (frame == "slide-centre" and detections.units not in UM_PER_UNIT):
            continue
        left, top = other[0] - own[0], other[1] - own[1]
        if frame != detections.frame and place.holds_most(x + left, y + top):
            return cast("InputFrame", frame)
    return None


def _other_scales(units: LengthUnit, place: _Place) -> list[tuple[tuple[float, float], str]]:
    """Factors for (x, y) in px that correct a wrong unit or level, each described, the smallest first."""
    scales = [
        (_factor(units, other, place), f"with --units {other}")
        for other in _UNBOUNDED_UNITS
        if other != units
    ]
    if units == "fraction":
        scales.append(((0.01, 0.01), "as percentages, after dividing the coordinates by 100"))
    scales += [((1 / by, 1 / by), f"after dividing the coordinates by {by}") for by in _DOWNSAMPLES]
    return sorted(scales, key=lambda scale: abs(math.log(scale[0][0])))


def _factor(taken: LengthUnit, other: LengthUnit, place: _Place) -> tuple[float, float]:
    """The factor for (x, y) in px if the numbers are in another unit than the one they were read in."""

    def px(unit: LengthUnit, axis: int) -> float:
        if unit == "fraction":
            return float(place.size_px0[axis])
        return 1.0 if unit == "px" else UM_PER_UNIT[unit] / place.mpp[axis]

    return px(other, 0) / px(taken, 0), px(other, 1) / px(taken, 1)


def _is_candidate_class(
    detections: Detections, classes: Sequence[str], mpp: Mpp, name: str | None
) -> NDArray[np.bool_]:
    """Which rows have a class whose objects are candidates, (n,)."""
    names = detections.table["detector_class"]
    if classes:
        wanted = {text.strip().casefold() for text in classes}
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
    """Call `accepts` once per distinct class. `unnamed` is the result for rows without a class."""
    codes, distinct = pd.factorize(names)
    # The last entry is for code -1, a row without a class.
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
    """Refuse classes none of which has to do with mitosis. A file without classes is accepted."""
    if present and not any(is_mitotic(text) or is_look_alike(text) for text in present):
        raise DetectionsError(
            f"none of the file's classes is named after mitotic figures: {listed(present)}",
            subject=name,
            stage="choosing candidates",
            remedy="Name those that are candidates with --class",
        )


def _extent_um(detections: Detections, mpp: Mpp) -> NDArray[np.float64]:
    """The longer sides of boxes and areas, (n,) um; NaN for points, and for fractions of an image."""
    extent = detections.table["extent"].to_numpy(dtype=np.float64)
    return extent * (mpp.mean if detections.units == "px" else UM_PER_UNIT.get(detections.units, np.nan))


def _exclude_duplicates(
    reason: NDArray[np.object_],
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    score: NDArray[np.float64],
    mpp: Mpp,
    merge_um: float | None,
) -> None:
    """Of the included rows in one place, keep the best and exclude the others."""
    kept = np.flatnonzero(pd.isna(reason))
    # Best first: highest score, then file order. lexsort puts NaN, and so rows without a score, last.
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
    """Return which points are nearer than a distance to a better point that is kept itself.

    Args:
        points_um: (n, 2) x, y in um, the best first.
        distance_um: Points nearer to each other than this are merged.

    Returns:
        (n,) True for the points that are not kept.
    """
    dropped = np.zeros(len(points_um), dtype=bool)
    if len(points_um) < 2:
        return dropped
    tree = cKDTree(points_um)
    # Slightly wider, because the tree rounds differently from the comparison that decides.
    reach = distance_um * (1 + 1e-9)
    nearest = tree.query(points_um, k=2)[0][:, 1]
    for point in np.flatnonzero(nearest <= reach):
        if not dropped[point]:
            around = np.asarray(tree.query_ball_point(points_um[point], reach), dtype=np.intp)
            apart = np.hypot(*(points_um[around] - points_um[point]).T)
            dropped[around[(apart < distance_um) & (around > point)]] = True
    return dropped
