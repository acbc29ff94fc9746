r"""Annotations of EXACT: JSON of its interface, and the text that it exports unless a team defines another.

Source: https://github.com/DeepMicroscopy/Exact, exact/exact/annotations: `serializers.py` (JSON: a page of
`results`, a list, or the viewer's `annotations`), `models.py` (`vector`, `VECTOR_TYPE`, and in `ExportFormat`
the lines `image|type|{"x1": 1,"y1": 2,}|`), `static/annotations/js/boundingboxes.js` (points are the boxes
around them); and exact/util/slide_server.py, whose DeepZoomGenerator keeps the whole slide, not its bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import (
    box_columns,
    candidate_table,
    class_note,
    fault,
    in_short,
    is_plain_number,
    records_of,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ITEM_KEYS = {"vector", "annotation_type"}
_PAGE_KEYS = {"count", "next", "results"}
_LINES = {3: "lines", 4: "lines", 7: "labels of whole images"}
"""Vector types that are neither a place nor an area: line, multi-line, global."""
_NOT_IN_IMAGE = "not in image"
_EXPAND = "Export it with expand=image,annotation_type, and without pages (limit)"


class _Line(NamedTuple):
    """A line of the exported text."""

    image: str
    kind: str
    vector: str


@dataclass(frozen=True)
class _Annotation:
    """An annotation.

    Attributes:
        image: The name of its image; None if the file does not state it.
        kind: The name of its type, or its number if the file does not state the name.
        box: Left, top, right and bottom, level-0 px; NaN without a place.
        why_not: Why it has no place, in the plural; None if it has one.
        name: Its own id.
        size: (width, height) of its image, px; None if the file does not state it.
    """

    image: str | None
    kind: str | None
    box: tuple[float, float, float, float]
    why_not: str | None = None
    name: str | None = None
    size: tuple[float, float] | None = None


def _fits(document: Document) -> Fit:
    content = document.data
    if document.kind == "text":
        first = next((line for line in content.split("\n", 100) if line.strip()), "")
        return Fit.LIKELY if _parts(first) else Fit.NO
    if isinstance(content, list):
        return Fit.LIKELY if content and _is_item(content[0]) else Fit.NO
    items = _listed_items(content)
    if items:
        return Fit.LIKELY if _is_item(items[0]) and "images" not in content else Fit.NO
    is_empty_page = content.keys() >= _PAGE_KEYS and content["results"] == []
    return Fit.LIKELY if is_empty_page else Fit.NO


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _ITEM_KEYS


def _listed_items(content: Any) -> list[Any]:
    items = content.get("results", content.get("annotations"))
    return items if isinstance(items, list) else []


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read annotations that are not deleted, in level-0 px.

    The centre of a point, box, circle or polygon is that of its bounding box.

    Raises:
        DetectionsError: if the file is one page of several, if it numbers several images without their names,
            or if an annotation makes no sense.
    """
    path = document.path
    annotations = (
        _from_text(document.data, path) if document.kind == "text" else _from_json(document.data, path)
    )
    kinds = [item.kind for item in annotations]
    columns = {
        "slide": _slides(annotations, path),
        "id": [item.name for item in annotations],
        "detector_class": kinds,
        **box_columns(np.array([item.box for item in annotations], dtype=np.float64).reshape(-1, 4)),
    }
    reasons = dict.fromkeys(item.why_not for item in annotations if item.why_not)
    lost = (f"{path.name}: no candidates: {listed(reasons)}",) if reasons else ()
    return Detections(
        table=candidate_table(len(annotations), columns),
        units="px",
        frame="slide",
        class_rule="mitotic",
        format="exact",
        notes=(*lost, *class_note(kinds, path)),
        image_sizes={item.image: item.size for item in annotations if item.image and item.size},
    )


def _slides(annotations: Sequence[_Annotation], path: Path) -> list[str | None]:
    """The slides' names, or None for the only image if it is only numbered."""
    names = [item.image for item in annotations]
    numbered = list(dict.fromkeys(name for name in names if name is None or name.isdecimal()))
    if numbered and len(set(names)) > 1:
        cause = f"{len(set(names))} images, of which these have no name: {listed(numbered)}"
        raise fault(cause, path, _EXPAND)
    return [None] * len(names) if numbered else names


def _from_json(content: Any, path: Path) -> list[_Annotation]:
    page = content if isinstance(content, dict) else {"results": content}
    if page.get("next"):
        cause = f"one page of several: it has {len(_listed_items(page))} of {page.get('count')} annotations"
        raise fault(cause, path, _EXPAND)
    items = records_of(page, "results" if "results" in page else "annotations", path)
    kept = [(index, item) for index, item in enumerate(items) if not item.get("deleted")]
    return [_annotation(item, f"annotation {index + 1}", path) for index, item in kept]


def _annotation(item: dict[str, Any], what: str, path: Path) -> _Annotation:
    kind, image = item.get("annotation_type"), item.get("image")
    vector_type = kind.get("vector_type") if isinstance(kind, dict) else None
    why_not = _LINES.get(vector_type) if isinstance(vector_type, int) else None
    box = _box(item.get("vector"), what, path)
    if why_not is None and np.isnan(box).any():
        why_not = "objects that are not in the image"
    return _Annotation(
        image=text_or_none(image.get("name") if isinstance(image, dict) else image),
        kind=text_or_none(kind.get("name") if isinstance(kind, dict) else kind),
        box=(np.nan,) * 4 if why_not else box,
        why_not=why_not,
        name=text_or_none(item.get("unique_identifier") or item.get("id")),
        size=_size(image),
    )


def _size(image: Any) -> tuple[float, float] | None:
    stated: dict[str, Any] = image if isinstance(image, dict) else {}
    width: Any = stated.get("width")
    height: Any = stated.get("height")
    if not (is_plain_number(width) and is_plain_number(height)) or min(width, height) <= 0:
        return None
    return float(width), float(height)


def _box(vector: Any, what: str, path: Path) -> tuple[float, float, float, float]:
    """The bounding box of x1, y1, x2, y2, ...; NaN if the vector is missing or empty.

    Raises:
        DetectionsError: if it is not an object of as many numbers x as y.
    """
    if not vector:
        return (np.nan,) * 4
    entries = vector if isinstance(vector, dict) else {}
    axes = {axis: [value for key, value in entries.items() if key[:1] == axis] for axis in "xy"}
    values = [value for numbers in axes.values() for value in numbers]
    counts = {len(numbers) for numbers in axes.values()}
    if len(counts) != 1 or not values or len(values) != len(vector) or not all(map(is_plain_number, values)):
        raise fault(
            f"{what}: its vector is {in_short(vector)}, not x1, y1, x2, y2, ...", path, "Export it again"
        )
    return min(axes["x"]), min(axes["y"]), max(axes["x"]), max(axes["y"])


def _from_text(text: str, path: Path) -> list[_Annotation]:
    annotations = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if (found := _parts(line)) is None:
            cause = f'line {number} is {in_short(line)}, not image|type|{{"x1": ...}}|'
            raise fault(cause, path, "Export it with EXACT's own format, or as a table with a header")
        box = _box(_vector_of(found.vector), f"line {number}", path)
        why_not = "objects that are not in the image" if np.isnan(box).any() else None
        annotations.append(_Annotation(text_or_none(found.image), text_or_none(found.kind), box, why_not))
    return annotations


def _parts(line: str) -> _Line | None:
    """The parts of a line of the exported text; None if it is something else."""
    head, _, content = line.strip().removesuffix("|").rpartition("|")
    image, separator, kind = head.rpartition("|")
    if not separator or not (content == _NOT_IN_IMAGE or (content[:1], content[-1:]) == ("{", "}")):
        return None
    return _Line(image, kind, "" if content == _NOT_IN_IMAGE else content[1:-1])


def _vector_of(text: str) -> Any:
    """The numbers of a text such as `"x1": 1,"y1": 2,`; the text itself if it is something else."""
    entries = [entry.partition(":") for entry in text.strip().removesuffix(",").split(",")] if text else []
    try:
        return {key.strip().strip('"'): float(value) for key, _, value in entries}
    except ValueError:
        return text


FORMAT = Format(
    name="exact",
    about="EXACT's annotations: JSON of its interface, or its text image|type|{...}|.",
    kinds=("json", "text"),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz", ".txt"),
)
