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
from wsi_mitosis.io.detections.regions import read_regions

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
    areas = [region.geometry for region in read_regions(path).regions]
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


def test_a_file_without_areas_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature({"type": "Point", "coordinates": [1, 1]}))
    with pytest.raises(DetectionsError, match="none of its objects is an area"):
        read_regions(path)
