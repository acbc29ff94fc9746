"""Shewhart control charts of means and shares whose points have unequal numbers of values.

A point is the mean of n values; a share is the mean of values 0 and 1. Its variance has two parts::

    within / n + between^2

`within` is the variance of single values: p (1 - p) of a share, or that pooled over the points of the
reference. `between` is what points vary beyond that. It is estimated from moving ranges, as on a chart of
individuals (Montgomery, Introduction to Statistical Quality Control, 7th ed., section 6.4; NIST/SEMATECH
e-Handbook of Statistical Methods, 6.3.2.2): it is the value at which the steps from point to point, divided
by the standard deviations that they should have, have the mean of a standard normal's absolute value.

- Where `within` is 0, this is the chart of individuals: centre line +- 3 MR / 1.128.
- Where `between` is 0, it is the p chart (NIST/SEMATECH 6.3.3.2).
- Of points with equal n, it is Laney's p' chart (Laney 2002, Improved control charts for attributes, Quality
  Engineering 14:531), if shares vary more than the binomial distribution does.

Laney's chart multiplies the binomial standard deviation by one factor. Slides have from a few to hundreds of
figures, and tumours differ however many figures they have: the factor would make the limits of slides with
many figures too narrow, and of those with few too wide. The sum of both variances does neither (Spiegelhalter
2005, Handling over-dispersion of performance indicators, Quality and Safety in Health Care 14:347).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Kind = Literal["mean", "share"]
Verdict = Literal["inside", "above", "below", "run above", "run below"]

REFERENCE = 20
"""Points that limits are computed from. Montgomery (section 6.2) takes 20 to 25."""
RUN = 9
"""Points in a row on one side of the centre line, the second test of Nelson (1984, The Shewhart control
chart - tests for special causes, Journal of Quality Technology 16:237)."""
SIGMAS = 3.0
TAIL = 0.5 * math.erfc(SIGMAS / math.sqrt(2))
"""Probability beyond one limit: 0.00135."""
D2 = 2 / math.sqrt(math.pi)
"""Mean range of two values of a standard normal distribution: 1.128."""
NO_VARIANCE = 1e-12
"""A variance below this is the rounding error of equal values."""


class Sample(NamedTuple):
    """The values of one point, which are added up.

    Attributes:
        number: How many there are.
        total: Their sum; of a share, the number of events.
        squares: The sum of their squares.
    """

    number: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Their mean; NaN without values."""
        return self.total / self.number if self.number else math.nan


def pooled(samples: Iterable[Sample]) -> Sample:
    """Return all values of several points as one."""
    each = list(samples)
    return Sample(
        number=sum(one.number for one in each),
        total=math.fsum(one.total for one in each),
        squares=math.fsum(one.squares for one in each),
    )


@dataclass(frozen=True)
class Fit:
    """What a reference period gives.

    Attributes:
        kind: What the points are.
        centre: The centre line.
        within: Variance of single values.
        between: Standard deviation of points beyond that.
        share: The share by which `within` and the binomial distribution were computed; NaN for means.
    """

    kind: Kind
    centre: float
    within: float
    between: float
    share: float = math.nan

    def limits(self, numbers: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return the lower and the upper limit of points.

        Those of a share are at least as far apart as the binomial distribution's: a value beyond them has a
        probability of TAIL at most. The normal approximation does not hold for few values, or for a share
        near 0 or 1 (Montgomery, section 7.2).

        Args:
            numbers: (N,) values of each point, at least 1.
        """
        spread = SIGMAS * np.sqrt(self.between**2 + self.within / numbers)
        low, high = self.centre - spread, self.centre + spread
        if self.kind == "mean":
            return low, high
        least, most = (self._quantiles(numbers, tail) / numbers for tail in (TAIL, 1 - TAIL))
        return np.maximum(np.minimum(low, least), 0.0), np.minimum(np.maximum(high, most), 1.0)

    def sides(self, samples: Sequence[Sample]) -> NDArray[np.int64]:
        """Return (N,) 1 for points above the centre line, -1 below it, 0 for those on neither side.

        A share has to be beyond the median of the binomial distribution too: that of a rare event is 0 most
        of the time, which is below the mean and says nothing.
        """
        totals, numbers = _totals(samples), _numbers(samples)
        sides = np.sign(totals / numbers - self.centre)
        if self.kind == "share":
            sides[np.sign(totals - self._quantiles(numbers, 0.5)) != sides] = 0
        return sides.astype(np.int64)

    def _quantiles(self, numbers: NDArray[np.int64], probability: float) -> Floats:
        """(N,) the least number of events that is reached with a probability."""
        from scipy.stats import binom

        return np.asarray(binom.ppf(probability, numbers, self.share), np.float64)


def fit(kind: Kind, samples: Sequence[Sample]) -> Fit | None:
    """Compute the centre line and both variances from the points of a reference period.

    Of a share without any event, or with nothing else, the variance is that of (events + 1/2) / (values + 1):
    the mean of a binomial share after Jeffreys' prior (Brown, Cai and DasGupta 2001, Interval estimation for
    a binomial proportion, Statistical Science 16:101).

    Args:
        kind: What the points are.
        samples: The points in order of time, two or more, each with values.

    Returns:
        None if all points and values are equal, so that limits would have no width.
    """
    numbers, means = _numbers(samples), _totals(samples) / _numbers(samples)
    share = _share(pooled(samples)) if kind == "share" else math.nan
    within = share * (1 - share) if kind == "share" else _within(samples)
    between = between_points(means, within / numbers)
    variances = between**2 + within / numbers
    if variances.max() < NO_VARIANCE:
        return None
    return Fit(kind, float(np.average(means, weights=1 / variances)), within, between, share)


def between_points(means: Floats, variances: Floats) -> float:
    """Return the standard deviation of points beyond the variances that are known, from moving ranges.

    Args:
        means: (N,) points in order of time, N >= 2.
        variances: (N,) the known variance of each; all 0 for a chart of individuals.
    """
    steps, known = np.abs(np.diff(means)), variances[1:] + variances[:-1]
    most = float(steps.mean() / D2)
    if known.min() < NO_VARIANCE:
        return most

    def is_less(between: float) -> bool:
        return bool((steps / np.sqrt(2 * between**2 + known)).mean() <= D2 / math.sqrt(2))

    return 0.0 if is_less(0.0) else _least(is_less, most)


def judge(fitted: Fit, samples: Sequence[Sample]) -> list[Verdict]:
    """Return the verdict on each point: beyond a limit, or in a run of RUN points on one side.

    A process in control has a false alarm in 370 points with the limits alone, and in about 215 with the run.
    Each further rule adds some: with all four of the Western Electric rules there is one in 92 points (Champ
    and Woodall 1987, Exact results for Shewhart control charts with supplementary runs rules, Technometrics
    29:393). A folder has many charts, so that only these two are used: the limits find a large shift at once,
    and the run finds a small one that lasts.

    Args:
        fitted: The reference.
        samples: The points in order of time, each with values.
    """
    low, high = fitted.limits(_numbers(samples))
    sides = fitted.sides(samples)
    in_run = np.zeros(len(samples), np.int64)
    for start, stop in runs(sides):
        in_run[start + RUN - 1 : stop] = sides[start]
    means = _totals(samples) / _numbers(samples)
    return [
        _verdict(mean, least, most, int(side))
        for mean, least, most, side in zip(means, low, high, in_run, strict=True)
    ]


def runs(sides: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield first and one past the last point of each run of at least RUN points on one side.

    Args:
        sides: (N,) 1, -1 or 0, as from `Fit.sides`.
    """
    start = 0
    for side, points in groupby(sides):
        stop = start + len(list(points))
        if side and stop - start >= RUN:
            yield start, stop
        start = stop


def _verdict(mean: float, low: float, high: float, side: int) -> Verdict:
    if mean > high:
        return "above"
    if mean < low:
        return "below"
    return "inside" if not side else "run above" if side > 0 else "run below"


def _least(is_enough: Callable[[float], bool], most: float) -> float:
    """Return the least value up to `most` that is enough, by bisection."""
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _share(whole: Sample) -> float:
    if 0 < whole.total < whole.number:
        return whole.mean
    return (whole.total + 0.5) / (whole.number + 1)


def _within(samples: Sequence[Sample]) -> float:
    """The variance of single values around the means of their points, pooled; 0 for points of one value."""
    degrees = sum(one.number - 1 for one in samples)
    squares = math.fsum(one.squares - one.total * one.mean for one in samples)
    found = squares / degrees if degrees else 0.0
    return found if found > NO_VARIANCE else 0.0


def _numbers(samples: Sequence[Sample]) -> NDArray[np.int64]:
    return np.array([one.number for one in samples], np.int64)


def _totals(samples: Sequence[Sample]) -> Floats:
    return np.array([one.total for one in samples], np.float64)
