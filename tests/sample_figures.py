"""Figures that samples are drawn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from wsi_mitosis.core.sampling import COLUMNS


class Kind(NamedTuple):
    """Figures that are alike.

    Attributes:
        slide: Their slide.
        number: How many.
        votes: Members that voted for atypical.
        cast: Members that voted.
    """

    slide: str
    number: int
    votes: int
    cast: int = 5


def figures_of(*kinds: Kind) -> pd.DataFrame:
    """A row for each figure, in the order of the kinds; the label is that of the majority."""
    rows = [
        {
            "slide": kind.slide,
            "label": "atypical" if 2 * kind.votes > kind.cast else "typical",
            "p_atypical": kind.votes / kind.cast,
            "votes_atypical": kind.votes,
            "votes_cast": kind.cast,
        }
        for kind in kinds
        for _ in range(kind.number)
    ]
    table = pd.DataFrame(rows).assign(figure_id=[f"f{row:04}" for row in range(len(rows))])
    return table[list(COLUMNS)]


def random_figures(number: int, slides: int, seed: int) -> pd.DataFrame:
    """Figures with random votes of five members on random slides."""
    generator = np.random.default_rng(seed)
    kinds = [
        Kind(f"s{slide}.tiff", 1, votes)
        for slide, votes in zip(
            generator.integers(0, slides, number).tolist(),
            generator.integers(0, 6, number).tolist(),
            strict=True,
        )
    ]
    return figures_of(*kinds)
