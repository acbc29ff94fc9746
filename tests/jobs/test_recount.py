"""A recount beside what stands: reviewed numbers, the machine's own untouched."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import CANDIDATES, candidates_csv, run, slides_in, summary
from tests.slide_files import leica_slide, textured
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.regions import ALL_REGIONS
from wsi_mitosis.errors import DetectionsError, InputError
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.io.results.recounts import RECOUNT_COLUMNS, RECOUNT_REGION_COLUMNS, REGION_COUNTS
from wsi_mitosis.jobs.recount import recount
from wsi_mitosis.tables import CHANGE_COLUMNS, REGION_COLUMNS, SUMMARY_COLUMNS

NEW_ID = "0f0c2c1e-6f0b-4c1e-9a52-1d5f0f6f2a10"
"""As QuPath gives them, version 4; those of this program are of version 5."""
HOTSPOT = {"hotspot_area": 0.005, "hotspots": 1}
Feature = dict[str, Any]


@pytest.fixture
def results(tmp_path: Path, small_bundle: Path) -> Path:
    """Two slides of five figures each, classified."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    assert run(slides, detections, tmp_path / "out", small_bundle, output=HOTSPOT).exit_status == 0
    return tmp_path / "out"


def _figures(results: Path, name: str) -> list[Feature]:
    document = json.loads((results / "geojson" / f"{name}.geojson").read_text())
    return [f for f in document["features"] if f["properties"]["classification"]["name"] != "Hotspot"]


def _point(x: float, y: float, name: str, identity: str = NEW_ID) -> Feature:
    """As QuPath writes a point that somebody has set."""
    return {
        "type": "Feature",
        "id": identity,
        "geometry": {"type": "Point", "coordinates": [x, y]},
        "properties": {"objectType": "annotation", "classification": {"names": [name], "color": [1, 2, 3]}},
    }


def _class(feature: Feature) -> str:
    return feature["properties"]["classification"]["name"].partition(": ")[2].lower()


def _flip(feature: Feature) -> None:
    other = "Typical" if _class(feature) == "atypical" else "Atypical"
    feature["properties"]["classification"] = {"names": ["Untrained", other], "color": [9, 9, 9]}


def _write(folder: Path, name: str, document: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.geojson"
    path.write_text(json.dumps(document))
    return path


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _all_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "reviewed" not in path.parts)
    return {str(path): path.read_bytes() for path in paths}


def test_a_review_is_counted_beside_the_machines_numbers(results: Path, tmp_path: Path) -> None:
    machine, before = summary(results), _all_files(results)
    figures = _figures(results, "a.tiff")
    labels = [_class(figure) for figure in figures]
    _flip(figures[1])
    removed = figures.pop(3)
    added = _point(350.0, 120.0, "AMF")
    _write(tmp_path / "rev", "a", [*figures, added])  # a bare array, named after the stem
    result = recount(results, tmp_path / "rev")

    assert result.exit_status == 0
    assert _all_files(results) == before
    rows = {row["slide"]: row for row in _table(results / "reviewed/summary.csv")}
    assert tuple(rows["a.tiff"]) == RECOUNT_COLUMNS
    for name, row in rows.items():
        assert {key: row[f"machine_{key}"] for key in SUMMARY_COLUMNS if key != "slide"} == {
            key: value for key, value in machine[name].items() if key != "slide"
        }
    left = [_class(figure) if "name" in figure["properties"]["classification"] else "" for figure in figures]
    left[1] = "typical" if labels[1] == "atypical" else "atypical"
    row = rows["a.tiff"]
    assert (row["reviewed"], row["relabelled"], row["removed"], row["added"]) == ("true", "1", "1", "1")
    assert int(row["atypical"]) == left.count("atypical") + 1
    assert int(row["typical"]) == left.count("typical")
    assert (row["candidates"], row["classified"], row["excluded"]) == ("6", "5", "1")
    assert rows["b.tiff"]["reviewed"] == "false"
    assert {key: rows["b.tiff"][key] for key in SUMMARY_COLUMNS} == machine["b.tiff"]

    changes = _table(results / "reviewed/changes.csv")
    assert tuple(changes[0]) == CHANGE_COLUMNS
    assert [(c["figure_id"], c["change"], c["label_machine"], c["label_reviewed"]) for c in changes] == [
        (figures[1]["id"], "relabelled", labels[1], left[1]),
        (removed["id"], "removed", labels[3], ""),
        (NEW_ID, "added", "", "atypical"),
    ]
    assert (float(changes[0]["x_px0"]), float(changes[0]["y_px0"])) == CANDIDATES[1]
    assert (float(changes[2]["x_px0"]), float(changes[2]["y_px0"])) == (350, 120)

    told = json.loads((results / "reviewed/agreement.json").read_text())
    assert told["confusion"][labels[1]][left[1]] == 1
    assert (told["matched"], told["kept"], told["added"]) == (4, 3, 1)
    assert told["not_reviewed"] == ["b.tiff"]
    assert told["slides"]["a.tiff"]["kappa"] == told["kappa"]
    assert any("UNTRAINED" in note for note in told["notes"])


def test_the_hotspot_is_found_again(results: Path, tmp_path: Path) -> None:
    document = _figures(results, "a.tiff")
    far = [_point(500 + 5 * i, 400, "NMF", f"{i}{NEW_ID[1:]}") for i in range(6)]
    _write(tmp_path / "rev", "a.tiff", {"type": "FeatureCollection", "features": [*document, *far]})
    recount(results, tmp_path / "rev", distance_um=0.1)
    row = next(row for row in _table(results / "reviewed/summary.csv") if row["slide"] == "a.tiff")
    assert int(row["hotspot_mitoses"]) >= 6 > int(row["machine_hotspot_mitoses"])
    assert float(row["hotspot_area_mm2"]) == HOTSPOT["hotspot_area"]


def test_a_second_recount_and_a_later_classify_change_nothing(
    results: Path, tmp_path: Path, small_bundle: Path
) -> None:
    _write(tmp_path / "rev", "a", _figures(results, "a.tiff")[1:])
    recount(results, tmp_path / "rev")
    first = {path.name: path.read_bytes() for path in (results / "reviewed").iterdir()}
    tables = {"summary.csv", "changes.csv", "verdicts.csv", "consensus.csv"}
    assert set(first) == tables | {"agreement.json"}
    recount(results, tmp_path / "rev")
    run([tmp_path / "slides"], tmp_path / "d.csv", results, small_bundle, output={"overwrite": True})
    assert {path.name: path.read_bytes() for path in (results / "reviewed").iterdir()} == first


def test_one_bad_review_fails_alone(results: Path, tmp_path: Path) -> None:
    figures = _figures(results, "a.tiff")
    del figures[0]["properties"]["classification"]
    _write(tmp_path / "rev", "a", figures)
    _write(tmp_path / "rev", "b", _figures(results, "b.tiff"))
    _write(tmp_path / "rev", "stranger", [])
    result = recount(results, tmp_path / "rev")
    assert result.exit_status == 1
    assert f"a.tiff: reading the review: object {figures[0]['id']}" in result.errors["a.tiff"]
    assert any("stranger.geojson" in warning for warning in result.warnings)
    rows = {row["slide"]: row for row in _table(results / "reviewed/summary.csv")}
    assert rows["a.tiff"]["status"] == "failed"
    assert rows["a.tiff"]["atypical"] == ""
    assert rows["a.tiff"]["machine_status"] == "done"
    assert "has no class" in rows["a.tiff"]["error"]
    assert (rows["b.tiff"]["status"], rows["b.tiff"]["reviewed"]) == ("done", "true")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda folder: (folder / "a.geojson").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "a.geojson").write_text("x,y\n1,2\n"), "this is csv, not GeoJSON"),
        (lambda folder: _write(folder, "a.tiff", []), "2 files fit this slide"),
        (lambda folder: _write(folder, "a", [_point(9000, 10, "AMF")]), "outside the slide"),
    ],
)
def test_what_cannot_be_a_review_of_the_slide(
    results: Path, tmp_path: Path, change: Callable[[Path], object], cause: str
) -> None:
    _write(tmp_path / "rev", "a", [])
    change(tmp_path / "rev")
    assert cause in recount(results, tmp_path / "rev").errors["a.tiff"]


def test_nothing_is_started_without_results_or_reviews(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no results"):
        recount(tmp_path / "empty", tmp_path / "empty")
    with pytest.raises(DetectionsError, match="no such folder"):
        recount(results, tmp_path / "nowhere")
    _write(tmp_path / "empty", "stranger", [])
    with pytest.raises(DetectionsError, match=r"no file is named after .*<slide>\.geojson"):
        recount(results, tmp_path / "empty")
    assert not (results / "reviewed").exists()


def test_doubts_are_told(results: Path, tmp_path: Path) -> None:
    own = (results / "geojson/a.tiff.geojson").read_bytes()
    (tmp_path / "rev").mkdir()
    (tmp_path / "rev/a.tiff.geojson").write_bytes(own)
    _write(tmp_path / "rev", "b", [])
    result = recount(results, tmp_path / "rev")
    assert result.errors == {}
    told = result.warnings
    assert any("a.tiff: nothing was changed" in warning for warning in told)
    assert any("b.tiff: the review has no figure" in warning for warning in told)
    assert any("b.tiff: no hotspot: there are no mitotic figures" in warning for warning in told)
    row = next(row for row in result.rows if row["slide"] == "b.tiff")
    assert (row["hotspot_mitoses"], row["seconds"]) == (None, None)
    assert row["machine_hotspot_mitoses"]


def test_what_is_drawn_on_a_figure_corrects_it_by_name(results: Path, tmp_path: Path) -> None:
    figures = _figures(results, "a.tiff")
    x, y = CANDIDATES[0]
    for label, change in (
        ("atypical", {"atypical": 0, "typical": 1}),
        ("typical", {"atypical": 1, "typical": 0}),
    ):
        _write(tmp_path / label, "a", [*figures, _point(x + 4, y, label)])
        result = recount(results, tmp_path / label)
        relabelled = change[_class(figures[0])]
        assert (result.agreement["relabelled"], result.agreement["added"]) == (relabelled, 0)
        drawn = "figures relabelled by one" if relabelled else "figures drawn on one of the same class"
        assert any(drawn in warning for warning in result.warnings)


def test_an_added_figure_without_an_id_is_called_by_its_place(results: Path, tmp_path: Path) -> None:
    added = _point(350.0, 120.0, "AMF")
    del added["id"]
    _write(tmp_path / "rev", "a", [*_figures(results, "a.tiff"), added])
    (change,) = recount(results, tmp_path / "rev").changes
    identity = ResultFolder(results).records()["a.tiff"].slide.digest
    assert [change["figure_id"]] == figure_ids(identity, [350.0], [120.0])


def test_a_review_in_another_spelling_is_its_slides(results: Path, tmp_path: Path) -> None:
    for name, spelled in (("a.tiff", "A.TIFF"), ("b.tiff", "b.tiff - Series 0")):
        document = json.loads((results / "geojson" / f"{name}.geojson").read_text())
        _write(tmp_path / "reviewed", spelled, document)
    result = recount(results, tmp_path / "reviewed")
    assert (result.exit_status, set(result.agreement["slides"])) == (0, {"a.tiff", "b.tiff"})


def test_a_review_that_is_nearly_a_slides_or_fits_two_fails_these(
    results: Path, small_bundle: Path, tmp_path: Path
) -> None:
    (more,) = slides_in(tmp_path / "more", ["a.tif"])
    assert run([more], candidates_csv(tmp_path / "e.csv", ["a.tif"]), results, small_bundle).exit_status == 0
    document = json.loads((results / "geojson" / "b.tiff.geojson").read_text())
    for name in ("a", "b_HE"):
        _write(tmp_path / "reviewed", name, document)
    result = recount(results, tmp_path / "reviewed")
    assert result.exit_status == 1
    assert set(result.errors) == {"a.tif", "a.tiff", "b.tiff"}
    assert "'a.geojson' fits 2 of the slides" in result.errors["a.tif"]
    assert "'b_HE.geojson' is nearly the same" in result.errors["b.tiff"]
    assert not any("a.geojson: fits no slide" in warning for warning in result.warnings)


def test_a_slide_that_classify_has_left_failed_is_not_recounted(
    results: Path, tmp_path: Path, small_bundle: Path
) -> None:
    (tmp_path / "slides/a.tiff").write_bytes(b"broken")
    assert run([tmp_path / "slides"], tmp_path / "d.csv", results, small_bundle).exit_status == 1
    _write(tmp_path / "rev", "a", [])
    assert "its status after `classify` is failed" in recount(results, tmp_path / "rev").errors["a.tiff"]


def _in_region(tmp_path: Path, bundle: Path, *, hotspot: bool = True) -> Path:
    """Results of two slides, the first with two regions: one of its upper left, one that excludes."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    regions = []
    for name, (left, top, right, bottom) in {"Tumor": (0, 0, 450, 350), "Necrosis": (0, 0, 50, 50)}.items():
        region = _point(0, 0, name)
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        region["geometry"] = {"type": "Polygon", "coordinates": [ring]}
        region["properties"]["objectType"] = "annotation"
        regions.append(region)
    _write(tmp_path / "regions", "a", regions)
    output = {**(HOTSPOT if hotspot else {}), "regions": str(tmp_path / "regions")}
    assert run(slides, detections, tmp_path / "out", bundle, output=output).exit_status == 0
    return tmp_path / "out"


@pytest.mark.parametrize("hotspot", [True, False])
def test_regions_are_counted_again(tmp_path: Path, small_bundle: Path, hotspot: bool) -> None:
    out = _in_region(tmp_path, small_bundle, hotspot=hotspot)
    figures = _figures(out, "a.tiff")
    far = [_point(500 + 5 * i, 400, "NMF", f"{i}{NEW_ID[1:]}") for i in range(6)]
    excluded = _point(25, 25, "AMF", f"a{NEW_ID[1:]}")
    _write(tmp_path / "rev", "a", [*figures, *far, excluded, _point(350, 120, "AMF", f"b{NEW_ID[1:]}")])
    result = recount(out, tmp_path / "rev")

    machine, rows = _table(out / "regions.csv"), _table(out / "reviewed/regions.csv")
    assert tuple(rows[0]) == RECOUNT_REGION_COLUMNS
    assert [(row["slide"], row["region"]) for row in rows] == [
        ("a.tiff", "Region 1"),
        ("a.tiff", ALL_REGIONS),
    ]
    for row, before in zip(rows, machine, strict=True):
        assert {name: row[f"machine_{name}"] for name in REGION_COUNTS} == {
            n: before[n] for n in REGION_COUNTS
        }
        assert int(row["mitoses"]) == int(before["mitoses"]) + 1
        assert int(row["atypical"]) == int(before["atypical"]) + 1
        density = int(row["mitoses"]) / float(row["area_mm2"])
        assert float(row["mitoses_per_mm2"]) == pytest.approx(density, rel=1e-4)
        assert row["area_mm2"] == before["area_mm2"]
        assert row["reviewed"] == "true"
    reviewed = result.rows[0]
    if hotspot:  # the six figures outside are the densest, and no hotspot counts them
        assert 0 < reviewed["hotspot_mitoses"] <= int(rows[-1]["mitoses"])
        assert reviewed["hotspot_x_px0"] < 450
        assert reviewed["hotspot_y_px0"] < 350
    else:
        assert reviewed["hotspot_mitoses"] is None


def test_regions_without_a_review_keep_the_machines_numbers(tmp_path: Path, small_bundle: Path) -> None:
    out = _in_region(tmp_path, small_bundle)
    _write(tmp_path / "rev", "b", _figures(out, "b.tiff"))
    recount(out, tmp_path / "rev")
    machine, rows = _table(out / "regions.csv"), _table(out / "reviewed/regions.csv")
    assert [{name: row[name] for name in REGION_COLUMNS} for row in rows] == machine
    assert {row["reviewed"] for row in rows} == {"false"}


def test_a_recount_without_regions_leaves_no_table_of_an_earlier_one(
    tmp_path: Path, small_bundle: Path
) -> None:
    out = _in_region(tmp_path, small_bundle)
    _write(tmp_path / "rev", "a", _figures(out, "a.tiff"))
    recount(out, tmp_path / "rev")
    assert (out / "reviewed/regions.csv").exists()
    slides, detections = [tmp_path / "slides"], tmp_path / "d.csv"
    assert (
        run(slides, detections, out, small_bundle, output=HOTSPOT).exit_status == 0
    )  # drawn again, as a whole
    recount(out, tmp_path / "rev")
    assert not (out / "reviewed/regions.csv").exists()


@pytest.mark.parametrize("frame", ["qupath", "slide"])
def test_a_slide_with_bounds_comes_back_in_the_frame_it_was_drawn_in(
    tmp_path: Path, small_bundle: Path, frame: str
) -> None:
    slide = leica_slide(tmp_path / "s.scn", textured(600, 500), (200, 150), (1000, 900))
    detections = candidates_csv(tmp_path / "d.csv", ["s.scn"], [(400.0, 300.0), (500.0, 400.0)])
    assert (
        run([slide], detections, tmp_path / "out", small_bundle, output={"geojson_frame": frame}).exit_status
        == 0
    )
    figures = _figures(tmp_path / "out", "s.scn")
    for number, figure in enumerate(figures):
        figure["id"] = f"{number}{NEW_ID[1:]}"  # as if QuPath had given new ones: places decide
    _write(tmp_path / "rev", "s.scn", figures)
    result = recount(tmp_path / "out", tmp_path / "rev")
    assert result.exit_status == 0, result.errors
    assert (result.agreement["kept"], result.agreement["by_distance"]) == (2, 2)
    assert result.agreement["slides"]["s.scn"]["frame"] == frame
    shift = 200 if frame == "slide" else -200
    for figure in figures:  # the other frame's coordinates
        ring = figure["geometry"]["coordinates"][0]
        figure["geometry"]["coordinates"] = [[[x - shift, y - shift * 0.75] for x, y in ring]]
    _write(tmp_path / "rev", "s.scn", figures)
    other = "qupath" if frame == "slide" else "slide"
    assert f"Give --frame {other}" in recount(tmp_path / "out", tmp_path / "rev").errors["s.scn"]
    told = recount(tmp_path / "out", tmp_path / "rev", frame=other)  # type: ignore[arg-type]
    assert told.agreement["kept"] == 2
    obeyed = recount(tmp_path / "out", tmp_path / "rev", frame=frame)  # type: ignore[arg-type]
    assert "do not lie where it has figures" in obeyed.errors["s.scn"]
    for figure in figures:
        del figure["properties"]["measurements"]  # nothing else tells that they are these figures
    _write(tmp_path / "rev", "s.scn", figures)
    obeyed = recount(tmp_path / "out", tmp_path / "rev", frame=frame)  # type: ignore[arg-type]
    assert (obeyed.agreement["removed"], obeyed.agreement["added"]) == (2, 2)
