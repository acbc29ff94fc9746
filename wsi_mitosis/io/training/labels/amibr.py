"""AMi-Br: `AMI-BR.csv` and crops called `<dataset>_<uid>.png`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError
from wsi_mitosis.io.training.labels.common import (
    STAGE,
    Listing,
    images_below,
    joined_subtypes,
    listing,
    missing,
)
from wsi_mitosis.io.training.labels.rows import coordinates, need_columns, read_label_rows

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = ("expert1_atypical", "expert2_atypical", "expert3_atypical")
SUBTYPES = ("expert1_label", "expert2_label")
"""Columns that the published table has; the third expert gave no subtypes."""
COLUMNS = ("slide", "dataset", "uid", "x", "y", *EXPERTS, "majority_atypical")
DOMAINS = {
    "MIDOG21": ((50, "Hamamatsu XR"), (100, "Hamamatsu S360"), (150, "Aperio CS2")),
    "TUPAC16": ((23, "01-23"), (48, "24-48"), (73, "49-73")),
}
"""For each data set: up to which case, and its scanner (MIDOG 2021) or cases (TUPAC16, a centre each)."""


def read_amibr(csv: Path, images: Path) -> Listing:
    """Read AMi-Br.

    Args:
        csv: `AMI-BR.csv`.
        images: The folder with the crops, in itself or in folders below.

    Raises:
        DatasetError: if the table is not AMi-Br's, or images are missing.
    """
    rows = read_label_rows(csv)
    need_columns(rows, COLUMNS, csv, "AMi-Br")
    found = images_below(images)
    names = [f"{row.text('dataset')}_{row.text('uid')}" for row in rows]
    if absent := [f"{name}.png" for name in names if f"{name}.png" not in found]:
        raise missing(absent, images)
    x, y = coordinates(rows, "x", "y", csv)
    columns = {
        "source_id": names,
        "slide": [f"{row.text('dataset')}/{row.text('slide')}" for row in rows],
        "domain": [domain_of(row.text("dataset"), row.text("slide"), row.place) for row in rows],
        "label": [row.label("majority_atypical") for row in rows],
        "label_source": ["majority"] * len(rows),
        "experts_atypical": [sum(row.label(name) for name in EXPERTS) for row in rows],
        "experts_asked": [len(EXPERTS)] * len(rows),
        "subtypes": [joined_subtypes(row.cells.get(name, "") for name in SUBTYPES) for row in rows],
        "x_px0": x,
        "y_px0": y,
    }
    return listing(columns, [found[f"{name}.png"] for name in names], on_slides=False)


def domain_of(dataset: str, slide: str, place: str) -> str:
    """Return the domain of a slide: its data set, and the scanner or centre of its leading digits.

    Args:
        dataset: "MIDOG21" or "TUPAC16".
        slide: Its file name, such as `002.tiff` or `01_stitched1.tif`.
        place: The row, for messages.

    Raises:
        DatasetError: If AMi-Br has no such slide.
    """
    digits = re.match(r"\d{1,9}(?!\d)", slide)
    case = int(digits.group()) if digits else 0
    for last, name in DOMAINS.get(dataset, ()):
        if 0 < case <= last:
            return f"{dataset} {name}"
    cause = f"'{slide}' is no slide of {dataset} in AMi-Br"
    raise DatasetError(cause, subject=place, stage=STAGE, remedy="Use the published file, or --source csv")
