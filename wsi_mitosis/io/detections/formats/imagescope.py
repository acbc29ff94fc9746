"""XML of Aperio ImageScope and eSlide Manager.

Sources: layers, regions and texts are as annotation/ImageScopeRepository.cpp of
https://github.com/computationalpathologygroup/ASAP reads them; types of regions, attributes and negative
areas as https://github.com/One-sixth/imagescope_xml_utils reads and writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.common import text_or_none
from wsi_mitosis.io.detections.drawings import (
    ARROW,
    NEGATIVE,
    Drawing,
    attribute_corners,
    read_drawings,
    tag_of,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from wsi_mitosis.io.detections.drawings import Shape
    from wsi_mitosis.tables import Detections

_OUTLINE, _ARROW = "0", "3"
_SHAPES: dict[str, Shape] = {_OUTLINE: "outline", "1": "box", "2": "box"}
"""`Type` of a region: a free-hand outline, a rectangle with four corners, and an ellipse with two corners of
its box. The centre of a rectangle or ellipse is that of its box."""
_EMPTY_NAMES = frozenset({"description"})
"""Names of an attribute that do not describe the layer."""


def is_imagescope(root: Element) -> bool:
    """Return whether a document is ImageScope's, and not one of HALO, which has the same root."""
    if tag_of(root) != "Annotations":
        return False
    return not root.findall("{*}Annotation") or any(
        root.find(mark) is not None
        for mark in (".//{*}Vertex", "{*}Annotation[@Id]", "{*}Annotation/{*}Attributes", ".//{*}Region[@Id]")
    )


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if is_imagescope(document.data) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read regions in level-0 px, slide frame.

    The class of a region is its layer's name, or else what its layer's attributes or its own text say.
    Negative areas, arrows and unknown types are not used.

    Raises:
        DetectionsError: if a coordinate is missing or not a number.
    """
    layers = document.data.findall("{*}Annotation")
    drawings = [
        _drawing(region, layer) for layer in layers for region in layer.iterfind("{*}Regions/{*}Region")
    ]
    return read_drawings(drawings, document.path, what="region", format_name="imagescope")


def _drawing(region: Element, layer: Element) -> Drawing:
    kind = str(region.get("Type", _OUTLINE)).strip()
    return Drawing(
        shape=_SHAPES.get(kind),
        corners=attribute_corners(region.findall("{*}Vertices/{*}Vertex")),
        unused=_unused(region, kind),
        name=text_or_none(region.get("DisplayId") or region.get("Id")),
        classes={
            "layer": text_or_none(layer.get("Name")),
            "attribute": _attributes(layer),
            "region attribute": _attributes(region),
            "text": text_or_none(region.get("Text")),
        },
    )


def _unused(region: Element, kind: str) -> str | None:
    if str(region.get("NegativeROA", "0")).strip() not in {"0", ""}:
        return NEGATIVE
    if kind == _ARROW:
        return ARROW
    return None if kind in _SHAPES else f"its type is '{kind}', which is not known"


def _attributes(element: Element) -> str | None:
    """What the attributes of a layer or region say: their values, or else their names."""
    attributes = element.findall("{*}Attributes/{*}Attribute")
    values = [text_or_none(item.get("Value")) for item in attributes]
    names = [text_or_none(item.get("Name")) for item in attributes]
    said = list(filter(None, values)) or [
        name for name in names if name is not None and name.casefold() not in _EMPTY_NAMES
    ]
    return ", ".join(said) or None


FORMAT = Format(
    name="imagescope",
    about="XML of Aperio ImageScope and eSlide Manager: outlines, rectangles and ellipses in layers.",
    kinds=("xml",),
    fits=_fits,
    read=_read,
    endings=(".xml", ".xml.gz"),
)
