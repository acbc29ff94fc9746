"""What is remembered of results that others have replaced."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.records import slide_record
from tests.review_files import figures_table
from wsi_mitosis.core.earlier import MOST, EarlierResult, EarlierResults
from wsi_mitosis.core.qupath import result_number

REPLACED = "2026-02-03T04:05:06+00:00"
FIGURES = figures_table(
    ("k", 1, 2, "atypical"), (None, 3, 4, None), ("r", 5, 6, "typical"), ("s", 7, 8, "atypical")
)


def _result(key: str, figures: pd.DataFrame = FIGURES) -> EarlierResult:
    record = slide_record(key=key, identity="i" * 64, bundle="older", bundle_digest="b" * 64)
    return EarlierResult.of(record, figures, REPLACED)


def test_a_result_is_remembered_by_its_number_its_bundle_and_its_figures() -> None:
    found = _result("k" * 64)
    assert found.number == result_number("k" * 64)
    assert (found.digest, found.bundle, found.bundle_digest) == ("i" * 64, "older", "b" * 64)
    assert found.replaced == REPLACED
    assert found.labels == {"k": "atypical", "s": "atypical", "r": "typical"}


@pytest.mark.parametrize("number", [0, 1])
def test_a_result_of_one_class_or_without_figures(number: int) -> None:
    found = _result("k" * 64, FIGURES.iloc[:number])
    assert found.labels == {"k": "atypical"} if number else found.labels == {}


def test_the_latest_results_are_kept_and_each_once() -> None:
    results = EarlierResults(slide="a.svs")
    for number in range(MOST + 3):
        results = results.followed_by(_result(f"key {number}"))
    numbers = [one.number for one in results.results]
    assert numbers == [result_number(f"key {number}") for number in range(3, MOST + 3)]
    again = results.followed_by(_result("key 5", FIGURES.iloc[:1]))
    assert [one.number for one in again.results] == [n for n in numbers if n != numbers[2]] + [numbers[2]]
    assert again.results[-1].labels == {"k": "atypical"}
    assert again.slide == "a.svs"


def test_the_number_of_a_result_is_held_by_float32() -> None:
    numbers = [result_number(f"key {number}") for number in range(1000)]
    assert len(set(numbers)) == 1000
    assert max(numbers) < 2**24
    assert result_number("") == 0xE3B0C4  # the first 24 bits of the SHA-256 of nothing
