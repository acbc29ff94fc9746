"""Windows on a slide, and exact resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def native_origin(centre_px: float, size_px: int) -> int:
    """Return the first pixel of the window of `size_px` whole pixels around a centre, on one axis.

    The window is [floor(c + 0.5) - P/2, floor(c + 0.5) + P/2), so that an integer centre gives the crop
    published for AMi-Br (pixels x-64 to x+64) bit for bit.
    """
    return math.floor(centre_px + 0.5) - size_px // 2


def read_px(patch_px: int, zooms: tuple[float, ...]) -> int:
    """Return the side of the window from which all zoomed views are cut, px at the bundle's um/px; even."""
    side = math.ceil(patch_px / min(1.0, *zooms))
    return side + side % 2


def cut_centres(crops: NDArray[np.uint8], side_px: int, reader: str) -> NDArray[np.uint8]:
    """Return the centre of each crop, where the figure is.

    The centre of n pixels is pixel n // 2, both of the crops and of the result.

    Args:
        crops: (N, height, width, 3) uint8.
        side_px: Side of the patches that `reader` needs.
        reader: The bundle, for the message.

    Returns:
        (N, side_px, side_px, 3) uint8, a view.

    Raises:
        InputError: if the crops are smaller.
    """
    height, width = crops.shape[1:3]
    if min(height, width) < side_px:
        raise InputError(
            f"its crops are {width} x {height} px, smaller than the {side_px} px that '{reader}' reads",
            stage="cutting crops",
            remedy="Cut larger crops at the same um/px, or choose a bundle with smaller patches",
        )
    top, left = height // 2 - side_px // 2, width // 2 - side_px // 2
    return crops[:, top : top + side_px, left : left + side_px]


def resampling_weights(start: float, step: float, size: int, available: int) -> NDArray[np.float32]:
    """Return weights that turn a line of source pixels into a line of resampled pixels.

    Output pixel i covers the source interval [start + i*step, start + (i+1)*step). Shrinking (step >= 1)
    averages over exactly that interval, including fractions of border pixels. Enlarging interpolates
    linearly between pixel centres. Pillow's BOX filter cannot do this, because it rounds to whole pixels, nor
    can OpenCV's INTER_AREA, which has no sub-pixel boxes.

    Args:
        start: Left edge of the first output pixel, in source pixels (pixel j covers [j, j+1)).
        step: Source pixels per output pixel, > 0.
        size: Number of output pixels.
        available: Number of source pixels. Beyond them the border pixel is repeated.

    Returns:
        (size, available) float32; every row sums to 1.
    """
    edges = start + step * np.arange(size + 1, dtype=np.float64)
    if step >= 1:
        pixels = np.arange(available, dtype=np.float64)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.clip(overlap, 0.0, None)
        weights[:, 0] += np.clip(np.minimum(edges[1:], 0) - edges[:-1], 0, None)
        weights[:, -1] += np.clip(edges[1:] - np.maximum(edges[:-1], available), 0, None)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
    centres = np.clip((edges[:-1] + edges[1:]) / 2 - 0.5, 0, available - 1)
    left = np.minimum(np.floor(centres).astype(np.intp), max(available - 2, 0))
    fraction = centres - left
    weights = np.zeros((size, available))
    rows = np.arange(size)
    weights[rows, left] = 1 - fraction
    weights[rows, np.minimum(left + 1, available - 1)] += fraction
    return np.asarray(weights, dtype=np.float32)


def resample(
    image: NDArray[np.uint8], start: tuple[float, float], step: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resample a window of an image with a sub-pixel origin.

    Args:
        image: (height, width, 3) uint8.
        start: (x, y) of the window's top-left corner, image px.
        step: (x, y) image pixels per output pixel.
        size: (width, height) of the result, px.

    Returns:
        (size[1], size[0], 3) uint8.
    """
    height, width = image.shape[:2]
    across = resampling_weights(start[0], step[0], size[0], width)
    down = resampling_weights(start[1], step[1], size[1], height)
    rows = np.tensordot(down, image.astype(np.float32), axes=(1, 0))  # (out_h, width, 3)
    result = np.einsum("ow,hwc->hoc", across, rows, optimize=True)
    return np.asarray(np.clip(np.rint(result), 0, 255), dtype=np.uint8)
