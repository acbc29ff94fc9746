"""What is counted, and which ratio is which."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from wsi_mitosis.core.summary import count, wilson


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


@pytest.mark.parametrize(
    ("atypical", "of", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3 (score, no continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilsons_interval_is_the_published_one(atypical: int, of: int, low: float, high: float) -> None:
    assert wilson(atypical, of) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6), st.data())
def test_wilsons_interval_holds_the_share_and_stays_within_0_and_1(of: int, data: st.DataObject) -> None:
    atypical = data.draw(st.integers(0, of))
    bounds = wilson(atypical, of)
    assert bounds is not None
    assert 0 <= bounds[0] <= atypical / of <= bounds[1] <= 1
    mirrored = wilson(of - atypical, of)
    assert mirrored is not None
    assert bounds == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@given(st.integers(1, 10**6), st.data())
def test_wilsons_interval_is_scipys(of: int, data: st.DataObject) -> None:
    atypical = data.draw(st.integers(0, of))
    interval = binomtest(atypical, of).proportion_ci(method="wilson")
    assert wilson(atypical, of) == pytest.approx((interval.low, interval.high), rel=1e-12, abs=1e-15)


def test_without_figures_there_is_no_interval() -> None:
    assert wilson(0, 0) is None
    assert count(figures([None], [None], [None])).atypical_fraction_ci95 is None
