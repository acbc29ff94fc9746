"""Parts of a slide: every candidate in one of them, and no more parts than help."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.parts import LEAST_CANDIDATES, PARTS_PER_WORKER, WHOLE, Part, number_of_parts


@given(st.permutations(range(50)), st.integers(0, 50), st.integers(1, 9), st.integers(1, 9))
def test_parts_are_the_whole_order_cut_between_batches(
    order: list[int], length: int, of: int, batch_size: int
) -> None:
    whole = np.array(order[:length], np.intp)
    parts = [Part(number, of).rows(whole, batch_size) for number in range(of)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert all(
        start % batch_size == 0 for start in np.cumsum([len(part) for part in parts])[:-1] if start < length
    )
    batches = [-(-len(part) // batch_size) for part in parts]
    assert max(batches) - min(batches) <= 1


@given(st.integers(0, 1000), st.integers(1, 20))
def test_the_shares_of_parts_are_alike_and_their_sum_is_the_slide(candidates: int, of: int) -> None:
    shares = [Part(number, of).share(candidates) for number in range(of)]
    assert sum(shares) == candidates
    assert max(shares) - min(shares) <= 1


def test_a_whole_slide_is_one_part() -> None:
    assert WHOLE.share(7) == 7
    assert WHOLE.rows(np.arange(7), 4).tolist() == list(range(7))
    assert str(Part(1, 3)) == "part 2 of 3"


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 40))
def test_a_slide_is_split_only_if_that_helps(candidates: int, others: int, workers: int) -> None:
    load = candidates + others
    number = number_of_parts(candidates, load, workers)
    assert 1 <= number <= max(1, workers * PARTS_PER_WORKER)
    if workers == 1 or candidates * workers <= load or candidates < 2 * LEAST_CANDIDATES:
        assert number == 1
    else:
        assert candidates // number >= LEAST_CANDIDATES
        assert number <= workers or number % workers == 0
        assert number >= min(workers, 2)


def test_the_numbers_of_parts_by_hand() -> None:
    assert number_of_parts(100_000, 100_000, 2) == 6
    assert number_of_parts(100_000, 100_000, 8) == 24
    assert number_of_parts(12_000, 12_000, 2) == 2, "three parts would take two workers as long as four"
    assert number_of_parts(60_000, 100_000, 2) == 4
    assert number_of_parts(50_000, 100_000, 2) == 1
    assert number_of_parts(10_000, 0, 2) == 2, "a slide that has a result is no load for the others"
