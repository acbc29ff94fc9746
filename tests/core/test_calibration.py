from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from scipy.stats import norm

from wsi_mitosis.core.calibration import (
    PRIOR_FIGURES,
    TEMPERATURES,
    Fit,
    calibrated,
    calibration_error,
    class_weights,
    decision_scores,
    fit_temperature,
    fit_to_figures,
    held_out_calls,
)
from wsi_mitosis.core.folds import slide_parts
from wsi_mitosis.core.metrics import calibration
from wsi_mitosis.core.voting import tally

AS_IT_IS = Fit(1.0, 0.5)
PROBABILITY = st.floats(0, 1)
TENTHS = [tenth / 10 for tenth in range(11)]
TEMPERATURE = st.floats(*TEMPERATURES)
THRESHOLD = st.floats(0.01, 0.99)


def labelled(number: int, seed: int, temperature: float = 1.0, offset: float = 0.0) -> tuple[np.ndarray, ...]:
    """Labels, half of them atypical, and P(atypical) that means it, divided by a temperature and moved."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    # Of two normal classes of variance 2 m about -m and m the logit of the truth is the value itself.
    logits = generator.normal(np.where(labels == 1, 1.0, -1.0), np.sqrt(2.0))
    return labels, expit(logits * temperature + offset)


def test_by_hand() -> None:
    p = np.array([0.1, 0.5, 0.8])
    np.testing.assert_allclose(calibrated(p, 2.0), [1 / 4, 1 / 2, 2 / 3])  # odds of 1/9, 1 and 4; their roots
    np.testing.assert_allclose(calibrated(p, 0.5), [1 / 82, 1 / 2, 16 / 17])  # and their squares


def test_temperature_1_leaves_every_bit() -> None:
    p = np.random.default_rng(0).random(1000)
    assert calibrated(p, 1.0).tobytes() == p.tobytes()


@given(st.lists(PROBABILITY, min_size=2, max_size=20), TEMPERATURE)
def test_order_and_the_side_of_a_half_are_kept(drawn: list[float], temperature: float) -> None:
    p = np.sort(np.array([*drawn, 0.0, np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1), 1.0]))
    found = calibrated(p, temperature)
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0.5) == (p >= 0.5)).all()
    assert (found[0], found[-1]) == (0.0, 1.0)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20), st.floats(0.5, 4))
def test_a_temperature_can_be_taken_back(drawn: list[float], temperature: float) -> None:
    p = np.array(drawn)
    np.testing.assert_allclose(calibrated(calibrated(p, temperature), 1 / temperature), p, rtol=1e-9)


def test_who_did_not_vote_stays_so() -> None:
    assert np.isnan(calibrated(np.array([np.nan, 0.4]), 2.0)).tolist() == [True, False]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_is_recovered(temperature: float) -> None:
    labels, p = labelled(20_000, 3, temperature)
    assert fit_temperature(labels, p) == pytest.approx(temperature, rel=0.03)


def test_the_share_of_atypical_figures_does_not_change_the_temperature() -> None:
    labels, p = labelled(200, 4, 2.0)
    often = np.repeat(np.arange(200), np.where(labels == 0, 9, 1))
    assert labels[often].mean() == 0.1
    assert fit_temperature(labels[often], p[often]) == pytest.approx(fit_temperature(labels, p), rel=1e-4)


def test_certain_mistakes_are_safe() -> None:
    """One P(atypical) of exactly 0 or 1 on the wrong side has an infinite log loss."""
    labels, p = labelled(2000, 5)
    p[labels == 0], p[labels == 1] = np.append(p[labels == 0][1:], 1.0), np.append(p[labels == 1][1:], 0.0)
    assert 1.0 < fit_temperature(labels, p) < 1.5
    assert fit_temperature(np.array([0, 1]), np.array([0.0, 1.0])) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(np.array([0, 1]), np.array([1.0, 0.0])) == pytest.approx(TEMPERATURES[1], rel=1e-3)


@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(0, 1, width=16)),
    THRESHOLD,
)
def test_a_vote_is_a_threshold_on_one_score(probabilities: np.ndarray, threshold: float) -> None:
    votes = tally(probabilities, threshold)
    assert (decision_scores(probabilities) >= threshold).tolist() == votes.is_atypical.tolist()


def test_the_calibration_error_by_hand() -> None:
    labels, p = np.array([0, 1, 1, 0]), np.array([0.12, 0.18, 0.9, 1.0])
    # two figures in the second bin, .15 against a half; two in the last, .95 against a half
    assert calibration_error(labels, p) == pytest.approx((2 * 0.35 + 2 * 0.45) / 4)
    # .12 and 1.0 of the typical weigh 1/4 each, as do the atypical
    assert calibration_error(labels, p, class_weights(labels)) == pytest.approx((2 * 0.35 + 2 * 0.45) / 4)
    assert calibration_error(labels[1:], p[1:], class_weights(labels[1:])) == pytest.approx(
        0.25 * 0.82 + abs(0.25 * (0.9 - 1) + 0.5 * 1.0)
    )


@given(st.lists(st.tuples(st.integers(0, 1), PROBABILITY | st.sampled_from(TENTHS)), min_size=1, max_size=30))
def test_the_calibration_error_is_of_the_bins_of_the_plot(drawn: list[tuple[int, float]]) -> None:
    labels, p = (np.array(column) for column in zip(*drawn, strict=True))
    gaps = [found.n * abs(found.mean_p - found.atypical_fraction) for found in calibration(labels, p)]
    assert calibration_error(labels, p) == pytest.approx(sum(gaps) / len(labels))


def test_calibrating_lessens_the_error() -> None:
    labels, p = labelled(5000, 6, 2.5)
    before, after = (calibration_error(labels, calibrated(p, t)) for t in (1.0, fit_temperature(labels, p)))
    assert (before > 0.08, after < 0.02) == (True, True)


def test_weights_are_a_half_for_each_class() -> None:
    assert class_weights(np.array([0, 1, 0, 0, 0])).tolist() == [0.125, 0.5, 0.125, 0.125, 0.125]


def test_a_moved_threshold_is_found_with_many_figures() -> None:
    labels, p = labelled(20_000, 7, 1.5, offset=-0.9)
    found = fit_to_figures(labels, p[:, None], AS_IT_IS)
    called = calibrated(p, found.temperature) >= found.threshold
    assert called[labels == 1].mean() == pytest.approx((~called)[labels == 0].mean(), abs=0.02)
    assert logit(found.threshold) * found.temperature == pytest.approx(-0.9, abs=0.05)


def test_few_figures_move_it_part_of_the_way() -> None:
    """The weight of n figures of each class is n / (n + PRIOR_FIGURES)."""
    labels, p = labelled(20_000, 8, offset=-0.9)
    many = fit_to_figures(labels, p[:, None], AS_IT_IS)
    every = np.repeat([0, 1], PRIOR_FIGURES)
    few = fit_to_figures(every, expit(np.where(every, 0.1, -1.9))[:, None], AS_IT_IS)
    assert logit(few.threshold) * few.temperature == pytest.approx(-0.9 / 2, abs=0.01)
    assert logit(many.threshold) * many.temperature == pytest.approx(-0.9, abs=0.05)


def test_the_threshold_that_a_bundle_has_is_kept_at_another_temperature() -> None:
    """Half of the way from a temperature of 4 to 1 is 2, and from a logit of 4 logit(.2) at 1 to 0."""
    spread = np.sqrt(2) * norm.ppf((np.arange(PRIOR_FIGURES) + 0.5) / PRIOR_FIGURES)
    labels, p = np.repeat([0, 1], PRIOR_FIGURES), expit(np.r_[spread - 1, spread + 1])
    assert fit_temperature(labels, p) == pytest.approx(1, abs=0.06)
    found = fit_to_figures(labels, p[:, None], Fit(4.0, 0.2))
    assert found.temperature == pytest.approx(2, abs=0.06)
    assert logit(found.threshold) * found.temperature == pytest.approx(4 * logit(0.2) / 2, abs=1e-3)


@pytest.mark.parametrize(("p", "threshold"), [(1.0, 0.9999), (0.0, 0.0001)])
def test_certain_members_give_a_threshold_that_a_bundle_can_have(p: float, threshold: float) -> None:
    labels = np.arange(2000) % 2
    assert fit_to_figures(labels, np.full((2000, 1), p), AS_IT_IS).threshold == threshold


def test_held_out_figures_are_labelled_by_a_fit_to_other_slides() -> None:
    slides = [f"slide {number % 5}" for number in range(100)]
    moved = np.array([-4.0, 0.5, 1.0, 1.5, 2.0])[np.arange(100) % 5]
    labels = np.arange(100) // 5 % 2
    generator = np.random.default_rng(2)
    p = expit(generator.normal(np.where(labels == 1, 0.8, -0.8) + moved, 1.0))[:, None]
    expected = np.zeros(100, dtype=bool)
    for slide in sorted(set(slides)):
        out = np.array(slides) == slide
        fit = fit_to_figures(labels[~out], p[~out], AS_IT_IS)
        expected[out] = calibrated(p[out, 0], fit.temperature) >= fit.threshold
    whole = fit_to_figures(labels, p, AS_IT_IS)
    assert held_out_calls(labels, p, slides, AS_IT_IS).tolist() == expected.tolist()
    assert (calibrated(p[:, 0], whole.temperature) >= whole.threshold).tolist() != expected.tolist()


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdefgh")), min_size=1, max_size=60))
def test_no_slide_is_in_two_parts(drawn: list[tuple[int, str]]) -> None:
    labels, slides = np.array([label for label, _ in drawn]), [slide for _, slide in drawn]
    parts = slide_parts(labels, slides, 5)
    assert len(set(zip(slides, parts.tolist(), strict=True))) == len(set(slides))
    assert len(set(parts.tolist())) == min(5, len(set(slides)))


@given(st.integers(0, 1), st.integers(0, 20), st.floats(0.2, 5), THRESHOLD)
def test_without_one_of_the_classes_everything_stays(
    label: int, number: int, temperature: float, threshold: float
) -> None:
    before = Fit(temperature, threshold)
    p = np.full((number, 3), 0.7)
    assert fit_to_figures(np.full(number, label, dtype=np.int64), p, before) == before


@given(st.integers(2, 60), st.integers(0, 99), st.floats(0.3, 3), st.floats(0.2, 0.8))
def test_a_fit_is_always_one_that_a_bundle_can_have(
    number: int, seed: int, temperature: float, threshold: float
) -> None:
    labels, p = labelled(number, seed)
    found = fit_to_figures(labels, np.stack([p, 1 - p, p**2], axis=1), Fit(temperature, threshold))
    assert TEMPERATURES[0] <= found.temperature <= TEMPERATURES[1]
    assert 0 < found.threshold < 1
    assert all(float(f"{value:.4g}") == value for value in found)
