"""JSON of the MIDOG and MIDOG++ data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.io.detections.common import (
    box_columns,
    boxes,
    candidate_table,
    fault,
    looked_up,
    names_by_id,
    numbers,
    records_of,
    refuse_backward,
    refuse_placeless,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.coco import BoxEvidence, box_evidence
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def _fits(document: Document) -> Fit:
    content = document.data
    if not isinstance(content, dict) or not {"annotations", "images"} <= content.keys():
        return Fit.NO
    evidence = box_evidence(content["annotations"])
    if BoxEvidence.MIDOG in evidence:
        return Fit.LIKELY
    return Fit.NO if BoxEvidence.COCO in evidence else Fit.POSSIBLE


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read the annotations of MIDOG and MIDOG++, whose boxes are [x1, y1, x2, y2] in level-0 px.

    Raises:
        DetectionsError: if an annotation has an image or category that the file does not list, or if boxes
            are [x, y, width, height], as in COCO.
    """
    content, path = document.data, document.path
    annotations = records_of(content, "annotations", path)
    corners = boxes([item.get("bbox") for item in annotations], path)
    refuse_backward(corners, path, what="annotation")
    _refuse_coco(annotations, corners, path)
    refuse_placeless(corners, path, what="annotations")
    images = names_by_id(records_of(content, "images", path), "file_name", path)
    categories = names_by_id(records_of(content, "categories", path), "name", path)
    columns = {
        **box_columns(corners),
        "slide": looked_up(annotations, "image_id", images, path),
        "detector_class": looked_up(annotations, "category_id", categories, path),
        "id": [text_or_none(item.get("id")) for item in annotations],
        "score": numbers([item.get("score") for item in annotations], "score", path),
    }
    return Detections(candidate_table(len(annotations), columns), "px", "slide", "mitotic", "midog")


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


FORMAT = Format(
    name="midog",
    about="MIDOG and MIDOG++ (JSON), with boxes [x1, y1, x2, y2].",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
