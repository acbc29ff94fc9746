"""`wsi-mitosis review`: its options, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.report_files import Done, results_folder
from tests.runs import slides_in
from wsi_mitosis.cli import main


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    (slide,) = slides_in(folder / "slides", ["a.tiff"])
    return results_folder(folder / "out", [Done(slide, [(100, 100), (300, 200)])])


def invoke(results: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["review", str(results), *options])


def test_it_says_what_it_wrote(results: Path) -> None:
    ran = invoke(results, "--blind", "--reviewer", "anna")
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith(f"2 figures of 1 slide, blind: {results / 'review.html'} (")
    assert "Research use only." in ran.output


@pytest.mark.parametrize(
    ("options", "order", "blind", "selection"),
    [
        ((), "rank", False, "all"),
        (("--blind",), "random", True, "all"),
        (("--blind", "--order", "slide"), "slide", True, "all"),
        (("--sample", "2"), "random", False, "sample"),
        (("--order", "random", "--seed", "4"), "random", False, "all"),
    ],
)
def test_the_order_suits_the_purpose(
    results: Path, options: tuple[str, ...], order: str, *, blind: bool, selection: str
) -> None:
    design = json.loads(invoke(results, *options, "--json").stdout)["design"]
    assert (design["order"], design["blind"], design["selection"]) == (order, blind, selection)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--blind", "--order", "rank"), "Use --order random or slide"),
        (("--sample", "2", "--first", "1"), "Leave out --first"),
        (("--sample", "2", "--disagreements"), "Give one of them"),
        (("--reviewer", "a/b"), "cannot be the name of a reviewer"),
        (("--reviewer", ""), "the value is empty"),
        (("--disagreements",), "recount"),
    ],
)
def test_what_contradicts_itself_is_refused(results: Path, options: tuple[str, ...], message: str) -> None:
    ran = invoke(results, *options)
    assert ran.exit_code == 2
    assert message in ran.output
