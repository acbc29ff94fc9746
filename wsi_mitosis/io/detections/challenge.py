"""JSON files of the MIDOG data sets, of the MIDOG guide's detector, and of Grand Challenge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.io.detections.common import (
    box_columns,
    boxes,
    candidate_table,
    fault,
    in_short,
    numbers,
    refuse_backward,
    text_or_none,
)
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


_LISTS = ("points", "boxes", "polygons")
_SHAPES = ("point", "corners", "path_points")
"""Members of a Grand Challenge shape that hold its positions, each [x, y, z] in mm. Source: JSON schemas of
its annotation answers (points, two-dimensional bounding boxes, polygons)."""


def read_midog(document: Mapping[str, Any], path: Path) -> Detections:
    """Read the annotations of MIDOG and MIDOG++, whose boxes are [x1, y1, x2, y2] in level-0 px.

    Raises:
        DetectionsError: if an annotation has an image or category that the file does not list, or if boxes
            are [x, y, width, height], as in COCO.
    """
    annotations = _records(document, "annotations", path)
    corners = boxes([item.get("bbox") for item in annotations], path)
    refuse_backward(corners, path, what="annotation")
    _refuse_coco(annotations, corners, path)
    images = {str(item.get("id")): item.get("file_name") for item in _records(document, "images", path)}
    categories = {str(item.get("id")): item.get("name") for item in _records(document, "categories", path)}
    columns = {
        **box_columns(corners),
        "slide": _looked_up(annotations, "image_id", images, path),
        "detector_class": _looked_up(annotations, "category_id", categories, path),
        "id": [text_or_none(item.get("id")) for item in annotations],
        "score": numbers([item.get("score") for item in annotations], "score", path),
    }
    return Detections(candidate_table(len(annotations), columns), "px", "slide", "mitotic", "midog")


def read_midog_guide(document: Mapping[str, Any], path: Path) -> Detections:
    """Read the result of the MIDOG guide's detector: one slide's boxes [x1, y1, x2, y2] in level-0 px.

    Raises:
        DetectionsError: if boxes, scores and labels differ in number, one of them is not a list, or boxes
            end before they begin.
    """
    corners = boxes(_list(document, "boxes", path), path)
    refuse_backward(corners, path, what="box")
    count = len(corners)
    columns: dict[str, Any] = {"slide": [text_or_none(document.get("image_path"))] * count}
    if "scores" in document:
        columns["score"] = numbers(_list(document, "scores", path, count), "score", path)
    if "labels" in document:
        columns["detector_class"] = [text_or_none(x) for x in _list(document, "labels", path, count)]
    table = candidate_table(count, {**columns, **box_columns(corners)})
    return Detections(table, "px", "slide", "any", "midog-guide")


def is_grand_challenge(document: Mapping[str, Any]) -> bool:
    """Return whether an object is a Grand Challenge answer: several shapes of a kind, or one shape."""
    if any(name in document for name in (*_SHAPES, "points", "polygons")):
        return True
    if "version" in document and str(document.get("type", "")).startswith("Multiple "):
        return True
    given = document.get("boxes")
    return isinstance(given, list) and bool(given) and all(isinstance(box, dict) for box in given)


def read_grand_challenge(document: Any, path: Path) -> Detections:
    """Read one or several points, boxes or polygons of Grand Challenge, in mm.

    The centre of a box or polygon is that of its bounding box.

    Raises:
        DetectionsError: if a shape is of another kind, or has no numbers.
    """
    items = _challenge_items(document, path)
    shapes = [_shape(item) for item in items]
    columns: dict[str, Any] = {
        **box_columns(_challenge_corners(items, shapes, path)),
        "score": numbers([item.get("probability") for item in items], "probability", path),
        "detector_class": [text_or_none(item.get("name")) for item in items],
    }
    columns["extent"][[shape == "point" for shape in shapes]] = np.nan
    return Detections(candidate_table(len(items), columns), "mm", "slide", "mitotic", "grand-challenge")


def _challenge_corners(
    items: Sequence[Mapping[str, Any]], shapes: Sequence[str | None], path: Path
) -> NDArray[np.float64]:
    """The bounding boxes [x1, y1, x2, y2] of shapes, (len(items), 4) mm; NaN if a shape has no positions."""
    places = [
        _challenge_places(item, shape, index, path)
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


def _challenge_items(document: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(document, list):
        return _records({"points": document}, "points", path)
    if _shape(document) is not None:
        return [document]
    names = [name for name in _LISTS if name in document]
    if not names:
        raise fault(
            f"a Grand Challenge file of type '{document.get('type')}', which has none of {', '.join(_LISTS)}",
            path,
            "Give points, bounding boxes or polygons",
        )
    return [item for name in names for item in _records(document, name, path)]


def _challenge_places(item: Mapping[str, Any], shape: str | None, index: int, path: Path) -> list[list[Any]]:
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


def _list(document: Mapping[str, Any], key: str, path: Path, count: int | None = None) -> list[Any]:
    values = document.get(key)
    if not isinstance(values, list):
        raise fault(f"'{key}' is not a list", path, "Write the file again")
    if count is not None and len(values) != count:
        raise fault(f"{count} boxes, but {len(values)} {key}", path, "Write the file again")
    return values


def _records(document: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    records = _list(document, key, path)
    if not all(isinstance(item, dict) for item in records):
        raise fault(f"not every one of '{key}' is an object", path, "Write the file again")
    return records


def _looked_up(
    annotations: Sequence[Mapping[str, Any]], key: str, names: Mapping[str, Any], path: Path
) -> list[str | None]:
    for index, item in enumerate(annotations):
        if str(item.get(key)) not in names:
            value = in_short(item.get(key))
            raise fault(f"annotation {index + 1} has {key} {value}, which the file does not explain", path)
    return [text_or_none(names[str(item.get(key))]) for item in annotations]


def _refuse_coco(annotations: Sequence[Mapping[str, Any]], corners: NDArray[np.float64], path: Path) -> None:
    """Refuse boxes of COCO, recognised by their stated area, that seem valid near the slide's corner."""
    areas = numbers([item.get("area") for item in annotations], "area", path)
    stated = np.isfinite(areas) & np.isfinite(corners).all(axis=1)
    as_coco = corners[:, 2] * corners[:, 3]
    as_midog = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    coco = stated & np.isclose(as_coco, areas) & ~np.isclose(as_midog, areas)
    if coco.any():
        entry = int(np.argmax(coco))
        raise fault(
            f"annotation {entry + 1}: by its area the box {corners[entry].tolist()} is COCO's "
            "[x, y, width, height]",
            path,
            "MIDOG's boxes are [x1, y1, x2, y2]; convert them",
        )
