"""The overlap of a dataset with the samples that a bundle was trained on."""

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
        seen: (N,) bool, samples that a member was trained or selected on. The ensemble is not scored on them.
            A sample of a domain that all members left out is not among them.
        own: (N, M) bool, samples of the member's own test domain, which it has not seen.
    """

    seen: NDArray[np.bool_]
    own: NDArray[np.bool_]


def find_overlap(
    samples: pd.DataFrame, recorded: Mapping[str, frozenset[str]], test_domains: Sequence[str | None]
) -> Overlap:
    """Find the samples that a bundle was trained on.

    A member has not seen a recorded sample if the sample was recorded in that member's test domain and in no
    other; the domain in `samples` does not matter. All members may have seen a sample without a domain.

    Args:
        samples: A row per sample with `digest` and `domain`.
        recorded: Domains by digest of the samples that the members were trained, selected and tested on.
        test_domains: The domain that each member was trained without; None if it was trained on all.
    """
    domains = [
        recorded.get(digest, {domain})
        for digest, domain in zip(samples["digest"], samples["domain"], strict=True)
    ]
    left_out = [[of_sample == {test} for test in test_domains] for of_sample in domains]
    own = np.array(left_out, dtype=np.bool_).reshape(len(samples), len(test_domains))
    return Overlap(samples["digest"].isin(list(recorded)).to_numpy(np.bool_) & ~own.all(axis=1), own)
