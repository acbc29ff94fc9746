"""The schema of a reviewer's file."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from wsi_mitosis.core.review_files import (
    Design,
    PageSlide,
    ReviewedFigure,
    ReviewFile,
    check_reviewer,
    run_digest,
)
from wsi_mitosis.errors import DetectionsError, InputError

SLIDES = tuple(
    PageSlide(slide=name, digest=name * 64, key="k" * 64, bundle="nano", bundle_digest="b" * 64)
    for name in "ab"
)


def file() -> dict[str, Any]:
    """A whole file as plain data."""
    figures = (
        ReviewedFigure(slide="a", figure_id="f1", x_px0=1, y_px0=2, label="none", note="a lymphocyte"),
        ReviewedFigure(slide="b", figure_id="f1", x_px0=1, y_px0=2),
    )
    whole = ReviewFile(
        program="wsi-mitosis 0.1.0",
        run=run_digest(SLIDES),
        reviewer="Anna B.",
        design=Design(),
        slides=SLIDES,
        figures=figures,
    )
    return copy.deepcopy(whole.as_data())


def test_a_file_is_read_as_it_was_written() -> None:
    read = ReviewFile.parse(file(), "review.json")
    assert read.as_data() == file()
    assert [figure.figure_id for figure in read.decided] == ["f1"]


def test_what_a_page_saves_is_a_moment() -> None:
    data = file()
    data["figures"][0] |= {"at": "2026-01-02T03:04:05.678Z", "seconds": 1.2}
    assert ReviewFile.parse(data, "review.json").figures[0].seconds == 1.2


def changed(*path: Any, value: Any) -> dict[str, Any]:
    data = part = file()
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        changed("schema", value=2),
        changed("is", value="a poem"),
        changed("reviewer", value="../../etc"),
        changed("reviewer", value=""),
        changed("figures", 0, "label", value="mitosis"),
        changed("figures", 0, "note", value="x" * 501),
        changed("figures", 0, "at", value="2026-01-02T03:04:05"),
        changed("figures", 0, "seconds", value=-1),
        changed("figures", 1, "slide", value="a"),
        changed("figures", 1, "slide", value="c"),
        changed("slides", 1, "slide", value="a"),
        changed("slides", 0, "key", value="another"),
        changed("design", "sample", value=10),
        changed("design", "selection", value="sample"),
        changed("design", "blind", value=True),
        changed("more", value=1),
    ],
)
def test_any_other_file_is_refused_by_name(data: dict[str, Any]) -> None:
    with pytest.raises(DetectionsError, match=r"review\.json"):
        ReviewFile.parse(data, "review.json")


def test_the_digest_is_of_the_results_in_any_order() -> None:
    assert run_digest(SLIDES) == run_digest(SLIDES[::-1])
    other = SLIDES[1].model_copy(update={"key": "another"})
    assert run_digest(SLIDES) != run_digest([SLIDES[0], other])


@pytest.mark.parametrize("name", ["Zoë", "李雷", "anna@lab-2.org", "R1"])
def test_a_reviewer_has_a_name(name: str) -> None:
    check_reviewer(name)


@pytest.mark.parametrize("name", ["", " anna", "a/b", "a\nb", ".hidden", "x" * 65, "<b>"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--reviewer"):
        check_reviewer(name)
