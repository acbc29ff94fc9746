"""Objects that people draw in viewers: the one place where those of XML files become candidates.

The formats differ in how an object is written. What an outline, a box, a point, a line and a class mean is
the same in all of them, and the same as in GeoJSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsi_mitosis.io.detections.classes import as_objects, chosen_classes, plain_look_alikes
from wsi_mitosis.io.detections.common import candidate_table, fault, in_short
from wsi_mitosis.io.detections.shapes import EMPTY, LINE, not_used, part_ids, placed, read_shapes
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from wsi_mitosis.io.detections.shapes import Shapes
    from wsi_mitosis.units import InputFrame, LengthUnit

Shape = Literal["points", "outline", "box", "circle"]
"""What the corners of a drawing are: places, each a candidate; a closed outline; corners whose bounding box
is the object's; or the middle of a circle."""

NEGATIVE = "it is a negative area, which is cut out of others"
ARROW = "it is an arrow, whose tip is beside what it points to"
_THOUSANDS = 3
"""Digits between two thousands signs."""


@dataclass(frozen=True)
class Drawing:
    """One object of a file, as the file writes it.

    Attributes:
        shape: What its corners are; None if it is not used.
        corners: The texts of x and y of each corner, in the unit of the file; None for one that is missing.
        radius: The text of a circle's radius.
        unused: Why it is not used.
        name: The file's own name or id of it.
        classes: The texts that may be its class, by what the file calls them, the best first.
        prose: Other texts, which only count if they mention look-alikes.
    """

    shape: Shape | None = None
    corners: Sequence[tuple[str | None, str | None]] = ()
    radius: str | None = None
    unused: str | None = None
    name: str | None = None
    classes: Mapping[str, str | None] = field(default_factory=dict)
    prose: Mapping[str, str | None] = field(default_factory=dict)


def tag_of(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def attribute_corners(
    elements: Sequence[Element], x: str = "X", y: str = "Y"
) -> list[tuple[str | None, str | None]]:
    """Return the corners that elements state in two of their attributes."""
    return [(element.get(x), element.get(y)) for element in elements]


def read_drawings(
    drawings: Sequence[Drawing],
    path: Path,
    *,
    what: str,
    format_name: str,
    units: LengthUnit = "px",
    frame: InputFrame = "slide",
) -> Detections:
    """Return the centroids of drawings as candidates, in the order of the file.

    Each place of `points` is a candidate, with the id `<name>/1`, `<name>/2`, ... A drawing that is not used
    has NaN coordinates, and is named in the notes with its number and the reason.

    Args:
        drawings: The objects of the file.
        path: The file, for messages.
        what: The file's word for an object, for messages.
        format_name: The format.
        units: Unit of the corners.
        frame: Frame of the corners.

    Raises:
        DetectionsError: if a coordinate is missing, is not a number, or has a sign that may separate
            thousands; or if no object is a point or an area.
    """
    shapes = _shapes(drawings, path, what)
    counts, located = placed(shapes, len(drawings))
    names = [drawing.name for drawing in drawings]
    texts = _texts(drawings)
    place, classes = chosen_classes(_class_places(drawings))
    others = {key: np.repeat(as_objects(values), counts) for key, values in texts.items() if key != place}
    columns: dict[str, Any] = {**located, "id": part_ids(names, counts)}
    if classes is not None:
        columns["detector_class"] = np.repeat(classes, counts)
    notes = _notes(shapes, names, path, what)
    table = candidate_table(int(counts.sum()), columns, others)
    return Detections(table, units, frame, "qupath", format_name, notes=notes)


def _shapes(drawings: Sequence[Drawing], path: Path, what: str) -> Shapes:
    """The points and areas of the drawings; those that are not used are `unused` with their reasons."""
    numbers = iter(_numbers(drawings, path, what))
    geometries: list[dict[str, Any] | None] = []
    reasons: dict[int, str] = {}
    for row, drawing in enumerate(drawings):
        corners = [[next(numbers), next(numbers)] for _ in drawing.corners]
        radius = math.nan if drawing.radius is None else next(numbers)
        reason = drawing.unused or _unfit(drawing, corners)
        if reason is not None:
            reasons[row] = reason
        geometries.append(None if reason is not None else _geometry(drawing.shape, corners, radius))
    shapes = read_shapes([{"geometry": geometry} for geometry in geometries])
    return replace(shapes, unused={**shapes.unused, **reasons})


def _unfit(drawing: Drawing, corners: Sequence[list[float]]) -> str | None:
    """Why corners do not make a shape; None if they do. Two corners of an outline are only a line."""
    if not corners:
        return EMPTY
    distinct = {tuple(corner) for corner in corners}
    return LINE if drawing.shape == "outline" and len(distinct) == 2 else None


def _geometry(shape: Shape | None, corners: list[list[float]], radius: float) -> dict[str, Any]:
    """A geometry of GeoJSON."""
    if shape == "points":
        return {"type": "MultiPoint", "coordinates": corners}
    if shape == "outline" and len({tuple(corner) for corner in corners}) == 1:
        return {"type": "Point", "coordinates": corners[0]}
    if shape == "outline":
        return {"type": "Polygon", "coordinates": [corners]}
    if shape == "circle":
        (x, y), *_ = corners
        corners = [[x - radius, y - radius], [x + radius, y + radius]]
    left, top = np.min(corners, axis=0).tolist()  # NaN if one of them is
    right, bottom = np.max(corners, axis=0).tolist()
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def _numbers(drawings: Sequence[Drawing], path: Path, what: str) -> Iterator[float]:
    """The numbers of all corners and radii, in order."""
    texts = [
        (row, axis, text)
        for row, drawing in enumerate(drawings)
        for axis, text in (
            *((axis, text) for corner in drawing.corners for axis, text in zip("xy", corner, strict=True)),
            *((("radius", drawing.radius),) if drawing.radius is not None else ()),
        )
    ]
    decimal = _decimal_sign([text for *_, text in texts if text], path)
    for row, axis, text in texts:
        if text is None or not text.strip():
            cause = f"{what} {row + 1}: a corner has no {axis}"
            raise fault(cause, path, "Export the annotations again, or delete this object")
        try:
            if "_" in text:  # only Python reads it as a number
                raise ValueError(text)
            yield float(text.replace(decimal, ".") if decimal == "," else text)
        except ValueError as error:
            cause = f"{what} {row + 1}: the {axis} is {in_short(text)}, not a number"
            raise fault(cause, path, "Export the annotations again, or delete this object") from error


def _decimal_sign(texts: Sequence[str], path: Path) -> str:
    """The decimal sign of a whole file: a comma where the viewer ran in a country that writes one.

    A comma is refused if points occur as well, and if it may separate thousands.
    """
    commas = [text for text in texts if "," in text]
    if not commas:
        return "."
    if with_point := next((text for text in texts if "." in text), None):
        cause = f"coordinates are written with a comma ({commas[0]!r}) and with a point ({with_point!r})"
    elif all(len(text.strip().rpartition(",")[2]) == _THOUSANDS for text in commas):
        cause = f"the comma of {commas[0]!r} may be a decimal sign, or separate thousands"
    else:
        return ","
    raise fault(cause, path, "Export the annotations again with a decimal point")


def _texts(drawings: Sequence[Drawing]) -> dict[str, list[str | None]]:
    """(n,) the texts of each place that has some, by the name of the place."""
    described = [{**drawing.classes, **drawing.prose} for drawing in drawings]
    keys = dict.fromkeys(key for item in described for key in item)
    columns = {key: [item.get(key) for item in described] for key in keys}
    return {key: values for key, values in columns.items() if any(value is not None for value in values)}


def _class_places(drawings: Sequence[Drawing]) -> dict[str, list[str | None]]:
    """(n,) what each place says about classes, the best place first."""
    texts = _texts(drawings)
    is_class = {key for drawing in drawings for key in drawing.classes}
    return {key: own if key in is_class else plain_look_alikes(own) for key, own in texts.items()}


def _notes(shapes: Shapes, names: Sequence[str | None], path: Path, what: str) -> tuple[str, ...]:
    """A note on the objects that are not used."""
    reasons = shapes.unused
    if len(reasons) == len(names) > 0:
        raise fault(
            f"none of its {len(names)} objects is a point or an area: {not_used(reasons, what=what)}",
            path,
            "Draw points or closed areas, and export them again",
        )
    named = {row: names[row] for row in reasons}
    return (f"{path.name}: no candidates: {not_used(reasons, named, what=what)}",) if reasons else ()
