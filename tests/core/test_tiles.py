"""Tiles cover a slide, and what several of them see is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.tiles import Tiling, may_hold_figures, merged
from wsi_mitosis.units import Mpp

TILE, MARGIN, SIGHT = 128, 32, 22

tilings = st.builds(
    Tiling,
    size_px0=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    scale=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    tile_px=st.just(TILE),
    margin_px=st.just(MARGIN),
    sight_px=st.just(SIGHT),
)


@given(tilings, st.floats(0, 0.999), st.floats(0, 0.999))
def test_every_point_lies_in_a_core_and_near_a_seam_in_sight_of_both_tiles(
    tiling: Tiling, across: float, down: float
) -> None:
    point = np.array([across, down]) * tiling.size_px0
    from_centre = np.abs(point - tiling.centres()) / tiling.scale  # tile px
    core = TILE / 2 - MARGIN
    in_core = (from_centre <= core + 1e-6).all(axis=1)
    assert 1 <= in_core.sum() <= 4
    near_core = (from_centre <= core + MARGIN - SIGHT - 1).all(axis=1)
    in_sight = (from_centre <= TILE / 2 - SIGHT - 1e-6).all(axis=1)
    assert (in_sight | ~near_core).all()


@given(tilings, st.integers(0, TILE - 1), st.integers(0, TILE - 1))
def test_a_peak_is_placed_at_the_centre_of_its_pixel(tiling: Tiling, column: int, row: int) -> None:
    centre = tiling.centres()[0]
    corner = centre - TILE / 2 * np.array(tiling.scale)
    x, y = corner + (np.array([column, row]) + 0.5) * tiling.scale
    placed = tiling.placed(centre, np.array([[column, row, 0.75]]))
    in_sight = all(SIGHT <= place < TILE - SIGHT for place in (column, row))
    inside = 0 <= x < tiling.size_px0[0] and 0 <= y < tiling.size_px0[1]
    assert len(placed) == (in_sight and inside)
    if len(placed):
        assert placed[0] == pytest.approx([x, y, 0.75])


def test_the_best_of_near_peaks_is_kept_in_um_on_each_axis() -> None:
    peaks = np.array([[100.0, 50.0, 0.5], [110.0, 50.0, 0.9], [100.0, 60.0, 0.7], [10.0, 50.0, 0.6]])
    kept = merged(peaks, Mpp(0.25, 0.5), 4.0)  # 10 px along x are 2.5 um, along y 5 um
    assert kept.tolist() == [[10.0, 50.0, 0.6], [110.0, 50.0, 0.9], [100.0, 60.0, 0.7]]
    assert merged(np.empty((0, 3)), Mpp(0.25, 0.25), 4.0).shape == (0, 3)


def test_glass_is_not_looked_at_and_one_dark_value_is() -> None:
    tiles = np.full((3, 8, 8, 3), 230, np.uint8)
    tiles[1, 3, 4, 1] = 199
    tiles[2] = 200
    assert may_hold_figures(tiles).tolist() == [False, True, False]
