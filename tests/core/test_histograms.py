"""Histograms of probabilities and votes."""

from __future__ import annotations

from tests.report_files import random_figures, voted_figures
from wsi_mitosis.core.histograms import Bar, probability_bars, vote_bars


def test_histograms_hold_every_figure_once() -> None:
    table = random_figures(300)
    for bars in (probability_bars(table), vote_bars(table)):
        assert sum(bar.total for bar in bars) == 300
        assert sum(bar.atypical for bar in bars) == (table["label"] == "atypical").sum()
        assert sum(bar.typical for bar in bars) == (table["label"] == "typical").sum()


def test_probabilities_at_the_ends_are_counted() -> None:
    bars = probability_bars(voted_figures((0, 5, 0.0), (5, 5, 1.0), (3, 5, 0.5)))
    assert bars[0] == Bar("0.00 to 0.05", 0, 1)
    assert bars[-1] == Bar("0.95 to 1.00", 1, 0)
    assert bars[10] == Bar("0.50 to 0.55", 1, 0)


def test_votes_are_counted_by_the_number_of_votes_cast() -> None:
    """With `--vote early`, that number differs between figures."""
    bars = vote_bars(voted_figures((3, 3, 0.9), (3, 5, 0.6), (0, 3, 0.1), (2, 5, 0.4), (0, 3, 0.1)))
    assert bars == (Bar("0 of 3", 0, 2), Bar("2 of 5", 0, 1), Bar("3 of 5", 1, 0), Bar("3 of 3", 1, 0))
    assert vote_bars(voted_figures()) == ()
