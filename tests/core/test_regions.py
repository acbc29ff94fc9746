"""Counts per region: holes, parts, overlaps, exclusions, edges."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.regions import Region, count_regions, inside_regions
from wsi_mitosis.tables import REGION_COLUMNS
from wsi_mitosis.units import Mpp

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
