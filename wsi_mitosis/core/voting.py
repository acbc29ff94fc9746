"""How the members' probabilities become one label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Votes:
    """The vote on N figures.

    Attributes:
        p_atypical: (N,) float64, mean P(atypical) over the members asked.
        votes_atypical: (N,) int, members that voted atypical.
        votes_cast: (N,) int, members asked.
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
    """Count the votes: the majority of the members asked; a tie goes by their mean P(atypical).

    Args:
        probabilities: (N, M) P(atypical) by figure and member; NaN where a member was not asked.
        threshold: A member, or the mean in a tie, says atypical at or above it.

    Raises:
        ValueError: where nobody was asked about a figure.
    """
    asked = ~np.isnan(probabilities)
    cast = asked.sum(axis=1)
    if not cast.all():
        raise ValueError(f"{np.count_nonzero(cast == 0)} figures about which no member was asked")
    atypical = (probabilities >= threshold).sum(axis=1)
    mean = np.where(asked, probabilities, 0.0).sum(axis=1) / cast
    tied = 2 * atypical == cast
    return Votes(mean, atypical, cast, np.where(tied, mean >= threshold, 2 * atypical > cast))


def undecided(
    votes_atypical: NDArray[np.integer[Any]], votes_cast: NDArray[np.integer[Any]], members: int
) -> NDArray[np.bool_]:
    """Which figures' labels the members not yet asked could still change.

    A majority of all members is certain once more than half of them agree. With an even number, half is not
    enough: the others could make it a tie.

    Args:
        votes_atypical: (N,) votes for atypical so far.
        votes_cast: (N,) votes so far.
        members: How many there are.
    """
    leading = np.maximum(votes_atypical, votes_cast - votes_atypical)
    return np.asarray((2 * leading <= members) & (votes_cast < members))


def agreement(
    votes_atypical: NDArray[np.integer[Any]], votes_cast: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """(N,) share of the votes cast that the larger side has, 0.5 to 1."""
    return np.asarray(np.maximum(votes_atypical, votes_cast - votes_atypical) / votes_cast, dtype=np.float64)
