from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from wsi_mitosis.core import metrics
from wsi_mitosis.core.metrics import (
    MEASURES,
    Resampling,
    Spread,
    calibration,
    intervals,
    roc_points,
    score,
    spread,
)

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
P = np.array([0.9, 0.6, 0.2, 0.7, 0.3, 0.2, 0.1, 0.0])
FEW = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])), max_size=30)


def made(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something of each other, with ties."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(number) < 0.3).astype(np.int64)
    return labels, np.round(np.clip(generator.normal(0.35 + 0.25 * labels, 0.2), 0, 1), 2)


def test_scores_by_hand() -> None:
    found = score(LABELS, P >= 0.5, P)
    assert found.n == 8
    assert vars(found.confusion) == {
        "atypical_as_atypical": 2,
        "atypical_as_typical": 1,
        "typical_as_typical": 4,
        "typical_as_atypical": 1,
    }
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(4 / 5)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.auroc == pytest.approx((5 + 4 + 2.5) / 15)  # pairs won by .9, .6 and .2, which ties once
    assert found.brier == pytest.approx((0.01 + 0.16 + 0.64 + 0.49 + 0.09 + 0.04 + 0.01) / 8)


def test_the_label_is_the_votes_and_the_ranking_the_means() -> None:
    against_the_mean = score(LABELS, LABELS == 1, P)
    assert against_the_mean.balanced_accuracy == 1.0
    assert against_the_mean.auroc == score(LABELS, P >= 0.5, P).auroc


@given(FEW)
def test_scores_are_scikit_learns(drawn: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in drawn], dtype=np.int64)
    p = np.array([p for _, p in drawn], dtype=np.float64)
    found = score(labels, p >= 0.5, p)
    assert (found.sensitivity is None) == (1 not in labels)
    assert (found.specificity is None) == (0 not in labels)
    assert (found.balanced_accuracy is None) == (found.auroc is None) == (len(set(labels)) < 2)
    assert (found.brier is None) == (len(labels) == 0)
    assert sum(vars(found.confusion).values()) == found.n == len(labels)
    if found.auroc is not None:
        assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(labels, p >= 0.5))
        assert found.auroc == pytest.approx(oracle.roc_auc_score(labels, p))
        assert found.sensitivity == pytest.approx(oracle.recall_score(labels, p >= 0.5))
        assert found.specificity == pytest.approx(oracle.recall_score(labels, p >= 0.5, pos_label=0))
        assert found.brier == pytest.approx(oracle.brier_score_loss(labels, p))


def test_the_roc_by_hand() -> None:
    points = roc_points(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))
    assert points is not None
    assert [side.tolist() for side in points] == [[0, 0, 0.5, 1], [0, 0.5, 1, 1]]


@given(FEW)
def test_the_roc_is_scikit_learns(drawn: list[tuple[int, float]]) -> None:
    labels, p = np.array([label for label, _ in drawn]), np.array([p for _, p in drawn])
    points = roc_points(labels, p)
    if len(set(labels.tolist())) < 2:
        assert points is None
        return
    assert points is not None
    expected = oracle.roc_curve(labels, p, drop_intermediate=False)
    np.testing.assert_allclose(points, expected[:2])
    assert np.trapezoid(points[1], points[0]) == pytest.approx(score(labels, p > 0.5, p).auroc)


def test_calibration_by_hand() -> None:
    bins = calibration(np.array([0, 1, 1, 1, 0]), np.array([0.0, 0.04, 0.1, 1.0, 0.95]))
    assert [(found.low, found.high, found.n) for found in bins] == [
        pytest.approx((0, 0.1, 2)),
        pytest.approx((0.1, 0.2, 1)),
        pytest.approx((0.9, 1.0, 2)),
    ]
    assert [found.mean_p for found in bins] == pytest.approx([0.02, 0.1, 0.975])
    assert [found.atypical_fraction for found in bins] == [0.5, 1.0, 0.5]


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=40), st.integers(1, 20))
def test_every_sample_is_in_one_bin(drawn: list[tuple[int, float]], number: int) -> None:
    labels, p = np.array([label for label, _ in drawn]), np.array([p for _, p in drawn])
    bins = calibration(labels, p, number)
    assert sum(found.n for found in bins) == len(drawn)
    assert sum(found.n * found.atypical_fraction for found in bins) == pytest.approx(labels.sum())
    assert all(found.low <= found.mean_p + 1e-12 and found.mean_p <= found.high + 1e-12 for found in bins)
    assert all(found.n > 0 for found in bins)


def test_the_spread_is_the_samples() -> None:
    assert astuple(spread([0.8, None, 0.9, 0.7])) == pytest.approx((0.8, 0.1, 3))
    assert spread([0.8, None]) == Spread(0.8, None, 1)
    assert spread([None]) == Spread(None, None, 0)


def by_repetition(
    labels: np.ndarray, p: np.ndarray, slides: list[str], resamples: int, seed: int
) -> np.ndarray:
    """The bootstrap as in a textbook: copy the drawn slides' samples and let scikit-learn score them."""
    names = list(dict.fromkeys(slides))
    rows = {name: np.flatnonzero(np.array(slides) == name) for name in names}
    generator = np.random.default_rng(seed)
    values = []
    for draw in generator.integers(0, len(names), (resamples, len(names))):
        drawn = np.concatenate([rows[names[index]] for index in draw])
        y, q = labels[drawn], p[drawn]
        if len(set(y)) == 2:
            recall = [oracle.recall_score(y, q >= 0.5, pos_label=label) for label in (1, 0)]
            values.append([np.mean(recall), *recall, oracle.roc_auc_score(y, q)])
    return np.array(values)


@pytest.mark.parametrize("chunk", [1, 500, 10**6])
def test_intervals_are_those_of_slides_copied(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    labels, p = made(60)
    slides = [f"{row // 7}.tiff" for row in range(60)]
    values = by_repetition(labels, p, slides, 200, seed=3)
    found = intervals(labels, p >= 0.5, p, slides, resamples=200, seed=3)
    assert found.resampling == Resampling("slides", 9, 200, 0)
    for index, name in enumerate(MEASURES):
        assert found.bounds[name] == pytest.approx(tuple(np.quantile(values[:, index], [0.025, 0.975])))


def test_draws_without_a_class_are_skipped_and_counted() -> None:
    labels = np.array([1, 0, 0, 0, 0])
    p = np.array([0.8, 0.9, 0.1, 0.2, 0.3])
    slides = list("abcde")
    values = by_repetition(labels, p, slides, 400, seed=1)
    found = intervals(labels, p >= 0.5, p, slides, resamples=400, seed=1)
    assert 0 < found.resampling.skipped == 400 - len(values)
    assert found.resampling.resamples == len(values)
    assert found.bounds["auroc"] == pytest.approx(tuple(np.quantile(values[:, 3], [0.025, 0.975])))
    # Chance that the one atypical slide is not among five draws.
    assert found.resampling.skipped / 400 == pytest.approx(0.8**5, abs=4 * math.sqrt(0.33 * 0.67 / 400))


@pytest.mark.parametrize(("label", "defined"), [(1, "sensitivity"), (0, "specificity")])
def test_one_class_alone_has_its_own_interval(label: int, defined: str) -> None:
    p = np.linspace(0, 1, 20)
    found = intervals(np.full(20, label), p >= 0.5, p, [""] * 20)
    assert found.resampling.skipped == 0
    assert {name for name, bounds in found.bounds.items() if bounds is not None} == {defined}


def test_unknown_slides_are_drawn_alone() -> None:
    labels, p = made(30)
    alone = intervals(labels, p > 0.5, p, [""] * 30).resampling
    assert (alone.unit, alone.units) == ("samples", 30)
    mixed = intervals(labels, p > 0.5, p, [""] * 10 + ["a"] * 10 + ["b"] * 10).resampling
    assert (mixed.unit, mixed.units) == ("slides and single samples", 12)


def test_slides_make_intervals_wider_where_their_figures_are_alike() -> None:
    labels = np.tile([0, 1], 100)
    good = np.repeat(np.arange(10) % 2 == 0, 20)  # in every other slide all labels are right
    called = np.where(good, labels == 1, labels == 0)
    p = called.astype(float)
    slides = [f"{row // 20}" for row in range(200)]
    by_slide = intervals(labels, called, p, slides).bounds["balanced_accuracy"]
    by_sample = intervals(labels, called, p, [""] * 200).bounds["balanced_accuracy"]
    assert by_slide is not None
    assert by_sample is not None
    assert by_slide[1] - by_slide[0] > 2 * (by_sample[1] - by_sample[0])


@pytest.mark.parametrize("number", [0, 1, 5])
def test_one_slide_or_none_has_no_interval(number: int) -> None:
    labels, p = np.arange(number) % 2, np.linspace(0, 1, number)
    found = intervals(labels, p > 0.5, p, ["a"] * number)
    assert found.resampling.units == min(number, 1)
    assert set(found.bounds.values()) == {None}


def test_the_seed_makes_the_interval() -> None:
    labels, p = made(50)
    first = intervals(labels, p > 0.5, p, [""] * 50, seed=1)
    assert first == intervals(labels, p > 0.5, p, [""] * 50, seed=1)
    assert first != intervals(labels, p > 0.5, p, [""] * 50, seed=2)


@given(st.integers(2, 40), st.integers(0, 5), st.integers(1, 10))
def test_intervals_are_ordered_and_possible(number: int, seed: int, slides: int) -> None:
    labels, p = made(number, seed)
    found = intervals(labels, p >= 0.5, p, [str(row % slides) for row in range(number)], resamples=50)
    assert found.resampling.resamples + found.resampling.skipped == (50 if min(slides, number) > 1 else 0)
    for bounds in found.bounds.values():
        assert bounds is None or 0 <= bounds[0] <= bounds[1] <= 1


def test_a_gain_has_the_interval_of_the_paired_difference() -> None:
    labels, p = made(600)
    better, worse = p >= 0.45, p >= 0.8
    slides = [f"slide {number // 10}" for number in range(600)]
    gain = (score(labels, better, p).balanced_accuracy or 0) - (
        score(labels, worse, p).balanced_accuracy or 0
    )
    found = metrics.gain_interval(labels, worse, better, slides)
    assert 0 < found[0] < gain < found[1]
    alone = intervals(labels, worse, p, slides).bounds["balanced_accuracy"]
    assert alone is not None
    assert found[1] - found[0] < 3 * (alone[1] - alone[0])
    assert metrics.gain_interval(labels, worse, worse, slides) == (0, 0)


def test_draws_without_a_class_are_left_out_of_a_gain() -> None:
    labels, called = np.array([0, 1, 1]), np.array([True, True, False])
    assert metrics.gain_interval(labels, called, ~called, ["a", "b", "b"]) == (0.5, 0.5)


def test_the_gain_of_an_auroc_is_that_of_another_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's AUROC of the samples of each draw, drawn by hand with the same generator."""
    monkeypatch.setattr(metrics, "RESAMPLES", 60)
    labels, before = made(60, seed=3)
    after = np.round(before + 0.2 * labels, 2)
    slides = [f"s{row % 7}" for row in range(60)]
    of_slide = [[row for row in range(60) if row % 7 == number] for number in range(7)]
    drawn = np.random.default_rng(metrics.SEED).integers(0, 7, (60, 7))
    gains = []
    for draw in drawn:
        rows = [row for number in draw for row in of_slide[number]]
        areas = [oracle.roc_auc_score(labels[rows], p[rows]) for p in (before, after)]
        gains.append(areas[1] - areas[0])
    found = metrics.auroc_gain_interval(labels, before, after, slides)
    assert found == pytest.approx(tuple(np.quantile(gains, (0.025, 0.975))))
    assert found[0] > 0
    assert metrics.auroc_gain_interval(labels, before, before, slides) == (0, 0)
