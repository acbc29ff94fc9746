"""Estimates of atypical and mitotic figures from the labels of a random sample, with 95 % intervals.

The population is finite and known as a whole: the machine has labelled each of its figures. Two estimates
stand side by side.

- *Stratified*: the labels alone, each stratum weighed by its figures (Cochran, Sampling Techniques, 3rd ed.
  1977, chapter 5; the fraction is the combined ratio estimate, section 6.11).
- *Prediction-powered*: the machine's P(atypical) of all figures, corrected by its errors on the sample
  (Angelopoulos, Bates, Fannjiang, Jordan, Zrnic, Science 382 (2023) 669), as far as the sample shows that
  this makes the estimate better (power tuning: Angelopoulos, Duchi, Zrnic, PPI++, arXiv 2311.01453, 2023).
  In a finite population this is the stratified difference estimator with an estimated slope (Saerndal,
  Swensson, Wretman, Model Assisted Survey Sampling, 1992, chapter 6; Cochran, chapter 7): with one stratum,
  and figures without a label as the unlabelled data, both are the same formula. The machine may be wrong in
  any way: the sample measures its errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wsi_mitosis.core.sampling import LEAST_DRAWN, LEAST_SIZE
from wsi_mitosis.errors import InputError, several

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

STAGE = "estimating"
Method = Literal["stratified", "prediction-powered"]
METHODS: tuple[Method, ...] = ("prediction-powered", "stratified")
Quantity = Literal["atypical_fraction", "atypical", "mitoses"]
QUANTITIES: tuple[Quantity, ...] = ("atypical_fraction", "atypical", "mitoses")
DECIDED = ("atypical", "typical", "none")
"""Verdicts that are labels. Any other one, such as unsure, leaves the figure without a label."""
LEAST_LABELS = LEAST_SIZE
"""Labels that an estimate needs, unless every figure has one."""
MOST_UNDECIDED = 0.2
"""Largest share of a sample that may have no label. What is left out may differ from the rest, and no
interval covers that."""
_SHARED = 1.0
"""Labels of the whole sample that join those of each cell when its variance is estimated, as Agresti and
Coull add labels to a proportion (The American Statistician 52 (1998) 119). `train/estimates.py` shows that
one is enough."""
_ROUNDING = 1e-12
"""A smaller variance of labels, which are 0 or 1, is 0."""


@dataclass(frozen=True)
class Estimate:
    """One estimate.

    Attributes:
        method: How it was made.
        quantity: Of what: `atypical_fraction` is atypical / mitotic figures; `atypical` and `mitoses` are
            numbers of figures.
        value: The estimate; None for a fraction if no figure of the sample is a mitotic figure.
        low: Lower end of the 95 % interval; None without a value.
        high: Upper end.
    """

    method: Method
    quantity: Quantity
    value: float | None
    low: float | None
    high: float | None

    @property
    def width(self) -> float | None:
        """Width of the interval; None without a value."""
        return None if self.low is None or self.high is None else self.high - self.low


@dataclass(frozen=True)
class Estimates:
    """The estimates for a population of figures.

    Attributes:
        figures: Number of its figures.
        drawn: How many of them are in the sample.
        labels: How many of these have a label.
        undecided: How many have a verdict that is no label, such as unsure.
        missing: How many have no verdict.
        each: The estimates by METHODS and QUANTITIES; empty if there are too few labels.
    """

    figures: int
    drawn: int
    labels: int
    undecided: int
    missing: int
    each: tuple[Estimate, ...]


class Sample(NamedTuple):
    """A population of N figures, divided into cells, and the labels of m of them.

    Attributes:
        cells: (N,) int64, numbers of the cells, from 0 without gaps. Each has at least two labels.
        p_atypical: (N,) float64, the machine's P(atypical).
        rows: (m,) the figures with a label.
        weights: (m,) float64, how many figures each label stands for. Within a cell only their ratios matter.
        atypical: (m,) float64, 1 for an atypical figure, 0 for another one.
        mitosis: (m,) float64, 1 for a mitotic figure, 0 for one that the reviewer says is none.
    """

    cells: Integers
    p_atypical: Floats
    rows: NDArray[np.intp]
    weights: Floats
    atypical: Floats
    mitosis: Floats


# From verdicts to estimates


def estimate_all(table: pd.DataFrame, verdicts: Mapping[tuple[str, str], str | None]) -> Estimates:
    """Estimate the numbers of all figures that a sample was drawn from.

    A drawn figure without a label is left out of its stratum, as if it had not been drawn: it is taken to be
    like the others of its stratum.

    Args:
        table: As from `core.sampling.draw`.
        verdicts: By slide and figure_id: one of DECIDED; anything else is no label. Verdicts of figures that
            were not drawn are ignored.

    Raises:
        InputError: if more than MOST_UNDECIDED of the sample or all but fewer than LEAST_LABELS have no
            label.
    """
    labelled = _Labelled.of(table, verdicts)
    _check(labelled)
    whole = np.arange(len(table))
    return labelled.estimates(whole, _joined(labelled.strata, labelled.strata[labelled.rows]))


def estimate_slides(
    table: pd.DataFrame, verdicts: Mapping[tuple[str, str], str | None]
) -> dict[str, Estimates]:
    """Estimate the numbers of each slide from its own labels.

    A slide that has strata of its own keeps them. Otherwise chance decides how many of its figures are drawn.
    Their labels are weighed as in the whole sample, and the figures of each machine label are a cell of their
    own if each of the two has at least LEAST_DRAWN labels (post-stratification: Cochran, section 5A.9).

    Args:
        table: As for `estimate_all`.
        verdicts: Likewise.

    Returns:
        By name of the slide. A slide with fewer than LEAST_LABELS labels, or with more than MOST_UNDECIDED of
        its sample undecided, has no estimate, unless all of its figures have labels.
    """
    labelled = _Labelled.of(table, verdicts)
    called = (table["label"] == "atypical").to_numpy(bool).astype(np.int64)
    found = {}
    for slide, rows in table.groupby("slide").indices.items():
        figures = np.asarray(rows, np.intp)
        found[str(slide)] = labelled.estimates(figures, _cells_of_slide(labelled, figures, called))
    return found


def _cells_of_slide(labelled: _Labelled, figures: NDArray[np.intp], called: Integers) -> Integers:
    """(n,) the cells of a slide's figures.

    Args:
        labelled: The sample.
        figures: (n,) rows of the slide's figures.
        called: (N,) 1 for a figure that the machine calls atypical, 0 for another one.
    """
    has_label = np.isin(figures, labelled.rows)
    own, strata = np.unique(labelled.strata[figures], return_inverse=True)
    if (np.bincount(strata) == np.bincount(labelled.strata)[own]).all():
        return _joined(strata, strata[has_label])
    fewest = np.bincount(called[figures][has_label], minlength=2).min()
    return called[figures] if fewest >= LEAST_DRAWN else np.zeros(len(figures), np.int64)


class _Labelled(NamedTuple):
    """A drawn sample and its verdicts.

    Attributes:
        p_atypical: (N,) of all figures.
        strata: (N,) numbers of their strata.
        drawn: (N,) bool.
        verdicts: (N,) str; None for a figure that was not drawn, or has no verdict.
        rows: (m,) the figures with a label.
        weights: (m,) figures of the stratum per label in it.
    """

    p_atypical: Floats
    strata: Integers
    drawn: NDArray[np.bool_]
    verdicts: NDArray[np.object_]
    rows: NDArray[np.intp]
    weights: Floats

    @classmethod
    def of(cls, table: pd.DataFrame, verdicts: Mapping[tuple[str, str], str | None]) -> _Labelled:
        drawn = table["drawn"].to_numpy(bool)
        keys = zip(table["slide"], table["figure_id"], drawn, strict=True)
        found = [verdicts.get((slide, name)) if is_drawn else None for slide, name, is_drawn in keys]
        rows = np.flatnonzero([verdict in DECIDED for verdict in found])
        strata = table["stratum"].to_numpy(np.int64)
        of_label = strata[rows]
        per_label = np.bincount(strata) / np.maximum(np.bincount(of_label, minlength=strata.max() + 1), 1)
        p_atypical = table["p_atypical"].to_numpy(np.float64)
        return cls(p_atypical, strata, drawn, np.array(found, object), rows, per_label[of_label])

    def estimates(self, figures: NDArray[np.intp], cells: Integers) -> Estimates:
        """Estimate the numbers of some figures.

        Args:
            figures: (n,) their rows, ascending.
            cells: (n,) the cells to divide them into.
        """
        verdicts = self.verdicts[figures]
        drawn = int(self.drawn[figures].sum())
        missing = drawn - sum(verdict is not None for verdict in verdicts)
        mine = np.isin(self.rows, figures)
        rows = np.searchsorted(figures, self.rows[mine])
        labels = verdicts[rows]
        enough = len(rows) >= LEAST_LABELS and drawn - len(rows) <= MOST_UNDECIDED * drawn
        sample = Sample(
            cells,
            self.p_atypical[figures],
            rows,
            self.weights[mine],
            (labels == "atypical").astype(np.float64),
            (labels != "none").astype(np.float64),
        )
        return Estimates(
            figures=len(figures),
            drawn=drawn,
            labels=len(rows),
            undecided=drawn - len(rows) - missing,
            missing=missing,
            each=estimates_of(sample) if enough or 0 < len(rows) == len(figures) else (),
        )


def _check(labelled: _Labelled) -> None:
    """Refuse a sample with too few labels."""
    drawn, labels = int(labelled.drawn.sum()), len(labelled.rows)
    if labels == len(labelled.drawn):
        return
    if drawn - labels > MOST_UNDECIDED * drawn:
        cause = f"{drawn - labels} of the {several(drawn, 'figure')} of the sample have no label"
        remedy = (
            f"Review them, or let reviewers agree on them: at most {MOST_UNDECIDED:.0%} may be unsure or "
            "missing, because they may differ from the others"
        )
        raise InputError(cause, subject="sample", stage=STAGE, remedy=remedy)
    if labels < LEAST_LABELS:
        cause = f"{several(labels, 'label')} are too few for an estimate"
        remedy = f"Label at least {LEAST_LABELS} figures of the sample, or all figures"
        raise InputError(cause, subject="sample", stage=STAGE, remedy=remedy)


def _joined(strata: Integers, of_labels: Integers) -> Integers:
    """(N,) the strata, where one with fewer than two labels is joined to the next.

    These are the collapsed strata of Cochran, section 5A.12.

    Args:
        strata: (N,) numbers of strata.
        of_labels: (m,) the strata of the labels.
    """
    number, have = 0, 0
    numbers = []
    for labels in np.bincount(of_labels, minlength=int(strata.max()) + 1).tolist():
        numbers.append(number)
        have += labels
        if have > 1:
            number, have = number + 1, 0
    last = max(number - 1, 0)  # labels that are left over at the end join the last cell
    return np.minimum(np.array(numbers, np.int64), last)[strata]


# Estimates from a sample


def estimates_of(sample: Sample) -> tuple[Estimate, ...]:
    """Estimate fraction and numbers by both methods.

    The interval contains the shares S for which (S - estimate)^2 is at most t^2 times the variance that the
    estimate has if S is true. Where a single proportion is estimated, this is Wilson's interval (1927). The
    variance changes with S by the third moment of the estimate divided by its variance, as in Johnson's t for
    asymmetrical populations (Journal of the American Statistical Association 73 (1978) 536), and by -1 /
    effective labels in the second order: as many labels, drawn from all figures at random, would give the
    same variance (Korn and Graubard, Survey Methodology 24 (1998) 193). t has Satterthwaite's degrees of
    freedom (Cochran, section 5.4). The interval ends where no labels of the other figures could lead.

    Args:
        sample: With two labels or more in each cell, or of all figures.
    """
    cells = _Cells(sample)
    found = {method: _by_method(cells, sample, method) for method in METHODS}
    return tuple(found[method][quantity] for method in METHODS for quantity in QUANTITIES)


class _Cells:
    """The cells of a sample.

    Attributes:
        of_label: (m,) the cell of each label.
        labels: (C,) labels of each cell.
        share: (C,) share of the figures that each cell has.
        factor: (C,) what the variance in a cell contributes to that of the mean over all figures: the squared
            share, the finite population correction, and 1 / effective labels. Labels with different weights
            count as (sum of weights)^2 / (sum of squared weights) labels (Kish, Survey Sampling, 1965).
    """

    def __init__(self, sample: Sample) -> None:
        sizes = np.bincount(sample.cells).astype(np.float64)
        self.of_label = sample.cells[sample.rows]
        self.labels = np.bincount(self.of_label, minlength=len(sizes)).astype(np.float64)
        sums = np.bincount(self.of_label, sample.weights, len(sizes))
        self._weights = sample.weights / sums[self.of_label]
        self.share = sizes / sizes.sum()
        per_label = np.bincount(self.of_label, self._weights**2, len(sizes))
        self.factor = self.share**2 * (1 - self.labels / sizes) * per_label

    def means(self, values: Floats) -> Floats:
        """Return the mean of (m,) values in each cell, (C,)."""
        return np.bincount(self.of_label, self._weights * values, len(self.share)).astype(np.float64)

    def mean(self, values: Floats) -> float:
        """Return the estimated mean of (m,) values over all figures."""
        return float(self.share @ self.means(values))

    def centred(self, values: Floats) -> Floats:
        """Return (m,) values less the mean of their cell."""
        return values - self.means(values)[self.of_label]

    def covariances(self, one: Floats, other: Floats) -> Floats:
        """Return the covariance of two (m,) values in each cell, (C,)."""
        product = self.centred(one) * self.centred(other)
        return self.means(product) * self.labels / np.maximum(self.labels - 1, 1)


class _Adjusted(NamedTuple):
    """What is measured on labelled figures after a prediction for all figures was subtracted.

    Attributes:
        residuals: (m,) what is left of the values.
        offset: Mean of the prediction over all figures.
        lost: By what factor the variance of the residuals is too small, because the labels chose the
            prediction.
    """

    residuals: Floats
    offset: float = 0.0
    lost: float = 1.0


def _by_method(cells: _Cells, sample: Sample, method: Method) -> dict[Quantity, Estimate]:
    figures, rest = len(sample.cells), len(sample.cells) - len(sample.rows)
    is_powered = method == "prediction-powered" and 0 < sample.atypical.sum() < sample.mitosis.sum()
    adjusted = _powered(cells, sample) if is_powered else _Adjusted(sample.atypical)
    atypical = _proportion(cells, sample.atypical, rest, adjusted)
    mitoses = _proportion(cells, sample.mitosis, rest, _Adjusted(sample.mitosis))
    fraction = _ratio(cells, sample, rest, adjusted, atypical[0] / mitoses[0]) if mitoses[0] else (None,) * 3
    return {
        "atypical_fraction": Estimate(method, "atypical_fraction", *fraction),
        "atypical": Estimate(method, "atypical", *(figures * share for share in atypical)),
        "mitoses": Estimate(method, "mitoses", *(figures * share for share in mitoses)),
    }


def _powered(cells: _Cells, sample: Sample) -> _Adjusted:
    """Subtract P(atypical), times the slope that leaves the least variance, from 0 (no use) to 1.

    The variance of P(atypical) is that among all figures, as in PPI++, because the machine has seen them
    all. An estimated slope costs a degree of freedom, and adds its own error, a further 1 / degrees of
    freedom (as in the variance of a prediction by regression).
    """
    p_atypical = sample.p_atypical[sample.rows]
    together = float(cells.factor @ cells.covariances(sample.atypical, p_atypical))
    variance = float(cells.factor @ _variances(sample))
    slope = min(max(together / variance, 0.0), 1.0) if variance else 0.0
    free = len(sample.rows) - len(cells.share)
    return _Adjusted(
        sample.atypical - slope * p_atypical,
        slope * float(sample.p_atypical.mean()),
        (free + 1) / (free - 1) if slope else 1.0,
    )


def _variances(sample: Sample) -> Floats:
    """(C,) the variance of P(atypical) among all figures of each cell."""
    sizes = np.bincount(sample.cells)
    means = np.bincount(sample.cells, sample.p_atypical) / sizes
    squares = np.bincount(sample.cells, (sample.p_atypical - means[sample.cells]) ** 2)
    return np.asarray(squares / np.maximum(sizes - 1, 1), np.float64)


def _proportion(cells: _Cells, values: Floats, rest: int, adjusted: _Adjusted) -> tuple[float, float, float]:
    """Estimate a share of all figures, and its interval.

    Args:
        cells: The cells.
        values: (m,) 1 for a figure that counts, 0 for another one.
        rest: Number of figures without a label.
        adjusted: The values after a prediction was subtracted.
    """
    figures, known = len(values) + rest, float(values.sum())
    bounds = _Bounds(known / figures, (known + rest) / figures)
    value = bounds.nearest(adjusted.offset + cells.mean(adjusted.residuals))
    return value, *_spread(cells, values, adjusted).interval(value, bounds)


def _ratio(
    cells: _Cells, sample: Sample, rest: int, adjusted: _Adjusted, value: float
) -> tuple[float, float, float]:
    """Return the fraction atypical / mitotic figures and its interval (linearised: Cochran, section 6.11).

    Args:
        cells: The cells.
        sample: With a mitotic figure.
        rest: Number of figures without a label.
        adjusted: The atypical figures after a prediction was subtracted.
        value: The fraction.
    """
    atypical, mitoses = float(sample.atypical.sum()), float(sample.mitosis.sum())
    others = len(sample.rows) - mitoses
    bounds = _Bounds(atypical / (len(sample.cells) - others), (atypical + rest) / (mitoses + rest))
    value, share = bounds.nearest(value), cells.mean(sample.mitosis)
    plain = cells.mean(sample.atypical) / share
    linear = adjusted._replace(residuals=adjusted.residuals - value * sample.mitosis)
    spread = _spread(cells, sample.atypical - plain * sample.mitosis, linear)
    return value, *spread.of_share(share).interval(value, bounds)


class _Bounds(NamedTuple):
    """What the labels alone leave possible, whatever the other figures are."""

    low: float
    high: float

    def nearest(self, value: float) -> float:
        return min(max(value, self.low), self.high)


class _Spread(NamedTuple):
    """How an estimate varies from sample to sample.

    Attributes:
        variance: Its variance; 0 if every figure has a label, or if all labels are alike.
        skew: Its third central moment divided by its variance.
        labels: Effective number of labels; infinite if every figure has one.
        freedom: Degrees of freedom.
    """

    variance: float
    skew: float
    labels: float
    freedom: float

    def of_share(self, share: float) -> _Spread:
        """Return it for the estimate divided by the share of figures that count."""
        variance, skew, labels, freedom = self
        return _Spread(variance / share**2, skew / share, labels * share, freedom)

    def interval(self, value: float, bounds: _Bounds) -> tuple[float, float]:
        """Return the 95 % interval, within bounds."""
        from scipy.special import stdtrit

        if math.isinf(self.labels):
            return value, value
        skew = self.skew if self.variance else (1 - 2 * round(value)) / self.labels
        square = float(stdtrit(self.freedom, 0.975)) ** 2
        curved, shift = 1 + square / self.labels, square * skew / 2
        half = math.sqrt(curved * square * self.variance + shift**2)
        low, high = ((shift + sign * half) / curved for sign in (-1, 1))
        return min(bounds.nearest(value + low), value), max(bounds.nearest(value + high), value)


def _spread(cells: _Cells, values: Floats, adjusted: _Adjusted) -> _Spread:
    """Compute how the mean of adjusted values varies.

    Args:
        cells: The cells.
        values: (m,) what is averaged.
        adjusted: The same after a prediction was subtracted.
    """
    away = values - cells.mean(values)
    single = cells.mean(away**2)
    if single < _ROUNDING:
        return _of_labels_that_are_alike(cells)
    seconds, thirds = _moments(cells, away, adjusted.residuals)
    parts = cells.factor * seconds * adjusted.lost
    variance = float(parts.sum())
    if not variance:
        return _CENSUS
    skew = float((cells.factor**2 / cells.share * thirds).sum()) / variance
    labels = single * len(values) / (len(values) - 1) / variance
    return _Spread(variance, skew, labels, _freedom(cells, parts))


def _of_labels_that_are_alike(cells: _Cells) -> _Spread:
    """Take the unknown variance as the same in each cell."""
    total = float(cells.factor.sum())
    return _Spread(0.0, 0.0, 1 / total, _freedom(cells, cells.factor)) if total else _CENSUS


_CENSUS = _Spread(0.0, 0.0, math.inf, math.inf)


def _freedom(cells: _Cells, parts: Floats) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, (C,), each estimated in one cell."""
    return float(parts.sum() ** 2 / (parts**2 / (cells.labels - 1 + _SHARED)).sum())


def _moments(cells: _Cells, away: Floats, residuals: Floats) -> tuple[Floats, Floats]:
    """Return variance and third central moment of the residuals in each cell, both (C,).

    Few labels that are all alike, or on which the machine is always right, would give a cell no variance. The
    moments of each cell are therefore those of a mixture of its residuals and of _SHARED labels of the whole
    sample, which differ from its labels as they do, and which no prediction explains.

    Args:
        cells: The cells.
        away: (m,) values less their mean over all figures.
        residuals: (m,) values less a prediction.
    """
    total = cells.labels + _SHARED
    own, shared = cells.labels / total, _SHARED / total
    centred, distance = cells.centred(residuals), -cells.means(away)
    second, whole_second = cells.means(centred**2), cells.mean(away**2)
    third, whole_third = cells.means(centred**3), cells.mean(away**3)
    here, there = -shared * distance, own * distance  # the means of both less that of the mixture
    seconds = own * (second + here**2) + shared * (whole_second + there**2)
    thirds = own * (third + 3 * here * second + here**3)
    thirds += shared * (whole_third + 3 * there * whole_second + there**3)
    return seconds * total / (total - 1), thirds
