"""MIDOG's data set format: one JSON file with images, annotations and categories.

Source: MIDOG.json and MIDOG++.json of the challenges of 2021 to 2025 (github.com/DeepMicroscopy/MIDOG,
`databases`), whose boxes are [x1, y1, x2, y2] in level-0 px, 50 px wide.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.qupath import FIGURE_COLOURS, figure_class
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.results.exports.common import PROVENANCE, USE, Export, plain_numbers
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BOX_PX = 50
CATEGORIES = {
    figure_class(label, trained=trained): 3 + 2 * untrained + number
    for untrained, trained in enumerate((True, False))
    for number, label in enumerate(FIGURE_COLOURS)
}
"""Ids of the categories by name. MIDOG's own are 1, mitotic figure, and 2, hard negative; its scripts compare
the numbers alone, so that ours differ from them."""


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write all slides to one file.

    The score of an annotation is the detector's, and is left out if there is none. An annotation also has the
    figure's id, probability and votes, which readers of the format ignore.

    Raises:
        OSError: if the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(f'{json.dumps(_header(exports), allow_nan=False)[:-1]},\n"annotations": [\n')
        for number, annotation in enumerate(_annotations(exports), start=1):
            separator = ",\n" if number > 1 else ""
            file.write(separator + json.dumps({"id": number, **annotation}, allow_nan=False))
        file.write("\n]}\n")


def _header(exports: Sequence[Export]) -> dict[str, Any]:
    """Return everything except the annotations."""
    images = [_image(number, export) for number, export in enumerate(exports, start=1)]
    families = {export.record.model.trained for export in exports}
    names = [
        figure_class(label, trained=t) for t in sorted(families, reverse=True) for label in FIGURE_COLOURS
    ]
    return {
        "info": {"description": USE, "version": __version__, "contributor": f"wsi-mitosis {__version__}"},
        PROVENANCE: [export.provenance for export in exports],
        "licenses": [],
        "images": images,
        "categories": [{"id": CATEGORIES[name], "name": name} for name in names],
    }


def _image(number: int, export: Export) -> dict[str, Any]:
    width, height = export.record.scale.size_px0
    return {"id": number, "file_name": export.record.name, "width": width, "height": height}


def _annotations(exports: Sequence[Export]) -> Iterator[dict[str, Any]]:
    half = BOX_PX / 2
    for image, export in enumerate(exports, start=1):
        places = export.xy_px0.tolist()
        rows = zip(export.figures.itertuples(index=False), places, export.classes, strict=True)
        for figure, (x, y), name in rows:
            numbers = plain_numbers(figure)
            score = {"score": numbers.pop("detector_score")} if "detector_score" in numbers else {}
            yield {
                "image_id": image,
                "category_id": CATEGORIES[name],
                "bbox": [x - half, y - half, x + half, y + half],
                "area": BOX_PX**2,  # it shows that a box is no [x, y, width, height], as in COCO
                **score,
                **numbers,
                "figure_id": figure.figure_id,
            }
