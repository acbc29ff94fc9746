"""Annotations of Hamamatsu's NDP.view2, `<slide>.ndpi.ndpa`.

Positions are nm from the middle of the glass slide, and not of the image on it.

Sources: annotation/NDPARepository.cpp of https://github.com/computationalpathologygroup/ASAP (views,
outlines, and how positions become pixels); E. Zindy's scripts for QuPath,
https://forum.image.sc/t/exporting-ndpi-ndpa-annotation-files-from-qupath-code-attached/55418 (circles, pins,
measures, open lines, details).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.common import fault, in_short, text_or_none
from wsi_mitosis.io.detections.drawings import ARROW, Drawing, read_drawings, tag_of
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.shapes import LINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from wsi_mitosis.io.detections.drawings import Shape
    from wsi_mitosis.tables import Detections

_SHAPES: dict[str, Shape] = {"freehand": "outline", "circle": "circle", "pin": "points"}
_UNUSED = {"linearmeasure": LINE, "pointer": ARROW}
_NO_ANNOTATION = "it is a view without an annotation"
_OPEN = "0"
_NANOMETRES = "nanometers"


def is_ndpa(root: Element) -> bool:
    """Return whether a document is NDP.view2's: it has views, or nothing at all."""
    return tag_of(root) == "annotations" and (len(root) == 0 or root.find("{*}ndpviewstate") is not None)


def _fits(document: Document) -> Fit:
    return Fit.LIKELY if is_ndpa(document.data) else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read annotations in nm from the middle of the glass. Their titles are their classes.

    Raises:
        DetectionsError: if positions are not in nanometres, or a coordinate is missing or not a number.
    """
    path = document.path
    drawings = [
        drawing
        for number, view in enumerate(document.data.iterfind("{*}ndpviewstate"), start=1)
        for drawing in _drawings(view, number, path)
    ]
    return read_drawings(
        drawings, path, what="annotation", format_name="ndpa", units="nm", frame="slide-centre"
    )


def _drawings(view: Element, number: int, path: Path) -> Iterator[Drawing]:
    annotations = view.findall("{*}annotation")
    if not annotations:
        yield Drawing(unused=_NO_ANNOTATION, name=text_or_none(view.get("id")))
        return
    _check_unit(view, number, path)
    title, details = (text_or_none(view.findtext(f"{{*}}{name}")) for name in ("title", "details"))
    for annotation in annotations:
        kind = str(annotation.get("type")).strip().casefold()
        yield Drawing(
            shape=_SHAPES.get(kind),
            corners=_corners(annotation, kind),
            radius=annotation.findtext("{*}radius") if kind == "circle" else None,
            unused=_unused(annotation, kind),
            name=text_or_none(view.get("id")),
            classes={"title": title or details},
            prose={"details": details},
        )


def _corners(annotation: Element, kind: str) -> list[tuple[str | None, str | None]]:
    """The corners of a shape that is used."""
    if kind not in _SHAPES:
        return []
    places = annotation.findall("{*}pointlist/{*}point") if kind == "freehand" else [annotation]
    return [(place.findtext("{*}x"), place.findtext("{*}y")) for place in places]


def _unused(annotation: Element, kind: str) -> str | None:
    if kind not in _SHAPES:
        return _UNUSED.get(kind, f"its type is '{kind}', which is none of {', '.join(_SHAPES)}")
    is_open = (annotation.findtext("{*}closed") or "").strip() == _OPEN
    return LINE if kind == "freehand" and is_open else None


def _check_unit(view: Element, number: int, path: Path) -> None:
    unit = (view.findtext("{*}coordformat") or "").strip()
    if unit.casefold() != _NANOMETRES:
        cause = f"view {number}: its coordinates are in {in_short(unit)}, not in '{_NANOMETRES}'"
        raise fault(cause, path, "Save the annotations again with NDP.view2, or export them in pixels")


FORMAT = Format(
    name="ndpa",
    about="Annotations of NDP.view2 (XML): free-hand outlines, circles and pins, whose titles are classes.",
    kinds=("xml",),
    fits=_fits,
    read=_read,
    endings=(".ndpa", ".ndpa.gz"),
)
