"""Counts per region: holes, parts, overlaps, exclusions, edges."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.regions import (
    Region,
    check_on_slide,
    count_regions,
    cut_off_note,
    inside_regions,
    named_apart,
)
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import REGION_COLUMNS
from wsi_mitosis.units import Bounds, Mpp

SLIDE = (1000, 800)
UM = Mpp(1, 1)


def region(geometry: object, class_name: str = "Tumor", name: str = "r") -> Region:
    return Region(name, class_name, geometry)


def counted(
    regions: list[Region], points: list[tuple[float, float]], mpp: Mpp = UM
) -> list[tuple[str, int, int, float]]:
    """(region, mitoses, atypical, area in px^2 at 1 um/px), every second figure atypical."""
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    atypical = np.arange(len(x)) % 2 == 0
    rows = count_regions(regions, x, y, atypical, size_px0=SLIDE, mpp=mpp)
    for row in rows:
        assert tuple(row.model_dump(by_alias=True)) == tuple(
            name for name in REGION_COLUMNS if name != "slide"
        )
        assert row.typical == row.mitoses - row.atypical
    assert inside_regions(regions, x, y, SLIDE).sum() == rows[-1].mitoses
    return [(row.region, row.mitoses, row.atypical, row.area_mm2 * 1e6) for row in rows]


def test_a_hole_is_outside() -> None:
    ring = shapely.box(0, 0, 100, 100).difference(shapely.box(40, 40, 60, 60))
    assert counted([region(ring)], [(50, 50), (10, 10)]) == [
        ("r", 1, 0, pytest.approx(9600)),
        ("all regions", 1, 0, pytest.approx(9600)),
    ]


def test_a_multipolygon_is_one_region() -> None:
    two = shapely.union(shapely.box(0, 0, 10, 10), shapely.box(100, 100, 110, 110))
    assert counted([region(two)], [(5, 5), (105, 105), (50, 50)])[0] == ("r", 2, 1, pytest.approx(200))


def test_an_overlap_counts_in_both_and_once_in_all() -> None:
    pair = [region(shapely.box(0, 0, 20, 10), name="a"), region(shapely.box(10, 0, 30, 10), name="b")]
    assert counted(pair, [(15, 5), (25, 5)]) == [
        ("a", 1, 1, pytest.approx(200)),
        ("b", 2, 1, pytest.approx(200)),
        ("all regions", 2, 1, pytest.approx(300)),
    ]


def test_a_figure_on_the_edge_of_two_regions_is_in_both() -> None:
    pair = [region(shapely.box(0, 0, 10, 10), name="a"), region(shapely.box(10, 0, 20, 10), name="b")]
    assert [row[1] for row in counted(pair, [(10, 5)])] == [1, 1, 1]


@pytest.mark.parametrize(
    "class_name", ["Ignore*", "Anything*", "Necrosis", "Tumor: Necrosis", "Artefacts", "background"]
)
def test_excluding_classes_are_cut_out(class_name: str) -> None:
    pair = [region(shapely.box(0, 0, 20, 10)), region(shapely.box(10, 0, 30, 10), class_name, "out")]
    assert counted(pair, [(5, 5), (15, 5), (25, 5)]) == [
        ("r", 1, 1, pytest.approx(100)),
        ("all regions", 1, 1, pytest.approx(100)),
    ]


@pytest.mark.parametrize("class_name", ["", "Tumor", "Stroma", "Tumor: Non-necrotic"])
def test_other_classes_include(class_name: str) -> None:
    assert not region(None, class_name).excludes


def test_where_every_region_excludes_the_rest_of_the_slide_is_left() -> None:
    out = region(shapely.box(0, 0, 500, 800), "Ignore*")
    assert counted([out], [(5, 5), (600, 5)]) == [("all regions", 1, 0, pytest.approx(400_000))]


def test_what_lies_outside_the_slide_has_no_area() -> None:
    assert counted([region(shapely.box(-50, -50, 10, 10))], [])[0] == ("r", 0, 0, pytest.approx(100))


def test_a_region_that_is_cut_out_whole_has_no_density() -> None:
    box = shapely.box(0, 0, 10, 10)
    rows = count_regions(
        [region(box), region(box, "Ignore*")],
        *(np.array([5.0]), np.array([5.0]), np.array([True])),
        size_px0=SLIDE,
        mpp=UM,
    )
    assert [(row.mitoses, row.area_mm2, row.mitoses_per_mm2) for row in rows] == [(0, 0, None)] * 2


def test_area_and_density_are_physical_where_pixels_are_not_square() -> None:
    rows = count_regions(
        [region(shapely.box(0, 0, 100, 100))],
        *(np.array([5.0]), np.array([5.0]), np.array([True])),
        size_px0=SLIDE,
        mpp=Mpp(0.25, 0.5),
    )
    assert rows[0].area_mm2 == pytest.approx(100 * 100 * 0.125 / 1e6)
    assert rows[0].mitoses_per_mm2 == pytest.approx(1 / 0.00125)


whole = st.integers(0, 30)
boxes = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h), whole, whole, st.integers(1, 12), st.integers(1, 12)
)


@given(
    st.lists(st.tuples(boxes, st.booleans()), min_size=1, max_size=5),
    st.lists(st.tuples(whole, whole), max_size=10),
)
def test_boxes_equal_plain_comparisons(
    drawn: list[tuple[tuple[int, ...], bool]], points: list[tuple[int, int]]
) -> None:
    """Half-pixel points, so that none lies on an edge."""
    places = [(x + 0.5, y + 0.5) for x, y in points]

    def within(box: tuple[int, ...], x: float, y: float) -> bool:
        return box[0] < x < box[2] and box[1] < y < box[3]

    regions = [region(shapely.box(*box), "Ignore*" if out else "") for box, out in drawn]
    including = [box for box, out in drawn if not out]
    left = [place for place in places if not any(within(box, *place) for box, out in drawn if out)]
    expected = [sum(within(box, *place) for place in left) for box in including]
    total = sum(not including or any(within(box, *place) for box in including) for place in left)
    assert [row[1] for row in counted(regions, places)] == [*expected, total]


def boxes_called(**boxes: tuple[float, float, float, float]) -> list[Region]:
    return [region(shapely.box(*box), name=name) for name, box in boxes.items()]


def test_a_region_on_the_slide_passes_however_little_of_it() -> None:
    regions = boxes_called(
        inside=(10, 10, 20, 20), corner=(999, 799, 2000, 2000), around=(-9, -9, 2000, 2000)
    )
    check_on_slide(regions, size_px0=SLIDE, bounds=None, frame="qupath", name="a.svs")
    check_on_slide([], size_px0=SLIDE, bounds=None, frame="qupath", name="a.svs")


@pytest.mark.parametrize(
    "box", [(5000, 5000, 5640, 5640), (1000, 0, 1100, 800), (-50, 10, 0, 20), (10, 800, 20, 900)]
)
@pytest.mark.parametrize("class_name", ["Tumor", "Necrosis"])
def test_a_region_off_the_slide_is_refused_beside_good_ones(box: tuple[int, ...], class_name: str) -> None:
    regions = [*boxes_called(good=(0, 0, 99, 99)), region(shapely.box(*box), class_name, "far")]
    left, top, right, bottom = box
    spanned = rf"x {left} to {right}, y {top} to {bottom} px at level 0, read in frame slide"
    message = (
        rf"a\.svs: placing regions: region 'far' \({spanned}\) lies wholly outside the slide, which has "
        r"1000 x 800 px\. Check that the regions are of this slide and in pixels at level 0, and their frame"
    )
    with pytest.raises(DetectionsError, match=message):
        check_on_slide(regions, size_px0=SLIDE, bounds=None, frame="slide", name="a.svs")


def test_a_region_off_what_was_scanned_is_refused() -> None:
    regions = boxes_called(a=(0, 0, 300, 500), b=(250, 200, 310, 300), c=(901, 0, 902, 1))
    bounds = Bounds(300, 160, 600, 500)
    message = r"region 'a' .* 1000 x 800 px, of which x 300 to 900, y 160 to 660 px was scanned; so do 'c'"
    with pytest.raises(DetectionsError, match=message):
        check_on_slide(regions, size_px0=SLIDE, bounds=bounds, frame="qupath", name="a.scn")


def test_what_is_cut_off_is_noted_from_a_hundredth_on() -> None:
    inside, least = (0, 0, 100, 100), (-1, 0, 99, 100)
    assert cut_off_note(boxes_called(a=inside, b=(-0.9, 0, 99.1, 100)), SLIDE, "a.svs") is None
    assert cut_off_note(boxes_called(a=inside, b=least), SLIDE, "a.svs") == (
        "a.svs: outside the slide, and cut off: 1% of region 'b'"
    )
    many = boxes_called(a=least, b=(950, 0, 1050, 10), c=(999.99, 0, 1999, 9), d=least, e=least)
    assert cut_off_note(many, SLIDE, "a.svs") == (
        "a.svs: outside the slide, and cut off: 1% of region 'a', 50% of region 'b', 99% of region 'c' "
        "and parts of 2 more"
    )


@pytest.mark.parametrize("name", ["all regions", "All Regions", "ALL_REGIONS", " all  regions "])
def test_no_region_takes_the_name_of_the_total(name: str) -> None:
    (named,) = named_apart([region(None, name=name)])
    assert named.name == f"{name} (drawn)"


def test_regions_of_one_name_are_told_apart() -> None:
    names = ["a", "a", "A", "a (2)", "b", "a"]
    assert [one.name for one in named_apart([region(None, name=name) for name in names])] == [
        *("a", "a (3)", "A", "a (2)", "b", "a (4)")
    ]
    cut_out = [region(None, "Ignore*", "a"), region(None, "Ignore*", "a"), region(None, name="a")]
    assert [one.name for one in named_apart(cut_out)] == ["a", "a", "a"]


@given(
    st.lists(st.sampled_from(["a", "a (2)", "a (3)", "all regions", "all regions (drawn)", "All regions"]))
)
def test_names_are_distinct_and_few_change(names: list[str]) -> None:
    named = [one.name for one in named_apart([region(None, name=name) for name in names])]
    assert len(set(named)) == len(named)
    for at, name in enumerate(names):
        if name not in names[:at] and name.casefold() != "all regions":
            assert named[at] == name
