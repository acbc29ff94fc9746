"""Crops: image files with one figure in the centre."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsi_mitosis.errors import DatasetError, UnreadableSlideError, listed
from wsi_mitosis.io.limits import MOST_CROP_SIDE_PX
from wsi_mitosis.io.slides.patches import PatchPlan, stream_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.slides import Slide

STAGE = "reading images"
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file: SyntaxError for a broken PNG chunk."""
PAD_VALUE = 0
"""Outside a slide: black, as in the crops published with AMi-Br."""
BATCH = 32
ORIENTATION = 274
"""Tag of TIFF and Exif: how an image is turned; 1 is upright."""
SIXTEEN_BITS = ";16"
"""Part of the names of Pillow's layouts of pixels with 16 bits a channel."""
OPAQUE = 255
MODES = {"1": "black and white", "L": "grey", "LA": "grey", "CMYK": "CMYK", "LAB": "CIELAB", "HSV": "HSV"}
"""What Pillow's modes are called."""


def crops_side(files: Sequence[Path], least_px: int) -> int:
    """The side of crops, which must all be squares of one size.

    Only the files' headers are read.

    Args:
        files: The crops.
        least_px: The least side that will do.

    Raises:
        DatasetError: naming the crops that cannot be read, or that are larger, smaller or of another size.
    """
    sizes = dict(zip(files, _sizes(files), strict=True))
    if large := [short_name(path) for path, size in sizes.items() if max(size) > MOST_CROP_SIDE_PX]:
        raise DatasetError(
            f"{len(large)} of the crops larger than {MOST_CROP_SIDE_PX} px: {listed(large)}",
            stage=STAGE,
            remedy="Cut them around the figure, or build the dataset from slides with a table of centres",
        )
    if small := [short_name(path) for path, size in sizes.items() if min(size) < least_px]:
        raise DatasetError(
            f"{len(small)} of the crops smaller than {least_px} px: {listed(small)}",
            stage=STAGE,
            remedy="Lower --patch-px, or leave them out",
        )
    usual = Counter(sizes.values()).most_common(1)[0][0]
    if odd := [
        f"{short_name(path)} ({w} x {h})" for path, (w, h) in sizes.items() if (w, h) != usual or w != h
    ]:
        raise DatasetError(
            f"{len(odd)} of the crops no squares of the others' size, {usual[0]} px: {listed(odd)}",
            stage=STAGE,
            remedy="Cut them to one size around the figure, or leave them out",
        )
    return usual[0]


def _sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    sizes, faults = [], []
    for path in files:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except IMAGE_ERRORS as error:
            faults.append(f"{short_name(path)}: {_reason(error)}")
    if faults:
        raise unusable(faults)
    return sizes


def _reason(error: BaseException) -> str:
    """Without the path, which Pillow repeats."""
    return "no image" if isinstance(error, UnidentifiedImageError) else str(error)


def short_name(path: Path) -> str:
    """A file's name with its folder, which is the label in some data sets."""
    return "/".join(path.parts[-2:])


def unusable(faults: Sequence[str]) -> DatasetError:
    """Images that cannot be used, each described by a text that begins with its name."""
    return DatasetError(
        f"{len(faults)} of the images cannot be used: {listed(faults)}",
        stage=STAGE,
        remedy="Copy them again from their source, or leave them out; the parts that are done are kept",
    )


def read_crops(files: Sequence[Path], side_px: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Read crops.

    Args:
        files: The crops.
        side_px: Their side, from `crops_side`.

    Returns:
        (N, P, P, 3) uint8 RGB, and a text for each file that could not be read, or is not 8-bit RGB.
    """
    crops = np.zeros((len(files), side_px, side_px, 3), np.uint8)
    faults = []
    for place, path in enumerate(files):
        try:
            with Image.open(path) as image:
                if fault := _pixel_fault(image):
                    faults.append(f"{short_name(path)}: {fault}")
                else:
                    crops[place] = np.asarray(image.convert("RGB"))
        except IMAGE_ERRORS as error:
            faults.append(f"{short_name(path)}: {_reason(error)}")
    return crops, faults


def _pixel_fault(image: Image.Image) -> str | None:
    """Say why an image is not one 8-bit RGB image; None if it is.

    Pillow would convert other images without a word: 16 bits by leaving out half of them, and transparent
    pixels to whatever colour they have.
    """
    # before anything else, because Pillow forgets the layout when it decodes the pixels
    if image.mode.startswith(("I", "F")) or any(
        SIXTEEN_BITS in str(tile) for tile in getattr(image, "tile", ())
    ):
        return "has 16 or more bits a channel, not 8"
    if (number := getattr(image, "n_frames", 1)) > 1:
        return f"holds {number} images"
    if (turned := image.getexif().get(ORIENTATION, 1)) != 1:
        return f"is to be turned when it is shown (Orientation {turned})"
    if image.has_transparency_data:
        least = np.asarray(image.convert("RGBA"))[..., 3].min()
        return None if least == OPAQUE else "has transparent pixels"
    return None if image.mode in ("RGB", "P") else f"is {MODES.get(image.mode, image.mode)}, not RGB"


def cut_crops(
    slide: Slide, centres_px0: NDArray[np.float64], side_px: int, *, threads: int
) -> NDArray[np.uint8]:
    """Cut crops from a slide: level-0 pixels as they are.

    Args:
        slide: An open slide.
        centres_px0: (N, 2) x, y of the figures, level-0 px, slide frame.
        side_px: Side of a crop; even.
        threads: Reading threads.

    Returns:
        (N, P, P, 3) uint8 RGB in the order of the centres.

    Raises:
        UnreadableSlideError: if the pixels cannot be decoded, or the slide has none at a figure.
    """
    tile_px = slide.levels[0].tile_px
    plan = PatchPlan(side_px, PAD_VALUE, 0, True, (1.0, 1.0), 1.0, tile_px, 1.0)
    crops = np.empty((len(centres_px0), side_px, side_px, 3), np.uint8)
    x, y = centres_px0[:, 0], centres_px0[:, 1]
    blank = np.zeros(len(centres_px0), np.bool_)
    for batch in stream_patches(slide, plan, x, y, batch_size=BATCH, threads=threads):
        crops[batch.rows], blank[batch.rows] = batch.pixels, batch.blank
    if blank.any():
        places = [f"({at[0]:g}, {at[1]:g})" for at in centres_px0[blank]]
        raise UnreadableSlideError(
            f"it has no pixels at {len(places)} of the figures (transparent or not stored): {listed(places)}",
            subject=slide.path.name,
            stage="cutting crops",
            remedy="Leave these figures out, or export the slide again with all its pixels",
        )
    return crops
