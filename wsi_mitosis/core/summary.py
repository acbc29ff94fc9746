"""From a slide's figures to the numbers that a report shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.voting import agreement
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    import pandas as pd

_Z95 = 1.959963984540054
"""The standard normal's 97.5 % quantile."""


class Counts(Spec):
    """What was counted on one slide.

    Attributes:
        candidates: All candidates of the slide.
        classified: Candidates that the ensemble voted on: atypical + typical.
        atypical: Figures that the ensemble calls atypical.
        typical: Figures that the ensemble calls typical.
        excluded: Candidates without a label, each with a reason.
        mean_agreement: Mean over figures of the share of votes for the label; None without figures.
    """

    candidates: int
    classified: int = 0
    atypical: int = 0
    typical: int = 0
    excluded: int = 0
    mean_agreement: float | None = None

    @property
    def atypical_fraction(self) -> float | None:
        """Atypical figures per classified figure; None without figures."""
        return self.atypical / self.classified if self.classified else None

    @property
    def atypical_fraction_ci95(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of `atypical_fraction`; None without figures."""
        return wilson(self.atypical, self.classified)

    @property
    def atypical_fraction_low(self) -> float | None:
        """Lower end of the interval; None without figures."""
        return (self.atypical_fraction_ci95 or (None, None))[0]

    @property
    def atypical_fraction_high(self) -> float | None:
        """Upper end of the interval; None without figures."""
        return (self.atypical_fraction_ci95 or (None, None))[1]

    @property
    def atypical_to_typical(self) -> float | None:
        """Atypical figures per typical figure; None without typical figures."""
        return self.atypical / self.typical if self.typical else None


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's 95 % score interval of a proportion (Wilson 1927, without continuity correction).

    It covers chance alone: figures are taken as drawn at random, and every label as correct. It stays within
    0 and 1, and is valid for few figures, unlike the normal approximation.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials.

    Returns:
        (low, high); None without trials.
    """
    if not trials:
        return None
    share, square = successes / trials, _Z95**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    # The ends are exact for none and for all. scipy.stats has the same function, but takes 0.5 s to import.
    return (0.0 if not successes else middle - half), (1.0 if successes == trials else middle + half)


def count(figures: pd.DataFrame) -> Counts:
    """Count a slide's figures table (FIGURE_COLUMNS)."""
    labels = figures["label"]
    classified = figures[labels.notna()]
    votes = classified["votes_atypical"].to_numpy(np.int64), classified["votes_cast"].to_numpy(np.int64)
    return Counts(
        candidates=len(figures),
        classified=len(classified),
        atypical=int((labels == "atypical").sum()),
        typical=int((labels == "typical").sum()),
        excluded=len(figures) - len(classified),
        mean_agreement=float(agreement(*votes).mean()) if len(classified) else None,
    )
