"""What all sources of labels share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import DatasetError, listed
from wsi_mitosis.io.training.stores import sample_table
from wsi_mitosis.tables import SAMPLE_COLUMNS, SUBTYPE_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.specs import ReviewsSpec

STAGE = "reading labels"
IMAGE_ENDINGS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FROM_PIXELS = ("mask_flag", "digest")
"""Columns that are not known before the images are read."""


@dataclass(frozen=True)
class Listing:
    """Labelled figures and where their pixels are.

    Attributes:
        samples: (N,) rows of tables.SAMPLE_COLUMNS without `mask_flag` and `digest`, in the store's order.
        files: The image of each sample: its crop, or the slide that it lies on.
        on_slides: Whether the files are slides.
        notes: What the user should know about them, a sentence each.
        identities: Identity that the content of a slide must have, by its path.
        mpp: um/px at which a slide was classified, by its path; other slides are taken as they state it.
        reviews: Where the labels come from, if it is reviews.
    """

    samples: pd.DataFrame
    files: tuple[Path, ...]
    on_slides: bool
    notes: tuple[str, ...] = ()
    identities: Mapping[Path, str] = field(default_factory=dict)
    mpp: Mapping[Path, float] = field(default_factory=dict)
    reviews: ReviewsSpec | None = None


def listing(
    columns: dict[str, Any], files: Sequence[Path], *, on_slides: bool, notes: Sequence[str] = ()
) -> Listing:
    """Samples in the store's order.

    Args:
        columns: A value per sample for each of tables.SAMPLE_COLUMNS but `mask_flag` and `digest`;
            `subtypes` may be missing.
        files: The image of each sample.
        on_slides: Whether the files are slides.
        notes: What the user should know about them.
    """
    samples = sample_table({"subtypes": [""] * len(files), **columns})
    order = store_order(samples)
    return Listing(
        samples.iloc[order].reset_index(drop=True), tuple(files[i] for i in order), on_slides, tuple(notes)
    )


def store_order(samples: pd.DataFrame) -> list[int]:
    """Return the rows of samples ordered by domain, slide, and source_id in natural order.

    Ties are ordered by the other columns, so that the order of a file's rows does not matter.
    """
    names = zip(samples["domain"], samples["slide"], map(natural_key, samples["source_id"]), strict=True)
    others = samples[[name for name in SAMPLE_COLUMNS if name in samples and name not in FROM_PIXELS]]
    keys = list(zip(names, map(str, others.itertuples(index=False)), strict=True))
    return sorted(range(len(keys)), key=keys.__getitem__)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key: `2.png` comes before `10.png`. Keys are equal for equal names only.

    Only ASCII digits are numbers, and names are not normalised, as natsort does: the digests of existing
    stores depend on this order.
    """
    parts = re.split(r"([0-9]+)", name)
    return [_whole(part) if at % 2 else (0, part) for at, part in enumerate(parts)], name


def _whole(digits: str) -> tuple[int, str]:
    """Sort key of a whole number of any length; `int` refuses thousands of digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def unknown(number: int) -> dict[str, Any]:
    """The columns of samples of which no slide, no centre and no experts are known."""
    return {
        "slide": [""] * number,
        "experts_atypical": np.zeros(number, np.int64),
        "experts_asked": np.zeros(number, np.int64),
        "x_px0": np.full(number, np.nan),
        "y_px0": np.full(number, np.nan),
    }


def joined_subtypes(cells: Iterable[str]) -> str:
    """Return what experts called a figure, from cells with a name each or several with semicolons."""
    names = (name.strip() for cell in cells for name in cell.split(";"))
    return SUBTYPE_SEPARATOR.join(filter(None, names))


def images_below(folder: Path) -> dict[str, Path]:
    """Every image in a folder and the folders below, by its file name.

    Raises:
        DatasetError: if the folder is missing, or two images have the same name.
    """
    if not folder.is_dir():
        raise DatasetError(
            "no such folder",
            subject=folder,
            stage="finding images",
            remedy="Name the images' folder by --images",
        )
    found: dict[str, Path] = {}
    twice = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file():
            if path.name in found:
                twice.add(path.name)
            found[path.name] = path
    if twice:
        raise DatasetError(
            f"two images of one name: {listed(sorted(twice))}",
            subject=folder,
            stage="finding images",
            remedy="Name by --images a folder in which each is once",
        )
    return found


def missing(names: Sequence[str], folder: Path) -> DatasetError:
    """Labels whose images are not there."""
    return DatasetError(
        f"no image for {len(names)} of the labels: {listed(names)}",
        subject=folder,
        stage="finding images",
        remedy="Put them there, or name the folder that holds them by --images",
    )
