"""Labels of figures, from the files in which they are published to one listing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.io.training.labels.amibr import read_amibr
from wsi_mitosis.io.training.labels.common import Listing
from wsi_mitosis.io.training.labels.folder import read_folder
from wsi_mitosis.io.training.labels.midog25 import read_midog25
from wsi_mitosis.io.training.labels.table import read_table

if TYPE_CHECKING:
    from wsi_mitosis.specs import DatasetSpec

__all__ = ["Listing", "read_listing"]


def read_listing(spec: DatasetSpec) -> Listing:
    """Read labels and find their images.

    Raises:
        InputError: if the labels cannot be read or understood, or images are missing.
    """
    path = Path(spec.path).absolute()
    images = path.parent if spec.images is None else Path(spec.images).absolute()
    match spec.source:
        case "amibr":
            return read_amibr(path, images)
        case "midog25":
            return read_midog25(path, images)
        case "csv":
            return read_table(path, images, spec.domain)
        case "folder":
            return read_folder(path, spec.domain)
        case "reviews":
            raise ValueError("reviews are read by jobs.dataset.reviewed")
