"""JSON of CellViT and CellViT++: `cells.json` and `cell_detection.json` of one slide.

Sources: https://github.com/TIO-IKIM/CellViT, cell_segmentation/inference/cell_detection.py;
https://github.com/TIO-IKIM/CellViT-Inference, cellvit/inference/inference.py and postprocessing_numpy.py; and
https://github.com/TIO-IKIM/PathoPatcher, pathopatch/patch_extraction/dataset.py, which cuts the patches.

A centroid is [x, y] from the corner of the slide's bounds, because the patches are cut by a DeepZoomGenerator
with `limit_bounds`. It is in level-0 px if the patches are level-0 px: then `downsampling` is 1, and
`target_patch_mpp` is the slide's `base_mpp`. Otherwise the corner of a patch and the place in it have
different scales (CellViT), or patches whose size was rounded are scaled as if it were not (CellViT++).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import (
    box_sides,
    candidate_table,
    class_note,
    fault,
    in_short,
    is_plain_number,
    numbers,
    points,
    records_of,
    refuse_placeless,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

UNTYPED = "cell"
"""The class of cells without a type. It has to be named by `--class`: most cells are not in mitosis."""
_STATED = ("downsampling", "base_mpp", "target_patch_mpp")
_REMEDY = (
    "Run CellViT at the slide's own pixel size, or convert the coordinates to level 0. Pass --units px if "
    "they are pixels at level 0 all the same"
)


def _fits(document: Document) -> Fit:
    content = document.data
    has_cells = isinstance(content, dict) and isinstance(content.get("cells"), list)
    return Fit.LIKELY if has_cells and {"wsi_metadata", "type_map"} & content.keys() else Fit.NO


def _read(document: Document, options: ReadOptions) -> Detections:
    """Read the centroids of cells, in level-0 px from the corner of the slide's bounds.

    Raises:
        DetectionsError: if the file does not state that its patches were level-0 px and the user does not,
            if a cell has a type that the file does not explain, or if a cell makes no sense.
    """
    content, path = document.data, document.path
    cells = records_of(content, "cells", path)
    if options.units is None and cells:
        _refuse_other_levels(content.get("wsi_metadata"), path)
    centres = points([cell.get("centroid") for cell in cells], "centroid", path)
    refuse_placeless(centres, path, what="cells")
    classes = _classes(cells, _type_names(content.get("type_map"), path), path)
    columns = {
        "x": centres[:, 0],
        "y": centres[:, 1],
        "extent": box_sides([cell.get("bbox") for cell in cells]),
        "score": numbers([cell.get("type_prob") for cell in cells], "type_prob", path),
        "detector_class": classes,
    }
    table = candidate_table(len(cells), columns)
    return Detections(table, "px", "qupath", "mitotic", "cellvit", notes=class_note(classes, path))


def _refuse_other_levels(metadata: Any, path: Path) -> None:
    """Refuse coordinates of patches that are not level-0 px, or not known to be."""
    stated = metadata if isinstance(metadata, dict) else {}
    if missing := [key for key in _STATED if not is_plain_number(stated.get(key))]:
        cause = f"the file does not state at which scale it was made: wsi_metadata lacks {listed(missing)}"
        raise fault(cause, path, _REMEDY)
    downsampling, base, target = (float(stated[key]) for key in _STATED)
    if downsampling != 1 or not math.isclose(base, target, rel_tol=1e-6):
        raise fault(
            f"its patches were not pixels of level 0: they have {target:g} um/px, and the slide has {base:g} "
            f"(downsampling {downsampling:g})",
            path,
            _REMEDY,
        )
    if 1 in (stated.get("orig_n_tiles_cols"), stated.get("orig_n_tiles_rows")):
        raise fault(
            "the slide is one patch wide or high, which versions of CellViT place differently", path, _REMEDY
        )


def _type_names(type_map: Any, path: Path) -> dict[str, str]:
    """Names of types by number. CellViT maps a name to its number, CellViT++ a number to its name."""
    names: dict[str, str] = {}
    for key, value in (type_map if isinstance(type_map, dict) else {}).items():
        number, name = (str(key), value) if isinstance(value, str) else (str(value), str(key))
        if names.setdefault(number, name) != name:
            cause = f"type {number} is both {in_short(names[number])} and {in_short(name)}"
            raise fault(cause, path, "Write type_map again with one number for each name")
    return names


def _classes(cells: Sequence[Mapping[str, Any]], names: Mapping[str, str], path: Path) -> list[str]:
    """The class of each cell; without a type_map, the number of its type."""
    classes = []
    for index, cell in enumerate(cells):
        number = text_or_none(cell.get("type"))
        if number is not None and names and number not in names:
            cause = f"cell {index + 1} has the type {number}, which type_map does not explain"
            raise fault(cause, path, "Write the file again with a type_map of all types")
        classes.append(UNTYPED if number is None else names.get(number, number).strip() or number)
    return classes


FORMAT = Format(
    name="cellvit",
    about="CellViT and CellViT++ (JSON): cells in level-0 px; --class names the types that count.",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".json", ".json.gz"),
)
