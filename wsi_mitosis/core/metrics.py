"""Measures of labels and probabilities, with intervals. Atypical is the positive class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MEASURES = ("balanced_accuracy", "sensitivity", "specificity", "auroc")
"""The measures that have an interval."""
RESAMPLES = 2000
SEED = 0
BINS = 10
_CHUNK = 2_000_000
"""Number of weights in memory while resampling: 16 MB per array."""

Bounds = tuple[float, float] | None
"""A 95 % interval, (low, high); None if the measure is undefined."""
Unit = Literal["slides", "slides and single samples", "samples"]


@dataclass(frozen=True)
class Confusion:
    """Numbers of samples: the true label, then the assigned one."""

    atypical_as_atypical: int
    atypical_as_typical: int
    typical_as_typical: int
    typical_as_atypical: int


@dataclass(frozen=True)
class Scores:
    """Point estimates; None where a class that the measure needs is absent.

    Attributes:
        n: Samples.
        balanced_accuracy: Mean of sensitivity and specificity.
        sensitivity: Share of the atypical samples that are called atypical.
        specificity: Share of the typical samples that are called typical.
        auroc: Chance that an atypical sample has the higher P(atypical) of an atypical and a typical one,
            a tie counting half.
        brier: Mean squared difference of P(atypical) and the label, 0 at best.
    """

    n: int
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    auroc: float | None
    brier: float | None
    confusion: Confusion


@dataclass(frozen=True)
class Resampling:
    """How bootstrap intervals were computed.

    Attributes:
        unit: What was drawn with replacement.
        units: Number of units.
        resamples: Number of draws that the intervals are computed from.
        skipped: Number of draws that were left out because they lack a class that the data have.
    """

    unit: Unit
    units: int
    resamples: int
    skipped: int


@dataclass(frozen=True)
class Intervals:
    """95 % percentile bootstrap intervals.

    Attributes:
        bounds: (low, high) by name of MEASURES; None where the measure is undefined, or with a single unit.
    """

    bounds: dict[str, tuple[float, float] | None]
    resampling: Resampling


@dataclass(frozen=True)
class Bin:
    """Samples whose P(atypical) is in [low, high); the last bin includes `high`."""

    low: float
    high: float
    n: int
    mean_p: float
    atypical_fraction: float


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; None where undefined."""

    mean: float | None
    sd: float | None
    n: int


def score(labels: NDArray[np.int64], called: NDArray[np.bool_], p_atypical: NDArray[np.float64]) -> Scores:
    """Score N samples.

    Args:
        labels: (N,) 0 typical, 1 atypical.
        called: (N,) bool, whether the assigned label is atypical: the vote's, which can differ from the
            mean's.
        p_atypical: (N,) mean P(atypical), for `auroc` and `brier`.
    """
    counts = _counts(labels, called).sum(axis=0)
    balanced, sensitivity, specificity = (defined(value[0]) for value in _rates(counts[None]))
    each_once = np.ones((1, len(labels)))
    auroc = defined(_Ranks(labels, p_atypical, np.arange(len(labels))).auroc(each_once)[0])
    brier = float(np.mean((p_atypical - labels) ** 2)) if len(labels) else None
    confusion = Confusion(*(int(number) for number in counts))
    return Scores(len(labels), balanced, sensitivity, specificity, auroc, brier, confusion)


def intervals(
    labels: NDArray[np.int64],
    called: NDArray[np.bool_],
    p_atypical: NDArray[np.float64],
    slides: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Intervals:
    """Compute intervals by drawing whole slides with replacement, as figures of one slide are similar.

    A sample whose slide is unknown is a unit of its own. The same arguments give the same intervals.

    Args:
        labels: As for `score`.
        called: As for `score`.
        p_atypical: As for `score`.
        slides: (N,) the samples' slides, "" where unknown.
        resamples: Number of draws.
        seed: Seed of the draws.
    """
    unit, cluster = _clusters(slides)
    units = int(cluster.max()) + 1 if len(cluster) else 0
    if units < 2:
        return Intervals(dict.fromkeys(MEASURES), Resampling(unit, units, 0, 0))
    by_unit = np.zeros((units, 4))
    np.add.at(by_unit, cluster, _counts(labels, called))
    ranks = _Ranks(labels, p_atypical, cluster)
    draws = _draws(units, len(labels), resamples, np.random.default_rng(seed))
    values = np.concatenate([np.stack([*_rates(w @ by_unit), ranks.auroc(w)], axis=1) for w in draws])
    has_atypical, has_typical = bool((labels == 1).any()), bool((labels == 0).any())
    both = has_atypical and has_typical
    present = np.array([both, has_atypical, has_typical, both])  # in the order of MEASURES
    whole = ~np.isnan(values[:, present]).any(axis=1)
    bounds = dict.fromkeys(MEASURES, None) | {
        MEASURES[index]: percentiles(values[whole, index]) for index in np.flatnonzero(present) if whole.any()
    }
    return Intervals(bounds, Resampling(unit, units, int(whole.sum()), int((~whole).sum())))


def gain_interval(
    labels: NDArray[np.int64], before: NDArray[np.bool_], after: NDArray[np.bool_], slides: Sequence[str]
) -> tuple[float, float]:
    """Compute the interval of what `after` has more balanced accuracy than `before`, as `intervals` does.

    Args:
        labels: As for `score`, of both classes.
        before: (N,) bool, whether a first way of labelling calls the sample atypical.
        after: The same of a second way.
        slides: As for `intervals`.

    Returns:
        (low, high), 95 %. Draws that lack a class are left out.
    """
    _, cluster = _clusters(slides)
    by_unit = np.zeros((2, int(cluster.max()) + 1, 4))
    for way, called in enumerate((before, after)):
        np.add.at(by_unit[way], cluster, _counts(labels, called))
    draws = _paired_draws(cluster)
    gains = np.concatenate([_rates(w @ by_unit[1])[0] - _rates(w @ by_unit[0])[0] for w in draws])
    return percentiles(gains[~np.isnan(gains)])


def auroc_gain_interval(
    labels: NDArray[np.int64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    slides: Sequence[str],
) -> tuple[float, float]:
    """Compute the interval of what `after` has more AUROC than `before`, from the draws of `gain_interval`.

    Args:
        labels: As for `score`, of both classes.
        before: (N,) P(atypical) of a first ensemble.
        after: The same of a second one.
        slides: As for `intervals`.

    Returns:
        (low, high), 95 %. Draws that lack a class are left out.
    """
    _, cluster = _clusters(slides)
    first, second = (_Ranks(labels, p_atypical, cluster) for p_atypical in (before, after))
    gains = np.concatenate([second.auroc(w) - first.auroc(w) for w in _paired_draws(cluster)])
    return percentiles(gains[~np.isnan(gains)])


def rate_draws(
    counts: NDArray[np.float64], slides: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute balanced accuracy, sensitivity and specificity of W ways of labelling the same N samples.

    Args:
        counts: (W, N, 4) how much each sample counts in each cell, in the order of `Confusion`. A sample may
            count in several cells, and by a fraction.
        slides: As for `intervals`.

    Returns:
        (W, 3) values, and (R, W, 3) values of R draws of whole slides, the same draws for all ways; NaN where
        undefined. A single slide gives no draws.
    """
    _, cluster = _clusters(slides)
    by_unit = np.zeros((len(counts), int(cluster.max()) + 1, 4))
    for way, of_samples in enumerate(counts):
        np.add.at(by_unit[way], cluster, of_samples)
    draws = _paired_draws(cluster) if by_unit.shape[1] > 1 else ()
    drawn = [np.stack(_rates(w @ by_unit), axis=-1).swapaxes(0, 1) for w in draws]
    nothing = np.empty((0, len(counts), 3))
    return np.stack(_rates(counts.sum(axis=1)), axis=-1), np.concatenate([nothing, *drawn])


def _paired_draws(cluster: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
    """The draws of units that compare two ways of labelling the same samples."""
    return _draws(int(cluster.max()) + 1, len(cluster), RESAMPLES, np.random.default_rng(SEED))


def roc_points(
    labels: NDArray[np.int64], p_atypical: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Compute the corners of the ROC curve.

    Returns:
        (K,) share of the typical samples and (K,) share of the atypical ones at or above each threshold, from
        0, 0 to 1, 1; None if a class is absent.
    """
    if len(set(labels.tolist())) < 2:
        return None
    order = np.argsort(-p_atypical, kind="stable")
    last_of_ties = np.flatnonzero(np.r_[np.diff(p_atypical[order]) != 0, True])
    atypical = np.cumsum(labels[order])[last_of_ties]
    typical = last_of_ties + 1 - atypical
    return np.r_[0.0, typical / typical[-1]], np.r_[0.0, atypical / atypical[-1]]


def calibration(
    labels: NDArray[np.int64], p_atypical: NDArray[np.float64], bins: int = BINS
) -> tuple[Bin, ...]:
    """Compute how often samples of similar P(atypical) are atypical, in bins of equal width."""
    edges, place = np.linspace(0, 1, bins + 1), bin_numbers(p_atypical, bins)
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(inside.sum()),
            float(p_atypical[inside].mean()),
            float(labels[inside].mean()),
        )
        for index in range(bins)
        if (inside := place == index).any()
    )


def bin_numbers(p_atypical: NDArray[np.float64], bins: int = BINS) -> NDArray[np.intp]:
    """Return the number of each P(atypical)'s bin, from 0; the bins are those of `calibration`."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, p_atypical, side="right") - 1, 0, bins - 1)


def spread(values: Iterable[float | None]) -> Spread:
    """Compute mean and sample standard deviation of the values that are not None."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    mean = float(known.mean()) if len(known) else None
    return Spread(mean, float(known.std(ddof=1)) if len(known) > 1 else None, len(known))


def _counts(labels: NDArray[np.int64], called: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 4) one-hot, in the order of Confusion."""
    atypical = labels == 1
    cells = (atypical & called, atypical & ~called, ~atypical & ~called, ~atypical & called)
    return np.stack(cells, axis=1).astype(np.float64)


def _rates(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Balanced accuracy, sensitivity, specificity, (...,) each, of (..., 4) counts; NaN where undefined."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
        sensitivity = counts[..., 0] / (counts[..., 0] + counts[..., 1])
        specificity = counts[..., 2] / (counts[..., 2] + counts[..., 3])
    return (sensitivity + specificity) / 2, sensitivity, specificity


class _Ranks:
    """Samples ordered by P(atypical), for the AUROC with many weightings.

    Args:
        labels: (N,) 0 or 1.
        p_atypical: (N,).
        cluster: (N,) unit of each sample.
    """

    def __init__(
        self, labels: NDArray[np.int64], p_atypical: NDArray[np.float64], cluster: NDArray[np.intp]
    ) -> None:
        order = np.argsort(p_atypical, kind="stable")
        self._atypical, self._cluster = labels[order] == 1, cluster[order]
        ranked = p_atypical[order]
        self._tie_starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]][: len(ranked)])

    def auroc(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (R,) AUROC, in which unit u counts weights[r, u] times; NaN if a class has no weight."""
        each = weights[:, self._cluster]  # (R, N)
        if not each.shape[1]:
            return np.full(len(weights), np.nan)
        atypical = np.add.reduceat(each * self._atypical, self._tie_starts, axis=1)
        typical = np.add.reduceat(each * ~self._atypical, self._tie_starts, axis=1)
        below = np.cumsum(typical, axis=1) - typical / 2
        pairs = atypical.sum(axis=1) * typical.sum(axis=1)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
            return np.asarray((atypical * below).sum(axis=1) / pairs)


def _clusters(slides: Sequence[str]) -> tuple[Unit, NDArray[np.intp]]:
    """Return the kind of unit, and the unit of each sample, (N,), from 0."""
    numbers: dict[str | int, int] = {}
    cluster = [numbers.setdefault(slide or row, len(numbers)) for row, slide in enumerate(slides)]
    alone = sum(not slide for slide in slides)
    unit: Unit = "slides" if not alone else "samples" if alone == len(slides) else "slides and single samples"
    return unit, np.array(cluster, dtype=np.intp)


def _draws(
    units: int, samples: int, resamples: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit is drawn, (R, units), for a part of the resamples at a time."""
    step = max(1, _CHUNK // max(units, samples))
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        drawn = generator.integers(0, units, (number, units)) + units * np.arange(number)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=number * units)
        yield counted.reshape(number, units).astype(np.float64)


def percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval, (low, high), of (R,) values of draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def defined(value: float) -> float | None:
    """Return a value; None for NaN."""
    return None if np.isnan(value) else float(value)
