"""Which figures a review page shows, in which order, and what lies around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.review_files import Order
    from wsi_mitosis.units import Mpp

MOST_NEIGHBOURS = 100
"""Neighbours of a figure that are marked, the nearest ones."""


def ordered(figures: pd.DataFrame, order: Order, seed: int) -> pd.DataFrame:
    """Return figures in the order of a page, whatever order they come in.

    `rank` begins with the figure whose correction could change the counts of its slide most. `slide` goes
    from slide to slide, by rows of the slide as one reads. `random` is the same for the same figures and
    seed.

    Args:
        figures: `slide`, `figure_id`, `x_px0`, `y_px0` (level-0 px, slide frame) and, for `rank`,
            `expected_change`.
        order: The order.
        seed: Of the random order.
    """
    if order == "random":
        known = figures.sort_values(["slide", "figure_id"])
        return known.iloc[np.random.default_rng(seed).permutation(len(known))]
    by_place = figures.sort_values(["slide", "y_px0", "x_px0", "figure_id"])
    if order == "slide":
        return by_place
    return by_place.sort_values("expected_change", ascending=False, kind="stable")


def neighbours(
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    of: NDArray[np.intp],
    *,
    mpp: Mpp,
    side_um: float,
) -> list[NDArray[np.intp]]:
    """Return which other figures lie in the square around each of some figures, the nearest first.

    Args:
        x_px0: (N,) centres of all figures of a slide along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
        of: (K,) rows of the figures around which to look.
        mpp: um per level-0 px along x and y.
        side_um: Side of the square, um.

    Returns:
        K arrays of rows, of at most MOST_NEIGHBOURS each.
    """
    centres_um = np.column_stack([x_px0, y_px0]) * np.array(mpp)
    found = cKDTree(centres_um).query_ball_point(centres_um[of], side_um / 2, p=np.inf)
    return [_nearest(centres_um, row, np.array(rows)) for row, rows in zip(of.tolist(), found, strict=True)]


def _nearest(centres_um: NDArray[np.float64], row: int, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    others = rows[rows != row]
    away = np.hypot(*(centres_um[others] - centres_um[row]).T)
    nearest: NDArray[np.intp] = others[np.lexsort((others, away))]
    return nearest[:MOST_NEIGHBOURS]
