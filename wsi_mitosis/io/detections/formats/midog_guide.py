"""JSON of the MIDOG guide's detector."""

from __future__ import annotations

from typing import Any

from wsi_mitosis.io.detections.common import (
    box_columns,
    boxes,
    candidate_table,
    list_of,
    numbers,
    refuse_backward,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.formats.grand_challenge import is_grand_challenge
from wsi_mitosis.tables import Detections


def _fits(document: Document) -> Fit:
    content = document.data
    has_boxes = isinstance(content, dict) and "boxes" in content and not is_grand_challenge(content)
    return Fit.LIKELY if has_boxes else Fit.NO


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read the result of the MIDOG guide's detector: one slide's boxes [x1, y1, x2, y2] in level-0 px.

    Raises:
        DetectionsError: if boxes, scores and labels differ in number, one of them is not a list, or boxes
            end before they begin.
    """
    content, path = document.data, document.path
    corners = boxes(list_of(content, "boxes", path), path)
    refuse_backward(corners, path, what="box")
    count = len(corners)
    columns: dict[str, Any] = {"slide": [text_or_none(content.get("image_path"))] * count}
    if "scores" in content:
        columns["score"] = numbers(list_of(content, "scores", path, count), "score", path)
    if "labels" in content:
        columns["detector_class"] = [text_or_none(x) for x in list_of(content, "labels", path, count)]
    table = candidate_table(count, {**columns, **box_columns(corners)})
    return Detections(table, "px", "slide", "any", "midog-guide")


FORMAT = Format(
    name="midog-guide",
    about="The MIDOG guide's detector (JSON): one slide's boxes [x1, y1, x2, y2].",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
