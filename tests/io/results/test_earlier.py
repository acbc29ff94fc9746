"""Earlier results on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.records import assessed_slide, slide_record
from tests.report_files import random_figures
from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
from wsi_mitosis.core.summary import count
from wsi_mitosis.io.results.earlier import add_earlier, read_earlier
from wsi_mitosis.io.results.folder import Drawing, ResultFiles, ResultFolder

DRAWING = Drawing("detection", "qupath")


def _result(key: str, number: int = 3) -> EarlierResult:
    return EarlierResult.of(slide_record(key=key), random_figures(number), "2026-02-03T04:05:06+00:00")


def test_results_are_read_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "earlier" / "a.svs.json"
    assert read_earlier(path) is None
    first, second = _result("a" * 64), _result("b" * 64, 2)
    add_earlier(path, "a.svs", first)
    add_earlier(path, "a.svs", second)
    assert read_earlier(path) == EarlierResults(slide="a.svs", results=(first, second))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-10],
        lambda text: text.replace('"atypical"', '"typical"', 1),
        lambda text: text.replace("a.svs", "b.svs"),
        lambda text: json.dumps(
            {name: value for name, value in json.loads(text).items() if name != "sha256"}
        ),
        lambda _: "",
        lambda _: "[]",
        lambda _: "null",
        lambda _: "{}",
        lambda _: "[" * 99_999,
        lambda _: "\x00",
    ],
)
def test_a_damaged_or_edited_file_is_not_used_and_begins_anew(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "a.svs.json"
    add_earlier(path, "a.svs", _result("a" * 64))
    path.write_text(damage(path.read_text()))
    assert read_earlier(path) is None
    add_earlier(path, "a.svs", _result("b" * 64))
    assert read_earlier(path) == EarlierResults(slide="a.svs", results=(_result("b" * 64),))


def _write(folder: Path, key: str, number: int, name: str = "a.svs") -> None:
    figures = random_figures(number)
    record = slide_record(name, key=key, counts=count(figures))
    with ResultFolder(folder) as held:
        held.write_slide(figures, assessed_slide(record, figures), DRAWING)


def test_a_result_that_is_replaced_is_remembered_and_the_same_one_is_not(tmp_path: Path) -> None:
    _write(tmp_path, "a" * 64, 3)
    assert ResultFiles(tmp_path).earlier_results("a.svs").results == ()
    _write(tmp_path, "a" * 64, 3)
    assert ResultFiles(tmp_path).earlier_results("a.svs").results == ()
    _write(tmp_path, "b" * 64, 5)
    (one,) = ResultFiles(tmp_path).earlier_results("a.svs").results
    assert one.labels == _result("a" * 64).labels
    assert one.number == _result("a" * 64).number
    _write(tmp_path, "a" * 64, 3)  # and back
    results = ResultFiles(tmp_path).earlier_results("a.svs").results
    assert [len(one.labels) for one in results] == [3, 5]


def test_earlier_results_of_another_slide_are_not_used(tmp_path: Path) -> None:
    add_earlier(ResultFiles(tmp_path).earlier_path("a.svs"), "b.svs", _result("a" * 64))
    assert ResultFiles(tmp_path).earlier_results("a.svs") == EarlierResults(slide="a.svs")


def test_without_a_readable_figures_table_nothing_is_remembered(tmp_path: Path) -> None:
    _write(tmp_path, "a" * 64, 3)
    ResultFiles(tmp_path).figures_path("a.svs").write_bytes(b"broken")
    _write(tmp_path, "b" * 64, 5)
    assert ResultFiles(tmp_path).earlier_results("a.svs").results == ()
