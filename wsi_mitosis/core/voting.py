"""The vote: from the members' probabilities to one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


ATYPICAL = 1
"""Index of the atypical class among the two logits, as in the paper's challenge container."""


@dataclass(frozen=True)
class Votes:
    """The vote on N figures.

    Attributes:
        p_atypical: (N,) float64, mean P(atypical) over the members that voted.
        votes_atypical: (N,) int, number of members that voted atypical.
        votes_cast: (N,) int, number of members that voted.
        is_atypical: (N,) bool, the label.
    """

    p_atypical: NDArray[np.float64]
    votes_atypical: NDArray[np.intp]
    votes_cast: NDArray[np.intp]
    is_atypical: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of figures."""
        return len(self.is_atypical)


def tally(probabilities: NDArray[np.float64], threshold: float) -> Votes:
    """Count the votes of each figure. The majority decides; the mean P(atypical) decides a tie.

    Args:
        probabilities: (N, M) P(atypical) by figure and member; NaN if a member did not vote.
        threshold: A member, or the mean in a tie, is for atypical at or above it.

    Raises:
        ValueError: if no member voted on a figure.
    """
    voted = ~np.isnan(probabilities)
    cast = voted.sum(axis=1)
    if not cast.all():
        raise ValueError(f"{np.count_nonzero(cast == 0)} figures have no vote")
    atypical = (probabilities >= threshold).sum(axis=1)
    mean = np.where(voted, probabilities, 0.0).sum(axis=1) / cast
    tied = 2 * atypical == cast
    return Votes(mean, atypical, cast, np.where(tied, mean >= threshold, 2 * atypical > cast))


def undecided(
    votes_atypical: NDArray[np.integer[Any]], votes_cast: NDArray[np.integer[Any]], members: int
) -> NDArray[np.bool_]:
    """Find the figures whose label the remaining members can still change.

    A majority is certain once more than half of all members agree. Half of an even number is not enough,
    because the others can make it a tie.

    Args:
        votes_atypical: (N,) votes for atypical so far.
        votes_cast: (N,) votes so far.
        members: Number of members.

    Returns:
        (N,) bool.
    """
    leading = np.maximum(votes_atypical, votes_cast - votes_atypical)
    return np.asarray((2 * leading <= members) & (votes_cast < members))


def agreement(
    votes_atypical: NDArray[np.integer[Any]], votes_cast: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Return the share of the votes that the larger side has, (N,), 0.5 to 1."""
    return np.asarray(np.maximum(votes_atypical, votes_cast - votes_atypical) / votes_cast, dtype=np.float64)
