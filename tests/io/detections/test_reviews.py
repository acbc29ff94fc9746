"""Whatever QuPath exports, read as a review."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from wsi_mitosis.core.recount import reviewed_figures
from wsi_mitosis.errors import DetectionsError, OutputError
from wsi_mitosis.io.detections.reviews import find_reviews, read_review, strangers
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.recounts import write_recount
from wsi_mitosis.tables import SlideSource
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
    found = reviewed_figures(read_review(path), "a", frame="qupath", mpp=Mpp(0.25, 0.25), bounds=None)
    assert found.figures.to_numpy().tolist() == [[ID, 20.0, 30.0, "atypical"]]


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
    assert strangers(tmp_path, found) == ("c.geojson",)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text("[]")
    with pytest.raises(DetectionsError, match="is a file"):
        find_reviews(tmp_path / "a.geojson", [])


def test_the_agreement_stands_only_beside_tables_of_its_own(tmp_path: Path) -> None:
    write_recount(tmp_path / "r", [], [], [], {"kappa": 1.0})
    assert json.loads((tmp_path / "r/agreement.json").read_text()) == {
        "kappa": 1.0,
        "summary_sha256": file_sha256(tmp_path / "r/summary.csv"),
    }
    (tmp_path / "r/changes.csv").unlink()
    (tmp_path / "r/changes.csv").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_recount(tmp_path / "r", [], [], [], {"kappa": 0.5})
    assert not (tmp_path / "r/agreement.json").exists()
