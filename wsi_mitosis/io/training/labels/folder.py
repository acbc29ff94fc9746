"""Crops in a folder `Atypical` and a folder `Normal` or `Typical`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError
from wsi_mitosis.io.training.labels.common import IMAGE_ENDINGS, STAGE, Listing, listing, unknown

if TYPE_CHECKING:
    from pathlib import Path

LABEL_OF_FOLDER = {"atypical": 1, "normal": 0, "typical": 0}


def read_folder(folder: Path, domain: str | None) -> Listing:
    """Read crops whose folder is their label. A sample is called `<folder>/<file>`.

    Args:
        folder: The folder above the two, which may be written in capitals or not.
        domain: The domain of all crops; the folder's name if None.

    Raises:
        DatasetError: if one of the two folders is missing or empty.
    """
    if not folder.is_dir():
        raise DatasetError("no such folder", subject=folder, stage=STAGE)
    named = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower() in LABEL_OF_FOLDER]
    images = {inside: _images(inside) for inside in named}
    if {LABEL_OF_FOLDER[inside.name.lower()] for inside, files in images.items() if files} != {0, 1}:
        raise DatasetError(
            "wants a folder 'Atypical' and a folder 'Normal' or 'Typical', with crops in both",
            subject=folder,
            stage=STAGE,
            remedy="Name the folder above the two",
        )
    files = [path for inside in images.values() for path in inside]
    columns = {
        **unknown(len(files)),
        "source_id": [f"{path.parent.name}/{path.name}" for path in files],
        "domain": [domain or folder.resolve().name] * len(files),
        "label": [LABEL_OF_FOLDER[path.parent.name.lower()] for path in files],
        "label_source": ["folder"] * len(files),
    }
    return listing(columns, files, on_slides=False)


def _images(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith(".")]
