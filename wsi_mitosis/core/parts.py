"""Parts of a slide's candidates, so that several workers classify a large slide at the same time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_CANDIDATES = 4000
"""Candidates of a part at least. Each part opens the slide and prepares all of its candidates."""
PARTS_PER_WORKER = 3
"""Parts of a slide for each worker at most, so that no worker waits long for the last part of another."""


class Part(NamedTuple):
    """A part of a slide: a run of its candidates in the order in which they are read.

    Attributes:
        number: From 0.
        of: Number of the slide's parts.
    """

    number: int
    of: int

    def __str__(self) -> str:
        """Return the part in words, counted from 1."""
        return f"part {self.number + 1} of {self.of}"

    def share(self, candidates: int) -> int:
        """Return about how many of a slide's candidates are its own; over all parts the sum is right."""
        return candidates * (self.number + 1) // self.of - candidates * self.number // self.of

    def rows(self, order: NDArray[np.intp], batch_size: int) -> NDArray[np.intp]:
        """Return its run of an order.

        It begins and ends between two batches of the whole slide, because a result may depend on what else is
        in a batch, in its last digits.

        Args:
            order: (N,) indices of a slide's candidates in the order in which they are read.
            batch_size: Candidates per batch.
        """
        batches = -(-len(order) // batch_size)
        first, last = (batches * number // self.of * batch_size for number in (self.number, self.number + 1))
        return order[first:last]


WHOLE = Part(0, 1)
"""The only part of a slide that is not split."""


def number_of_parts(candidates: int, load: int, workers: int) -> int:
    """Return into how many parts a slide is split; 1 if it is not.

    A slide is split if it has more candidates than each worker's share of all.

    Args:
        candidates: Its candidates.
        load: Candidates of all slides of the run.
        workers: Number of workers.
    """
    if workers <= 1 or candidates * workers <= load:
        return 1
    of_each_worker = math.ceil(PARTS_PER_WORKER * candidates / max(load, candidates))
    number = min(of_each_worker * workers, candidates // LEAST_CANDIDATES)
    if number > workers:
        number -= number % workers  # of a slide alone, each worker gets as many parts as the others
    return max(1, number)
