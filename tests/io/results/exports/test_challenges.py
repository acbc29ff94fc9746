"""MIDOG's and Grand Challenge's files: their content, and what our own readers make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.export_files import DIGEST, MPP, PLACES, exported
from wsi_mitosis.core.classes import is_mitotic
from wsi_mitosis.errors import MppError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.results.exports import FORMATS, Export
from wsi_mitosis.tables import ExportFormat

POINTS: tuple[ExportFormat, ...] = ("grand-challenge", "grand-challenge-labels")


def written(to: ExportFormat, path: Path, *exports: Export) -> Any:
    FORMATS[to].write(path, exports)
    return json.loads(path.read_text())


# --- MIDOG


def test_midog_has_boxes_of_50_px_and_the_labels_as_categories(tmp_path: Path) -> None:
    document = written("midog", tmp_path / "m.json", exported())
    assert document["images"] == [{"id": 1, "file_name": "a.svs", "width": 1400, "height": 1000}]
    assert document["categories"] == [
        {"id": 3, "name": "Mitosis: Atypical"},
        {"id": 4, "name": "Mitosis: Typical"},
    ]
    first, second, third = document["annotations"]
    assert (first["bbox"], first["area"]) == ([75, 75, 125, 125], 2500)
    assert second["bbox"] == [225.5, 275.25, 275.5, 325.25]
    assert [item["category_id"] for item in (first, second, third)] == [3, 4, 3]
    assert [item["id"] for item in (first, second, third)] == [1, 2, 3]
    assert {item["image_id"] for item in (first, second, third)} == {1}
    assert (first["score"], first["p_atypical"], first["votes_atypical"], first["votes_cast"]) == (
        0.75,
        0.9,
        5,
        5,
    )
    assert "score" not in second


def test_midog_says_what_the_labels_are(tmp_path: Path) -> None:
    document = written("midog", tmp_path / "m.json", exported(), exported(name="b.svs", trained=False))
    trained, untrained = document["wsi_mitosis"]
    assert document["info"]["description"] == "research use only"
    assert (trained["bundle"], trained["bundle_digest"], trained["trained"]) == ("nano", DIGEST, True)
    assert untrained["use"] == "research use only; untrained: the labels mean nothing"
    names = {item["id"]: item["name"] for item in document["categories"]}
    of_b = {names[item["category_id"]] for item in document["annotations"] if item["image_id"] == 2}
    assert of_b == {"Untrained: Atypical", "Untrained: Typical"}


def test_no_category_has_an_id_of_midogs_own(tmp_path: Path) -> None:
    document = written("midog", tmp_path / "m.json", exported(), exported(name="b.svs", trained=False))
    ids = [item["id"] for item in document["categories"]]
    assert len(set(ids)) == 4
    assert not {1, 2} & set(ids), "1 is a mitotic figure there, and 2 a hard negative"


def test_our_reader_reads_midog_back(tmp_path: Path) -> None:
    written("midog", tmp_path / "m.json", exported(), exported(PLACES[1:2], "b.svs"), exported((), "c.svs"))
    read = read_detections(tmp_path / "m.json")
    assert (read.format, read.units, read.frame) == ("midog", "px", "slide")
    table = read.table
    assert table["slide"].tolist() == ["a.svs"] * 3 + ["b.svs"]
    np.testing.assert_allclose(table[["x", "y"]], [*PLACES, PLACES[1]], atol=1e-9)  # half of 50 px to and fro
    assert table["score"].tolist()[0] == 0.75
    assert np.isnan(table["score"].tolist()[1])
    assert table["detector_class"].tolist()[:2] == ["Mitosis: Atypical", "Mitosis: Typical"]
    assert all(map(is_mitotic, table["detector_class"]))


def test_midog_without_figures_is_valid(tmp_path: Path) -> None:
    document = written("midog", tmp_path / "m.json", exported((), spots=()))
    assert document["annotations"] == []
    assert len(document["images"]) == 1
    assert read_detections(tmp_path / "m.json").table.empty


# --- Grand Challenge

SCHEMA_POINT = {"name", "type", "point", "probability"}
"""Members that `point-object` of grand-challenge.org's schema allows."""


@pytest.mark.parametrize("to", POINTS)
def test_points_are_in_mm_and_fit_the_schema(tmp_path: Path, to: ExportFormat) -> None:
    document = written(to, tmp_path / "a.json", exported())
    assert document.keys() == {"name", "type", "points", "version"}
    assert document["type"] == "Multiple points"
    assert document["version"] == {"major": 1, "minor": 0}
    places = [point["point"] for point in document["points"]]
    # 0.25 um along x and 0.5 um along y per px
    expected = [[0.025, 0.05, 0], [0.062625, 0.150125, 0], [0.15003125, 0.005, 0]]
    np.testing.assert_allclose(places, expected, rtol=1e-12)
    for point in document["points"]:
        assert point.keys() <= SCHEMA_POINT
        assert 0 <= point.get("probability", 0) <= 1
    assert document["name"] == f"wsi-mitosis 1.2.3, nano {DIGEST}: research use only"


def test_track_1_gets_its_names_and_the_detectors_scores(tmp_path: Path) -> None:
    points = written("grand-challenge", tmp_path / "a.json", exported())["points"]
    assert [point["name"] for point in points] == ["mitotic figure"] * 3
    assert points[0]["probability"] == 0.75
    assert "probability" not in points[1], "there is no score"
    assert "probability" not in points[2], "a score of 1.5 is no probability"


@pytest.mark.parametrize(("trained", "family"), [(True, "Mitosis"), (False, "Untrained")])
def test_labels_are_names_with_the_probability_of_the_label(
    tmp_path: Path, trained: bool, family: str
) -> None:
    document = written("grand-challenge-labels", tmp_path / "a.json", exported(trained=trained))
    named = [(point["name"], point["probability"]) for point in document["points"]]
    assert named == [
        (f"{family}: Atypical", 0.9),
        (f"{family}: Typical", 0.75),
        (f"{family}: Atypical", 0.48),
    ]
    assert ("untrained" in document["name"]) == (not trained)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(*[st.floats(0, 500_000, allow_subnormal=False)] * 2), max_size=8),
    mpp=st.tuples(*[st.floats(0.05, 20)] * 2),
)
@pytest.mark.parametrize("to", POINTS)
def test_our_reader_finds_the_places_again(
    tmp_path: Path, to: ExportFormat, places: list[tuple[float, float]], mpp: tuple[float, float]
) -> None:
    path = tmp_path / "a.json"
    written(to, path, exported(places, mpp=mpp))
    read = read_detections(path)
    assert (read.format, read.units) == ("grand-challenge", "mm")
    back = read.table[["x", "y"]].to_numpy(np.float64) * 1000 / mpp
    np.testing.assert_allclose(back, np.array(places).reshape(-1, 2), atol=0.001)


@pytest.mark.parametrize("to", [*POINTS, "anndata", "spatialdata"])
def test_a_record_without_a_pixel_size_is_refused_by_name(to: ExportFormat) -> None:
    with pytest.raises(MppError, match=r"^a\.svs: exporting: .* 0 x 0\.5 um\. Classify .* --mpp$"):
        FORMATS[to].check(exported(mpp=(0, MPP[1])))


@pytest.mark.parametrize("to", ["midog", "tiatoolbox"])
def test_formats_in_pixels_need_no_pixel_size(to: ExportFormat) -> None:
    FORMATS[to].check(exported(mpp=(0, MPP[1])))
