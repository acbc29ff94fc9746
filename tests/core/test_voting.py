from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_mitosis.core.voting import agreement, tally, undecided

NAN = np.nan


def test_majority_by_hand() -> None:
    votes = tally(np.array([[0.9, 0.6, 0.1], [0.9, 0.4, 0.49], [0.5, 0.5, 0.0]]), 0.5)
    assert votes.votes_atypical.tolist() == [2, 1, 2]
    assert votes.votes_cast.tolist() == [3, 3, 3]
    assert votes.is_atypical.tolist() == [True, False, True]
    np.testing.assert_allclose(votes.p_atypical, [1.6 / 3, 1.79 / 3, 1 / 3])
    assert len(votes) == 3


def test_a_tie_goes_by_the_mean() -> None:
    votes = tally(np.array([[0.9, 0.4], [0.6, 0.1], [0.8, 0.2]]), 0.5)
    assert votes.votes_atypical.tolist() == [1, 1, 1]
    assert votes.is_atypical.tolist() == [True, False, True]


def test_who_was_not_asked_does_not_count() -> None:
    votes = tally(np.array([[0.9, 0.7, NAN], [NAN, 0.2, NAN]]), 0.5)
    assert votes.votes_cast.tolist() == [2, 1]
    np.testing.assert_allclose(votes.p_atypical, [0.8, 0.2])
    assert votes.is_atypical.tolist() == [True, False]


def test_the_threshold_is_the_members() -> None:
    assert tally(np.array([[0.6, 0.6, 0.9]]), 0.7).is_atypical.tolist() == [False]


def test_nobody_asked_is_a_bug() -> None:
    with pytest.raises(ValueError, match="1 figures"):
        tally(np.array([[0.5, 0.1], [NAN, NAN]]), 0.5)


def test_no_figures_give_no_votes() -> None:
    assert len(tally(np.empty((0, 5)), 0.5)) == 0


def test_agreement_is_the_larger_sides_share() -> None:
    assert agreement(np.array([0, 5, 3, 1, 1]), np.array([5, 5, 5, 2, 3])).tolist() == [1, 1, 0.6, 0.5, 2 / 3]


@pytest.mark.parametrize(
    ("atypical", "cast", "members", "open_"),
    [(0, 0, 1, True), (3, 3, 5, False), (2, 3, 5, True), (2, 2, 4, True), (3, 3, 4, False), (2, 4, 4, False)],
)
def test_undecided_by_hand(atypical: int, cast: int, members: int, open_: bool) -> None:
    assert undecided(np.array([atypical]), np.array([cast]), members).tolist() == [open_]


def asked_early(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Ask members in their order about what is still undecided."""
    early = np.full_like(probabilities, NAN)
    for member in range(probabilities.shape[1]):
        cast = (~np.isnan(early)).sum(axis=1)
        rows = undecided((early >= threshold).sum(axis=1), cast, probabilities.shape[1])
        early[rows, member] = probabilities[rows, member]
    return early


@given(
    st.integers(1, 8).flatmap(
        lambda members: arrays(
            np.float64, st.tuples(st.integers(1, 20), st.just(members)), elements=st.floats(0, 1)
        )
    ),
    st.floats(0.05, 0.95),
)
def test_early_labels_are_those_of_all(probabilities: np.ndarray, threshold: float) -> None:
    everyone = tally(probabilities, threshold)
    early = tally(asked_early(probabilities, threshold), threshold)
    assert early.is_atypical.tolist() == everyone.is_atypical.tolist()
    assert (early.votes_cast <= everyone.votes_cast).all()


@given(st.integers(1, 9), st.data())
def test_what_is_undecided_can_still_go_either_way(members: int, data: st.DataObject) -> None:
    """Neither stops too early nor asks in vain, but where all that is left is to make a tie."""
    cast = data.draw(st.integers(0, members))
    atypical = data.draw(st.integers(0, cast))
    for rest in range(members - cast + 1):
        sides = 2 * (atypical + rest) - members
        if not undecided(np.array([atypical]), np.array([cast]), members)[0] and cast < members:
            assert np.sign(sides) == np.sign(2 * atypical - cast)
    if undecided(np.array([atypical]), np.array([cast]), members)[0]:
        most, fewest = atypical + members - cast, atypical
        assert 2 * most >= members
        assert 2 * fewest <= members
