"""How a classifier's labels compare with the experts whose votes made the labels of a dataset.

The majority of a few experts is no truth: on a figure on which they are divided, one of them contradicts
its label. Two questions therefore stand beside the scores. How good are the labels where all experts agree?
And how often does the classifier agree with one expert, where another expert agrees how often?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.metrics import (
    MEASURES,
    Bounds,
    defined,
    intervals,
    percentiles,
    rate_draws,
    roc_points,
    score,
)
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 2
"""Experts of a figure without which nothing can be said of their agreement."""


class Labelled(NamedTuple):
    """N labelled figures with the labels that a classifier gives them.

    Attributes:
        labels: (N,) 0 typical, 1 atypical.
        called: (N,) bool, whether the classifier calls the figure atypical.
        p_atypical: (N,) its P(atypical).
        atypical_votes: (N,) number of experts who call the figure atypical.
        experts: (N,) number of experts who called it either; 0 if unknown.
        slides: (N,) the figures' slides, "" where unknown.
    """

    labels: NDArray[np.int64]
    called: NDArray[np.bool_]
    p_atypical: NDArray[np.float64]
    atypical_votes: NDArray[np.int64]
    experts: NDArray[np.int64]
    slides: NDArray[np.object_]

    def where(self, chosen: NDArray[np.bool_]) -> Labelled:
        """Return the figures for which `chosen`, shape (N,), is true."""
        return Labelled(
            self.labels[chosen],
            self.called[chosen],
            self.p_atypical[chosen],
            self.atypical_votes[chosen],
            self.experts[chosen],
            self.slides[chosen],
        )


class Part(Spec):
    """The scores on a part of the figures, with 95 % intervals; None if a class that one needs is absent.

    Attributes:
        n: Number of figures.
        atypical: Number of figures whose label is atypical.
    """

    n: int
    atypical: int
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    auroc: float | None
    balanced_accuracy_ci95: Bounds
    sensitivity_ci95: Bounds
    specificity_ci95: Bounds
    auroc_ci95: Bounds


class Agreement(Spec):
    """How often a label is the vote of one expert, each vote of each expert being taken as the truth once.

    Attributes:
        sensitivity: Share of the votes for atypical that meet the label atypical.
        specificity: Share of the votes for typical that meet the label typical.
        balanced_accuracy: Their mean.
    """

    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    balanced_accuracy_ci95: Bounds
    sensitivity_ci95: Bounds
    specificity_ci95: Bounds


class BesideExperts(Spec):
    """A classifier beside the experts, on the figures that two or more of them labelled.

    Attributes:
        unanimous: The scores where all experts agree.
        divided: The scores where they do not.
        classifier: The classifier's labels against single experts.
        another_expert: Against single experts, the vote of another expert of the same figure, each of the
            others in turn.
        difference: How much balanced accuracy `classifier` has more than `another_expert`.
        difference_ci95: Its interval, from the same draws of slides for both.
        sensitivity_at_their_specificity: The classifier's sensitivity against single experts at the threshold
            at which its specificity is that of `another_expert`. Experts may call more or fewer figures
            atypical than the classifier does, which this leaves out of the comparison.
    """

    unanimous: Part
    divided: Part
    classifier: Agreement
    another_expert: Agreement
    difference: float | None
    difference_ci95: Bounds
    sensitivity_at_their_specificity: float | None


def beside_experts(figures: Labelled) -> BesideExperts | None:
    """Compare a classifier with the experts; None if no figure has the votes of two."""
    figures = figures.where(figures.experts >= FEWEST)
    if not len(figures.labels):
        return None
    votes, experts = figures.atypical_votes, figures.experts
    unanimous = (votes == 0) | (votes == experts)
    counts = np.stack([_classifiers(figures.called, votes, experts), _another_experts(votes, experts)])
    values, draws = rate_draws(counts, figures.slides.tolist())
    gain = values[0, 0] - values[1, 0]
    return BesideExperts(
        unanimous=_part(figures.where(unanimous)),
        divided=_part(figures.where(~unanimous)),
        classifier=_agreement(values[0], draws[:, 0]),
        another_expert=_agreement(values[1], draws[:, 1]),
        difference=defined(gain),
        difference_ci95=_bounds(draws[:, 0, 0] - draws[:, 1, 0]),
        sensitivity_at_their_specificity=defined(_sensitivity_at(values[1, 2], figures)),
    )


def _classifiers(
    called: NDArray[np.bool_], votes: NDArray[np.int64], experts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N, 4) counts in the order of `metrics.Confusion`: each vote is the truth once."""
    against = experts - votes
    return np.stack([votes * called, votes * ~called, against * ~called, against * called], axis=1) * 1.0


def _another_experts(votes: NDArray[np.int64], experts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 4) counts likewise, the label being the mean of the other experts' votes."""
    against, others = experts - votes, experts - 1
    cells = [votes * (votes - 1), votes * against, against * (against - 1), against * votes]
    return np.stack(cells, axis=1) / others[:, None]


def _sensitivity_at(specificity: float, figures: Labelled) -> float:
    """Sensitivity at a specificity, both against single votes; between two thresholds it is interpolated."""
    votes, against = figures.atypical_votes, figures.experts - figures.atypical_votes
    truth = np.repeat([1, 0], [votes.sum(), against.sum()])
    called = np.concatenate([np.repeat(figures.p_atypical, number) for number in (votes, against)])
    if (corners := roc_points(truth, called)) is None:
        return float("nan")
    return float(np.interp(1 - specificity, *corners))


def _part(figures: Labelled) -> Part:
    found = score(figures.labels, figures.called, figures.p_atypical)
    bounds = intervals(figures.labels, figures.called, figures.p_atypical, figures.slides.tolist()).bounds
    return Part(
        n=found.n,
        atypical=int(figures.labels.sum()),
        **{name: getattr(found, name) for name in MEASURES},
        **{f"{name}_ci95": bounds[name] for name in MEASURES},
    )


def _agreement(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Agreement:
    """From (3,) rates and (R, 3) of draws."""
    names = MEASURES[:3]
    return Agreement(
        **{name: defined(value) for name, value in zip(names, values, strict=True)},
        **{f"{name}_ci95": _bounds(of) for name, of in zip(names, draws.T, strict=True)},
    )


def _bounds(draws: NDArray[np.float64]) -> Bounds:
    """The interval of (R,) draws without those in which the value is undefined."""
    draws = draws[~np.isnan(draws)]
    return percentiles(draws) if len(draws) else None
