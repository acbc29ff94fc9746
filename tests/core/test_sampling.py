"""Which figures are drawn, and from which strata."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sample_figures import Kind, figures_of, random_figures
from wsi_mitosis.core.sampling import LEAST_DRAWN, allocate, choose, draw, stratify
from wsi_mitosis.errors import InputError


def sizes(strata: np.ndarray, table: pd.DataFrame) -> list[tuple[set[str], set[str], int]]:
    """Labels, slides and number of figures of each stratum."""
    parts = [table[strata == number] for number in range(strata.max() + 1)]
    return [(set(part["label"]), set(part["slide"]), len(part)) for part in parts]


def test_strata_by_hand() -> None:
    # Of 100 figures 20 are drawn, so that a stratum needs 25 figures. Typical and atypical have 70 and 30.
    # The 20 typical ones with divided votes are too few, and so is each half of the atypical ones. Slides
    # divide the typical figures into 40 and 30, and cannot divide the atypical ones, of which 10 are on b.
    table = figures_of(
        *(Kind("a", 30, 0), Kind("a", 10, 1), Kind("a", 10, 5), Kind("a", 10, 4)),
        *(Kind("b", 20, 0), Kind("b", 10, 2), Kind("b", 5, 5), Kind("b", 5, 3)),
    )
    assert sizes(stratify(table, 20), table) == [
        ({"typical"}, {"a"}, 40),
        ({"typical"}, {"b"}, 30),
        ({"atypical"}, {"a", "b"}, 30),
    ]
    # 50 of 100: 10 figures are enough, and only the five of slide b join others.
    assert [number for *_, number in sizes(stratify(table, 50), table)] == [30, 20, 10, 10, 15, 15]


def test_small_slides_are_joined_with_the_next_larger_one_if_they_are_too_few_together() -> None:
    # 20 of 100 are drawn: c and d are too small, have 20 figures together, and need 25.
    table = figures_of(Kind("a", 50, 0), Kind("b", 30, 0), Kind("c", 12, 0), Kind("d", 8, 0))
    assert sizes(stratify(table, 20), table) == [
        ({"typical"}, {"a"}, 50),
        ({"typical"}, {"b", "c", "d"}, 50),
    ]


def test_slides_are_joined_before_the_agreement_of_votes() -> None:
    table = figures_of(*(Kind(f"s{slide}", 5, votes) for slide in range(10) for votes in (0, 1)))
    assert [number for *_, number in sizes(stratify(table, 20), table)] == [50, 50]


def test_largest_remainders_by_hand() -> None:
    # 3.5, 2.1 and 1.4; one is left after 3, 2 and 1
    assert allocate(np.array([50, 30, 20]), 7).tolist() == [4, 2, 1]
    assert allocate(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    assert allocate(np.array([4, 3]), 7).tolist() == [4, 3]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.data())
def test_an_allocation_is_proportional_and_whole(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, sum(counts)))
    drawn = allocate(np.array(counts), size)
    assert drawn.sum() == size
    assert (np.abs(drawn - size * np.array(counts) / sum(counts)) < 1).all()
    assert (drawn <= counts).all()


@settings(max_examples=40)
@given(st.integers(10, 300), st.integers(1, 12), st.integers(0, 99), st.data())
def test_a_sample_has_its_size_and_enough_of_each_stratum(
    number: int, slides: int, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(10, number))
    table = draw(random_figures(number, slides, seed), size, seed)
    assert table["drawn"].sum() == size
    of_stratum = table.groupby("stratum")["drawn"].sum()
    assert of_stratum.index.tolist() == list(range(len(of_stratum)))
    assert len(of_stratum) == 1 or of_stratum.min() >= LEAST_DRAWN


@settings(max_examples=25)
@given(st.integers(10, 120), st.integers(1, 5), st.integers(0, 2**70), st.randoms(use_true_random=False))
def test_the_order_of_rows_their_types_and_further_columns_have_no_effect(
    number: int, slides: int, seed: int, random: object
) -> None:
    table = random_figures(number, slides, 0)
    order = list(range(number))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = table.iloc[order].assign(detector_score=1.0)
    other = other.astype(
        {"slide": "category", "label": "object", "votes_cast": "Int16", "votes_atypical": float}
    )
    pd.testing.assert_frame_equal(draw(table, 10, seed), draw(other, 10, seed))


def test_a_sample_stays_the_same() -> None:
    """A reviewer's file states size and seed only: if this changes, earlier files cannot be used."""
    drawn = choose(np.array([0, 1] * 20), 10, 7)
    assert np.flatnonzero(drawn).tolist() == FIRST_DRAWN
    table = draw(random_figures(100, 3, 1), 12, 3)
    assert table.loc[table["drawn"], "figure_id"].tolist() == SECOND_DRAWN


FIRST_DRAWN = [6, 12, 20, 21, 23, 24, 32, 33, 37, 39]
SECOND_DRAWN = [
    *("f0037", "f0040", "f0050", "f0062", "f0079", "f0084"),
    *("f0016", "f0010", "f0021", "f0027", "f0054", "f0067"),
]


def test_another_seed_gives_another_sample() -> None:
    strata = np.zeros(100, np.int64)
    assert (choose(strata, 20, 1) != choose(strata, 20, 2)).any()


def test_each_figure_of_a_stratum_has_the_same_chance() -> None:
    strata = np.array([0] * 30 + [1] * 10)
    often = sum(choose(strata, 12, seed).astype(int) for seed in range(2000))
    # 9 of 30 and 3 of 10: 600 of 2000 draws, standard deviation 20.5; the largest of 40 is within 4 of them
    assert np.abs(often - 600).max() < 4 * 20.5
    together = np.array([choose(strata, 12, seed) for seed in range(2000)], float)
    # two figures of a stratum: 9 * 8 / (30 * 29) of the draws
    assert (together[:, 0] * together[:, 1]).mean() == pytest.approx(9 * 8 / (30 * 29), abs=0.02)


def test_a_sample_of_all_figures_draws_all() -> None:
    assert draw(random_figures(7, 2, 0), 7, 0)["drawn"].all()


@pytest.mark.parametrize(
    ("number", "size", "cause"),
    [
        (20, 21, "larger than the number of figures, 20"),
        (20, 9, "too small for an estimate. Pass at least --sample 10"),
        (5, 4, "too small for an estimate. Pass at least --sample 5"),
    ],
)
def test_a_size_that_cannot_be_drawn_is_refused(number: int, size: int, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        draw(random_figures(number, 2, 0), size, 0)


def test_no_figures_are_refused() -> None:
    with pytest.raises(InputError, match="there are no figures"):
        draw(random_figures(3, 1, 0).iloc[:0], 10, 0)
