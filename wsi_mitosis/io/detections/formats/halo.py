"""Annotations of Indica Labs' HALO, `.annotations`.

Source: https://github.com/rharkes/pyhaloxml, src/pyhaloxml/misc.py, Region.py and Layer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.common import text_or_none
from wsi_mitosis.io.detections.drawings import NEGATIVE, Drawing, attribute_corners, read_drawings, tag_of
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.shapes import LINE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from wsi_mitosis.io.detections.drawings import Shape
    from wsi_mitosis.tables import Detections

_SHAPES: dict[str, Shape] = {
    "Pin": "points",
    "Rectangle": "outline",
    "Ellipse": "outline",
    "Polygon": "outline",
}
_CORNERS_OF_A_BOX = 2
"""A rectangle and an ellipse have two corners, those of their bounding box."""
_LINES = frozenset({"Ruler"})


def is_halo(root: Element) -> bool:
    """Return whether a document is HALO's, and not one of ImageScope, which has the same root."""
    marks = (".//{*}V", ".//{*}Region[@HasEndcaps]")
    if tag_of(root) != "Annotations":
        return False
    layers = root.findall("{*}Annotation")
    return any(root.find(mark) is not None for mark in marks) or any(
        layer.get("Visible") in {"True", "False"} for layer in layers
    )


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if is_halo(document.data) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read regions in level-0 px, slide frame. The name of a layer is the class of its regions.

    Negative areas, rulers and unknown types are not used.

    Raises:
        DetectionsError: if a coordinate is missing or not a number.
    """
    layers = document.data.findall("{*}Annotation")
    drawings = [
        _drawing(region, text_or_none(layer.get("Name")))
        for layer in layers
        for region in layer.iterfind("{*}Regions/{*}Region")
    ]
    return read_drawings(drawings, document.path, what="region", format_name="halo")


def _drawing(region: Element, layer: str | None) -> Drawing:
    kind = str(region.get("Type"))
    corners = attribute_corners(region.findall("{*}Vertices/{*}V"))
    return Drawing(
        shape=_shape(kind, corners),
        corners=corners,
        unused=_unused(region, kind),
        classes={"layer": layer},
        prose={"comments": _comments(region)},
    )


def _shape(kind: str, corners: Sequence[object]) -> Shape | None:
    is_box = kind in {"Rectangle", "Ellipse"} and len(corners) == _CORNERS_OF_A_BOX
    return "box" if is_box else _SHAPES.get(kind)


def _unused(region: Element, kind: str) -> str | None:
    if str(region.get("NegativeROA", "0")).strip() not in {"0", ""}:
        return NEGATIVE
    if kind in _LINES:
        return LINE
    return None if kind in _SHAPES else f"its type is '{kind}', which is none of {', '.join(_SHAPES)}"


def _comments(region: Element) -> str | None:
    bodies = [text_or_none(comment.get("Body")) for comment in region.iterfind("{*}Comments/{*}Comment")]
    return " / ".join(filter(None, bodies)) or None


FORMAT = Format(
    name="halo",
    about="Annotations of HALO (XML): pins, rectangles, ellipses and polygons in layers.",
    kinds=("xml",),
    fits=_fits,
    read=_read,
    endings=(".annotations", ".annotations.gz"),
)
