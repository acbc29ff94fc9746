"""The order of a review page, and the neighbours of its figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.page_figures import MOST_NEIGHBOURS, neighbours, ordered
from wsi_mitosis.core.review_files import Order
from wsi_mitosis.units import Mpp

FIGURES = pd.DataFrame(
    [
        ("b.svs", "f1", 10.0, 20.0, 0.1),
        ("a.svs", "f2", 90.0, 20.0, 0.3),
        ("a.svs", "f3", 10.0, 20.0, 0.1),
        ("a.svs", "f4", 10.0, 5.0, 0.2),
    ],
    columns=["slide", "figure_id", "x_px0", "y_px0", "expected_change"],
)


def ids(order: Order, seed: int = 0, figures: pd.DataFrame = FIGURES) -> list[str]:
    return ordered(figures, order, seed)["figure_id"].tolist()


def test_rank_begins_with_what_could_change_most() -> None:
    assert ids("rank") == ["f2", "f4", "f3", "f1"]


def test_slide_goes_by_rows_of_each_slide() -> None:
    assert ids("slide") == ["f4", "f3", "f2", "f1"]


def test_another_seed_is_another_order() -> None:
    many = pd.concat([FIGURES.assign(figure_id=FIGURES["figure_id"] + str(n)) for n in range(10)])
    assert ids("random", 1, many) != ids("random", 2, many)
    assert sorted(ids("random", 1, many)) == sorted(many["figure_id"])


@given(st.permutations(range(len(FIGURES))), st.sampled_from(["rank", "random", "slide"]))
def test_the_order_of_rows_changes_nothing(rows: list[int], order: Order) -> None:
    assert ids(order, 3, FIGURES.iloc[rows]) == ids(order, 3)


def test_neighbours_lie_in_the_square_and_the_nearest_is_first() -> None:
    x = np.array([100.0, 140.0, 100.0, 100.0, 100.0])
    y = np.array([100.0, 100.0, 120.0, 611.9, 612.1])
    # at 0.25 um/px: 10 um to the right, 5 um below, just within and just outside 128 um
    found = neighbours(x, y, np.array([0, 1]), mpp=Mpp(0.25, 0.25), side_um=256.0)
    assert [rows.tolist() for rows in found] == [[2, 1, 3], [0, 2, 3]]


def test_the_pixel_size_along_each_axis_counts() -> None:
    x, y = np.array([0.0, 100.0, 0.0]), np.array([0.0, 0.0, 100.0])
    (found,) = neighbours(x, y, np.array([0]), mpp=Mpp(0.25, 0.5), side_um=60.0)
    assert found.tolist() == [1]  # 25 um to the right; the other is 50 um below


def test_a_crowd_is_limited_to_the_nearest() -> None:
    x = np.arange(300, dtype=np.float64)
    (found,) = neighbours(x, np.zeros(300), np.array([0]), mpp=Mpp(0.1, 0.1), side_um=256.0)
    assert found.tolist() == list(range(1, MOST_NEIGHBOURS + 1))
