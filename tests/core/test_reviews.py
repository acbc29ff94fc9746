"""What the objects of a review are: figures, copies of them, marks, and areas."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.review_files import MPP, Drawn, figures_table, objects_of
from wsi_mitosis.core.reviews import Review, described_areas, reviewed_figures
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.units import Bounds

MACHINE = figures_table(("k", 100, 100, "atypical"), ("r", 200, 100, "typical"))


def _review(*drawn: Drawn, machine: pd.DataFrame = MACHINE, **options) -> Review:
    return reviewed_figures(objects_of(*drawn), machine, "a.svs", **options)


def _figures(found: Review) -> list[tuple[str | None, float, float, str]]:
    return [tuple(row) for row in found.figures[["figure_id", "x_px0", "y_px0", "label"]].to_numpy().tolist()]


def test_figures_are_what_is_left_of_the_objects() -> None:
    found = _review(
        Drawn(1.0, 2.0, "Mitosis: Atypical", "abc", extent=50),
        Drawn(3.0, 4.0, "Ignore*", "b", extent=50),
        Drawn(5.0, 6.0, "Hotspot", "c", extent=5000),
        Drawn(7.0, 8.0, None, "d", extent=5000),
        Drawn(9.0, 10.0, "Tumor", "e", extent=5000),
        Drawn(11.0, 12.0, "NMF", extent=0),
    )
    assert _figures(found) == [("abc", 1, 2, "atypical"), (None, 11, 12, "typical")]
    assert found.figures["feature"].tolist() == [1, 6]
    assert found.areas == (4, 5)
    assert found.notes == ()


def test_no_objects_are_no_figures() -> None:
    found = _review()
    assert (len(found.figures), len(found.marks), found.areas, found.notes) == (0, 0, (), ())


def test_a_place_in_qupaths_frame_starts_at_the_corner_of_the_bounds() -> None:
    bounds = Bounds(700, 300, 5000, 5000)
    row = Drawn(1, 2, "AMF", extent=8)
    there = objects_of(row, frame="qupath", bounds=bounds)
    assert there[["x_px0", "y_px0"]].to_numpy().tolist() == [[701, 302]]
    assert there["extent_um"].tolist() == [8 * MPP.mean]
    here = objects_of(row, frame="slide", bounds=bounds)
    assert here[["x_px0", "y_px0"]].to_numpy().tolist() == [[1, 2]]


# Objects that do not say what they are


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([Drawn(1, 2, None, "a")], r"object a, feature 1 at \(1.00, 2.00\) px of the slide, has no class: "),
        ([Drawn(1, 2, "Tumor")], "feature 1 at .* of the slide is of the unknown class 'Tumor'"),
        ([Drawn(1, 2, "AMF"), Drawn(1, 9, None), Drawn(3, 2, None)], "feature 2 .*, and so are 1 more"),
        ([Drawn(1, 2, None, extent=50 / MPP.mean)], "has no class"),  # of a figure's size
    ],
)
def test_an_object_that_does_not_say_what_it_is_is_named(rows: list[Drawn], cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as error:
        _review(*rows)
    assert error.value.subject == "a.svs"
    assert "--label 'NAME=atypical', '=typical' or '=none'" in str(error.value.remedy)


def test_further_classes_mean_what_the_user_says() -> None:
    drawn = Drawn(1, 2, "Bizarre", "a"), Drawn(100, 102, "Odd")
    found = _review(*drawn, labels={"bizarre": "typical", "odd": "none"})
    assert _figures(found) == [("a", 1, 2, "typical")]
    assert found.marks[["x_px0", "y_px0", "class"]].to_numpy().tolist() == [[100, 102, "Odd"]]


# Sizes


def test_50_um_is_still_a_figure_in_the_mean_pixel_size() -> None:
    edge_px = 50 / MPP.mean
    assert len(_review(Drawn(0, 0, "AMF", extent=edge_px)).figures) == 1
    assert len(_review(Drawn(0, 0, "AMF", extent=edge_px + 0.1)).figures) == 0


@pytest.mark.parametrize("name", ["Mitosis: Atypical", "NMF", "Mitosis", "Imposter"])
def test_merged_figures_are_judged_part_by_part(name: str) -> None:
    drawn = [Drawn(x, 5, name, "m", extent=20, whole=9000, feature=1) for x in (10, 9000)]
    found = _review(*drawn, labels={"mitosis": "typical"})
    assert len(found.figures) + len(found.marks) == 2
    assert found.areas == ()


@pytest.mark.parametrize("name", ["Tumor", "Ignore*", None, "Necrosis"])
def test_small_parts_of_a_large_region_belong_to_it(name: str | None) -> None:
    drawn = [Drawn(10, 5, name, extent=9, whole=9000, feature=1), Drawn(9, 5, name, extent=8990, whole=9000)]
    found = _review(drawn[0], drawn[1]._replace(feature=1))
    assert (found.areas, len(found.figures), len(found.marks)) == ((1,), 0, 0)


@pytest.mark.parametrize("name", ["AMF", "Untrained: Typical", "Imposter", "Mitosis"])
def test_an_area_of_a_class_of_figures_is_named_with_what_lies_under_it(name: str) -> None:
    figures = [Drawn(x, 100, "NMF", f"f{x}") for x in (100, 200, 300)]
    found = _review(*figures, Drawn(150, 150, name, extent=200))
    assert (len(found.figures), found.areas) == (3, ())
    assert found.notes == (
        f"a.svs: feature 4, an area of class '{name}', has no effect: it is 75 um wide, and a figure is at "
        "most 50 um wide. Figures under it, whose own classes count: 2",
    )
    alone = _review(Drawn(150, 150, name, extent=200))
    assert alone.notes[0].endswith("whose own classes count: 0")


def test_a_figure_that_was_drawn_wider_is_the_same_figure() -> None:
    found = _review(Drawn(100, 100, "NMF", "k", extent=300), Drawn(200, 100, "NMF", "other", extent=300))
    assert _figures(found) == [("k", 100, 100, "typical")]
    assert "feature 2, an area of class 'NMF', has no effect" in found.notes[0]
    assert _review(Drawn(100, 100, "Tumor", "k", extent=300)).areas == (1,)


def test_classes_of_areas_are_named() -> None:
    assert described_areas(["Tumor", None, "Stroma", "Tumor"]) == "'Stroma', 'Tumor', no class"
    assert described_areas([None]) == "no class"
    assert described_areas(["Tumor"]) == "'Tumor'"


# Copies


def test_copies_of_an_object_count_once() -> None:
    found = _review(*[Drawn(1, 2, "AMF", "a")] * 2, Drawn(1, 2, "Atypical", "new"))
    assert _figures(found) == [("a", 1, 2, "atypical")]
    assert found.notes == ("a.svs: copies of other objects of the review, which are counted once: 2",)


@pytest.mark.parametrize(
    "rows",
    [
        [Drawn(1, 2, "AMF", "a"), Drawn(1, 2, "NMF", "a")],
        [Drawn(1, 2, "AMF", "a"), Drawn(1.001, 2, "NMF", "b")],
        [Drawn(1, 2, "AMF"), Drawn(1, 2, "NMF")],
        [Drawn(1, 2, "AMF", "a"), Drawn(1, 2, "Ignore*", "a")],
        [Drawn(100, 100, "AMF", "k"), Drawn(100, 100, "Ignore*", "k")],
    ],
)
def test_copies_that_contradict_each_other_are_refused(rows: list[Drawn]) -> None:
    with pytest.raises(DetectionsError, match=r"feature 1 at .* lies there twice, with different classes"):
        _review(*rows)


def test_objects_without_ids_at_different_places_are_no_copies() -> None:
    found = _review(Drawn(1, 2, "AMF"), Drawn(1.02, 2, "AMF"), Drawn(1, 2.02, "NMF"))
    assert len(found.figures) == 3
    assert found.notes == ()


def test_of_one_id_at_different_places_the_nearest_to_the_figure_keeps_it() -> None:
    rows = Drawn(400, 100, "AMF", "k"), Drawn(110, 100, "AMF", "k"), Drawn(300, 100, "NMF", "k")
    found = _review(*rows)
    assert _figures(found) == [
        (None, 400, 100, "atypical"),
        ("k", 110, 100, "atypical"),
        (None, 300, 100, "typical"),
    ]
    assert found.notes == ()


@given(st.permutations(range(4)))
def test_the_order_of_copies_does_not_matter(order: list[int]) -> None:
    rows = [
        Drawn(90, 100, "AMF", "k"),
        Drawn(110, 100, "AMF", "k"),  # as near as the one before, to the right of it
        Drawn(110, 105, "AMF", "k"),
        Drawn(300, 100, "NMF", "r"),
    ]
    found = _review(*(rows[row] for row in order))
    assert set(_figures(found)) == {
        ("k", 90, 100, "atypical"),
        (None, 110, 100, "atypical"),
        (None, 110, 105, "atypical"),
        ("r", 300, 100, "typical"),
    }


def test_an_unknown_id_at_different_places_means_nothing() -> None:
    """Old versions of QuPath wrote the type of an object as its id."""
    rows = [Drawn(x, 100, "AMF", "pathdetectionobject") for x in (100, 200, 300)]
    found = _review(*rows)
    assert [row[0] for row in _figures(found)] == [None] * 3
    assert found.notes == ()


def test_an_unknown_id_at_one_place_is_one_object() -> None:
    rows = Drawn(300, 100, "AMF", "new"), Drawn(300.02, 100, "AMF", "new")
    found = _review(*rows)
    assert _figures(found) == [("new", 300, 100, "atypical")]
    assert found.notes[0].endswith("which are counted once: 1")


def test_ids_of_others_are_not_touched_by_copies() -> None:
    rows = Drawn(300, 100, "AMF", "new"), Drawn(1, 2, "AMF", "k"), Drawn(5, 2, "NMF", "k"), Drawn(9, 9, "AMF")
    found = _review(*rows)
    assert [row[0] for row in _figures(found)] == ["new", None, "k", None]


def test_a_copy_of_a_look_alike_is_no_copy_of_a_figure() -> None:
    found = _review(*[Drawn(300, 100, "Imposter", "x")] * 2)
    assert (found.notes, len(found.marks)) == ((), 1)


# Marks


def test_annotations_of_look_alikes_are_marks() -> None:
    found = _review(
        Drawn(1, 2, "Non-mitotic figure", "a", extent=30, height=10),
        Drawn(3, 4, "Ignore*"),
        Drawn(5, 6, "Imposter", kind="detection"),  # of another program
        Drawn(7, 8, "Hotspot"),
        Drawn(7, 8, "hotspot: old"),
        Drawn(100, 100, "Ignore*", "k"),  # the figure itself, which is removed because no figure is left
        Drawn(200, 100, "NMF", "r"),
    )
    assert _figures(found) == [("r", 200, 100, "typical")]
    columns = ["figure_id", "x_px0", "y_px0", "class", "feature", "width", "height"]
    assert found.marks[columns].to_numpy().tolist() == [
        ["a", 1, 2, "Non-mitotic figure", 1, 30, 10],
        [None, 3, 4, "Ignore*", 2, 20, 20],
    ]


def test_a_figure_keeps_its_place_in_the_file() -> None:
    drawn = [Drawn(300 - x, 7, "AMF", name) for x, name in enumerate(["new", "r", None, "k", "last"])]
    found = _review(*drawn)
    assert found.figures["figure_id"].tolist() == ["new", "r", None, "k", "last"]
    assert found.figures.index.tolist() == [0, 1, 2, 3, 4]
    assert not any(math.isnan(x) for x in found.figures["x_px0"])
