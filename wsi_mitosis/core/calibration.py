"""Calibration: a temperature for P(atypical), and a threshold for a laboratory's own figures.

A member's P(atypical) p, the mean over its views, becomes sigmoid(logit(p) / T) with one temperature T for
all members of a bundle (Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML). Neither the order
of figures nor the side of a half on which each of them is changes.

Both classes weigh alike in every fit, as they do in training: P(atypical) is the probability among figures of
which half are atypical, and a half is the threshold at which a label favours neither class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import expit, logit

from wsi_mitosis.core.folds import slide_parts
from wsi_mitosis.core.metrics import bin_numbers
from wsi_mitosis.core.voting import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int64]

TEMPERATURES = (0.05, 20.0)
"""Least and largest temperature that is fitted."""
THRESHOLDS = (0.0001, 0.9999)
"""Least and largest threshold that is fitted."""
FARTHEST = 16.0
"""Logits beyond this, 1 in 10 million, count as this in a fit, so that no single figure decides it."""
PRIOR_FIGURES = 35
"""The weight of a bundle's own temperature and threshold in `fit_to_figures`, in figures of each class."""
FOLDS = 5
"""Parts of the cross-validation of `fit_to_figures`."""
JUST_BELOW_A_HALF = np.nextafter(0.5, 0.0)


class Fit(NamedTuple):
    """What is fitted to a laboratory's own figures: a temperature, and a threshold at this temperature."""

    temperature: float
    threshold: float


def calibrated(p_atypical: Floats, temperature: float) -> Floats:
    """Return each P(atypical) at a temperature, in the shape it came; NaN stays NaN.

    At temperature 1 the values are returned as they are.
    """
    if temperature == 1:
        return p_atypical
    found = expit(logit(p_atypical) / temperature)
    # rounding could lift a value to the half that it is below
    return np.asarray(np.where(p_atypical < 0.5, np.minimum(found, JUST_BELOW_A_HALF), found))


def fit_temperature(labels: Labels, p_atypical: Floats) -> float:
    """Find the temperature of least log loss, in which both classes weigh alike.

    Args:
        labels: (N,) 0 typical, 1 atypical; both are among them.
        p_atypical: (N,) P(atypical) of a member at temperature 1. Those of several members follow each other.

    Returns:
        A temperature inside `TEMPERATURES`.
    """
    towards_label, weights = _signs(labels) * _logits(p_atypical), class_weights(labels)

    def loss(log_temperature: float) -> float:
        return float(weights @ np.logaddexp(0.0, -towards_label * np.exp(-log_temperature)))

    return _rounded(np.exp(_least(loss, *np.log(TEMPERATURES))))


def fit_to_figures(labels: Labels, probabilities: Floats, before: Fit) -> Fit:
    """Find the temperature and the threshold of the vote for a laboratory's own figures.

    The temperature is `fit_temperature`'s. For the threshold the offset b of least log loss of
    sigmoid(logit(s) + b) is fitted to the scores s of the vote, both classes weighing alike: at logit(s) = -b
    a figure is as likely of one class as of the other. The logarithm of the temperature and the logit of the
    threshold are then drawn towards those that the bundle has. With few figures, or without one of the
    classes, these remain.

    Args:
        labels: (N,) 0 typical, 1 atypical.
        probabilities: (N, M) P(atypical) of each member at temperature 1.
        before: What the bundle has.
    """
    each = _figures_of_each(labels)
    if not each:
        return before
    own = each / (each + PRIOR_FIGURES)
    fitted = fit_temperature(np.repeat(labels, probabilities.shape[1]), probabilities.ravel())
    temperature = _rounded(fitted**own * before.temperature ** (1 - own))
    offset = _fit_offset(labels, decision_scores(calibrated(probabilities, temperature)))
    kept = logit(before.threshold) * before.temperature / temperature
    threshold = np.clip(expit(own * -offset + (1 - own) * kept), *THRESHOLDS)
    return Fit(temperature, _rounded(threshold))


def held_out_calls(
    labels: Labels, probabilities: Floats, slides: Sequence[str], before: Fit, folds: int = FOLDS
) -> NDArray[np.bool_]:
    """Label each figure by a fit to the figures of other slides: cross-validation of `fit_to_figures`.

    Args:
        labels: As for `fit_to_figures`.
        probabilities: As for `fit_to_figures`.
        slides: (N,) the figures' slides, "" where unknown: such a figure is a slide of its own.
        before: As for `fit_to_figures`.
        folds: Number of parts.

    Returns:
        (N,) bool, whether the vote is for atypical.
    """
    parts = slide_parts(labels, slides, folds)
    called = np.zeros(len(labels), dtype=np.bool_)
    for part in range(folds):
        out = parts == part
        fit = fit_to_figures(labels[~out], probabilities[~out], before)
        called[out] = tally(calibrated(probabilities[out], fit.temperature), fit.threshold).is_atypical
    return called


def decision_scores(probabilities: Floats) -> Floats:
    """Return (N,) scores that reach a threshold exactly where the members' vote at it is for atypical.

    A score is the median of the members' P(atypical). For an even number of members it is the mean over all,
    which decides a tie, but not outside the two middle ones.

    Args:
        probabilities: (N, M) P(atypical) without NaN.
    """
    ranked, members = np.sort(probabilities, axis=1), probabilities.shape[1]
    mean = probabilities.sum(axis=1) / members
    return np.asarray(np.clip(mean, ranked[:, (members - 1) // 2], ranked[:, members // 2]))


def calibration_error(labels: Labels, p_atypical: Floats, weights: Floats | None = None) -> float:
    """Return the expected calibration error: how far P(atypical) is from the share of atypical figures.

    The mean over ten bins of equal width, by their weight, of |mean P(atypical) - share of atypical|. Guo
    et al. 2017 bin by the confidence in the label; here both classes share one scale.

    Args:
        labels: (N,) 0 typical, 1 atypical; N > 0.
        p_atypical: (N,).
        weights: (N,) weights; all figures weigh alike if None.

    Returns:
        0 at best, at most 1.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    gaps = np.bincount(bin_numbers(p_atypical), weights * (p_atypical - labels))
    return float(np.abs(gaps).sum() / weights.sum())


def class_weights(labels: Labels) -> Floats:
    """Return (N,) weights that add up to a half for each of both classes."""
    return np.asarray(0.5 / np.bincount(labels, minlength=2)[labels], dtype=np.float64)


def _figures_of_each(labels: Labels) -> float:
    """Harmonic mean of the numbers of both classes: the error of a mean of both goes by it."""
    typical, atypical = np.bincount(labels, minlength=2)
    return 2 * typical * atypical / (typical + atypical) if typical and atypical else 0.0


def _fit_offset(labels: Labels, scores: Floats) -> float:
    signs, logits, weights = _signs(labels), _logits(scores), class_weights(labels)

    def loss(offset: float) -> float:
        return float(weights @ np.logaddexp(0.0, -signs * (logits + offset)))

    return _least(loss, -FARTHEST, FARTHEST)


def _least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum is least."""
    from scipy.optimize import minimize_scalar  # classifying does not need it, and it takes a while to import

    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def _rounded(value: float) -> float:
    """Round to four significant digits: more would say nothing."""
    return float(f"{value:.4g}")


def _signs(labels: Labels) -> Floats:
    return np.where(labels == 1, 1.0, -1.0)


def _logits(p_atypical: Floats) -> Floats:
    return np.asarray(np.clip(logit(p_atypical), -FARTHEST, FARTHEST))
