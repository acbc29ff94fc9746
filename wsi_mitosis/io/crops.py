"""Crops: image files with one figure in the centre."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.errors import DatasetError
from wsi_mitosis.io.labels.common import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STAGE = "reading images"


def crops_side(files: Sequence[Path], least_px: int) -> int:
    """The side of crops, which must all be squares of one size.

    Only the files' headers are read.

    Args:
        files: The crops.
        least_px: The least side that will do.

    Raises:
        DatasetError: naming the crops that cannot be read, or that are smaller or of another size.
    """
    sizes = dict(zip(files, _sizes(files), strict=True))
    if small := [path.name for path, size in sizes.items() if min(size) < least_px]:
        raise DatasetError(
            f"{len(small)} crops are smaller than {least_px} px: {listed(small)}",
            subject=files[0].parent,
            stage=STAGE,
            remedy="Lower --patch-px, or leave them out",
        )
    usual = Counter(sizes.values()).most_common(1)[0][0]
    if odd := [f"{path.name} ({w} x {h})" for path, (w, h) in sizes.items() if (w, h) != usual or w != h]:
        raise DatasetError(
            f"{len(odd)} crops are no squares of the others' size, {usual[0]} px: {listed(odd)}",
            subject=files[0].parent,
            stage=STAGE,
            remedy="Cut them to one size around the figure, or leave them out",
        )
    return usual[0]


def _sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    from PIL import Image

    sizes, bad = [], []
    for path in files:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            bad.append(f"{path.name} ({error})")
    if bad:
        raise unreadable(bad, files[0].parent)
    return sizes


def read_crops(files: Sequence[Path], side_px: int) -> NDArray[np.uint8]:
    """Crops as (N, P, P, 3) uint8 RGB.

    Raises:
        DatasetError: naming all that cannot be read or are not of `side_px`.
    """
    from PIL import Image

    crops = np.empty((len(files), side_px, side_px, 3), np.uint8)
    bad = []
    for place, path in enumerate(files):
        try:
            with Image.open(path) as image:
                crops[place] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"{path.name} ({error})")
    if bad:
        raise unreadable(bad, files[0].parent)
    return crops


def unreadable(names: Sequence[str], folder: Path) -> DatasetError:
    """Images that cannot be read."""
    return DatasetError(
        f"{len(names)} images cannot be read: {listed(names)}",
        subject=folder,
        stage=STAGE,
        remedy="Copy them again from their source, or leave them out",
    )
