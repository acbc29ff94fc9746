"""A stratified random sample of figures, which can be drawn again from the same figures, size and seed.

Strata are made of the machine's label, the agreement of the votes, and the slide. The sample is drawn from
each stratum without replacement, in proportion to its size (Cochran, Sampling Techniques, 3rd ed. 1977,
chapter 5).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

STAGE = "drawing the sample"
COLUMNS = ("slide", "figure_id", "label", "p_atypical", "votes_atypical", "votes_cast")
"""What a sample is drawn from: columns of a figures table."""
_TYPES = {
    **dict.fromkeys(("slide", "figure_id", "label"), "str"),
    "p_atypical": "float64",
    **dict.fromkeys(("votes_atypical", "votes_cast"), "int64"),
}
"""Their types, however a table was read, so that equal values give equal samples."""
LEAST_SIZE = 10
"""Figures of the smallest sample. From fewer labels no useful interval can be computed."""
LEAST_DRAWN = 5
"""Figures that are drawn from each stratum at least, if there are several. From fewer, the variance in a
stratum is hardly known."""


def draw(figures: pd.DataFrame, size: int, seed: int) -> pd.DataFrame:
    """Draw a stratified random sample of figures without replacement.

    The order of the rows has no effect, and the same figures, size and seed give the same sample on every
    platform. If the figures, their labels or votes change, the sample is another one.

    Args:
        figures: COLUMNS, a row for each figure with a label. A slide and a figure_id identify a figure.
        size: Number of figures to draw. If it is the number of all figures, each is drawn.
        seed: 0 or more.

    Returns:
        COLUMNS, `stratum` (int64, numbered from 0) and `drawn` (bool), a row for each figure, sorted by slide
        and figure_id.

    Raises:
        InputError: if there are fewer figures than `size` or none, or if `size` is below LEAST_SIZE and does
            not cover all figures.
    """
    _check(len(figures), size)
    table = figures.loc[:, list(COLUMNS)].astype(_TYPES)
    table = table.sort_values(["slide", "figure_id"], ignore_index=True)
    strata = stratify(table, size)
    return table.assign(stratum=strata, drawn=choose(strata, size, _seed_for(table, seed)))


def _check(figures: int, size: int) -> None:
    if not figures:
        raise InputError("there are no figures", stage=STAGE, remedy="Choose slides that have figures")
    if size > figures:
        raise InputError(
            f"the sample is larger than the number of figures, {figures}",
            subject=f"--sample {size}",
            stage=STAGE,
            remedy=f"Pass --sample {figures} to review all of them, or choose more slides",
        )
    if size < min(LEAST_SIZE, figures):
        raise InputError(
            "the sample is too small for an estimate",
            subject=f"--sample {size}",
            stage=STAGE,
            remedy=f"Pass at least --sample {min(LEAST_SIZE, figures)}",
        )


def _seed_for(table: pd.DataFrame, seed: int) -> int:
    """Return a seed that depends on the user's and on everything that strata are made of."""
    names = [name for name in COLUMNS if name != "p_atypical"]
    rows = [list(map(str, row)) for row in zip(*(table[name].tolist() for name in names), strict=True)]
    text = json.dumps([seed, rows], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def stratify(figures: pd.DataFrame, size: int) -> Integers:
    """Divide figures into strata: by the machine's label, then by agreement, then by slide.

    A stratum is divided only into parts of which each gets at least LEAST_DRAWN figures of a proportional
    sample. Smaller parts are joined, with the next larger one if they are too small together. Slides divide
    last, so that they are the first to be joined, and then the figures whose votes are unanimous and those
    whose votes are not.

    Args:
        figures: COLUMNS, N > 0 rows in any order.
        size: Number of figures of the sample.

    Returns:
        (N,) numbers of strata, from 0 without gaps.
    """
    _, slides = np.unique(figures["slide"].to_numpy(object), return_inverse=True)
    strata = np.zeros(len(figures), np.int64)
    for keys in (_are_atypical(figures), _are_divided(figures), slides):
        strata = _divided(strata, np.asarray(keys, np.int64), size)
    return strata


def _are_atypical(figures: pd.DataFrame) -> NDArray[np.bool_]:
    return (figures["label"] == "atypical").to_numpy(bool)


def _are_divided(figures: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) the figures about which the members do not agree."""
    votes, cast = (figures[name].to_numpy(np.int64) for name in ("votes_atypical", "votes_cast"))
    return (votes > 0) & (votes < cast)


def _divided(strata: Integers, keys: Integers, size: int) -> Integers:
    """(N,) the strata, each divided by a key of its figures as far as the sample's size allows."""
    divided = np.empty_like(strata)
    found = 0
    for rows in _rows_of_each(strata):
        parts = _parts(keys[rows], size, len(strata))
        divided[rows] = found + parts
        found += int(parts.max()) + 1
    return divided


def _rows_of_each(strata: Integers) -> list[NDArray[np.intp]]:
    """The rows of each stratum, in the order of their numbers."""
    ends = np.cumsum(np.bincount(strata))[:-1]
    return np.split(np.argsort(strata, kind="stable"), ends)


def _parts(keys: Integers, size: int, figures: int) -> Integers:
    """(n,) numbers of parts with the same key, where parts that are too small are one, the last.

    Args:
        keys: (n,) of the figures of a stratum.
        size: Number of figures of the sample.
        figures: Number of all figures, of all strata.
    """
    _, of_row, counts = np.unique(keys, return_inverse=True, return_counts=True)
    least = LEAST_DRAWN * figures
    order = np.argsort(counts, kind="stable")
    joined = int(np.count_nonzero(counts * size < least))
    if joined:
        enough = int(np.searchsorted(np.cumsum(counts[order]) * size, least)) + 1
        joined = max(joined, enough)
    alone = np.sort(order[joined:])
    number = np.full(len(counts), len(alone), np.int64)
    number[alone] = np.arange(len(alone))
    return number[of_row]


def allocate(counts: Integers, size: int) -> Integers:
    """Divide a sample between strata in proportion to their figures, by largest remainders.

    Args:
        counts: (H,) figures of each stratum.
        size: Number of figures to draw, at most their sum.

    Returns:
        (H,) figures to draw from each stratum.
    """
    whole, remainders = np.divmod(counts * size, counts.sum())
    left = size - int(whole.sum())
    whole[np.argsort(-remainders, kind="stable")[:left]] += 1
    return whole


def choose(strata: Integers, size: int, seed: int) -> NDArray[np.bool_]:
    """Draw a sample from strata.

    Each figure gets a random number, and of each stratum the figures with the smallest ones are drawn. Only
    the raw numbers of PCG64 are used: numpy guarantees that no version and no platform changes them (NEP 19).

    Args:
        strata: (N,) numbers of strata, from 0 without gaps.
        size: Number of figures to draw.
        seed: 0 or more.

    Returns:
        (N,) which figures are drawn.
    """
    numbers: NDArray[Any] = np.random.PCG64(seed).random_raw(len(strata))
    order = np.lexsort((numbers, strata))
    counts = np.bincount(strata)
    place = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.empty(len(strata), bool)
    drawn[order] = place < np.repeat(allocate(counts, size), counts)
    return drawn
