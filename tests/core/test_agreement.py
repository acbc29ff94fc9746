"""Kappas and their intervals, compared with other programs' and with numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from wsi_mitosis.core.agreement import (
    CATEGORIES,
    ONE_LABEL,
    RESAMPLES,
    TOO_FEW,
    CountedFile,
    Reviewer,
    agreement_of_labels,
    cohens_kappas,
    fleiss_agreement,
    fleiss_kappas,
    reviewers_agreement,
)

A, T, N, NOTHING = 0, 1, 2, -1
label = st.integers(A, N)


@given(st.lists(st.tuples(label, label), min_size=2, max_size=60))
def test_cohens_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    found = agreement_of_labels(first, second)
    assert found.figures == len(pairs)
    assert found.agreed == np.mean(first == second)
    if len(set(first) | set(second)) == 1:
        assert (found.kappa.value, found.kappa.ci95, found.kappa.reason) == (None, None, ONE_LABEL)
    else:
        assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        assert found.kappa.reason == ""


@settings(max_examples=60)
@given(st.integers(3, 6).flatmap(lambda r: st.lists(st.tuples(*[label] * r), min_size=2, max_size=40)))
def test_fleiss_kappa_is_that_of_statsmodels(rows: list[tuple[int, ...]]) -> None:
    labels = np.array(rows).T
    found = fleiss_agreement(labels)
    assert (found.reviewers, found.figures) == labels.shape
    assert found.unanimous == np.mean([len(set(row)) == 1 for row in rows])
    if len(set(labels.ravel().tolist())) == 1:
        assert (found.kappa.value, found.kappa.reason) == (None, ONE_LABEL)
    else:
        table = np.stack([(labels == one).sum(axis=0) for one in range(3)], axis=1)
        assert found.kappa.value == pytest.approx(fleiss_kappa(table), abs=1e-12)


def test_kappas_by_hand() -> None:
    """p_o = 3/4 and p_e = 5/16, so that Cohen's kappa is 7/11; the terms of Fleiss' are 5/9 and 29/81."""
    found = agreement_of_labels(np.array([A, T, T, N, T]), np.array([A, T, A, N, NOTHING]))
    assert (found.figures, found.agreed) == (4, 3 / 4)
    assert found.kappa.value == pytest.approx(7 / 11)
    assert found.confusion == {
        "atypical": {"atypical": 1, "typical": 0, "none": 0},
        "typical": {"atypical": 1, "typical": 1, "none": 0},
        "none": {"atypical": 0, "typical": 0, "none": 1},
    }
    three = fleiss_agreement(np.array([[A, T, N, T], [A, T, N, A], [T, N, N, NOTHING]]))
    assert (three.reviewers, three.figures, three.unanimous) == (3, 3, pytest.approx(1 / 3))
    assert three.kappa.value == pytest.approx((5 / 9 - 29 / 81) / (1 - 29 / 81))


def test_several_kappas_at_once_are_those_of_each() -> None:
    generator = np.random.default_rng(3)
    tables = generator.integers(0, 6, (50, 3, 3))
    together = cohens_kappas(tables)
    assert together.tolist() == [float(cohens_kappas(table)) for table in tables]
    patterns = np.array([[3, 0, 0], [2, 1, 0], [1, 1, 1], [0, 0, 3]])
    figures = generator.integers(1, 9, (20, 4))
    each = [fleiss_kappa(np.repeat(patterns, row, axis=0)) for row in figures]
    assert fleiss_kappas(patterns, figures) == pytest.approx(each)
    assert np.isnan(fleiss_kappas(patterns, np.array([[0, 0, 0, 0], [7, 0, 0, 0]]))).all()


def test_an_interval_is_that_of_figures_drawn_one_by_one() -> None:
    """Percentiles of other draws differ by chance, by some 0.01 here."""
    generator = np.random.default_rng(8)
    first = generator.choice(3, 300, p=[0.3, 0.5, 0.2])
    second = np.where(generator.uniform(size=300) < 0.7, first, generator.choice(3, 300))
    found = agreement_of_labels(first, second).kappa
    chosen = [generator.integers(0, 300, 300) for _ in range(2000)]
    drawn = [cohen_kappa_score(first[rows], second[rows]) for rows in chosen[:400]]
    assert found.ci95 == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    assert found.value is not None
    assert found.ci95 is not None
    assert found.ci95[0] < found.value < found.ci95[1]
    assert found.draws == RESAMPLES

    third = np.where(generator.uniform(size=300) < 0.6, first, generator.choice(3, 300))
    labels = np.stack([first, second, third])
    table = np.stack([(labels == one).sum(axis=0) for one in range(3)], axis=1)
    drawn = [fleiss_kappa(table[rows]) for rows in chosen]
    assert fleiss_agreement(labels).kappa.ci95 == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)


def test_an_interval_is_the_same_each_time_and_in_any_order_of_figures() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.integers(0, 3, (2, 40))
    order = generator.permutation(40)
    assert agreement_of_labels(first, second) == agreement_of_labels(first[order], second[order])
    three = generator.integers(0, 3, (3, 40))
    assert fleiss_agreement(three) == fleiss_agreement(three[[2, 0, 1]][:, order])


def test_draws_in_which_kappa_is_undefined_are_left_out() -> None:
    """Two figures: half of the draws have one of them only, and a draw with both has kappa 1."""
    found = agreement_of_labels(np.array([A, T]), np.array([A, T])).kappa
    assert (found.value, found.ci95) == (1, (1, 1))
    assert found.draws == pytest.approx(RESAMPLES / 2, abs=100)  # four standard deviations are 89


@pytest.mark.parametrize("labels", [[], [A], [NOTHING, NOTHING, T]])
def test_nothing_is_stated_of_fewer_than_two_figures(labels: list[int]) -> None:
    each = np.array(labels, dtype=np.int64)
    pair, three = agreement_of_labels(each, each), fleiss_agreement(np.stack([each] * 3))
    for found in (pair, three):
        assert (found.kappa.value, found.kappa.ci95, found.kappa.reason) == (None, None, TOO_FEW)
        assert found.kappa.draws == 0
    number = sum(one != NOTHING for one in labels)
    assert (pair.figures, three.figures) == (number, number)
    assert (pair.agreed is None, three.unanimous is None) == (number == 0, number == 0)


# From the tables of a recount

SAID = {"cleo": "tnunu-", "anna": "attnu-", "ben": "atanu-"}
MACHINE = "aattat"
NAMES = {"a": "atypical", "t": "typical", "n": "none", "u": "unsure"}


def _tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdicts on six figures of the ensemble, and one on a figure that Anna added."""
    rows = [
        ("s", f"f{n}", reviewer, NAMES[letter], reviewer != "ben")
        for reviewer, letters in SAID.items()
        for n, letter in enumerate(letters)
        if letter != "-"
    ]
    rows.append(("s", "new", "anna", "typical", True))
    verdicts = pd.DataFrame(rows, columns=["slide", "figure_id", "reviewer", "label", "blind"])
    consensus = ["atypical", "typical", "tie", "none", "unsure"]
    figures = pd.DataFrame(
        {
            "slide": "s",
            "figure_id": [*(f"f{n}" for n in range(5)), "new"],
            "label_machine": pd.Series([*(NAMES[letter] for letter in MACHINE[:5]), None], dtype=object),
            "consensus": [*consensus, "tie"],
            "atypical": [2, 0, 1, 0, 0, 0],
            "typical": [1, 2, 1, 0, 0, 1],
            "none": [0, 1, 0, 3, 0, 1],
        }
    )
    return verdicts, figures


def test_the_agreement_of_three_reviewers_by_hand() -> None:
    files = (CountedFile(file="review-anna.json", sha256="0" * 64),)
    reviewers = [Reviewer("cleo"), Reviewer("anna", files), Reviewer("ben")]
    found = reviewers_agreement(reviewers, *_tables())
    anna, ben, cleo = found.reviewers
    assert [one.name for one in found.reviewers] == ["anna", "ben", "cleo"]
    assert (anna.files, ben.files) == (files, ())
    assert (anna.blind, ben.blind, cleo.blind) == (True, False, True)
    assert anna.verdicts == {"atypical": 1, "typical": 3, "none": 1, "unsure": 1}
    assert cleo.verdicts == {"atypical": 0, "typical": 1, "none": 2, "unsure": 2}
    # the ensemble said a a t t of the four figures that Anna decided about: p_o = 2/4, p_e = 6/16
    assert (anna.ensemble.figures, anna.ensemble.agreed) == (4, 1 / 2)
    assert anna.ensemble.kappa.value == pytest.approx(1 / 5)
    assert anna.ensemble.confusion["atypical"] == {"atypical": 1, "typical": 1, "none": 0}

    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert list(pairs) == [("anna", "ben"), ("anna", "cleo"), ("ben", "cleo")]
    assert pairs["anna", "ben"].kappa.value == pytest.approx(7 / 11)
    assert pairs["anna", "cleo"].figures == 3
    assert pairs["anna", "cleo"].kappa.value == pytest.approx(0)
    assert pairs["anna", "cleo"].confusion["atypical"]["typical"] == 1
    assert found.fleiss is not None
    assert (found.fleiss.reviewers, found.fleiss.figures) == (3, 3)
    assert found.fleiss.kappa.value == pytest.approx(4 / 13)
    assert [(tie.figure_id, tie.label_machine, tie.none) for tie in found.ties] == [
        ("f2", "typical", 0),
        ("new", None, 1),
    ]


def test_neither_the_order_of_reviewers_nor_that_of_rows_changes_the_agreement() -> None:
    verdicts, figures = _tables()
    expected = reviewers_agreement([Reviewer(name) for name in SAID], verdicts, figures)
    for names in itertools.permutations(SAID):
        shuffled = verdicts.sample(frac=1, random_state=len(names[0]))
        assert reviewers_agreement([Reviewer(name) for name in names], shuffled, figures) == expected


def test_fewer_than_three_reviewers_have_no_fleiss_kappa() -> None:
    verdicts, figures = _tables()
    two = verdicts[verdicts["reviewer"] != "cleo"]
    assert reviewers_agreement([Reviewer("anna"), Reviewer("ben")], two, figures).fleiss is None
    nobody = reviewers_agreement([Reviewer("anna")], verdicts[:0], figures[:0])
    assert nobody.reviewers[0].ensemble.kappa.reason == TOO_FEW
    assert nobody.reviewers[0].blind is False
    assert CATEGORIES == ("atypical", "typical", "none")
