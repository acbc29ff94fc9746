"""Where things are drawn on an overview."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.regions import Region
from wsi_mitosis.io.pages.drawing import VIEW_UNITS, View, marks, round_length
from wsi_mitosis.units import Mpp


def test_a_view_is_in_units_of_the_longer_physical_side() -> None:
    """8000 x 4000 px of 0.25 x 0.5 um are a square of 2 mm."""
    view = View.of((9000, 9000), (1000, 2000, 8000, 4000), Mpp(0.25, 0.5))
    assert view.size == (VIEW_UNITS, VIEW_UNITS)
    assert (view.across(1000.0), view.down(2000.0)) == (0, 0)
    assert (view.across(5000.0), view.down(3000.0)) == (500, 250)
    assert view.um_per_unit == 2
    assert view.box(Hotspot(3000, 2400, 800, 400, 0.04, 3, 1)) == pytest.approx((250, 100, 100, 100))
    assert view.scale_bar == (100, "200 µm")


def test_an_outline_is_every_ring_of_a_region_without_corners_that_are_too_small() -> None:
    view = View.of((20_000, 20_000), (1000, 2000, 10_000, 5_000), Mpp(0.25, 0.5))  # 10 px across, 5 px down
    frame = shapely.box(2000, 2500, 6000, 4500) - shapely.box(3000, 3000, 4000, 3500)
    fine = shapely.segmentize(frame, 1.0)
    there = shapely.MultiPolygon([fine, shapely.box(7000, 2500, 8000, 3000)])
    assert there.length > 10_000  # and so many corners, of which twelve are drawn
    outline = view.outline(Region("r", "", there))
    rings = [ring.split("L") for ring in outline.removesuffix("Z").removeprefix("M").split("ZM")]
    assert sorted(sorted(ring) for ring in rings) == sorted(
        sorted(f"{x} {y}" for x in across for y in down)
        for across, down in (((100, 500), (100, 500)), ((200, 300), (200, 300)), ((600, 700), (100, 200)))
    )


@pytest.mark.parametrize("bounds", [None, (0, 0, 0, 0), (700, 0, 100, 100), (0, 0, 600, 500)])
def test_without_usable_bounds_the_view_is_the_whole_slide(
    bounds: tuple[int, int, int, int] | None,
) -> None:
    view = View.of((600, 500), bounds, Mpp(0.25, 0.25))
    assert (view.left, view.top, view.width, view.height) == (0, 0, 600, 500)


def test_bounds_are_cut_to_the_slide() -> None:
    view = View.of((600, 500), (-10, 100, 700, 900), Mpp(0.25, 0.25))
    assert (view.left, view.top, view.width, view.height) == (0, 100, 600, 400)


@given(st.floats(1e-3, 1e6))
def test_a_scale_bar_is_of_a_round_length_that_fits(most: float) -> None:
    length = round_length(most)
    assert length <= most * 1.001
    assert length > most / 2.6
    assert f"{length:.0e}"[0] in "125"


def test_marks_that_would_cover_one_another_are_drawn_once() -> None:
    view = View.of((10_000, 10_000), None, Mpp(0.25, 0.25))  # 10 px a unit
    x, y = np.array([100.0, 102.0, 5000.0]), np.array([50.0, 51.0, 9999.0])
    assert marks(view, x, y) == [(10, 5), (500, 1000)]
