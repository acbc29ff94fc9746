"""JSON of the MIDOG data sets, of the MIDOG guide's detector, and of Grand Challenge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.io.detections.common import (
    box_columns,
    boxes,
    candidate_table,
    fault,
    numbers,
    text_or_none,
)
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def read_midog(document: Mapping[str, Any], path: Path) -> Detections:
    """Read MIDOG's and MIDOG++'s annotations, whose boxes are [x1, y1, x2, y2] in level-0 px.

    Raises:
        DetectionsError: for an annotation of an image or category that the file does not have, and for
            boxes whose second corner lies before the first, as in COCO's [x, y, width, height].
    """
    annotations = _records(document, "annotations", path)
    corners = boxes([item.get("bbox") for item in annotations], path)
    _not_coco(corners, path)
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
        DetectionsError: if boxes, scores and labels are not equally many, or one of them is no list.
    """
    corners = boxes(_list(document, "boxes", path), path)
    count = len(corners)
    columns: dict[str, Any] = {"slide": [text_or_none(document.get("image_path"))] * count}
    if "scores" in document:
        columns["score"] = numbers(_list(document, "scores", path, count), "score", path)
    if "labels" in document:
        columns["detector_class"] = [text_or_none(x) for x in _list(document, "labels", path, count)]
    table = candidate_table(count, {**columns, **box_columns(corners)})
    return Detections(table, "px", "slide", "any", "midog-guide")


def read_grand_challenge(document: Any, path: Path) -> Detections:
    """Read Grand Challenge's "Multiple points", in mm, or a bare list of such points.

    Raises:
        DetectionsError: for a point without two numbers.
    """
    document = {"points": document} if isinstance(document, list) else document
    points = _records(document, "points", path)
    centres = [item.get("point") for item in points]
    for index, centre in enumerate(centres):
        if centre is not None and not (isinstance(centre, list) and len(centre) in {2, 3}):
            cause = f"point {index + 1} is {centre!r}, not [x, y, z]"
            raise fault(cause, path, "A point is [x, y, z] in millimetres")
    columns = {
        "x": numbers([centre and centre[0] for centre in centres], "x", path),
        "y": numbers([centre and centre[1] for centre in centres], "y", path),
        "score": numbers([item.get("probability") for item in points], "probability", path),
        "detector_class": [text_or_none(item.get("name")) for item in points],
    }
    return Detections(candidate_table(len(points), columns), "mm", "slide", "mitotic", "grand-challenge")


def _list(document: Mapping[str, Any], key: str, path: Path, count: int | None = None) -> list[Any]:
    values = document.get(key)
    if not isinstance(values, list):
        raise fault(f"'{key}' is no list", path, "Write the file again")
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
            raise fault(
                f"annotation {index + 1} has {key} {item.get(key)!r}, which the file does not explain", path
            )
    return [text_or_none(names[str(item.get(key))]) for item in annotations]


def _not_coco(corners: np.ndarray[Any, np.dtype[np.float64]], path: Path) -> None:
    backward = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if backward.any():
        entry = int(np.argmax(backward))
        cause = f"annotation {entry + 1}: the box {corners[entry].tolist()} ends before it begins"
        raise fault(
            cause, path, "MIDOG's boxes are [x1, y1, x2, y2]; COCO's [x, y, width, height] must be converted"
        )
