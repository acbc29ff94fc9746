"""Histograms of a slide's figures."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BINS = 20


class Bar(NamedTuple):
    """One bar of a histogram: the number of figures with each label."""

    name: str
    atypical: int
    typical: int

    @property
    def total(self) -> int:
        """The number of figures."""
        return self.atypical + self.typical


def probability_bars(figures: pd.DataFrame) -> tuple[Bar, ...]:
    """Count figures by P(atypical), in BINS equal bins from 0 to 1; the last bin includes 1.

    Args:
        figures: Rows of FIGURE_COLUMNS with a label each.
    """
    edges = np.linspace(0, 1, BINS + 1)
    atypical, typical = (
        np.histogram(figures.loc[figures["label"] == label, "p_atypical"], edges)[0].tolist()
        for label in ("atypical", "typical")
    )
    names = (f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges))
    return tuple(map(Bar, names, atypical, typical))


def vote_bars(figures: pd.DataFrame) -> tuple[Bar, ...]:
    """Count figures by their votes, such as `2 of 5`, from the smallest share of votes for atypical.

    Args:
        figures: Rows of FIGURE_COLUMNS with a label each.
    """
    votes = [figures[name].astype(int) for name in ("votes_atypical", "votes_cast")]
    counts = Counter(zip(*votes, figures["label"], strict=True))
    results = sorted({(n, cast) for n, cast, _ in counts}, key=lambda votes: (votes[0] / votes[1], votes[1]))
    return tuple(
        Bar(f"{n} of {cast}", counts[n, cast, "atypical"], counts[n, cast, "typical"]) for n, cast in results
    )
