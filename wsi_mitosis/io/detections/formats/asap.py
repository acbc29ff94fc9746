"""XML of ASAP, the viewer of the Computational Pathology Group.

Source: annotation/XmlRepository.cpp and annotation/Annotation.cpp of
https://github.com/computationalpathologygroup/ASAP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.common import fault, in_short, text_or_none
from wsi_mitosis.io.detections.drawings import Drawing, attribute_corners, read_drawings, tag_of
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.shapes import LINE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from wsi_mitosis.io.detections.drawings import Shape
    from wsi_mitosis.tables import Detections

_SHAPES: dict[str, Shape] = {
    "Dot": "points",
    "PointSet": "points",
    "Rectangle": "outline",
    "Polygon": "outline",
    "Spline": "outline",
}
"""What ASAP calls a shape. The curve of a Spline runs through its corners; ASAP measures its area without the
curve as well (Annotation::getArea)."""
_NO_GROUP = "None"


def is_asap(root: Element) -> bool:
    """Return whether a document is ASAP's."""
    return tag_of(root) == "ASAP_Annotations"


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if is_asap(document.data) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read annotations in level-0 px, slide frame. Their groups are their classes.

    Raises:
        DetectionsError: if a coordinate or its order is missing or not a number.
    """
    root, path = document.data, document.path
    groups = {
        str(group.get("Name")): _group(group) for group in root.iterfind("{*}AnnotationGroups/{*}Group")
    }
    annotations = root.findall("{*}Annotations/{*}Annotation")
    drawings = [_drawing(item, groups, at, path) for at, item in enumerate(annotations, start=1)]
    return read_drawings(drawings, path, what="annotation", format_name="asap")


def _drawing(item: Element, groups: Mapping[str, str | None], number: int, path: Path) -> Drawing:
    kind, group = str(item.get("Type")), _group(item)
    unused = LINE if kind == "Measurement" else f"its type is '{kind}', which is none of {', '.join(_SHAPES)}"
    return Drawing(
        shape=_SHAPES.get(kind),
        corners=attribute_corners(_ordered(item.findall("{*}Coordinates/{*}Coordinate"), number, path)),
        unused=None if kind in _SHAPES else unused,
        classes={"group": group, "group above": groups.get(group or "")},
        prose={"name": text_or_none(item.get("Name"))},
    )


def _group(item: Element) -> str | None:
    """The group that an annotation or a group is part of."""
    name = text_or_none(item.get("PartOfGroup"))
    return None if name == _NO_GROUP else name


def _ordered(coordinates: list[Element], number: int, path: Path) -> list[Element]:
    """Coordinates by their `Order`, or as they are written if one has none."""
    orders = [item.get("Order") for item in coordinates]
    stated = [_whole(order, number, path) for order in orders if order is not None]
    if len(stated) < len(orders):
        return coordinates
    pairs = zip(stated, coordinates, strict=True)
    return [item for _, item in sorted(pairs, key=lambda pair: pair[0])]


def _whole(order: str, number: int, path: Path) -> int:
    try:
        return int(order)
    except ValueError as error:
        cause = f"annotation {number}: the order is {in_short(order)}, not a whole number"
        raise fault(cause, path, "Save the annotations again, or delete this one") from error


FORMAT = Format(
    name="asap",
    about="XML of ASAP: dots, sets of points, rectangles, polygons and splines, whose groups are classes.",
    kinds=("xml",),
    fits=_fits,
    read=_read,
    endings=(".xml", ".xml.gz"),
)
