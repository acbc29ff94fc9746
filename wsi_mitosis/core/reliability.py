"""How far P(atypical) agrees with the labels, at temperature 1 and calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wsi_mitosis.core.calibration import calibrated, calibration_error, class_weights, fit_temperature
from wsi_mitosis.core.metrics import Bin, calibration
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class LeftOut(NamedTuple):
    """P(atypical) of members for samples of the domains that they were trained without.

    A sample is as often among the K rows as there are members without its domain.

    Attributes:
        rows: (K,) rows of the samples.
        labels: (K,) 0 typical, 1 atypical.
        p_atypical: (K,) at temperature 1.
        domains: (K,) the test domain of the member.
    """

    rows: NDArray[np.intp]
    labels: NDArray[np.int64]
    p_atypical: Floats
    domains: NDArray[np.object_]

    @property
    def has_both_classes(self) -> bool:
        """Whether a temperature can be fitted."""
        return len(set(self.labels.tolist())) > 1

    def where(self, chosen: NDArray[np.bool_]) -> LeftOut:
        """Return the rows for which `chosen`, shape (K,), is true."""
        rows, labels, p_atypical, domains = self
        return LeftOut(rows[chosen], labels[chosen], p_atypical[chosen], domains[chosen])


class Errors(Spec):
    """How far P(atypical) of some samples is from their labels.

    Attributes:
        brier: Mean squared difference, 0 at best.
        calibration_error: `core.calibration.calibration_error` with each sample weighing alike.
        balanced_calibration_error: The same with both classes weighing alike, as P(atypical) is meant; None
            if a class is absent.
        bins: The reliability diagram.
    """

    brier: float
    calibration_error: float
    balanced_calibration_error: float | None
    bins: tuple[Bin, ...]


class Reliability(Spec):
    """The errors of P(atypical) at temperature 1, and at temperatures that were fitted to other samples.

    Attributes:
        n: Number of samples.
        fitted_on: `the other domains`: each domain has the temperature that fits the others best;
            `the bundle's`: its own.
        temperatures: By domain of the samples; empty without a fitted one.
        before: At temperature 1.
        calibrated: At `temperatures`; None without.
    """

    n: int
    fitted_on: Literal["the other domains", "the bundle's"]
    temperatures: dict[str, float]
    before: Errors
    calibrated: Errors | None


def of_left_out(samples: LeftOut) -> Reliability:
    """Compare members on domains left out with temperatures that were fitted without each of these domains.

    If the other domains of one of them lack a class, nothing is fitted.
    """
    names = sorted(set(samples.domains.tolist()))
    others = {name: samples.where(samples.domains != name) for name in names}
    temperatures, after = {}, samples.p_atypical.copy()
    if all(other.has_both_classes for other in others.values()):
        for name, other in others.items():
            temperatures[name] = fit_temperature(other.labels, other.p_atypical)
            own = samples.domains == name
            after[own] = calibrated(samples.p_atypical[own], temperatures[name])
    return Reliability(
        n=len(samples.rows),
        fitted_on="the other domains",
        temperatures=temperatures,
        before=errors(samples.labels, samples.p_atypical),
        calibrated=errors(samples.labels, after) if temperatures else None,
    )


def of_vote(
    labels: NDArray[np.int64], before: Floats, after: Floats | None, temperatures: dict[str, float]
) -> Reliability:
    """Compare the vote's mean P(atypical) at temperature 1 and at the bundle's.

    Args:
        labels: (N,) 0 typical, 1 atypical; N > 0.
        before: (N,) at temperature 1.
        after: (N,) at the bundle's; None if it has none.
        temperatures: By domain of the samples; empty if the bundle has none.
    """
    return Reliability(
        n=len(labels),
        fitted_on="the bundle's",
        temperatures=temperatures,
        before=errors(labels, before),
        calibrated=None if after is None else errors(labels, after),
    )


def errors(labels: NDArray[np.int64], p_atypical: Floats) -> Errors:
    """Compute the errors of N > 0 samples, from their labels and P(atypical), both of shape (N,)."""
    both = len(set(labels.tolist())) > 1
    return Errors(
        brier=float(np.mean((p_atypical - labels) ** 2)),
        calibration_error=calibration_error(labels, p_atypical),
        balanced_calibration_error=(
            calibration_error(labels, p_atypical, class_weights(labels)) if both else None
        ),
        bins=calibration(labels, p_atypical),
    )
