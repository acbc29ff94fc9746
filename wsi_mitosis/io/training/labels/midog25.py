"""The MIDOG 2025 atypical training set (Zenodo 16044804): a CSV with crops, or with the images of MIDOG++."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError, listed
from wsi_mitosis.io.training.labels.common import Listing, images_below, listing, missing
from wsi_mitosis.io.training.labels.rows import coordinates, need_columns, read_label_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_mitosis.io.training.labels.rows import LabelRow

EXPERTS = ("expert1", "expert2", "expert3")
COLUMNS = ("image_id", "filename", "coordinateX", "coordinateY", "Tumor", *EXPERTS, "majority")
LAST_OF_MIDOG21 = 150
"""MIDOG++, whose slides these are, kept the numbers 001 to 150 of MIDOG 2021's labelled slides."""


def read_midog25(csv: Path, images: Path) -> Listing:
    """Read the MIDOG 2025 atypical training set.

    Args:
        csv: The table.
        images: A folder with the crops, `<image_id>`, or with the slides, `<filename>`; crops are taken where
            there are any.

    Raises:
        DatasetError: if the table is another, or images are missing.
    """
    rows = read_label_rows(csv)
    need_columns(rows, COLUMNS, csv, "MIDOG 2025's table")
    samples, files, on_slides = _with_files(rows, images)
    votes = [[row.label(name) for name in EXPERTS if row.cells[name].strip()] for row in rows]
    x, y = coordinates(rows, "coordinateX", "coordinateY", csv)
    columns = {
        **samples,
        "domain": [row.text("Tumor") for row in rows],
        "label": [row.label("majority") for row in rows],
        "label_source": ["majority"] * len(rows),
        "experts_atypical": [sum(labels) for labels in votes],
        "experts_asked": [len(labels) for labels in votes],
        "x_px0": x,
        "y_px0": y,
    }
    return listing(columns, files, on_slides=on_slides)


def _with_files(rows: Sequence[LabelRow], images: Path) -> tuple[dict[str, list[str]], list[Path], bool]:
    found = images_below(images)
    named = {kind: [row.text(kind) for row in rows] for kind in ("image_id", "filename")}
    on_slides = not any(name in found for name in named["image_id"])
    names = named["filename" if on_slides else "image_id"]
    if absent := sorted({name for name in names if name not in found}):
        if len(absent) == len(set(names)):
            raise DatasetError(
                f"neither crops ({listed(named['image_id'], 1)}) nor slides ({listed(absent, 1)}) are there",
                subject=images,
                stage="finding images",
                remedy="Name the folder of either by --images",
            )
        raise missing(absent, images)
    ids = {"source_id": named["image_id"], "slide": list(map(slide_of, named["filename"]))}
    return ids, [found[name] for name in names], on_slides


def slide_of(filename: str) -> str:
    """A slide's name in every store: `002.tiff` is MIDOG 2021's, so that it is AMi-Br's as well."""
    digits = re.match(r"\d{1,9}(?!\d)", filename)
    is_older = digits is not None and int(digits.group()) <= LAST_OF_MIDOG21
    return f"{'MIDOG21' if is_older else 'MIDOG25'}/{filename}"
