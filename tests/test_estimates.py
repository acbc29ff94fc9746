"""The script that shows how good the intervals are, on a population of its own."""

from __future__ import annotations

import re
from pathlib import Path

import estimates
import numpy as np
import pandas as pd
import pytest

from tests.sample_figures import random_figures
from wsi_mitosis.core.estimation import Estimate
from wsi_mitosis.errors import DatasetError


@pytest.fixture
def few() -> estimates.Population:
    """120 figures on three slides; the truth follows the machine's probability."""
    figures = random_figures(120, 3, 0)
    atypical = (np.random.default_rng(0).random(120) < figures["p_atypical"]).to_numpy(float)
    return estimates.Population("few", figures, atypical, np.ones(120))


def test_a_sample_of_all_figures_always_contains_the_truth_without_width(few: estimates.Population) -> None:
    for outcome in estimates.outcomes(few, 120, 2).values():
        assert outcome == estimates.Outcome(1.0, 0.0)


def test_coverage_and_width_by_hand() -> None:
    found = [
        Estimate("stratified", "atypical_fraction", 0.2, 0.1, 0.3),
        Estimate("stratified", "atypical_fraction", 0.3, 0.2, 0.6),
    ]
    assert estimates.outcome_of(found, 0.25) == estimates.Outcome(1.0, pytest.approx(0.3))
    assert estimates.outcome_of(found, 0.15).coverage == 0.5
    assert estimates.outcome_of(found, 0.05).coverage == estimates.outcome_of(found, 0.7).coverage == 0


def test_intervals_of_draws_cover_and_have_a_width(few: estimates.Population) -> None:
    known = estimates.outcomes(few, 40, 20)
    assert list(known) == ["prediction-powered", "stratified", "labels alone"]
    assert all(outcome.coverage > 0.7 for outcome in known.values())
    assert all(0.1 < outcome.width < 0.5 for outcome in known.values())


def test_inverted_answers_are_the_opposite_where_they_are_chosen(few: estimates.Population) -> None:
    chosen = np.arange(120) < 50
    before, after = few.figures, few.flipped(chosen, "flipped").figures
    assert (before["label"] != after["label"]).tolist() == chosen.tolist()
    assert after["p_atypical"].where(~chosen, 1 - after["p_atypical"]).tolist() == pytest.approx(
        before["p_atypical"].tolist()
    )
    assert (after["votes_atypical"] + before["votes_atypical"])[:50].eq(5).all()
    assert (after["votes_atypical"] == before["votes_atypical"])[50:].all()


def test_slides_are_estimated(few: estimates.Population) -> None:
    number, found = estimates.outcomes_of_slides(few, 60, 10)
    assert number > 20
    assert all(outcome.coverage > 0.7 for outcome in found.values())


def test_lines_replace_those_of_their_block() -> None:
    blocks = [estimates.begin("a"), "old", estimates.END, "between", estimates.begin("b"), estimates.END]
    page = "\n\n".join(["before", *blocks, "after"])
    new = estimates.with_block(page, "a", ["new", ""])
    assert new == page.replace("old", "new")
    assert estimates.with_block(new, "a", ["new"]) == new


def test_labels_of_other_figures_are_refused(tmp_path: Path) -> None:
    row = {"slide": "002.tiff", "dataset": "MIDOG21", "uid": 6, "majority_atypical": False}
    pd.DataFrame([row]).to_csv(tmp_path / "labels.csv")
    with pytest.raises(DatasetError, match="its labels are not those"):
        estimates.read_figures(tmp_path / "labels.csv")


def test_the_figures_of_other_laboratories_are_all_there() -> None:
    outside = estimates.outside()
    assert (len(outside.figures), outside.atypical.sum()) == (746, 128)  # as published
    assert (outside.figures["votes_cast"] == 6).all()


def test_every_population_and_size_is_on_the_page() -> None:
    page = estimates.PAGE.read_text(encoding="utf-8")
    tables = page.split(estimates.begin("tables"))[1].split(estimates.END)[0]
    rows = re.findall(r"^\| (.*?) +\| (25|50|100|200) +\| ([\d.]+) % +\| ([\d.]+) %", tables, re.MULTILINE)
    assert len(rows) == 10 * len(estimates.SIZES)
    assert (
        min(float(coverage) for *_, first, second in rows for coverage in (first, second)) >= LEAST_COVERAGE
    )


LEAST_COVERAGE = 93.5
"""Lowest coverage that the page may show, in percent."""
