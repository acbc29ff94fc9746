"""Hotspots against an exhaustive search that shares no code with them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_mitosis.core import hotspots
from wsi_mitosis.core.hotspots import Hotspot, HotspotShape, find_hotspots
from wsi_mitosis.units import Mpp


class Case(NamedTuple):
    """Figures on a slide, and the window to look for."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    atypical: NDArray[np.bool_]
    shape: HotspotShape
    size_px0: tuple[int, int]
    mpp: Mpp
    number: int

    def search(self) -> hotspots.HotspotSearch:
        return find_hotspots(
            *(self.x, self.y, self.atypical, self.shape),
            size_px0=self.size_px0,
            mpp=self.mpp,
            number=self.number,
        )


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two windows (x, y, width, height) have points in common."""
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def held(case: Case, window: tuple[float, ...]) -> list[int]:
    """Numbers of the figures in a half-open window."""
    x, y, width, height = window
    points = enumerate(zip(case.x.tolist(), case.y.tolist(), strict=True))
    return [i for i, (a, b) in points if x <= a < x + width and y <= b < y + height]


def window_sizes(case: Case) -> tuple[tuple[float, float], ...]:
    return case.shape.sizes_px0(case.mpp)


def back(edge: float, size: float) -> float:
    """Where a window begins that ends at an edge."""
    return edge - size if (edge - size) + size <= edge else np.nextafter(edge - size, -math.inf)


def exhaustive(case: Case, earlier: list[tuple[float, ...]]) -> tuple[tuple[int, int], list[int]]:
    """The best count and the figures of the window that wins the ties; (0, 0) where there is none."""
    best, winner = ((0, 0), (0.0, 0.0), 0), []
    for turn, (width, height) in enumerate(window_sizes(case)):
        last = back(case.size_px0[0], width), back(case.size_px0[1], height)
        across = {*case.x.tolist(), last[0], *(back(window[0], width) for window in earlier)}
        down = {*case.y.tolist(), last[1], *(back(window[1], height) for window in earlier)}
        for x, y in itertools.product(across, down):
            window = (x, y, width, height)
            if not (0 <= x <= last[0] and 0 <= y <= last[1]) or any(overlap(window, w) for w in earlier):
                continue
            inside = held(case, window)
            rank = ((len(inside), int(case.atypical[inside].sum())), (-y, -x), -turn)
            if inside and rank > (best if winner else ((0, 0), (-math.inf, -math.inf), 0)):
                best, winner = rank, inside
    return best[0], winner


def of(spot: Hotspot) -> tuple[float, ...]:
    return spot.x_px0, spot.y_px0, spot.width_px0, spot.height_px0


def check(case: Case) -> None:
    """Every hotspot is the best one beside those before it, and there are as many as there can be."""
    found = case.search()
    fits = any(w <= case.size_px0[0] and h <= case.size_px0[1] for w, h in window_sizes(case))
    assert (found.reason is None) == bool(found.hotspots) == (fits and len(case.x) > 0)
    earlier: list[tuple[float, ...]] = []
    for spot in found.hotspots:
        count, winner = exhaustive(case, earlier)
        assert (spot.mitoses, spot.atypical) == count
        assert held(case, of(spot)) == winner
        assert np.flatnonzero(spot.holds(case.x, case.y)).tolist() == winner
        assert not any(overlap(of(spot), window) for window in earlier)
        assert spot.x_px0 >= 0
        assert spot.x_px0 + spot.width_px0 <= case.size_px0[0]
        assert spot.y_px0 >= 0
        assert spot.y_px0 + spot.height_px0 <= case.size_px0[1]
        area_um2 = spot.width_px0 * case.mpp.x * spot.height_px0 * case.mpp.y
        assert area_um2 == pytest.approx(case.shape.area_mm2 * 1e6)
        earlier.append(of(spot))
    if fits and len(found.hotspots) < case.number:
        assert exhaustive(case, earlier)[0] == (0, 0)


def seeded(seed: int) -> Case:
    """A small case; every second one on whole pixels, where edges and ties abound."""
    draw = np.random.default_rng(seed)
    size = draw.integers(20, 200, 2)
    number = int(draw.integers(0, 25))
    places = draw.uniform(0, 1, (number, 2)) * size
    if seed % 2:
        places = np.floor(places)
    mpp = Mpp(*draw.choice([0.25, 0.5, 1.0], 2).tolist())
    side_um = draw.uniform(0.05, 0.8) * min(size[0] * mpp.x, size[1] * mpp.y)
    aspect = ((4, 3), (3, 4), (1, 1), (5, 1))[seed % 4]
    return Case(
        *(places[:, 0], places[:, 1], draw.random(number) < 0.3),
        shape=HotspotShape(float(side_um**2 / 1e6), aspect),
        size_px0=(int(size[0]), int(size[1])),
        mpp=mpp,
        number=int(draw.integers(1, 4)),
    )


def test_a_thousand_random_cases_equal_the_exhaustive_search() -> None:
    for seed in range(1000):
        check(seeded(seed))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    width, height = draw(st.integers(4, 60)), draw(st.integers(4, 60))
    axis = st.one_of(st.integers(0, 59), st.floats(0, 59.5, width=32))
    points = draw(st.lists(st.tuples(axis, axis, st.booleans()), max_size=9))
    points = [(float(x), float(y), a) for x, y, a in points if x < width and y < height]
    sides = draw(st.integers(1, 40)), draw(st.integers(1, 40))  # whole um: figures on both edges
    mpp = Mpp(*draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * 2)))
    return Case(
        *(np.array([p[axis] for p in points], dtype=np.float64) for axis in (0, 1)),
        atypical=np.array([p[2] for p in points], dtype=bool),
        shape=HotspotShape(sides[0] * sides[1] / 1e6, sides),
        size_px0=(width, height),
        mpp=mpp,
        number=draw(st.integers(1, 3)),
    )


@given(cases())
def test_any_case_equals_the_exhaustive_search(case: Case) -> None:
    check(case)


@given(cases(), st.integers(0, 2**32 - 1))
def test_no_window_anywhere_holds_more(case: Case, seed: int) -> None:
    found = case.search().hotspots
    best = (found[0].mitoses, found[0].atypical) if found else (0, 0)
    for size in window_sizes(case):
        room = np.subtract(case.size_px0, size)
        if room.min() >= 0:
            for x, y in np.random.default_rng(seed).uniform(0, 1, (20, 2)) * room:
                inside = held(case, (x, y, *size))
                assert (len(inside), int(case.atypical[inside].sum())) <= best


def test_many_blocks_and_chunks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(7)
    places = draw.uniform(0, 1000, (100, 2))
    case = Case(
        *(places[:, 0], places[:, 1], draw.random(100) < 0.2),
        shape=HotspotShape(300 * 225 / 1e6),
        size_px0=(1000, 1000),
        mpp=Mpp(1, 1),
        number=3,
    )
    whole = case.search()
    monkeypatch.setattr(hotspots, "_CELLS", 50)
    assert case.search() == whole
    count, winner = exhaustive(case, [])
    assert (whole.hotspots[0].mitoses, whole.hotspots[0].atypical) == count
    assert held(case, of(whole.hotspots[0])) == winner


@pytest.mark.parametrize(
    ("aspect", "sizes"),
    [((4, 3), [(80, 30), (60, 40)]), ((3, 4), [(60, 40), (80, 30)]), ((3, 3), [(69.282, 34.641)])],
)
def test_both_orientations_have_the_physical_area(
    aspect: tuple[float, float], sizes: list[tuple[float, float]]
) -> None:
    found = HotspotShape(40 * 30 / 1e6, aspect).sizes_px0(Mpp(0.5, 1.0))
    assert np.allclose(found, sizes, atol=1e-3)


def plain(x: list[float], y: list[float], atypical: list[bool] | None = None, **changes: object) -> Case:
    """Windows of 40 x 30 um on a slide of 200 x 200 px at 1 um/px."""
    labels = np.array(atypical if atypical is not None else [False] * len(x), dtype=bool)
    case = Case(
        *(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64), labels),
        *(HotspotShape(40 * 30 / 1e6), (200, 200), Mpp(1, 1), 1),
    )
    return case._replace(**changes)


def test_the_window_is_centred_on_its_figures() -> None:
    (spot,) = plain([100.0, 110.0, 20.0], [100.0, 104.0, 180.0]).search().hotspots
    assert (spot.mitoses, spot.width_px0, spot.height_px0) == (2, 40, 30)
    # 10 px of figures in 40 px: 15 px on either side; 4 in 30: 13 px
    assert (spot.x_px0, spot.y_px0) == (85.0, 87.0)


def test_a_figure_on_the_right_or_lower_edge_is_outside() -> None:
    (spot,) = plain([10.0, 50.0], [10.0, 10.0]).search().hotspots
    assert spot.mitoses == 1
    (spot,) = plain([10.0, 49.999], [10.0, 10.0]).search().hotspots
    assert spot.mitoses == 2


def test_a_pair_that_needs_both_edges_is_no_pair() -> None:
    (spot,) = plain([10.0, 50.0, 150.0, 151.0], [10.0, 10.0, 150.0, 150.0]).search().hotspots
    assert spot.mitoses == 2
    (spot,) = plain([10.0, 10.0, 150.0, 151.0], [10.0, 50.0, 150.0, 150.0]).search().hotspots
    assert spot.mitoses == 2


def test_a_hotspot_may_begin_where_another_ends() -> None:
    found = plain([0.0, 0.0, 0.0, 40.0, 79.5], [10.0] * 5, size_px0=(80, 30), number=2).search()
    assert [(spot.x_px0, spot.mitoses) for spot in found.hotspots] == [(0, 3), (40, 2)]


def test_the_turned_window_is_tried() -> None:
    (spot,) = plain([50.0, 50.0], [50.0, 85.0]).search().hotspots
    assert (spot.mitoses, spot.width_px0, spot.height_px0) == (2, 30, 40)


def test_ties_go_to_the_atypical_then_to_the_upper_then_to_the_left() -> None:
    (spot,) = plain([10.0, 100.0], [10.0, 100.0], [False, True]).search().hotspots
    assert spot.atypical == 1
    (spot,) = plain([150.0, 10.0], [10.0, 100.0]).search().hotspots
    assert spot.holds(np.array([150.0]), np.array([10.0])).all()
    (spot,) = plain([150.0, 10.0], [10.0, 10.0]).search().hotspots
    assert spot.holds(np.array([10.0]), np.array([10.0])).all()


def test_one_figure_more_outweighs_any_number_of_atypical_ones() -> None:
    (spot,) = plain([10.0] * 5 + [150.0] * 6, [10.0] * 5 + [150.0] * 6, [True] * 5 + [False] * 6).search()[0]
    assert (spot.mitoses, spot.atypical) == (6, 0)


def test_pixels_that_are_not_square_keep_the_physical_shape() -> None:
    (spot,) = plain([100.0], [100.0], mpp=Mpp(0.5, 1.0)).search().hotspots
    assert (spot.width_px0, spot.height_px0) == (80, 30)


def test_density_is_per_mm2_of_its_own_area() -> None:
    (spot,) = plain([100.0, 101.0, 102.0], [100.0] * 3).search().hotspots
    assert spot.mitoses_per_mm2 == pytest.approx(3 / 0.0012)


@pytest.mark.parametrize("size", [(39, 29), (25, 200), (200, 29)])
def test_a_slide_that_is_too_small_has_none_and_is_told_why(size: tuple[int, int]) -> None:
    found = plain([10.0], [10.0], size_px0=size).search()
    assert found.hotspots == ()
    assert found.reason is not None
    assert "smaller than a hotspot of 0.0012 mm^2, 0.04 x 0.03 mm" in found.reason


def test_a_slide_in_which_only_the_turned_window_fits_has_one() -> None:
    (spot,) = plain([10.0], [10.0], size_px0=(30, 40)).search().hotspots
    assert of(spot) == (0, 0, 30, 40)


def test_without_figures_there_is_no_hotspot() -> None:
    assert plain([], []).search() == ((), "there are no mitotic figures")


def test_further_hotspots_stop_where_the_figures_end() -> None:
    found = plain([10.0, 12.0, 150.0], [10.0, 12.0, 150.0], number=5).search()
    assert [spot.mitoses for spot in found.hotspots] == [2, 1]
