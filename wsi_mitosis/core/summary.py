"""From a slide's figures to the numbers that a report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.voting import agreement

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Counts:
    """What was counted on one slide.

    Attributes:
        candidates: All candidates given for the slide.
        classified: Those that the ensemble voted on; atypical + typical.
        excluded: Those that it was not asked about; candidates - classified.
        mean_agreement: Mean over figures of the share of votes for the label; None without figures.
    """

    candidates: int
    classified: int
    atypical: int
    typical: int
    excluded: int
    mean_agreement: float | None

    @property
    def atypical_fraction(self) -> float | None:
        """Atypical of all classified figures; None without figures."""
        return self.atypical / self.classified if self.classified else None

    @property
    def atypical_to_typical(self) -> float | None:
        """Atypical per typical figure, the other ratio in use; None without typical figures."""
        return self.atypical / self.typical if self.typical else None


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
