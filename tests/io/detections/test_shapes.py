"""Geometries of GeoJSON: points and areas, or the reason why a feature is not used."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.io.detections import shapes as module
from wsi_mitosis.io.detections.shapes import area_of, kinds_of, not_used, read_shapes

RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
POINT = {"type": "Point", "coordinates": [1, 2]}
LINE = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}


def polygon(*rings: list) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def multipolygon(*polygons: list) -> dict[str, Any]:
    return {"type": "MultiPolygon", "coordinates": list(polygons)}


def collection(*geometries: object) -> dict[str, Any]:
    return {"type": "GeometryCollection", "geometries": list(geometries)}


def moved(ring: list, x: float) -> list:
    return [[corner[0] + x, corner[1]] for corner in ring]


def read(*geometries: object) -> module.Shapes:
    return read_shapes([{"geometry": geometry} for geometry in geometries])


@pytest.mark.parametrize(
    ("geometry", "areas", "centres"),
    [
        (POINT, [0], [(1, 2)]),
        ({"type": "Point", "coordinates": [1, 2, 3]}, [0], [(1, 2)]),
        ({"type": "Point", "coordinates": [1, 2, 3, 4]}, [0], [(1, 2)]),
        ({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}, [0, 0], [(1, 2), (3, 4)]),
        (polygon(RING), [100], [(5, 5)]),
        (polygon(RING[:-1]), [100], [(5, 5)]),
        (polygon(RING[::-1]), [100], [(5, 5)]),
        (polygon([[x, y, 7] for x, y in RING]), [100], [(5, 5)]),
        (polygon(RING, [[2, 4], [4, 4], [4, 6], [2, 6], [2, 4]]), [96], [(5 + 2 * 4 / 96, 5)]),
        (polygon(RING, [[2, 4], [4, 4], [4, 6], [2, 6]]), [96], [(5 + 2 * 4 / 96, 5)]),
        (polygon(BOW_TIE), [50], [(5, 5)]),
        (polygon(BOW_TIE[:-1]), [50], [(5, 5)]),
        (polygon([[0, 0], [9, 9], [9, 0]]), [40.5], [(6, 3)]),
        (multipolygon([RING], [moved(RING, 20)[:-1]]), [100, 100], [(5, 5), (25, 5)]),
        (multipolygon([RING], [moved(BOW_TIE, 20)]), [100, 50], [(5, 5), (25, 5)]),
        (collection(POINT, polygon(RING)), [0, 100], [(1, 2), (5, 5)]),
        (collection(collection(collection(POINT)), polygon(RING)), [0, 100], [(1, 2), (5, 5)]),
        (polygon([[4, 4]]), [0], [(4, 4)]),
        (polygon([[4, 4], [8, 8]]), [0], [(6, 6)]),
        (polygon([[0, 0], [4, 4], [8, 8], [0, 0]]), [0], [(4, 4)]),
    ],
)
def test_points_and_areas(geometry: dict, areas: list[float], centres: list) -> None:
    found = read(geometry)
    assert shapely.area(found.parts) == pytest.approx(areas)
    assert found.is_area.tolist() == [area > 0 for area in areas]
    np.testing.assert_allclose(found.centres(), centres)
    assert found.feature.tolist() == [0] * len(areas)
    assert (found.unused, found.partly) == ({}, {})


def test_features_whose_rings_cross_are_known() -> None:
    outside = polygon(RING, moved(RING, 50))
    flat = polygon([[0, 0], [4, 4], [8, 8], [0, 0]])
    crossing = multipolygon([RING], [moved(BOW_TIE, 20)])
    found = read(polygon(RING[:-1]), polygon(BOW_TIE), flat, crossing, outside, POINT)
    assert found.crossing == {1, 3, 4}
    assert read(polygon(RING), POINT).crossing == frozenset()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("null", module.MISSING),
        ("5", module.MISSING),
        ('"POINT (1 2)"', module.MISSING),
        ("[1, 2]", module.MISSING),
        ("{}", module.EMPTY),
        ('{"type": "Point"}', module.EMPTY),
        ('{"type": "Point", "coordinates": []}', module.EMPTY),
        ('{"type": "Polygon", "coordinates": []}', module.EMPTY),
        ('{"type": "Polygon", "coordinates": [[]]}', module.EMPTY),
        ('{"type": "LineString", "coordinates": []}', module.EMPTY),
        ('{"type": "MultiPoint", "coordinates": []}', module.EMPTY),
        ('{"type": "GeometryCollection", "geometries": []}', module.EMPTY),
        ('{"type": "GeometryCollection"}', module.EMPTY),
        ('{"type": "GeometryCollection", "geometries": [null]}', module.EMPTY),
        ('{"type": "Point", "coordinates": [1e999, 1]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": [-1e999, 1]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": [NaN, 1]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": ["1", "2"]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": [true, 2]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": [null, 2]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": {"x": 1}}', module.NOT_FINITE),
        ('{"type": "MultiPoint", "coordinates": "1 2"}', module.NOT_FINITE),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [9, 9], [0, 0]]]}', module.NOT_FINITE),
        ('{"type": "Point", "coordinates": [1e13, 1]}', module.FAR),
        (f'{{"type": "Point", "coordinates": [1, {"9" * 400}]}}', module.FAR),
        ('{"type": "Point", "coordinates": [1]}', module.BROKEN),
        ('{"type": "Point", "coordinates": [[1, 2]]}', module.BROKEN),
        ('{"type": "Polygon", "coordinates": [[0, 0], [9, 0], [9, 9], [0, 0]]}', module.BROKEN),
        ('{"type": "Polygon", "coordinates": [[[0], [9], [9], [0]]]}', module.BROKEN),
        ('{"type": "Polygon", "coordinates": 5}', module.BROKEN),
        ('{"type": "Circle", "coordinates": [1, 2]}', module.BROKEN),
        ('{"type": ["Point"], "coordinates": [1, 2]}', module.BROKEN),
        ('{"type": "LineString", "coordinates": [[0, 0], [5, 5]]}', module.LINE),
        ('{"type": "MultiLineString", "coordinates": [[[0, 0], [5, 5]], [[1, 1], [2, 2]]]}', module.LINE),
        (json.dumps(collection(LINE, {"type": "Point", "coordinates": [None, 1]})), module.NOT_FINITE),
    ],
)
def test_why_a_feature_is_not_used(text: str, reason: str) -> None:
    found = read(POINT, json.loads(text), POINT)
    assert found.unused == {1: reason}
    assert found.feature.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (collection(POINT, LINE), module.LINES_INSIDE),
        (collection(LINE, LINE, POINT), module.LINES_INSIDE),
        (collection(LINE, {"type": "Circle", "coordinates": [1]}, POINT), "a part of it, because"),
        ({"type": "MultiPoint", "coordinates": [[1, 2], []]}, f"a part of it, because {module.EMPTY}"),
        (
            {"type": "MultiPoint", "coordinates": [[1, 2], [None, 3]]},
            f"a part of it, because {module.NOT_FINITE}",
        ),
    ],
)
def test_what_of_a_feature_is_not_used(geometry: dict, reason: str) -> None:
    found = read(geometry)
    assert found.unused == {}
    assert found.partly[0].startswith(reason)
    assert found.centres().tolist() == [[1, 2]]


def test_collections_are_read_to_a_depth_and_refused_beyond() -> None:
    deep = POINT
    for _ in range(50):
        deep = collection(deep)
    assert read(deep).centres().tolist() == [[1, 2]]
    assert read(collection(deep)).unused == {0: module.NESTED}
    assert read(collection(collection(deep), POINT)).partly == {0: f"a part of it, because {module.NESTED}"}


def test_the_extent_is_the_longer_side_of_what_was_drawn() -> None:
    flat, wide = (
        polygon([[0, 0], [70, 0], [30, 0], [0, 0]]),
        polygon([[0, 0], [8, 0], [8, 4], [0, 4], [0, 0]]),
    )
    assert read(POINT, wide, flat, polygon(BOW_TIE)).extent.tolist() == [0, 8, 70, 10]
    assert read(POINT, wide).extent.tolist() == [0, 8]  # a file that needs no repair


def test_no_features_have_no_parts() -> None:
    found = read()
    assert (len(found.parts), len(found.feature), found.centres().shape) == (0, 0, (0, 2))


def test_a_broken_feature_changes_no_other() -> None:
    plain = [polygon(moved(RING, x)) for x in range(0, 100, 20)]
    alone, beside = read(*plain), read(*plain, None, polygon(RING[:-1]))
    np.testing.assert_array_equal(alone.centres(), beside.centres()[:5])
    np.testing.assert_array_equal(alone.extent, beside.extent[:5])
    assert shapely.equals_exact(alone.parts, beside.parts[:5]).all()


def test_the_area_of_a_geometry_is_one() -> None:
    two = area_of(multipolygon([RING], [moved(RING, 20)]))
    assert (two.area, two.is_valid, len(two.geoms)) == (200, True, 2)
    overlapping = area_of(collection(polygon(RING), polygon(moved(RING, 5)), POINT, LINE))
    assert overlapping.area == 150
    assert area_of(POINT).is_empty
    ellipse = area_of({**polygon(RING), "isEllipse": True})
    assert ellipse.area == pytest.approx(math.pi * 25, rel=2e-4)  # a polygon inscribed in it
    assert area_of({**polygon(RING[:-1]), "isEllipse": True}).equals(ellipse)


def test_the_kinds_of_a_geometry() -> None:
    mixed = collection(LINE, {"type": "MultiPoint", "coordinates": [[1, 2]]}, multipolygon([RING]))
    assert kinds_of(mixed) == {"LineString", "Point", "Polygon"}
    assert kinds_of(None) == kinds_of(collection()) == frozenset()


def test_faults_are_listed_by_reason() -> None:
    faults = {1: "x", 3: "y", 4: "y", **dict.fromkeys(range(10, 15), "z")}
    text = "feature 2 'left' (x); features 4, 5 (y); features 11, 12, 13 and 2 more (z)"
    assert not_used(faults, {1: "left", 3: None}) == text


numbers = st.one_of(
    *(st.floats(), st.floats(-1e4, 1e4), st.integers(-20, 20), st.integers()),
    *(st.none(), st.booleans(), st.text(max_size=2)),
)
places = st.one_of(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(list), st.lists(numbers, max_size=4), numbers
)
rings = st.one_of(st.lists(places, max_size=7), numbers)
kinds = st.sampled_from(
    ["Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon", "Circle", "Feature"]
)
coordinates = st.one_of(places, rings, st.lists(rings, max_size=3), st.lists(st.lists(rings), max_size=3))
simple = st.one_of(
    st.fixed_dictionaries({"type": kinds, "coordinates": coordinates}),
    st.fixed_dictionaries({"type": st.just("Polygon"), "coordinates": st.lists(rings, max_size=3)}),
    st.recursive(numbers, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner)),
)
geometries = st.recursive(
    simple,
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("GeometryCollection"), "geometries": st.lists(inner, max_size=4)}
    ),
    max_leaves=6,
)


@given(st.lists(geometries, max_size=5))
def test_every_feature_has_parts_or_a_reason(drawn: list[Any]) -> None:
    found = read(*drawn)
    assert set(found.feature.tolist()) | set(found.unused) == set(range(len(drawn)))
    assert not set(found.feature.tolist()) & set(found.unused)
    assert set(found.partly) <= set(found.feature.tolist())
    assert (np.diff(found.feature) >= 0).all()
    assert shapely.is_valid(found.parts).all()
    assert np.isfinite(shapely.bounds(found.parts)).all()
    assert (shapely.area(found.parts)[found.is_area] > 0).all()
    assert (found.extent >= 0).all()
    left, top, right, bottom = shapely.bounds(found.parts).T.reshape(4, -1)
    x, y = found.centres().T
    room = 1e-9 * np.abs(shapely.bounds(found.parts)).max(axis=1, initial=1)
    assert ((left - room <= x) & (x <= right + room) & (top - room <= y) & (y <= bottom + room)).all()
