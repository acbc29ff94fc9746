"""Labels of figures, from the files in which they are published to one listing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.io.labels.amibr import read_amibr
from wsi_mitosis.io.labels.common import Listing
from wsi_mitosis.io.labels.folder import read_folder

if TYPE_CHECKING:
    from wsi_mitosis.specs import DatasetSpec

__all__ = ["Listing", "read_listing"]


def read_listing(spec: DatasetSpec) -> Listing:
    """Read labels and find their images.

    Raises:
        DatasetError: where the labels cannot be read or understood, or images are missing.
    """
    path = Path(spec.path)
    images = Path(spec.images) if spec.images is not None else path.parent
    if spec.source == "amibr":
        return read_amibr(path, images)
    return read_folder(path, spec.domain)
