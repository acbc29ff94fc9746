"""The overlap of a dataset with the samples that a bundle was trained on."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray


PLACE = "@"
"""First character of an identifier that is of a figure's place."""
LOOK = "~"
"""First character of one that is of a figure's look (`core.signatures`). Others are of its pixels."""
NEAR_PX = 4
"""Centres that differ by so many level-0 px on each axis at most are those of one figure."""


@dataclass(frozen=True)
class Overlap:
    """N samples against M members.

    Attributes:
        seen: (N,) bool, samples that a member was trained or selected on. The ensemble is not scored on them.
            A sample of a domain that all members left out is not among them.
        own: (N, M) bool, samples of the member's own test domain, which it has not seen.
    """

    seen: NDArray[np.bool_]
    own: NDArray[np.bool_]


def identifiers(samples: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield what figures are known by, each with the figure's domain.

    They are the digest of a figure's pixels and, where it is known, that of its place: the file name of the
    slide and the centre in whole level-0 px. A list of them does not tell the names of slides.

    Args:
        samples: Rows with `digest`, `domain`, `slide`, `x_px0` and `y_px0`.
    """
    for row in samples.itertuples(index=False):
        yield str(row.digest), str(row.domain)
        yield from ((place, str(row.domain)) for place in _places(row, near_px=0))


def _places(row: Any, near_px: int) -> Iterator[str]:
    """Yield the identifiers of a sample's place and of those near it; none if the place is not known."""
    name = str(row.slide).rpartition("/")[2]
    if not name or math.isnan(row.x_px0) or math.isnan(row.y_px0):
        return
    x, y = (math.floor(axis + 0.5) for axis in (row.x_px0, row.y_px0))
    for right, down in itertools.product(range(-near_px, near_px + 1), repeat=2):
        text = f"{name}\n{x + right} {y + down}"
        yield PLACE + hashlib.sha256(text.encode()).hexdigest()[:32]


def _domains_of(row: Any, recorded: Mapping[str, frozenset[str]], look: str | None) -> frozenset[str] | None:
    """Return the domains in which a sample was recorded; None if it was not."""
    keys = (row.digest, *_places(row, NEAR_PX), *(() if look is None else (look,)))
    found = [recorded[key] for key in keys if key in recorded]
    return frozenset().union(*found) if found else None


def find_overlap(
    samples: pd.DataFrame,
    recorded: Mapping[str, frozenset[str]],
    test_domains: Sequence[str | None],
    *,
    alike: Mapping[int, str] | None = None,
) -> Overlap:
    """Find the samples that a bundle was trained on, by their pixels, their places or their looks.

    A member has not seen a recorded sample if the sample was recorded in that member's test domain and in no
    other; the domain in `samples` does not matter. All members may have seen a sample without a domain.

    Args:
        samples: A row per sample, as for `identifiers`.
        recorded: Domains by identifier of the samples that the members were trained, selected and tested on.
        test_domains: The domain that each member was trained without; None if it was trained on all.
        alike: The recorded identifier of the look that samples have, by their rows.
    """
    looks = alike or {}
    rows = enumerate(samples.itertuples(index=False))
    known = [_domains_of(row, recorded, looks.get(number)) for number, row in rows]
    domains = [
        {domain} if found is None else found for found, domain in zip(known, samples["domain"], strict=True)
    ]
    left_out = [[of_sample == {test} for test in test_domains] for of_sample in domains]
    own = np.array(left_out, dtype=np.bool_).reshape(len(samples), len(test_domains))
    seen = np.array([found is not None for found in known], dtype=np.bool_)
    return Overlap(seen & ~own.all(axis=1), own)
