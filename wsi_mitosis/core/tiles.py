"""A whole slide in overlapping tiles, and one candidate for a figure in several tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.candidates import near_a_better_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_mitosis.units import Mpp

DARK = 200
"""A tile without a darker value in any channel has no figure: stained chromatin is darker, glass is not."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles whose cores cover a slide and whose margins contain the surroundings of a core.

    Attributes:
        size_px0: (width, height) of level 0, px.
        scale: (x, y) level-0 px per tile px.
        tile_px: Side of a tile, px of the tile; even.
        margin_px: Width of the margin around a core, px of the tile.
        sight_px: Least distance of a valid peak from the tile's border, px of the tile. It is less than the
            margin, so that a figure near a seam is valid in both tiles, on whichever side of the seam they
            find it.
    """

    size_px0: tuple[int, int]
    scale: tuple[float, float]
    tile_px: int
    margin_px: int
    sight_px: int

    def centres(self) -> NDArray[np.float64]:
        """Return the tiles' centres, (N, 2) x, y, level-0 px, slide frame."""
        core = self.tile_px - 2 * self.margin_px
        lines = [
            (np.arange(math.ceil(length / (core * scale))) + 0.5) * core * scale
            for length, scale in zip(self.size_px0, self.scale, strict=True)
        ]
        return np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, 2)

    def placed(self, centre: NDArray[np.float64], peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Place the valid peaks of a tile on the slide.

        Args:
            centre: (2,) x, y of the tile's centre, level-0 px, slide frame.
            peaks: (K, 3) column and row of a pixel of the tile, from 0, and a score.

        Returns:
            (M, 3) x, y of the pixel's centre, level-0 px, slide frame, and the score; without peaks that are
            too near the tile's border or outside the slide.
        """
        columns_rows = peaks[:, :2]
        seen = ((columns_rows >= self.sight_px) & (columns_rows < self.tile_px - self.sight_px)).all(axis=1)
        xy = centre + (columns_rows + 0.5 - self.tile_px / 2) * self.scale
        inside = ((xy >= 0) & (xy < self.size_px0)).all(axis=1)
        return np.column_stack([xy, peaks[:, 2]])[seen & inside]


def merged(peaks: NDArray[np.float64], mpp: Mpp, distance_um: float) -> NDArray[np.float64]:
    """Return each figure once: of peaks that are nearer than a distance, the one with the highest score.

    Args:
        peaks: (N, 3) x, y, level-0 px, and a score.
        mpp: um per level-0 px.
        distance_um: Peaks that are nearer than this are one figure in two tiles.

    Returns:
        (M, 3) the remaining peaks, sorted by y, then x.
    """
    best_first = peaks[np.lexsort((peaks[:, 0], peaks[:, 1], -peaks[:, 2]))]
    kept = best_first[~near_a_better_one(best_first[:, :2] * mpp, distance_um)]
    return kept[np.lexsort((kept[:, 0], kept[:, 1]))]


def may_hold_figures(tiles: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the tiles that are more than glass.

    Args:
        tiles: (N, height, width, 3) uint8 RGB.

    Returns:
        (N,) bool, whether any value is darker than DARK.
    """
    return np.asarray((tiles < DARK).any(axis=(1, 2, 3)))
