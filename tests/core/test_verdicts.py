"""What a reviewer's files say of a slide: by id, by place, and the latest of several."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.reviewers import AT, LABELS, classify, page, places
from wsi_mitosis.core.review_files import ReviewFile, run_digest
from wsi_mitosis.core.verdicts import SlideVerdicts, verdicts_on_slide
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.results.folder import ResultFiles

SLIDE, MACHINE = "a.svs", "aattat"
LATER, LATEST = "2026-03-05T00:00:00+09:00", "2026-03-05T00:00:00+00:00"
"""The former is at 15 o'clock of the day before, in UTC."""
OTHER_PLACES = [*((x + 8.0, y) for x, y in places(3)), (1000.0, 900.0), (1300.0, 900.0)]
"""Of the first three figures, 8 px = 2 um beside; and two where there is none."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return classify(tmp_path / "out", {SLIDE: MACHINE})


def read(results: Path, *files: ReviewFile, distance_um: float = 6.25) -> SlideVerdicts:
    folder = ResultFiles(results)
    named = [(f"{n}.json", file) for n, file in enumerate(files)]
    return verdicts_on_slide(named, folder.records()[SLIDE], folder.figures(SLIDE), distance_um)


def letters(results: Path, found: SlideVerdicts) -> str:
    """The verdicts in the order of the figures, by letter."""
    names = {label: letter for letter, label in LABELS.items()}
    given = [found.given.get(name) for name in ResultFiles(results).figures(SLIDE)["figure_id"]]
    return "".join("-" if one is None else names[one.label] for one in given)


def test_verdicts_on_the_present_result_go_by_id(results: Path) -> None:
    found = read(results, page(results, "anna", {SLIDE: "tan.u-"}, blind=True, note="Anaphase?"))
    assert letters(results, found) == "tan-u-"
    one = next(iter(found.given.values()))
    assert (one.blind, one.note, one.seconds, one.by, one.at.isoformat()) == (
        True,
        "Anaphase?",
        1.5,
        "id",
        AT,
    )
    assert found.notes == ()


def test_verdicts_on_another_result_go_by_place(tmp_path: Path, results: Path) -> None:
    other = classify(
        tmp_path / "other", {SLIDE: "taaat"}, at={SLIDE: OTHER_PLACES}, key="o" * 64, bundle="wide"
    )
    file = page(other, "anna", {SLIDE: "tn-at"})
    found = read(results, file)
    assert letters(results, found) == "tn----"
    assert {one.by for one in found.given.values()} == {"distance"}
    lost = ", ".join(f"'{one.figure_id}'" for one in file.figures[3:])
    assert found.notes == (
        "a.svs: 0.json shows another result, of the bundle wide. Verdicts on figures that the present result "
        f"has at their place, within 6.25 um: 2; that fit none, and are not counted: 2 ({lost})",
    )
    assert letters(results, read(results, file, distance_um=1.9)) == "------"  # 8 px are 2 um
    again = classify(tmp_path / "again", {SLIDE: MACHINE}, key="o" * 64)
    found = read(results, page(again, "anna", {SLIDE: "tntntn"}))
    assert letters(results, found) == "tntntn"
    assert {one.by for one in found.given.values()} == {"id"}
    assert "within 6.25 um: 6" in found.notes[0]
    assert "fit none" not in found.notes[0]


def test_a_figure_without_a_verdict_keeps_its_place(tmp_path: Path, results: Path) -> None:
    """Two figures of the page are near one of the present ones; the nearer one has no verdict."""
    near = [(102.0, 200.0), (110.0, 200.0)]
    other = classify(tmp_path / "other", {SLIDE: "aa"}, at={SLIDE: near}, key="o" * 64)
    found = read(results, page(other, "anna", {SLIDE: "-t"}))
    assert letters(results, found) == "------"
    assert "are not counted: 1" in found.notes[0]


def test_another_slide_of_this_name_is_refused(tmp_path: Path, results: Path) -> None:
    other = classify(tmp_path / "other", {SLIDE: MACHINE}, digest="j" * 62)
    with pytest.raises(DetectionsError, match=r"a\.svs: reading the review: 0\.json shows another slide"):
        read(results, page(other, "anna", {SLIDE: "tntntn"}))


@pytest.mark.parametrize("change", [{"figure_id": "unknown"}, {"x_px0": 100.5}, {"y_px0": 1e300}])
def test_a_file_that_contradicts_the_result_that_it_shows_is_refused(results: Path, change: dict) -> None:
    file = page(results, "anna", {SLIDE: "tan.u-"})
    first = file.figures[0].model_copy(update=change)
    edited = file.model_copy(update={"figures": (first, *file.figures[1:])})
    name = change.get("figure_id", first.figure_id)
    with pytest.raises(DetectionsError, match=f"no such figures at these places: '{name}'"):
        read(results, edited)
    rounded = file.figures[0].model_copy(update={"x_px0": 100.01})
    assert read(results, file.model_copy(update={"figures": (rounded,)})).given


@pytest.mark.parametrize("place", [{"x_px0": -1.0}, {"y_px0": 1000.0}, {"x_px0": 1e308}])
def test_a_figure_of_another_result_outside_the_slide_is_refused(
    tmp_path: Path, results: Path, place: dict
) -> None:
    """The slide has 1400 x 1000 px."""
    file = page(classify(tmp_path / "again", {SLIDE: MACHINE}, key="o" * 64), "anna", {SLIDE: "tan.u-"})
    first = file.figures[0].model_copy(update=place)
    with pytest.raises(DetectionsError, match=r"figures of 0\.json lie outside the slide"):
        read(results, file.model_copy(update={"figures": (first, *file.figures[1:])}))


def test_the_latest_verdict_of_several_files_counts(results: Path) -> None:
    files = (
        page(results, "anna", {SLIDE: "aat-n-"}),
        page(results, "anna", {SLIDE: "att.u."}, at=LATER),
        page(results, "anna", {SLIDE: "n.t..-"}, at=LATEST),
        page(results, "anna", {SLIDE: "uuuuut"}, at=None),  # before all others
    )
    for order in itertools.permutations(files):
        found = read(results, *order)
        assert letters(results, found) == "nttuut"
        assert found.notes == ("a.svs: verdicts that a later file changes, and of which the latest count: 4",)


def test_parts_of_a_page_are_merged(results: Path) -> None:
    parts = [
        page(results, "anna", {SLIDE: s}, part=(n, 2)) for n, s in enumerate(["at....", "..nua-"], start=1)
    ]
    found = read(results, *parts)
    assert (letters(results, found), found.notes) == ("atnua-", ())


def test_different_verdicts_of_one_moment_are_refused(results: Path) -> None:
    same = "2026-03-04T06:06:07+01:00"  # as AT, in another zone
    files = [page(results, "anna", {SLIDE: "aa----"}), page(results, "anna", {SLIDE: "at----"}, at=same)]
    with pytest.raises(DetectionsError, match="two files of one reviewer have different verdicts"):
        read(results, *files)
    agreeing = page(results, "anna", {SLIDE: "aa----"}, at=same, note="again")
    found = read(results, files[0], agreeing)
    assert letters(results, found) == "aa----"
    assert found == read(results, agreeing, files[0])
    assert {one.note for one in found.given.values()} == {"again"}


def test_pages_are_consistent(results: Path) -> None:
    file = page(results, "anna", {SLIDE: "a....."})
    assert file.run == run_digest(file.slides)
