"""JSON of Grand Challenge: points, boxes and polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.io.detections.common import (
    box_columns,
    candidate_table,
    fault,
    in_short,
    numbers,
    records_of,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LISTS = ("points", "boxes", "polygons")
_SHAPES = ("point", "corners", "path_points")
"""Members of a Grand Challenge shape that hold its positions, each [x, y, z] in mm. Source: JSON schemas of
its annotation answers (points, two-dimensional bounding boxes, polygons)."""


def is_grand_challenge(document: Mapping[str, Any]) -> bool:
    """Return whether an object is a Grand Challenge answer: several shapes of a kind, or one shape."""
    if any(name in document for name in (*_SHAPES, "points", "polygons")):
        return True
    if "version" in document and str(document.get("type", "")).startswith("Multiple "):
        return True
    given = document.get("boxes")
    return isinstance(given, list) and bool(given) and all(isinstance(box, dict) for box in given)


def _fits(document: Document) -> Fit:
    content = document.data
    if isinstance(content, dict):
        return Fit.LIKELY if is_grand_challenge(content) else Fit.NO
    if not content:
        return Fit.POSSIBLE
    first = content[0]
    is_shape = isinstance(first, dict) and "geometry" not in first and is_grand_challenge(first)
    return Fit.LIKELY if is_shape else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read one or several points, boxes or polygons of Grand Challenge, in mm.

    The centre of a box or polygon is that of its bounding box.

    Raises:
        DetectionsError: if a shape is of another kind, or has no numbers.
    """
    path = document.path
    items = _items(document.data, path)
    shapes = [_shape(item) for item in items]
    columns: dict[str, Any] = {
        **box_columns(_corners(items, shapes, path)),
        "score": numbers([item.get("probability") for item in items], "probability", path),
        "detector_class": [text_or_none(item.get("name")) for item in items],
    }
    columns["extent"][[shape == "point" for shape in shapes]] = np.nan
    return Detections(candidate_table(len(items), columns), "mm", "slide", "mitotic", "grand-challenge")


def _corners(
    items: Sequence[Mapping[str, Any]], shapes: Sequence[str | None], path: Path
) -> NDArray[np.float64]:
    """The bounding boxes [x1, y1, x2, y2] of shapes, (len(items), 4) mm; NaN if a shape has no positions."""
    places = [
        _places(item, shape, index, path)
        for index, (item, shape) in enumerate(zip(items, shapes, strict=True))
    ]
    counts = np.array([len(some) for some in places], dtype=np.intp)
    entries = np.repeat(np.arange(len(items)), counts)
    flat = [place for some in places for place in some]
    placed, firsts = np.flatnonzero(counts), (np.cumsum(counts) - counts)[counts > 0]
    corners = np.full((len(items), 4), np.nan)
    for axis in (0, 1) if flat else ():
        values = numbers([place[axis] for place in flat], "xy"[axis], path, entries=entries)
        corners[placed, axis] = np.minimum.reduceat(values, firsts)
        corners[placed, axis + 2] = np.maximum.reduceat(values, firsts)
    return corners


def _shape(item: Mapping[str, Any]) -> str | None:
    for name in _SHAPES:
        if name in item:
            return name
    return None


def _items(document: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(document, list):
        return records_of({"points": document}, "points", path)
    if _shape(document) is not None:
        return [document]
    names = [name for name in _LISTS if name in document]
    if not names:
        raise fault(
            f"a Grand Challenge file of type '{document.get('type')}', which has none of {', '.join(_LISTS)}",
            path,
            "Give points, bounding boxes or polygons",
        )
    return [item for name in names for item in records_of(document, name, path)]


def _places(item: Mapping[str, Any], shape: str | None, index: int, path: Path) -> list[list[Any]]:
    """The positions [x, y, z] of one shape; empty if it has none."""
    if shape is None:
        cause = f"entry {index + 1} has none of {', '.join(_SHAPES)}: {in_short(item)}"
        raise fault(cause, path, "Give points, bounding boxes or polygons of Grand Challenge")
    places = [item[shape]] if shape == "point" else item[shape]
    if item[shape] is None:
        return []
    if not isinstance(places, list) or not all(map(_is_place, places)):
        cause = f"{shape} {index + 1} is {in_short(item[shape])}, not [x, y, z]"
        raise fault(cause, path, "A place is [x, y, z] in millimetres")
    return places


def _is_place(value: Any) -> bool:
    return isinstance(value, list) and len(value) in {2, 3}


FORMAT = Format(
    name="grand-challenge",
    about="Grand Challenge (JSON): points, boxes or polygons in mm.",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
