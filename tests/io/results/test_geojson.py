from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from tests.records import assessed_slide, slide_record
from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.qupath import FIGURE_COLOURS, FIGURE_UM, ObjectType
from wsi_mitosis.io.results.geojson import (
    MOST_PLAIN_OBJECTS,
    GeojsonStyle,
    read_provenance,
    write_geojson,
    write_slide_geojson,
)
from wsi_mitosis.units import Mpp

QUARTER = Mpp(0.25, 0.25)
RESULT = 2**24 - 1  # the largest number of a result
PROVENANCE = {"bundle": "nano µ", "bundle_digest": "ab" * 32, "trained": True, "note": 'a "quoted"\nline'}


def style(
    object_type: ObjectType = "detection", origin: tuple[int, int] = (0, 0), *, trained: bool = True
) -> GeojsonStyle:
    return GeojsonStyle(object_type, origin, trained, PROVENANCE, RESULT)


def figures(number: int) -> pd.DataFrame:
    """A plain table of classified figures, every fourth of them atypical."""
    index = np.arange(number)
    return pd.DataFrame(
        {
            "figure_id": [str(uuid.UUID(int=i + 1)) for i in index],
            "x_px0": 10.0 * index,
            "y_px0": 7.0 * index,
            "detector_score": np.where(index % 2, 0.5, np.nan),
            "p_atypical": index / max(number, 1),
            "votes_atypical": pd.array(index % 6, dtype="Int16"),
            "votes_cast": pd.array(np.full(number, 5), dtype="Int16"),
            "label": np.where(index % 4 == 0, "atypical", "typical").astype(object),
            "excluded_reason": pd.Series([None] * number, dtype=object),
        }
    )


def features(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["features"]


coordinate = st.floats(-1000, 300_000, allow_subnormal=False)
row = st.fixed_dictionaries(
    {
        "figure_id": st.uuids().map(str),
        "x_px0": coordinate,
        "y_px0": coordinate,
        "detector_score": st.floats(),  # NaN, infinities and all
        "p_atypical": st.floats(0, 1),
        "votes_atypical": st.integers(0, 5),
        "votes_cast": st.integers(1, 5),
        "label": st.sampled_from(["atypical", "typical", None]),
        "excluded_reason": st.none(),
    }
)
tables = st.lists(row, max_size=12, unique_by=lambda r: r["figure_id"]).map(
    lambda rows: pd.DataFrame(rows, columns=list(figures(0).columns))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes its file anew
@given(
    table=tables,
    mpp=st.builds(Mpp, st.floats(0.05, 20), st.floats(0.05, 20)),
    object_type=st.sampled_from(["detection", "annotation"]),
    origin=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    trained=st.booleans(),
)
def test_any_figures_give_a_file_that_qupath_reads_whole(
    tmp_path: Path,
    assert_geojson_ok: Callable[[Path], None],
    table: pd.DataFrame,
    mpp: Mpp,
    object_type: ObjectType,
    origin: tuple[int, int],
    trained: bool,
) -> None:
    path = write_geojson(tmp_path / "a.svs", table, mpp, style(object_type, origin, trained=trained))
    assert_geojson_ok(path)
    drawn = table[table["label"].notna()]
    assert [feature["id"] for feature in features(path)] == drawn["figure_id"].tolist()
    for feature, figure in zip(features(path), drawn.itertuples(), strict=True):
        left, top, right, bottom = shape(feature["geometry"]).bounds
        # corners are rounded to 0.01 px, so their middle is off by half of that at most
        assert (left + right) / 2 + origin[0] == pytest.approx(figure.x_px0, abs=0.0051)
        assert (top + bottom) / 2 + origin[1] == pytest.approx(figure.y_px0, abs=0.0051)
        assert (right - left) * mpp.x == pytest.approx(FIGURE_UM, abs=0.0101 * mpp.x)
        assert (bottom - top) * mpp.y == pytest.approx(FIGURE_UM, abs=0.0101 * mpp.y)


def test_one_figure_reads_as_documented(tmp_path: Path) -> None:
    table = figures(1).assign(x_px0=12075.5, y_px0=8059.25, p_atypical=0.93123456789, detector_score=0.874)
    (feature,) = features(write_geojson(tmp_path / "a.svs", table, QUARTER, style()))
    # 12.5 um are 50 px of 0.25 um, 25 on each side of the centre
    ring = [
        [12050.5, 8034.25],
        [12100.5, 8034.25],
        [12100.5, 8084.25],
        [12050.5, 8084.25],
        [12050.5, 8034.25],
    ]
    assert feature == {
        "type": "Feature",
        "id": table["figure_id"][0],
        "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": "Mitosis: Atypical", "color": [220, 20, 60]},
            "measurements": {
                "Atypical probability": 0.931235,
                "Atypical votes": 0,
                "Votes cast": 5,
                "Agreement": 1.0,
                "Detector score": 0.874,
                "Result number": 16777215,
            },
        },
    }


def test_votes_cast_and_review_rank_are_written_where_they_say_something(tmp_path: Path) -> None:
    table = figures(2)
    ranked = replace(style(), votes_cast=False, review_ranks={table["figure_id"][1]: 3})
    first, second = (
        f["properties"]["measurements"]
        for f in features(write_geojson(tmp_path / "a", table, QUARTER, ranked))
    )
    assert "Votes cast" not in first | second
    assert ("Review rank" in first, second["Review rank"]) == (False, 3)


@pytest.mark.parametrize(("vote", "written"), [("all", False), ("early", True)])
def test_a_slide_says_how_many_voted_and_which_figures_to_review_first(
    tmp_path: Path, vote: str, written: bool
) -> None:
    origin = {"made": "2026-01-02T03:04:05", "host": "Linux", "device": "cpu", "options": {"vote": vote}}
    record, table = slide_record(origin=origin), figures(6).assign(slide="a.svs")
    assessment = assessed_slide(record, table).assessment
    path = write_slide_geojson(tmp_path / "a", table, assessment, record, objects="detection", frame="slide")
    measured = {f["id"]: f["properties"]["measurements"] for f in features(path)}
    assert all(("Votes cast" in one) == written for one in measured.values())
    ranks = {item.figure_id: item.rank for item in assessment.review}
    assert sorted(ranks.values()) == [1, 2, 3, 4, 5, 6]
    assert {identity: one["Review rank"] for identity, one in measured.items()} == ranks


def test_the_circle_is_a_circle_in_um_where_pixels_are_not_square(tmp_path: Path) -> None:
    (feature,) = features(write_geojson(tmp_path / "a.svs", figures(1), Mpp(0.25, 0.5), style()))
    left, top, right, bottom = shape(feature["geometry"]).bounds
    assert (right - left, bottom - top) == (50, 25)


@pytest.mark.parametrize(
    ("trained", "names"),
    [
        (True, ["Mitosis: Atypical", "Mitosis: Typical"]),
        (False, ["Untrained: Atypical", "Untrained: Typical"]),
    ],
)
@pytest.mark.parametrize("object_type", ["detection", "annotation"])
def test_classes_say_whether_the_bundle_is_trained(
    tmp_path: Path, trained: bool, names: list[str], object_type: ObjectType
) -> None:
    drawn = features(
        write_geojson(tmp_path / "a.svs", figures(2), QUARTER, style(object_type, trained=trained))
    )
    properties = [feature["properties"] for feature in drawn]
    assert [p["classification"]["name"] for p in properties] == names
    assert [tuple(p["classification"]["color"]) for p in properties] == [
        FIGURE_COLOURS["atypical"],
        FIGURE_COLOURS["typical"],
    ]
    assert [p["objectType"] for p in properties] == [object_type] * 2


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_left_out(tmp_path: Path, score: float) -> None:
    (feature,) = features(
        write_geojson(tmp_path / "a", figures(1).assign(detector_score=score), QUARTER, style())
    )
    assert "Detector score" not in feature["properties"]["measurements"]


def test_coordinates_are_counted_from_the_corner_of_the_bounds(tmp_path: Path) -> None:
    table = figures(3)
    slide_frame = features(write_geojson(tmp_path / "a", table, QUARTER, style()))
    cropped = features(write_geojson(tmp_path / "b", table, QUARTER, style(origin=(300, 160))))
    for one, other in zip(slide_frame, cropped, strict=True):
        shift = np.subtract(one["geometry"]["coordinates"], other["geometry"]["coordinates"])
        assert (shift == [300, 160]).all()


def test_excluded_candidates_are_not_drawn(tmp_path: Path) -> None:
    table = figures(3)
    table.loc[1, ["label", "figure_id", "excluded_reason"]] = [None, None, "score"]
    table.loc[1, ["x_px0", "p_atypical"]] = np.nan
    table.loc[1, ["votes_atypical", "votes_cast"]] = pd.NA
    drawn = features(write_geojson(tmp_path / "a", table, QUARTER, style()))
    assert [feature["id"] for feature in drawn] == table["figure_id"][[0, 2]].tolist()


def test_a_slide_without_figures_gives_a_valid_file(
    tmp_path: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    path = write_geojson(tmp_path / "a.svs", figures(0), QUARTER, style())
    assert_geojson_ok(path)
    assert features(path) == []
    assert read_provenance(path) == PROVENANCE


# --- hotspots

SPOT = Hotspot(11000.004, 7000.0, 6156.0, 4616.0, 2.0, 14, 3)
SPOT_ID = "c1d9e3b8-8b44-5a57-b0a6-2f7f8f0e7d33"


def test_a_hotspot_is_a_locked_annotation_with_its_area(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a", figures(1), QUARTER, style(origin=(1000, 500)), [(SPOT_ID, SPOT)])
    assert features(path)[1] == {
        "type": "Feature",
        "id": SPOT_ID,
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[10000, 6500], [16156, 6500], [16156, 11116], [10000, 11116], [10000, 6500]]],
        },
        "properties": {
            "objectType": "annotation",
            "name": "Hotspot 1",
            "isLocked": True,
            "classification": {"name": "Hotspot", "color": [255, 140, 0]},
            "measurements": {
                "Machine mitosis count": 14,
                "Machine atypical count": 3,
                "Hotspot area mm^2": 2.0,
                "Machine mitoses per mm^2": 7.0,
            },
        },
    }


@pytest.mark.parametrize("number", [0, 3])
def test_hotspots_come_after_the_figures_and_are_numbered(
    tmp_path: Path, number: int, assert_geojson_ok: Callable[[Path], None]
) -> None:
    spots = [(str(uuid.UUID(int=1000 + n)), replace(SPOT, x_px0=9000.0 * n)) for n in range(2)]
    path = write_geojson(tmp_path / "a", figures(number), QUARTER, style("annotation"), spots)
    assert_geojson_ok(path)
    drawn = features(path)
    assert [feature["properties"].get("name") for feature in drawn] == [None] * number + [
        "Hotspot 1",
        "Hotspot 2",
    ]
    assert len({feature["id"] for feature in drawn}) == number + 2


# --- plain and packed


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    return figures(MOST_PLAIN_OBJECTS + 1)


def test_above_twenty_thousand_objects_there_is_a_gzipped_file_only_and_back(
    tmp_path: Path, many: pd.DataFrame, assert_geojson_ok: Callable[[Path], None]
) -> None:
    stem = tmp_path / "geojson" / "a.b.svs"
    plain, packed = (stem.with_name(f"a.b.svs{ending}") for ending in (".geojson", ".geojson.gz"))
    assert write_geojson(stem, many[:-1], QUARTER, style()) == plain
    assert list(stem.parent.iterdir()) == [plain]
    assert write_geojson(stem, many, QUARTER, style()) == packed
    assert list(stem.parent.iterdir()) == [packed]
    assert_geojson_ok(packed)
    assert len(json.loads(gzip.decompress(packed.read_bytes()))["features"]) == MOST_PLAIN_OBJECTS + 1
    assert write_geojson(stem, many[:-1], QUARTER, style()) == plain
    assert list(stem.parent.iterdir()) == [plain]


def test_only_what_is_drawn_counts_towards_packing(tmp_path: Path, many: pd.DataFrame) -> None:
    table = many.copy()
    table.loc[0, "label"] = None
    assert write_geojson(tmp_path / "a", table, QUARTER, style()).name == "a.geojson"


def test_equal_figures_give_equal_bytes(tmp_path: Path, many: pd.DataFrame) -> None:
    for table in (figures(20), many):
        one = write_geojson(tmp_path / "one" / "a", table, QUARTER, style())
        other = write_geojson(tmp_path / "other" / "b", table.copy(), QUARTER, style())
        assert one.read_bytes() == other.read_bytes()


def test_the_gzip_header_holds_no_time_and_no_name(tmp_path: Path, many: pd.DataFrame) -> None:
    header = write_geojson(tmp_path / "a", many, QUARTER, style()).read_bytes()[:8]
    assert header[3] == 0  # flags: no file name follows
    assert header[4:8] == b"\0\0\0\0"  # the time


# --- provenance


def test_provenance_is_read_back_from_plain_and_packed_files(tmp_path: Path, many: pd.DataFrame) -> None:
    for table in (figures(3), many):
        path = write_geojson(tmp_path / "a", table, QUARTER, style())
        assert read_provenance(path) == PROVENANCE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"type":"FeatureCollection","features":[\n]}',
        b'{"type":"FeatureCollection","wsi_mitosis":1,"features":[\n]}',
        b'{"type":"FeatureCollection","features":[]}',
    ],
)
def test_other_files_state_no_provenance(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.geojson").write_bytes(content)
    assert read_provenance(tmp_path / "a.geojson") is None


@pytest.mark.parametrize("damage", ["cut", "overwritten", "no gzip", "empty"])
def test_a_damaged_gzip_file_states_no_provenance(tmp_path: Path, many: pd.DataFrame, damage: str) -> None:
    path = write_geojson(tmp_path / "a", many, QUARTER, style())
    data = path.read_bytes()
    broken = {"cut": data[:40], "overwritten": data[:12] + b"\xff" * 500, "no gzip": b"{}", "empty": b""}[
        damage
    ]
    path.write_bytes(broken)
    assert read_provenance(path) is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_geojson(tmp_path / "a", figures(2), QUARTER, style())
    before = path.read_bytes()
    broken = figures(4)
    broken.loc[3, "label"] = "unheard of"
    with pytest.raises(KeyError):
        write_geojson(tmp_path / "a", broken, QUARTER, style())
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
