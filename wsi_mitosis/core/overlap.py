"""Which samples a bundle was trained on, and which of them a member has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """N samples against M members.

    Attributes:
        seen: (N,) bool, samples that some member was trained or selected on; nothing that holds all members
            is scored on them.
        own: (N, M) bool, samples of the member's own test domain that it has not seen.
    """

    seen: NDArray[np.bool_]
    own: NDArray[np.bool_]


def find_overlap(
    samples: pd.DataFrame, recorded: Mapping[str, frozenset[str]], test_domains: Sequence[str | None]
) -> Overlap:
    """Find the samples that a bundle records.

    A recorded sample is unseen by a member if it was recorded in that member's test domain and in no other,
    whatever the samples' own table calls its domain. One recorded without a domain may have been seen by all.

    Args:
        samples: A row per sample with `digest` and `domain`.
        recorded: Domains by digest, of all that the members were trained, selected and tested on.
        test_domains: The domain that each member was not shown; None where it was shown all.
    """
    seen = samples["digest"].isin(list(recorded)).to_numpy(np.bool_)
    domains = [
        recorded.get(digest, {domain})
        for digest, domain in zip(samples["digest"], samples["domain"], strict=True)
    ]
    own = [[of_sample == {test} for test in test_domains] for of_sample in domains]
    return Overlap(seen, np.array(own, dtype=np.bool_).reshape(len(samples), len(test_domains)))
