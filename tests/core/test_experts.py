from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from wsi_mitosis.core.experts import Agreement, Labelled, beside_experts
from wsi_mitosis.core.metrics import intervals, score

FIGURE = st.integers(0, 4).flatmap(
    lambda experts: st.tuples(
        st.integers(0, experts), st.just(experts), st.sampled_from([0.0, 0.2, 0.44, 0.5, 0.9, 1.0])
    )
)


def labelled(figures: list[tuple[int, int, float]], slides: list[str] | None = None) -> Labelled:
    """Figures of (votes for atypical, experts, P(atypical)), called atypical from a half on."""
    votes, experts, p = (np.array(column) for column in zip(*figures, strict=True))
    labels = (2 * votes > experts).astype(np.int64)
    names = np.array(slides or [str(number % 5) for number in range(len(figures))], dtype=object)
    return Labelled(labels, p >= 0.5, p.astype(float), votes, experts, names)


def rates(found: Agreement) -> list[float | None]:
    return [found.balanced_accuracy, found.sensitivity, found.specificity]


def test_the_comparison_by_hand() -> None:
    found = beside_experts(labelled([(3, 3, 0.9), (2, 3, 0.4), (1, 3, 0.6), (0, 3, 0.1)]))
    assert found is not None
    # Six votes for atypical, of which 3 and 1 were called so; six against, of which 1 and 3 were called so.
    assert rates(found.classifier) == pytest.approx([4 / 6, 4 / 6, 4 / 6])
    # The other two agree with each of the first three votes, one of two with each of the second figure's
    # two votes, and none with the third figure's: 3 + 1 + 0 of 6.
    assert rates(found.another_expert) == pytest.approx([4 / 6, 4 / 6, 4 / 6])
    assert found.difference == pytest.approx(0)
    assert (found.unanimous.n, found.unanimous.atypical, found.unanimous.balanced_accuracy) == (2, 1, 1.0)
    assert (found.divided.n, found.divided.atypical, found.divided.balanced_accuracy) == (2, 1, 0.0)
    assert (found.unanimous.auroc, found.divided.auroc) == (1.0, 0.0)
    # From P(atypical) .6 on: 3 + 1 of the votes for atypical, 2 of those against, which is a third.
    assert found.sensitivity_at_their_specificity == pytest.approx(4 / 6)


@given(st.lists(FIGURE, min_size=1, max_size=25))
def test_every_vote_is_the_truth_once(figures: list[tuple[int, int, float]]) -> None:
    found = beside_experts(labelled(figures))
    known = [figure for figure in figures if figure[1] >= 2]
    if not known:
        assert found is None
        return
    assert found is not None
    truths, called, others, weights, p_each = [], [], [], [], []
    for votes, experts, p in known:
        each = [1] * votes + [0] * (experts - votes)
        for index, truth in enumerate(each):
            truths.append(truth)
            called.append(int(p >= 0.5))
            p_each.append(p)
            for other, vote in enumerate(each):
                if other != index:
                    others.append((truth, vote))
                    weights.append(1 / (experts - 1))
    pairs = np.array(others)
    for agreement, labels, given_labels, weight in (
        (found.classifier, np.array(truths), np.array(called), None),
        (found.another_expert, pairs[:, 0], pairs[:, 1], np.array(weights)),
    ):
        assert (agreement.sensitivity is None) == (1 not in labels)
        assert (agreement.specificity is None) == (0 not in labels)
        if len(set(labels.tolist())) > 1:
            expected = [
                oracle.recall_score(labels, given_labels, pos_label=which, sample_weight=weight)
                for which in (1, 0)
            ]
            assert rates(agreement) == pytest.approx([sum(expected) / 2, *expected])
    if len(set(truths)) > 1:
        false_alarms, sensitivities, _ = oracle.roc_curve(truths, p_each, drop_intermediate=False)
        specificity = found.another_expert.specificity
        assert specificity is not None
        expected_sensitivity = np.interp(1 - specificity, false_alarms, sensitivities)
        assert found.sensitivity_at_their_specificity == pytest.approx(expected_sensitivity)
    else:
        assert (found.sensitivity_at_their_specificity, found.difference) == (None, None)


@given(st.lists(FIGURE, min_size=1, max_size=25))
def test_both_parts_have_the_scores_of_their_figures(figures: list[tuple[int, int, float]]) -> None:
    whole = labelled(figures)
    found = beside_experts(whole)
    if found is None:
        return
    agreed = np.isin(whole.atypical_votes, [0]) | (whole.atypical_votes == whole.experts)
    for part, chosen in ((found.unanimous, agreed), (found.divided, ~agreed)):
        of = whole.where(chosen & (whole.experts >= 2))
        expected = score(of.labels, of.called, of.p_atypical)
        bounds = intervals(of.labels, of.called, of.p_atypical, of.slides.tolist()).bounds
        assert (part.n, part.atypical) == (expected.n, of.labels.sum())
        for name, interval in bounds.items():
            assert getattr(part, name) == getattr(expected, name)
            assert getattr(part, f"{name}_ci95") == interval


def drawn(seed: int, slides: int) -> Labelled:
    generator = np.random.default_rng(seed)
    truth = generator.random(400) < 0.3
    votes = (generator.random((400, 3)) < np.where(truth, 0.8, 0.1)[:, None]).sum(axis=1)
    p = np.clip(generator.normal(0.3 + 0.4 * truth, 0.2), 0, 1)
    names = [str(generator.integers(slides)) for _ in range(400)]
    return labelled(list(zip(votes.tolist(), [3] * 400, p.tolist(), strict=True)), names)


def test_intervals_are_of_slides_and_of_the_same_draws() -> None:
    few, many = (beside_experts(drawn(1, slides)) for slides in (6, 200))
    assert few is not None
    assert many is not None
    for found in (few, many):
        for agreement in (found.classifier, found.another_expert):
            for name in ("balanced_accuracy", "sensitivity", "specificity"):
                low, high = getattr(agreement, f"{name}_ci95")
                assert low < getattr(agreement, name) < high
        assert found.difference_ci95 is not None
        low, high = found.difference_ci95
        assert found.difference is not None
        assert low < found.difference < high
        apart = [
            agreement.balanced_accuracy_ci95[1] - agreement.balanced_accuracy_ci95[0]
            for agreement in (found.classifier, found.another_expert)
            if agreement.balanced_accuracy_ci95 is not None
        ]
        assert high - low < sum(apart)
    again = beside_experts(drawn(1, 6))
    assert again == few


def test_a_single_slide_has_no_intervals() -> None:
    found = beside_experts(labelled([(3, 3, 0.9), (2, 3, 0.4), (0, 3, 0.1)], ["one"] * 3))
    assert found is not None
    assert found.classifier.balanced_accuracy is not None
    assert found.classifier.balanced_accuracy_ci95 is None
    assert found.difference_ci95 is None


def test_experts_who_always_agree_are_always_right() -> None:
    found = beside_experts(labelled([(2, 2, 0.9), (3, 3, 0.1), (0, 2, 0.2), (0, 4, 0.8)]))
    assert found is not None
    assert rates(found.another_expert) == [1.0, 1.0, 1.0]
    assert rates(found.classifier) == pytest.approx([(2 / 5 + 2 / 6) / 2, 2 / 5, 2 / 6])
    assert found.divided.n == 0
    assert found.divided.balanced_accuracy is None
    # No false alarm is allowed: the threshold of .9 finds two of the five votes.
    assert found.sensitivity_at_their_specificity == pytest.approx(2 / 5)
