"""JSON of COCO: a data set, or the list of results that a detector writes.

Sources: https://cocodataset.org/#format-data and https://cocodataset.org/#format-results. A data set has
`images`, `annotations` and `categories`; results are a list of annotations, each with a score. A box is
[x, y, width, height] from the image's top-left corner, px.

MIDOG's JSON has the same members, and boxes [x1, y1, x2, y2]. `box_evidence` tells the two apart.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import (
    backward,
    boxes,
    candidate_table,
    fault,
    is_plain_number,
    looked_up,
    names_by_id,
    numbers,
    records_of,
    refuse_placeless,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_RESULT_KEYS = {"image_id", "category_id", "bbox"}
_MOST_SIDE_PX = 1000.0
"""Side that the box of a mitotic figure never has, px: at 0.1 um/px, finer than scanners are, it is 100 um.
MIDOG's second corners, taken for a width and a height, mostly exceed it."""


class BoxEvidence(Flag):
    """Which readings of boxes something speaks for."""

    NONE = 0
    COCO = auto()
    MIDOG = auto()


def box_evidence(annotations: Any) -> BoxEvidence:
    """Return which readings of boxes their numbers, their stated areas and their votes speak for.

    - A second corner left of or above the first one cannot be MIDOG's.
    - A stated `area` that only one of the readings has speaks for it.
    - `labels` are the votes of MIDOG's experts.
    - Boxes of which more than half are too large for a mitotic figure as COCO's are MIDOG's, unless a stated
      area contradicts.
    - If both readings are the same boxes, it is MIDOG's.

    Args:
        annotations: The list of annotations, which may hold anything.
    """
    items = [item for item in annotations if isinstance(item, dict)] if isinstance(annotations, list) else []
    numbers_of = np.array([_usable(item.get("bbox"), 4) for item in items]).reshape(-1, 4)
    areas = np.array([_usable([item.get("area")], 1)[0] for item in items])
    by_coco, by_midog = _stated_areas(numbers_of, areas)
    large = (numbers_of[:, 2:] > _MOST_SIDE_PX).any(axis=1)
    found = BoxEvidence.NONE
    if by_coco.any() or backward(numbers_of).any():
        found |= BoxEvidence.COCO
    if by_midog.any() or any("labels" in item for item in items):
        found |= BoxEvidence.MIDOG
    if not by_coco.any() and 2 * int(large.sum()) > len(items):
        found |= BoxEvidence.MIDOG
    same = not np.isfinite(numbers_of).all(axis=1).any() or not np.nan_to_num(numbers_of[:, :2]).any()
    return BoxEvidence.MIDOG if same and not found else found


def _usable(values: Any, count: int) -> list[float]:
    """The numbers of a document, NaN for what is none: the reader reports it."""
    if not isinstance(values, list) or len(values) != count:
        return [np.nan] * count
    return [float(value) if is_plain_number(value) else np.nan for value in values]


def _stated_areas(
    numbers_of: NDArray[np.float64], areas: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which boxes (n, 4) have the stated area (n,) as COCO's only, and which as MIDOG's only."""
    x, y, third, fourth = numbers_of.T
    as_coco, as_midog = np.isclose(third * fourth, areas), np.isclose((third - x) * (fourth - y), areas)
    return as_coco & ~as_midog, as_midog & ~as_coco


def _fits(document: Document) -> Fit:
    content = document.data
    if isinstance(content, list):
        if not content:
            return Fit.POSSIBLE
        is_result = isinstance(content[0], dict) and content[0].keys() >= _RESULT_KEYS
        return Fit.LIKELY if is_result else Fit.NO
    if not {"annotations", "images"} <= content.keys():
        return Fit.NO
    evidence = box_evidence(content["annotations"])
    if evidence is BoxEvidence.COCO:
        return Fit.LIKELY
    return Fit.NO if evidence is BoxEvidence.MIDOG and content["annotations"] else Fit.POSSIBLE


def _read(document: Document, _options: ReadOptions) -> Detections:
    """Read boxes [x, y, width, height] in px, whose middles are the candidates.

    The stated sizes of images are kept, so that boxes of another level's image are refused.

    Raises:
        DetectionsError: if an annotation has an image or category that a data set does not list, if two
            entries of one id differ, if a box has a negative side, or if results number their images.
    """
    content, path = document.data, document.path
    if isinstance(content, list):
        annotations = records_of({"results": content}, "results", path)
        names = {"slide": _slides_of_results(annotations, path)}
        names["detector_class"] = [text_or_none(item.get("category_id")) for item in annotations]
        return _detections(annotations, names, path)
    annotations, images = (records_of(content, key, path) for key in ("annotations", "images"))
    categories = names_by_id(records_of(content, "categories", path), "name", path)
    slides = names_by_id(images, "file_name", path)
    names = {
        "slide": looked_up(annotations, "image_id", slides, path),
        "detector_class": looked_up(annotations, "category_id", categories, path),
    }
    return _detections(annotations, names, path, _sizes(images, path))


def _detections(
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[str, Sequence[str | None]],
    path: Path,
    sizes: Mapping[str, tuple[float, float]] | None = None,
) -> Detections:
    corners = boxes([item.get("bbox") for item in annotations], path, "[x, y, width, height] in pixels")
    if (negative := (corners[:, 2:] < 0).any(axis=1)).any():
        entry = int(np.argmax(negative))
        cause = f"annotation {entry + 1}: the box {corners[entry].tolist()} has a negative side"
        raise fault(cause, path, "A box of COCO is [x, y, width, height]")
    crowds = np.array([item.get("iscrowd") == 1 for item in annotations], dtype=bool)
    corners[crowds] = np.nan
    refuse_placeless(corners, path, what="annotations")
    columns = {
        **names,
        "x": corners[:, 0] + corners[:, 2] / 2,
        "y": corners[:, 1] + corners[:, 3] / 2,
        "extent": corners[:, 2:].max(axis=1),
        "id": [text_or_none(item.get("id")) for item in annotations],
        "score": numbers([item.get("score") for item in annotations], "score", path),
    }
    notes = (f"{path.name}: no candidates: {crowds.sum()} crowds (iscrowd 1)",) if crowds.any() else ()
    return Detections(
        table=candidate_table(len(annotations), columns),
        units="px",
        frame="slide",
        class_rule="mitotic",
        format="coco",
        notes=notes,
        image_sizes=sizes or {},
    )


def _sizes(images: Sequence[Mapping[str, Any]], path: Path) -> dict[str, tuple[float, float]]:
    """The (width, height) of the images that state them, px, by their file names."""
    sides = [numbers([image.get(side) for image in images], side, path) for side in ("width", "height")]
    sizes: dict[str, tuple[float, float]] = {}
    for image, width, height in zip(images, *(side.tolist() for side in sides), strict=True):
        name = text_or_none(image.get("file_name"))
        if name is None or not (width > 0 and height > 0):
            continue
        if sizes.setdefault(name, (width, height)) != (width, height):
            cause = f"two images are called '{name}', and their sizes differ"
            raise fault(cause, path, "Give each image a name of its own")
    return sizes


def _slides_of_results(results: Sequence[Mapping[str, Any]], path: Path) -> list[str | None]:
    """The slides of results: the images' names, or None for one image that is only numbered."""
    images = [item.get("image_id") for item in results]
    distinct = list(dict.fromkeys(map(str, images)))
    numbered = [name for name in distinct if name.isdecimal() or name == "None"]
    if not numbered:
        return [text_or_none(image) for image in images]
    if len(distinct) > 1:
        raise fault(
            f"the results are of {len(distinct)} images, and image_id names no slide: {listed(numbered)}",
            path,
            "Give the data set with its images as well: one object with images, annotations and categories",
        )
    return [None] * len(images)


FORMAT = Format(
    name="coco",
    about="COCO (JSON), a data set or a list of results, with boxes [x, y, width, height].",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
