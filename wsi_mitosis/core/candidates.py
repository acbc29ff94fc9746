"""From a file's detections to candidates in the slide frame: the one place of conversion."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import CANDIDATE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from wsi_mitosis.tables import Detections
    from wsi_mitosis.units import Bounds, LengthUnit, Mpp

FIGURE_NAMESPACE = uuid.UUID("8d3a53a5-3f0e-5c0b-9c57-6a1f6f0f2f43")
"""Namespace of the figures' UUIDv5; fixed, or a second run's objects are strangers in QuPath."""

QUPATH_AREA_UM = 50.0
"""Areas wider than this are regions that somebody drew, not figures."""

_STEPS_PER_PX = 100
"""Coordinates are told apart at 0.01 px, which is what QuPath keeps."""

_LOOK_ALIKE = ("not ", "non", "look", "impost")
_UM_PER_UNIT = {"um": 1.0, "mm": 1000.0}


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
) -> pd.DataFrame:
    """Convert one slide's detections and say which of them are not to be classified.

    Args:
        detections: The slide's detections; every row is taken to be this slide's.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_stated: Whether the slide itself states a pixel size. Where it does not, Grand Challenge's
            millimetres are pixels.
        bounds: The slide's bounds, whose corner is the origin of the `qupath` frame; None for (0, 0).
        classes: Names of the classes that are candidates, in upper or lower case; empty for the file's
            own rule.
        min_score: Candidates below it are excluded, those without a score are not; None for no limit.
        merge_um: Of candidates nearer to each other than this, um, only the best is kept; None for off.

    Returns:
        A row per detection in the same order: `candidate_id` (the input's, else the row's number from 1),
        `x_px0`, `y_px0` (float64, slide frame), `detector_score` (float64), `excluded_reason` (None or the
        first of EXCLUDED_REASONS that holds), `detector_class` if any row has one, then the input's other
        columns.

    Raises:
        DetectionsError: if the file's classes are to be told by their names and none of them reads like a
            mitotic figure or a look-alike.
    """
    table = detections.table
    x_px0, y_px0 = _to_px0(detections, mpp, mpp_stated, bounds)
    score = table["score"].to_numpy(dtype=np.float64)
    reason = np.full(len(table), None, dtype=object)

    def exclude(flags: NDArray[np.bool_], why: str) -> None:
        reason[flags & (reason == None)] = why  # noqa: E711 - element by element

    exclude(~_is_candidate_class(detections, classes, mpp), "class")
    exclude(~(np.isfinite(x_px0) & np.isfinite(y_px0)), "not_finite")
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


def figure_ids(identity: str, x_px0: ArrayLike, y_px0: ArrayLike) -> list[str]:
    """Name figures by where they are: the same in every run, format and order of rows.

    Args:
        identity: The slide's identity.
        x_px0: (n,) finite, level-0 px, slide frame.
        y_px0: (n,) likewise.

    Returns:
        UUIDv5 texts; distinct for figures that differ by 0.01 px.
    """
    across, down = _steps(np.asarray(x_px0)), _steps(np.asarray(y_px0))
    return [
        str(uuid.uuid5(FIGURE_NAMESPACE, f"{identity}:{x}:{y}"))
        for x, y in zip(across.tolist(), down.tolist(), strict=True)
    ]


def hotspot_id(identity: str, number: int) -> str:
    """UUIDv5 of a slide's hotspot by its rank from 1: whatever its place, it is the same object in QuPath."""
    return str(uuid.uuid5(FIGURE_NAMESPACE, f"{identity}:hotspot:{number}"))


def _to_px0(
    detections: Detections, mpp: Mpp, mpp_stated: bool, bounds: Bounds | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres in level-0 px, slide frame."""
    units = _units(detections, mpp_stated)
    x = detections.table["x"].to_numpy(dtype=np.float64, copy=True)
    y = detections.table["y"].to_numpy(dtype=np.float64, copy=True)
    if units != "px":
        x, y = x * _UM_PER_UNIT[units] / mpp.x, y * _UM_PER_UNIT[units] / mpp.y
    if detections.frame == "qupath" and bounds is not None:
        x, y = x + bounds.x, y + bounds.y
    return x, y


def _units(detections: Detections, mpp_stated: bool) -> LengthUnit:
    """The unit that the coordinates are in: Grand Challenge's mm are px where the TIFF has no resolution."""
    in_px_after_all = detections.format == "grand-challenge" and detections.units == "mm" and not mpp_stated
    return "px" if in_px_after_all else detections.units


def _is_candidate_class(detections: Detections, classes: Sequence[str], mpp: Mpp) -> NDArray[np.bool_]:
    """Which rows are of a class that is classified, (n,)."""
    names = detections.table["detector_class"]
    if classes:
        wanted = {name.strip().casefold() for name in classes}
        return _by_name(names, lambda name: name.casefold() in wanted, unnamed=False)
    if detections.class_rule == "mitotic":
        whole = detections.file_classes
        present = list(names.dropna().unique()) if whole is None else whole
        _check_mitotic_rule(present)
        return _by_name(names, _is_mitotic, unnamed=not present)
    if detections.class_rule == "qupath":
        small = ~(_extent_um(detections, mpp) > QUPATH_AREA_UM)
        return small & _by_name(names, _is_qupath_object, unnamed=True)
    return np.ones(len(names), dtype=bool)


def _by_name(names: pd.Series, accepts: Any, *, unnamed: bool) -> NDArray[np.bool_]:
    """Ask `accepts` once per distinct class; `unnamed` holds for rows without a class."""
    codes, distinct = pd.factorize(names)
    # The last entry is that of code -1, a row without a class.
    return np.array([*(accepts(str(name)) for name in distinct), unnamed], dtype=bool)[codes]


def _reads_as_look_alike(name: str) -> bool:
    return any(mark in name.casefold() for mark in _LOOK_ALIKE)


def _is_mitotic(name: str) -> bool:
    return "mito" in name.casefold() and not _reads_as_look_alike(name)


def _is_qupath_object(name: str) -> bool:
    return not name.endswith("*") and name.casefold() != "hotspot"


def _check_mitotic_rule(present: Sequence[str]) -> None:
    """Let the user choose among classes that say nothing about mitosis; a file without any is taken whole."""
    if present and not any("mito" in name.casefold() or _reads_as_look_alike(name) for name in present):
        raise DetectionsError(
            f"none of the file's classes reads like a mitotic figure: {', '.join(map(repr, present))}",
            stage="choosing candidates",
            remedy="Name those that are candidates with --class",
        )


def _extent_um(detections: Detections, mpp: Mpp) -> NDArray[np.float64]:
    extent = detections.table["extent"].to_numpy(dtype=np.float64)
    return extent * (mpp.mean if detections.units == "px" else _UM_PER_UNIT[detections.units])


def _inside(
    x_px0: NDArray[np.float64], y_px0: NDArray[np.float64], size_px0: tuple[int, int]
) -> NDArray[np.bool_]:
    width, height = size_px0
    return (x_px0 >= 0) & (x_px0 < width) & (y_px0 >= 0) & (y_px0 < height)


def _steps(values: NDArray[Any]) -> NDArray[np.int64]:
    """Coordinates as whole hundredths of a pixel."""
    return np.rint(values.astype(np.float64) * _STEPS_PER_PX).astype(np.int64)


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
    steps = pd.DataFrame({"x": _steps(x_px0[kept]), "y": _steps(y_px0[kept])})
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
