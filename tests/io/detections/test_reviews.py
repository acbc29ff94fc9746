"""Whatever QuPath exports, read as a review."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.review_files import figures_table
from wsi_mitosis.core.reviews import OBJECT_COLUMNS, placed_objects, reviewed_figures
from wsi_mitosis.errors import DetectionsError, OutputError
from wsi_mitosis.io.detections.reviews import ReviewFile, find_reviews, read_review, strangers
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.recounts import RecountTables, write_recount
from wsi_mitosis.tables import CONSENSUS_COLUMNS, VERDICT_COLUMNS, SlideSource
from wsi_mitosis.units import Mpp

ID = "3f0c2c1e-6f0b-5c1e-9a52-1d5f0f6f2a10"
BOX = '{"type":"Polygon","coordinates":[[[10,20],[30,20],[30,40],[10,40],[10,20]]]}'
CLASS = '"classification":{"names":["Untrained","Atypical"],"color":[1,2,3]}'


def _feature(more: str = "") -> str:
    properties = f'{{"objectType":"annotation",{CLASS}{more}}}'
    return f'{{"type":"Feature","id":"{ID}","geometry":{BOX},"properties":{properties}}}'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"type":"FeatureCollection","features":[{_feature()}]}}',
        f"[{_feature()}]",
        _feature(),
        f'[{_feature(""","metadata":{"a":"1"},"metadata":{"ANNOTATION_DESCRIPTION":"b"}""")}]',
        f'[{_feature(""","measurements":[{"name":"Atypical votes","value":4}]""")}]',
        f'[{_feature(""","measurements":{"Atypical probability":"NaN","Other":"Infinity"}""")}]',
        f'[{_feature(""","measurements":{"Atypical probability":NaN}""")}]',
        f'[{_feature(""","isLocked":true,"name":"x","measurements":{}""")}]',
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_that_qupath_writes_is_read(tmp_path: Path, text: str, *, packed: bool) -> None:
    path = tmp_path / ("a.geojson.gz" if packed else "a.geojson")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    drawn = placed_objects(read_review(path).objects, frame="qupath", mpp=Mpp(0.25, 0.25), bounds=None)
    found = reviewed_figures(drawn, figures_table(), "a")
    assert found.figures.to_numpy().tolist() == [[ID, 20.0, 30.0, "atypical", 1, 20.0, 20.0]]


def test_a_table_is_no_review(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("Image\tObject ID\tCentroid X px\tCentroid Y px\na\tb\t1\t2\n")
    with pytest.raises(DetectionsError, match="not GeoJSON") as error:
        read_review(tmp_path / "a.geojson")
    assert "Export the objects" in str(error.value.remedy)


def test_only_geojson_is_looked_at_and_what_fits_no_slide_is_named(tmp_path: Path) -> None:
    for name in ("a.csv", "a.svs.geojson", "b.json.gz", "c.geojson", ".hidden.geojson"):
        (tmp_path / name).write_text("[]")
    sources = [SlideSource(Path("/x") / name, name) for name in ("a.svs", "b.svs", "d.svs")]
    found = find_reviews(tmp_path, sources)
    assert {source.relative: [path.name for path in paths] for source, paths in found.of_slide.items()} == {
        "a.svs": ["a.svs.geojson"],
        "b.svs": ["b.json.gz"],
        "d.svs": [],
    }
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.svs.geojson").write_text("[]")
    assert strangers(tmp_path, found) == (
        "c.geojson: fits no slide, and is not counted",
        "deeper/d.svs.geojson: fits no slide, and is not counted",
        "'a.csv': not GeoJSON by the ending, and not read",
    )


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("[]")
    with pytest.raises(DetectionsError, match="is a file"):
        find_reviews(tmp_path / "a.geojson", [])


def test_the_agreement_stands_only_beside_tables_of_its_own(tmp_path: Path) -> None:
    verdicts, consensus = (pd.DataFrame(columns=[*names]) for names in (VERDICT_COLUMNS, CONSENSUS_COLUMNS))
    tables = RecountTables([], [], [], verdicts, consensus)
    write_recount(tmp_path / "r", tables, {"kappa": 1.0})
    digests = {
        f"{name}_sha256": file_sha256(tmp_path / f"r/{name}.csv")
        for name in ("summary", "verdicts", "consensus")
    }
    assert json.loads((tmp_path / "r/agreement.json").read_text()) == {"kappa": 1.0, **digests}
    (tmp_path / "r/changes.csv").unlink()
    (tmp_path / "r/changes.csv").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_recount(tmp_path / "r", tables, {"kappa": 0.5})
    assert not (tmp_path / "r/agreement.json").exists()


# Objects

POINT = {"type": "Point", "coordinates": [5, 6]}
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [40, 0], [40, 20], [0, 20], [0, 0]]]}
FAR = {"type": "Polygon", "coordinates": [[[100, 0], [110, 0], [110, 30], [100, 30], [100, 0]]]}
LINE = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}


def _read(tmp_path: Path, *features: dict) -> ReviewFile:
    (tmp_path / "a.geojson").write_text(json.dumps([{"type": "Feature", **one} for one in features]))
    return read_review(tmp_path / "a.geojson")


def test_each_part_of_an_object_is_a_row(tmp_path: Path) -> None:
    several = {"type": "GeometryCollection", "geometries": [POINT, SQUARE, FAR]}
    found = _read(tmp_path, {"id": "X", "geometry": POINT}, {"id": "Y", "geometry": several})
    objects = found.objects
    assert tuple(objects) == OBJECT_COLUMNS
    assert objects["feature"].tolist() == [1, 2, 2, 2]
    assert objects["object_id"].tolist() == ["x", "y", "y", "y"]
    assert objects[["x", "y"]].to_numpy().tolist() == [[5, 6], [5, 6], [20, 10], [105, 15]]
    assert objects[["width", "height"]].to_numpy().tolist() == [[0, 0], [0, 0], [40, 20], [10, 30]]
    assert objects["extent"].tolist() == [0, 0, 40, 30]
    assert objects["whole_extent"].tolist() == [0, 110, 110, 110]
    assert (found.unused, found.broken) == ("", ())


def test_what_an_object_says_of_itself(tmp_path: Path) -> None:
    classified = {"objectType": "detection", "classification": {"names": ["Mitosis", "Typical"]}}
    measured = {"measurements": {"Atypical probability": 0.25, "Result number": 77, "Other": 3}}
    listed = {"measurements": [{"name": "Result number", "value": 78}]}
    texts = {"measurements": {"Atypical probability": "NaN", "Result number": "no number"}}
    rows = [classified | measured, listed, texts, {}, {"classification": None}]
    objects = _read(tmp_path, *({"geometry": POINT, "properties": row} for row in rows)).objects
    assert objects["kind"].tolist() == ["detection", *["annotation"] * 4]
    assert objects["class"].tolist() == ["Mitosis: Typical", None, None, None, None]
    assert objects["object_id"].tolist() == [None] * 5
    assert objects["p_atypical"].fillna(-1).tolist() == [0.25, -1, -1, -1, -1]
    assert objects["result"].fillna(-1).tolist() == [77, 78, -1, -1, -1]


def test_what_is_not_used_is_named_and_a_line_is_not_broken(tmp_path: Path) -> None:
    figure = {"properties": {"classification": {"name": "AMF"}}}
    found = _read(
        tmp_path,
        {"id": "kept", "geometry": POINT, **figure},
        {"id": "gone", "geometry": None, **figure},
        {"id": "arrow", "geometry": LINE},
        {"geometry": {"type": "GeometryCollection", "geometries": [POINT, LINE]}, **figure},
        {"geometry": {"type": "Point", "coordinates": ["x", 1]}},
    )
    assert found.unused == (
        "feature 2 'gone' (it has no geometry); "
        "feature 3 'arrow' (it is a line, which is neither a place nor an area); "
        "feature 4 (the lines in it); feature 5 (its coordinates are not all finite numbers)"
    )
    assert (found.broken, found.broken_classes) == ((2, 5), ("AMF", None))
    assert found.objects["feature"].tolist() == [1, 4]


def test_a_review_without_objects_has_none(tmp_path: Path) -> None:
    found = _read(tmp_path)
    assert tuple(found.objects) == OBJECT_COLUMNS
    assert (len(found.objects), found.features, found.unused, found.broken) == (0, [], "", ())


@pytest.mark.parametrize(
    ("members", "properties", "kind"),
    [
        ({}, {"objectType": "annotation"}, "annotation"),
        ({}, {"objectType": "cell"}, "cell"),
        ({}, {"object_type": "cell"}, "cell"),  # QuPath 0.3
        ({"id": "PathCellObject"}, {}, "cell"),  # QuPath 0.2
        ({"id": "PathDetectionObject"}, {}, "detection"),
        ({}, {"type": "detection"}, "detection"),
        ({}, {}, "annotation"),
    ],
)
def test_the_type_of_an_object_is_known_in_files_of_every_version(
    tmp_path: Path, members: dict, properties: dict, kind: str
) -> None:
    """A cell of another program that is called negative removes no figure, and an annotation does."""
    geometry = {"type": "Point", "coordinates": [1, 2]}
    negative = {"classification": {"name": "Negative", "color": [1, 2, 3]}, **properties}
    feature = {"type": "Feature", "geometry": geometry, "properties": negative, **members}
    (tmp_path / "a.geojson").write_text(json.dumps([feature]))
    review = read_review(tmp_path / "a.geojson")
    assert review.objects[["kind", "class"]].to_numpy().tolist() == [[kind, "Negative"]]
