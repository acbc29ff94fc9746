"""What is counted, and which ratio is which."""

from __future__ import annotations

import pandas as pd
import pytest

from wsi_mitosis.core.summary import count


def figures(labels: list[str | None], atypical: list[int | None], cast: list[int | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": pd.Series(labels, dtype="str"),
            "votes_atypical": pd.Series(atypical, dtype="Int16"),
            "votes_cast": pd.Series(cast, dtype="Int16"),
        }
    )


def test_both_ratios_have_their_own_denominator() -> None:
    counts = count(
        figures(["atypical", "typical", None, "typical", "typical"], [4, 1, None, 0, 2], [5, 5, None, 5, 5])
    )
    assert (counts.candidates, counts.classified, counts.excluded) == (5, 4, 1)
    assert (counts.atypical, counts.typical) == (1, 3)
    assert counts.atypical_fraction == 1 / 4
    assert counts.atypical_to_typical == 1 / 3
    # the larger side's share of the votes: 4/5, 4/5, 5/5, 3/5
    assert counts.mean_agreement == pytest.approx((0.8 + 0.8 + 1.0 + 0.6) / 4)


def test_a_ratio_without_a_denominator_is_none() -> None:
    nothing = count(figures([None], [None], [None]))
    assert (nothing.atypical_fraction, nothing.atypical_to_typical, nothing.mean_agreement) == (
        None,
        None,
        None,
    )
    only_atypical = count(figures(["atypical"], [3], [3]))
    assert (only_atypical.atypical_fraction, only_atypical.atypical_to_typical) == (1.0, None)
