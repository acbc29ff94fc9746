"""Regions as QuPath exports them."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import shapely

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections.regions import read_regions, region_note, regions_of

SQUARE = [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]


def feature(geometry: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "0aa0c9ac-8d35-4c3a-b4b4-b9f8e9e0a6d5",
        "geometry": geometry or {"type": "Polygon", "coordinates": SQUARE},
        "properties": {"objectType": "annotation", **properties},
    }


def written(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_names_and_classes_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.geojson",
        feature(name="left", classification={"name": "Tumor", "color": [200, 0, 0]}),
        feature(classification={"names": ["Tumor", "Invasive"], "color": [1, 2, 3]}),
        feature(classification={"name": "Ignore*", "color": [1, 2, 3]}),
    )
    regions = read_regions(path).regions
    assert [(r.name, r.class_name, r.excludes) for r in regions] == [
        ("left", "Tumor", False),
        ("Region 2", "Tumor: Invasive", False),
        ("Region 3", "Ignore*", True),
    ]
    assert read_regions(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_bare_features_lists_and_gzip_are_read(tmp_path: Path) -> None:
    for number, document in enumerate([feature(), [feature()]]):
        path = tmp_path / f"{number}.geojson"
        path.write_text(json.dumps(document))
        assert len(read_regions(path).regions) == 1
    (tmp_path / "c.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_regions(tmp_path / "c.geojson.gz").regions) == 1


def test_what_is_no_region_is_passed_over(tmp_path: Path) -> None:
    ours = [
        {"classification": {"name": name, "color": [1, 2, 3]}} for name in ("Hotspot", "Mitosis: Typical")
    ]
    path = written(
        tmp_path / "a.geojson",
        feature({"type": "Point", "coordinates": [1, 1]}),
        feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}),
        feature(objectType="detection"),
        feature(objectType="cell"),
        *(feature(**properties) for properties in ours),
        feature(name="kept"),
    )
    assert [region.name for region in read_regions(path).regions] == ["kept"]


def test_an_object_without_a_type_is_an_annotation(tmp_path: Path) -> None:
    bare = feature()
    del bare["properties"]["objectType"]
    assert len(read_regions(written(tmp_path / "a.geojson", bare)).regions) == 1


def test_an_ellipse_has_the_area_of_an_ellipse(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.geojson", feature({"type": "Polygon", "isEllipse": True, "coordinates": SQUARE})
    )
    geometry = read_regions(path).regions[0].geometry
    assert geometry.area == pytest.approx(math.pi * 25, rel=2e-4)  # a polygon inscribed in it
    assert geometry.bounds == pytest.approx((0, 0, 10, 10))


def test_holes_parts_and_crossing_rings_are_areas(tmp_path: Path) -> None:
    hole = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    bow_tie = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
    path = written(
        tmp_path / "a.geojson",
        feature({"type": "Polygon", "coordinates": [*SQUARE, hole]}),
        feature({"type": "MultiPolygon", "coordinates": [SQUARE, [[[x + 20, y] for x, y in SQUARE[0]]]]}),
        feature({"type": "Polygon", "coordinates": bow_tie}),
    )
    file = read_regions(path)
    areas = [region.geometry for region in file.regions]
    assert file.notes == (
        "a.geojson: check the outline of feature 3 'Region 3' (where it crosses itself, every second area is "
        "a hole)",
    )
    assert [geometry.area for geometry in areas] == pytest.approx([96, 200, 50])
    assert all(geometry.is_valid for geometry in areas)


def test_regions_are_placed_in_the_slides_frame(tmp_path: Path) -> None:
    (region,) = read_regions(written(tmp_path / "a.geojson", feature())).placed((300, 160))
    assert region.geometry.equals(shapely.box(300, 160, 310, 170))


@pytest.mark.parametrize("content", ["slide,x,y\na,1,2\n", '{"points": []}', "not json {"])
def test_another_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(DetectionsError, match=r"a\.geojson"):
        read_regions(tmp_path / "a.geojson")


def test_a_file_without_regions_is_refused_and_says_what_it_has(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.geojson", feature({"type": "Point", "coordinates": [1, 1]}), feature(objectType="cell")
    )
    message = r"reading regions: none of its objects is a region: feature 1 \(point\); feature 2 \(cell\)"
    with pytest.raises(DetectionsError, match=message):
        read_regions(path)
    with pytest.raises(DetectionsError, match="it has no objects"):
        read_regions(written(tmp_path / "b.geojson"))


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        ("null", "it has no geometry"),
        ('{"type": "Polygon", "coordinates": []}', "its geometry is empty"),
        ('{"type": "MultiPolygon", "coordinates": []}', "its geometry is empty"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [9, 9]]]}', "not all finite numbers"),
        ('{"type": "Polygon", "coordinates": [[["0", "0"], [9, 0], [9, 9]]]}', "not all finite numbers"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [0, 0]]]}', "it has no area"),
        ('{"type": "Polygon", "coordinates": [[[4, 4]]]}', "it has no area"),
        ('{"type": "Polygon", "coordinates": [[0, 0], [9, 0], [9, 9]]}', "its geometry cannot be read"),
        ('{"type": "Circle", "coordinates": [0, 0]}', "its geometry cannot be read"),
        (
            '{"type": "MultiPolygon", "coordinates": [[[[0, 0], [9, 0], [9, 9]]], [[[0, null], [9, 9]]]]}',
            "a part of it, because its coordinates are not all finite numbers",
        ),
    ],
)
def test_one_annotation_without_an_area_refuses_the_file(tmp_path: Path, geometry: str, reason: str) -> None:
    path = written(tmp_path / "a.geojson", feature(name="left"), feature(name="right"))
    whole, broken = json.dumps(feature()["geometry"]), path.read_text()
    at = broken.rindex(whole)
    path.write_text(broken[:at] + geometry + broken[at + len(whole) :])
    message = rf"a\.geojson: reading regions: no region can be made of feature 2 'right' \(.*{reason}\)"
    with pytest.raises(DetectionsError, match=message):
        read_regions(path)


def test_a_broken_object_that_is_no_region_refuses_nothing(tmp_path: Path) -> None:
    broken = {"type": "Polygon", "coordinates": []}
    path = written(
        tmp_path / "a.geojson",
        feature(name="kept"),
        feature(broken, objectType="detection"),
        feature(broken, classification={"name": "Hotspot"}),
    )
    assert [region.name for region in read_regions(path).regions] == ["kept"]


def test_open_rings_are_closed(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.geojson",
        feature({"type": "Polygon", "coordinates": [SQUARE[0][:-1]]}),
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE[0][:-1]]]}),
        feature({"type": "Polygon", "isEllipse": True, "coordinates": [SQUARE[0][:-1]]}),
    )
    square, multi, ellipse = (region.geometry for region in read_regions(path).regions)
    assert square.equals(shapely.box(0, 0, 10, 10))
    assert multi.equals(square)
    assert ellipse.area == pytest.approx(math.pi * 25, rel=2e-4)


def test_a_collection_is_one_region_of_its_areas(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}
    flat = [[[0, 0], [9, 9], [0, 0]]]
    far = [[[x + 20, y] for x, y in SQUARE[0]]]
    areas = [{"type": "Polygon", "coordinates": SQUARE}, {"type": "Polygon", "coordinates": far}]
    path = written(
        tmp_path / "a.geojson",
        feature({"type": "GeometryCollection", "geometries": areas}),
        feature({"type": "GeometryCollection", "geometries": [line, *areas]}, name="mixed"),
        feature(
            {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 1]}, *areas]}
        ),
        feature({"type": "MultiPolygon", "coordinates": [SQUARE, flat]}),
    )
    file = read_regions(path)
    assert [region.geometry.area for region in file.regions] == [200, 200, 200, 100]
    assert file.notes == (
        "a.geojson: used in part, without feature 2 'mixed' (the lines in it); "
        "feature 3 'Region 3' (the points in it); feature 4 'Region 4' (a part without area)",
    )


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (feature(objectType="detection"), "detection"),
        (feature(objectType="cell"), "cell"),
        (feature(objectType="tile"), "tile"),
        (feature(objectType="tmaCore"), "TMA core"),
        (feature(objectType="root"), "of type 'root'"),
        (feature(objectType=None, object_type="tma_core"), "TMA core"),  # QuPath 0.3
        (feature(objectType=None, type="cell"), "cell"),
        ({**feature(objectType=None), "id": "PathDetectionObject"}, "detection"),  # QuPath 0.2
        ({**feature(objectType=None), "id": "PathCellObject"}, "cell"),
        (feature({"type": "Point", "coordinates": [1, 1]}, name="Tumor"), "point"),
        (feature({"type": "MultiPoint", "coordinates": [[1, 1], [2, 2]]}), "point"),
        (feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}), "line"),
        (feature({"type": "MultiLineString", "coordinates": [[[0, 0], [5, 5]]]}), "line"),
        (feature(classification={"name": "Hotspot"}), "of class Hotspot"),
        (feature(classification={"name": "Mitosis: Atypical"}), "of class Mitosis: Atypical"),
        (feature(classification={"names": ["Mitosis", "Typical"]}), "of class Mitosis: Typical"),
        (feature(classification={"name": "AMF"}), "of class AMF"),
        (feature(classification={"name": "Non-mitotic figure"}), "of class Non-mitotic figure"),
        (feature(label="imposter"), "of class imposter"),
    ],
)
def test_what_is_no_region_is_named(tmp_path: Path, item: dict[str, Any], kind: str) -> None:
    file = read_regions(written(tmp_path / "a.geojson", feature(name="kept"), item, item))
    assert [region.name for region in file.regions] == ["kept"]
    assert file.others == {kind: 2}
    assert file.notes == (f"a.geojson: not regions: features 2, 3 ({kind})",)


def test_objects_that_are_no_regions_are_named_by_kind_and_shortened(tmp_path: Path) -> None:
    cells = [feature(objectType="cell")] * 5
    hotspot = feature(classification={"name": "Hotspot"})
    file = read_regions(written(tmp_path / "a.geojson", *cells, feature(), hotspot))
    assert file.notes == (
        "a.geojson: not regions: features 1, 2, 3 and 2 more (cell); feature 7 (of class Hotspot)",
    )


@pytest.mark.parametrize(
    "item", [feature(objectType=None, type="annotation"), feature(object_type="annotation")]
)
def test_annotations_of_other_versions_are_regions(tmp_path: Path, item: dict[str, Any]) -> None:
    (region,) = read_regions(written(tmp_path / "a.geojson", item)).regions
    assert region.class_name == ""


@pytest.mark.parametrize("place", ["class", "label", "Class", "category"])
def test_a_class_in_another_property_counts(tmp_path: Path, place: str) -> None:
    (region,) = read_regions(written(tmp_path / "a.geojson", feature(**{place: "Necrosis"}))).regions
    assert (region.class_name, region.excludes) == ("Necrosis", True)
    stated = feature(classification={"name": "Tumor"}, **{place: "Necrosis"})
    (region,) = read_regions(written(tmp_path / "a.geojson", stated)).regions
    assert region.class_name == "Tumor"


def test_regions_get_names_that_tell_their_rows_apart(tmp_path: Path) -> None:
    out = {"classification": {"name": "Ignore*"}}
    names = ["left", "left", "All  Regions", "left (2)", "left"]
    path = written(
        tmp_path / "a.geojson", *(feature(name=name) for name in names), feature(name="left", **out)
    )
    file = read_regions(path)
    assert [region.name for region in file.regions] == [
        *("left", "left (3)", "All  Regions (drawn)", "left (2)", "left (4)", "left")
    ]
    assert file.notes == (
        "a.geojson: regions whose names are taken are listed under others: 'feature 2 as left (3)', "
        "'feature 3 as All  Regions (drawn)', 'feature 5 as left (4)'",
    )


def test_a_file_whose_regions_are_all_cut_out_says_what_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature(classification={"name": "Region*"}))
    assert read_regions(path).notes == (
        "a.geojson: all its regions are cut out, so that what counts is the rest of the slide",
    )


def test_one_note_states_the_part_of_each_class(tmp_path: Path) -> None:
    def of(name: str) -> dict[str, Any]:
        return feature(classification={"name": name})

    point = feature({"type": "Point", "coordinates": [1, 1]})
    first = written(
        tmp_path / "a.geojson", of("Tumor"), of("Tumor"), of("Region*"), point, point, of("Hotspot")
    )
    second = written(tmp_path / "b.geojson", of("Tumor"), feature(), of("Tumor: Necrosis"), of("Region*"))
    files = [read_regions(first), read_regions(second)]
    assert region_note(files) == (
        "regions: counted: Tumor (3), no class (1); cut out: Region* (2), Tumor: Necrosis (1); "
        "not regions: 2 points, 1 of class Hotspot"
    )
    assert region_note(files[1:]) == (
        "regions: counted: Tumor (1), no class (1); cut out: Tumor: Necrosis (1), Region* (1)"
    )


def test_features_that_are_parsed_already_give_their_regions(tmp_path: Path) -> None:
    cell = feature(objectType="cell")
    (region,) = regions_of([cell, feature(classification={"name": "Tumor"})], tmp_path / "a.geojson", [0, 1])
    assert (region.name, region.class_name, region.geometry.area) == ("Region 2", "Tumor", 100)
    assert regions_of([cell], tmp_path / "a.geojson", [0]) == ()
    with pytest.raises(DetectionsError, match=r"a\.geojson: .*feature 1 \(it has no geometry\)"):
        regions_of([{**feature(), "geometry": None}], tmp_path / "a.geojson", [0])
