"""Hotspots, regions and the review list of a run: what they show, and that they cost no inference."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.runs import CANDIDATES, Silent, candidates_csv, run, slides_in, spec, summary
from tests.slide_files import leica_slide, textured
from wsi_mitosis.errors import DetectionsError, SpecError
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.report import report
from wsi_mitosis.tables import REGION_COLUMNS, REVIEW_COLUMNS
from wsi_mitosis.workers.slides import classify_batch

SMALL = {"hotspot_area": 0.0018}
"""49 x 36.7 um, which hold the second and the last of CANDIDATES and no third."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[list[Path], Path, Path]:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    return slides, candidates_csv(tmp_path / "dets.csv", ["a.tiff", "b.tiff"]), tmp_path / "out"


def annotations(path: Path) -> list[dict[str, Any]]:
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return [f for f in features if f["properties"]["objectType"] == "annotation"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def regions_file(path: Path, *boxes: tuple[float, float, float, float], class_name: str = "Tumor") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[a, b], [c, b], [c, d], [a, d], [a, b]]]},
            "properties": {"classification": {"name": class_name, "color": [1, 2, 3]}, "name": f"box {n}"},
        }
        for n, (a, b, c, d) in enumerate(boxes)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_summary_geojson_and_review_show_one_hotspot(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    assert run(slides, detections, out, small_bundle, output=SMALL).exit_status == 0

    row = summary(out)["a.tiff"]
    figures = read_figures(out / "figures/a.tiff.parquet")
    held = figures.iloc[[1, 4]]
    assert (row["hotspot_area_mm2"], row["hotspot_mitoses"]) == ("0.0018", "2")
    assert int(row["hotspot_atypical"]) == (held["label"] == "atypical").sum()
    assert float(row["hotspot_mitoses_per_mm2"]) == pytest.approx(2 / 0.0018)
    (spot,) = annotations(out / "geojson/a.tiff.geojson")
    (left, top), _, (right, bottom), *_ = spot["geometry"]["coordinates"][0]
    assert (left, top) == (float(row["hotspot_x_px0"]), float(row["hotspot_y_px0"]))
    assert (right - left) * (bottom - top) * 0.25**2 / 1e6 == pytest.approx(0.0018, rel=1e-3)
    inside = [i for i, (x, y) in enumerate(CANDIDATES) if left <= x < right and top <= y < bottom]
    assert inside == [1, 4]
    assert spot["properties"]["isLocked"] is True
    assert spot["properties"]["measurements"]["Hotspot area mm^2"] == 0.0018
    assert spot["properties"]["measurements"]["Machine mitosis count"] == 2
    assert float(row["atypical_fraction_low"]) <= float(row["atypical_fraction"])
    assert float(row["atypical_fraction"]) <= float(row["atypical_fraction_high"])

    review = rows(out / "review.csv")
    assert tuple(review[0]) == REVIEW_COLUMNS
    assert [r["slide"] for r in review] == ["a.tiff"] * 5 + ["b.tiff"] * 5
    of_a = [r for r in review if r["slide"] == "a.tiff"]
    assert {r["figure_id"] for r in of_a if r["in_hotspot"] == "true"} == set(held["figure_id"])
    assert [int(r["rank"]) for r in of_a] == [1, 2, 3, 4, 5]
    changes = [float(r["expected_change"]) for r in of_a]
    assert changes == sorted(changes, reverse=True)


def test_another_hotspot_or_region_needs_no_inference_and_nothing_is_drawn_twice(
    pair: tuple[list[Path], Path, Path],
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)

    def never(*_: object) -> None:
        raise AssertionError("inference")

    monkeypatch.setattr(Classifier, "_predict", never)
    folder = tmp_path / "regions"
    for name in ("a.tiff", "b.tiff"):
        regions_file(folder / f"{name}.geojson", (0, 0, 300, 500))
    first = annotations(out / "geojson/a.tiff.geojson")[0]["id"]
    for output, mitoses, number in (
        (SMALL | {"hotspots": 5}, "2", 4),
        ({"hotspot_area": 0.001}, "1", 1),
        (SMALL | {"hotspot_aspect": "1:1"}, "2", 1),
        (SMALL | {"regions": str(folder)}, "1", 1),
        ({"hotspot_area": 0}, "", 0),
        (SMALL, "2", 1),
    ):
        result = run(slides, detections, out, small_bundle, output=output)
        assert (result.exit_status, result.kept) == (0, {"a.tiff", "b.tiff"})
        assert summary(out)["b.tiff"]["hotspot_mitoses"] == mitoses
        drawn = annotations(out / "geojson/a.tiff.geojson")
        assert len(drawn) == number
        assert [spot["id"] for spot in drawn[:1]] == [first] * min(number, 1)
        assert (out / "regions.csv").exists() == ("regions" in output)
        before = (out / "geojson/a.tiff.geojson").stat().st_mtime_ns
        run(slides, detections, out, small_bundle, output=output)
        assert (out / "geojson/a.tiff.geojson").stat().st_mtime_ns == before


def edit_number(path: Path) -> None:
    """Change the hotspot's count in a file of results."""
    text = path.read_text(encoding="utf-8")
    assert any(before in text for before in ('"Machine mitosis count":2', '"mitoses": 2'))
    text = text.replace('"Machine mitosis count":2', '"Machine mitosis count":99').replace(
        '"mitoses": 2', '"mitoses": 99'
    )
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("harm", ["edited", "deleted", "cut off", "emptied"])
@pytest.mark.parametrize("kind", ["geojson", "assessments"])
def test_a_harmed_file_is_made_again_and_gives_no_number(
    pair: tuple[list[Path], Path, Path],
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    harm: str,
) -> None:
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)
    path = out / kind / ("a.tiff.geojson" if kind == "geojson" else "a.tiff.json")
    tables = [(out / name).read_bytes() for name in ("summary.csv", "review.csv")]
    whole = path.read_bytes()
    if harm == "edited":
        edit_number(path)
    elif harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if harm == "cut off" else b"")
    monkeypatch.setattr(Classifier, "_predict", None)  # no inference
    result = run(slides, detections, out, small_bundle, output=SMALL)
    assert (result.exit_status, result.kept) == (0, {"a.tiff", "b.tiff"})
    assert path.read_bytes() == whole
    assert [(out / name).read_bytes() for name in ("summary.csv", "review.csv")] == tables


def relabel(path: Path) -> None:
    """Call all figures of a table atypical, and keep what the table states about itself."""
    table = pq.read_table(path)
    column = table.column_names.index("label")
    labels = [label and "atypical" for label in table["label"].to_pylist()]
    metadata = pq.read_metadata(path).metadata
    pq.write_table(table.set_column(column, "label", [labels]).replace_schema_metadata(metadata), path)


def test_an_edited_figures_table_gives_no_number(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)
    relabel(out / "figures/a.tiff.parquet")
    notes = report(out).notes
    result = run(slides[1:], detections, out, small_bundle, output=SMALL)
    warning = "the figures table of 'a.tiff' cannot be used: missing, damaged or edited"
    for messages in (notes, result.warnings):
        assert any(message.startswith(warning) for message in messages)
    assert set(summary(out)) == {"b.tiff"}

    again = run(slides, detections, out, small_bundle, output={"hotspot_area": 0.001})
    assert (again.exit_status, again.kept) == (0, {"b.tiff"})
    fresh = out.with_name("fresh")
    run(slides, detections, fresh, small_bundle, output={"hotspot_area": 0.001})
    rows = [{**summary(folder)["a.tiff"], "seconds": ""} for folder in (out, fresh)]
    assert rows[0] == rows[1]


def test_a_harmed_file_of_a_slide_that_is_not_in_the_run_gives_no_number(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)
    row = summary(out)["a.tiff"]
    edit_number(out / "geojson/a.tiff.geojson")
    result = run(slides[1:], detections, out, small_bundle, output=SMALL)
    assert summary(out)["a.tiff"] == row
    assert not any("no valid assessment" in warning for warning in result.warnings)

    edit_number(out / "assessments/a.tiff.json")
    result = run(slides[1:], detections, out, small_bundle, output=SMALL)
    assert result.exit_status == 0
    assert any("'a.tiff' has no valid assessment" in warning for warning in result.warnings)
    emptied = summary(out)["a.tiff"]
    assert {name: value for name, value in emptied.items() if not name.startswith("hotspot_")} == {
        name: value for name, value in row.items() if not name.startswith("hotspot_")
    }
    assert {value for name, value in emptied.items() if name.startswith("hotspot_")} == {""}


def test_other_hotspots_rewrite_assessments_and_drawings_alone(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair

    def times() -> dict[str, int]:
        return {
            kind: (out / kind / f"a.tiff{ending}").stat().st_mtime_ns
            for kind, ending in (("figures", ".parquet"), ("assessments", ".json"), ("geojson", ".geojson"))
        }

    run(slides, detections, out, small_bundle, output=SMALL)
    before = times()
    for output, changed in (
        (SMALL, set()),
        (SMALL | {"objects": "annotations"}, {"geojson"}),
        ({"objects": "annotations", "hotspot_area": 0.001}, {"assessments", "geojson"}),
    ):
        run(slides, detections, out, small_bundle, output=output)
        after = times()
        assert {kind for kind in after if after[kind] != before[kind]} == changed
        before = after


def test_a_folder_of_the_version_before_is_taken_up_without_inference(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version had flat records, and no assessments."""
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)
    tables = [(out / name).read_bytes() for name in ("summary.csv", "review.csv")]
    for path in (out / "figures").iterdir():
        table = pq.read_table(path)
        flat = flat_record(json.loads(table.schema.metadata[b"wsi_mitosis"]))
        metadata = {**table.schema.metadata, b"wsi_mitosis": json.dumps(flat).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    shutil.rmtree(out / "assessments")
    monkeypatch.setattr(Classifier, "_predict", None)  # no inference
    result = run(slides, detections, out, small_bundle, output=SMALL)
    assert (result.exit_status, result.kept) == (0, {"a.tiff", "b.tiff"})
    assert [(out / name).read_bytes() for name in ("summary.csv", "review.csv")] == tables


def flat_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record as version 0.1.0 wrote it first: without a schema and without parts."""
    slide, model = record["slide"], record["model"]
    return {
        "slide": slide["name"],
        "source": slide["path"],
        "identity": slide["digest"],
        **record["scale"],
        "bundle": model["name"],
        "bundle_digest": model["digest"],
        "trained": model["trained"],
        **{name: record[name] for name in ("key", "program", "counts", "warnings")},
        "seconds": record["cost"]["seconds"],
    }


def test_a_slide_too_small_for_the_window_has_empty_columns_and_a_reason(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    result = run(slides[:1], detections, out, small_bundle)  # 2 mm^2 on a slide of 0.15 x 0.125 mm
    assert result.exit_status == 0
    row = summary(out)["a.tiff"]
    assert [value for name, value in row.items() if name.startswith("hotspot_")] == [""] * 6
    assert annotations(out / "geojson/a.tiff.geojson") == []
    (told,) = json.loads((out / "run.json").read_text())["slides"]
    assert "0.15 x 0.12 mm, is smaller than a hotspot of 2 mm^2" in told["no_hotspot"]
    assert any("is smaller than a hotspot" in warning for warning in result.warnings)


def test_a_slide_of_an_earlier_run_keeps_its_row(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    run(slides[:1], detections, out, small_bundle, output=SMALL)
    before = summary(out)["a.tiff"]
    run(slides[1:], detections, out, small_bundle)
    assert summary(out)["a.tiff"] == before
    assert [r["slide"] for r in rows(out / "review.csv")] == ["a.tiff"] * 5 + ["b.tiff"] * 5


def test_a_slide_that_fails_now_leaves_the_review_list(
    pair: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = pair
    run(slides, detections, out, small_bundle, output=SMALL)
    slides[0].write_bytes(slides[0].read_bytes()[:2000])
    assert run(slides, detections, out, small_bundle, output=SMALL).exit_status == 1
    assert {r["slide"] for r in rows(out / "review.csv")} == {"b.tiff"}
    assert summary(out)["a.tiff"]["hotspot_mitoses"] == ""


def test_regions_are_counted_in_the_frame_that_qupath_has(tmp_path: Path, small_bundle: Path) -> None:
    """A slide with bounds: QuPath's origin is their corner."""
    slide = leica_slide(tmp_path / "a.scn", textured(600, 500), (300, 160), (1200, 900))
    detections = candidates_csv(tmp_path / "d.csv", ["a.scn"], [(350, 200), (500, 300), (880, 640)])
    drawn = regions_file(tmp_path / "a.geojson", (0, 0, 100, 100), (0, 0, 220, 160))
    out = tmp_path / "out"
    run([slide], detections, out, small_bundle, output=SMALL | {"regions": str(drawn)})
    counted = rows(out / "regions.csv")
    assert tuple(counted[0]) == REGION_COLUMNS
    digest = hashlib.sha256(drawn.read_bytes()).hexdigest()
    stated = json.loads((out / "run.json").read_text())["regions"]
    assert stated == [{"path": str(drawn), "sha256": digest}]
    assert [(r["slide"], r["region"], r["class"], r["mitoses"]) for r in counted] == [
        ("a.scn", "box 0", "Tumor", "1"),
        ("a.scn", "box 1", "Tumor", "2"),
        ("a.scn", "all regions", "", "2"),
    ]
    assert [float(r["area_mm2"]) for r in counted] == pytest.approx(np.array([1e4, 35200, 35200]) * 0.0625e-6)
    assert float(counted[2]["mitoses_per_mm2"]) == pytest.approx(2 / 0.0022)
    assert summary(out)["a.scn"]["classified"] == "3"
    whole = regions_file(tmp_path / "b.geojson", (310, 170, 360, 210))
    in_slide_frame = SMALL | {"regions": str(whole), "geojson_frame": "slide"}
    run([slide], detections, out, small_bundle, output=in_slide_frame)
    assert [r["mitoses"] for r in rows(out / "regions.csv")] == ["1", "1"]
    drawn = regions_file(tmp_path / "c.geojson", (0, 0, 220, 160))
    result = run([slide], detections, out, small_bundle, output=in_slide_frame | {"regions": str(drawn)})
    assert result.errors["a.scn"].startswith(
        "a.scn: placing regions: region 'box 0' (x 0 to 220, y 0 to 160 px at level 0, read in frame slide) "
        "lies wholly outside the slide, which has 1200 x 900 px, of which x 300 to 900, y 160 to 660 px was "
        "scanned"
    )


def test_bad_regions_of_a_folder_fail_their_slide_alone(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    regions_file(tmp_path / "regions/a.geojson", (0, 0, 300, 500))
    (tmp_path / "regions/b.geojson").write_text("{")
    result = run(slides, detections, out, small_bundle, output={"regions": str(tmp_path / "regions")})
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed"}
    assert "b.geojson" in result.errors["b.tiff"]


def test_slides_without_regions_in_the_folder_are_told_of(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    regions_file(tmp_path / "regions/a.geojson", (0, 0, 300, 500))
    result = run(slides, detections, out, small_bundle, output=SMALL | {"regions": str(tmp_path / "regions")})
    assert any("no regions for 1 of the slides" in warning for warning in result.warnings)
    assert {r["slide"] for r in rows(out / "regions.csv")} == {"a.tiff"}
    assert [summary(out)[name]["hotspot_mitoses"] for name in ("a.tiff", "b.tiff")] == ["1", "2"]


def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("inference")

    monkeypatch.setattr(Classifier, "_predict", never)


def test_a_region_off_its_slide_fails_it_before_any_inference(
    pair: tuple[list[Path], Path, Path],
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slides, detections, out = pair
    no_inference(monkeypatch)
    drawn = regions_file(tmp_path / "r.geojson", (0, 0, 300, 500), (5000, 5000, 5600, 5500))
    result = run(slides[:1], detections, out, small_bundle, output={"regions": str(drawn)})
    assert (result.exit_status, result.statuses) == (1, {"a.tiff": "failed"})
    assert result.errors["a.tiff"].startswith(
        "a.tiff: placing regions: region 'box 1' (x 5000 to 5600, y 5000 to 5500 px at level 0, read in "
        "frame qupath) lies wholly outside the slide, which has 600 x 500 px."
    )
    assert not (out / "regions.csv").exists()


def test_a_finished_slide_fails_by_its_regions_and_keeps_its_result_for_better_ones(
    pair: tuple[list[Path], Path, Path],
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slides, detections, out = pair
    folder = tmp_path / "regions"
    for name in ("a", "b"):
        regions_file(folder / f"{name}.geojson", (0, 0, 300, 500))
    output = {"regions": str(folder)}
    run(slides, detections, out, small_bundle, output=output)
    no_inference(monkeypatch)
    regions_file(folder / "a.geojson", (5000, 5000, 5600, 5500))
    result = run(slides, detections, out, small_bundle, output=output)
    assert (result.statuses, result.kept) == ({"a.tiff": "failed", "b.tiff": "done"}, {"b.tiff"})
    assert {row["slide"] for row in rows(out / "regions.csv")} == {"b.tiff"}
    regions_file(folder / "a.geojson", (0, 0, 600, 500))
    result = run(slides, detections, out, small_bundle, output=output)
    assert (result.exit_status, result.kept) == (0, {"a.tiff", "b.tiff"})
    counted = {(row["slide"], row["region"]): row["mitoses"] for row in rows(out / "regions.csv")}
    assert counted["a.tiff", "box 0"] == "5"


def test_a_slide_that_was_set_aside_for_its_regions_is_tried_with_others(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    drawn = regions_file(tmp_path / "r.geojson", (5000, 5000, 5600, 5500))
    arguments: dict[str, Any] = {"output": {"regions": str(drawn)}, "retries": {"max_failures": 1}}
    assert run(slides[:1], detections, out, small_bundle, **arguments).statuses == {"a.tiff": "failed"}
    assert run(slides[:1], detections, out, small_bundle, **arguments).statuses == {"a.tiff": "set_aside"}
    regions_file(tmp_path / "r.geojson", (0, 0, 300, 500))
    assert run(slides[:1], detections, out, small_bundle, **arguments).statuses == {"a.tiff": "done"}


def test_a_region_across_the_edge_is_cut_off_and_noted_each_time(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    drawn = regions_file(tmp_path / "r.geojson", (500, 0, 700, 500), (0, 0, 300, 500))
    note = "a.tiff: outside the slide, and cut off: 50% of region 'box 0'"
    for _ in range(2):
        result = run(slides[:1], detections, out, small_bundle, output={"regions": str(drawn)})
        assert result.exit_status == 0
        assert result.warnings.count(note) == 1
        assert note in json.loads((out / "run.json").read_text())["warnings"]
    assert float(rows(out / "regions.csv")[0]["area_mm2"]) == pytest.approx(100 * 500 * 0.0625e-6)
    whole = run(slides[:1], detections, out, small_bundle)
    assert not any("cut off" in warning for warning in whole.warnings)


def test_one_note_of_a_run_states_what_its_classes_are(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    regions_file(tmp_path / "regions/a.tiff - Series 0.geojson", (0, 0, 300, 500), (0, 0, 600, 500))
    regions_file(tmp_path / "regions/b.geojson", (0, 0, 300, 500), class_name="Region*")
    result = run(slides, detections, out, small_bundle, output={"regions": str(tmp_path / "regions")})
    assert result.exit_status == 0
    stated = json.loads((out / "run.json").read_text())["warnings"]
    assert [text for text in stated if text.startswith("regions: ")] == [
        "regions: counted: Tumor (2); cut out: Region* (1)"
    ]
    assert "b.geojson: all its regions are cut out, so that what counts is the rest of the slide" in stated
    counted = {(row["slide"], row["region"]): row["mitoses"] for row in rows(out / "regions.csv")}
    assert counted == {
        ("a.tiff", "box 0"): "3",
        ("a.tiff", "box 1"): "5",
        ("a.tiff", "all regions"): "5",
        ("b.tiff", "all regions"): "2",
    }


def test_files_that_are_not_read_as_regions_are_named(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    folder = tmp_path / "regions"
    regions_file(folder / "a.geojson", (0, 0, 300, 500))
    regions_file(folder / "another slide.geojson", (0, 0, 300, 500))
    for name in ("b.xml", "b.txt", "b.zip", "b.qpdata", ".hidden.xml"):
        (folder / name).touch()
    result = run(slides, detections, out, small_bundle, output={"regions": str(folder)})
    unread = "regions: not read as regions, because of their endings: 'b.qpdata', 'b.txt', 'b.xml' and 1 more"
    assert unread in result.warnings
    lacking = (
        "regions: no regions for 1 of the slides, which are read as a whole: 'b.tiff'. These files there fit "
        "no slide of this run: 'another slide.geojson'"
    )
    assert lacking in result.warnings
    regions_file(folder / "b.geojson", (0, 0, 300, 500))
    result = run(slides, detections, out, small_bundle, output={"regions": str(folder)})
    assert unread in result.warnings
    assert not any("another slide" in warning for warning in result.warnings)  # a folder of many runs


@pytest.mark.parametrize("name", ["b.csv", "b.tiff.tsv", "b_detections.csv"])
def test_a_table_in_place_of_regions_fails_its_slide(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path, name: str
) -> None:
    slides, detections, out = pair
    folder = tmp_path / "regions"
    regions_file(folder / "a.geojson", (0, 0, 300, 500))
    (folder / name).write_text("x,y\n1,2\n")
    result = run(slides, detections, out, small_bundle, output={"regions": str(folder)})
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed"}
    assert f"{name}: reading regions: this is csv, not GeoJSON" in result.errors["b.tiff"]


def test_a_folder_without_regions_of_the_slides_says_that_it_is_of_regions(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    regions_file(tmp_path / "regions/other.geojson", (0, 0, 300, 500))
    asked = spec(slides, detections, out, small_bundle, output={"regions": str(tmp_path / "regions")})
    with pytest.raises(DetectionsError, match="reading regions: no file is named after one of the slides"):
        classify_batch(asked, Silent())


def test_regions_are_no_part_of_a_results_key(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    keys = set()
    for box in ((0, 0, 300, 500), (0, 0, 600, 500)):
        drawn = regions_file(tmp_path / "r.geojson", box)
        output = {"regions": str(drawn), "overwrite": True}
        run(slides[:1], detections, out, small_bundle, output=output)
        keys.add(json.loads((out / "assessments/a.tiff.json").read_text())["record"]["key"])
    assert len(keys) == 1


@pytest.mark.parametrize("content", [None, "{", ""])
def test_regions_that_all_slides_share_are_an_error_before_the_start(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path, content: str | None
) -> None:
    slides, detections, out = pair
    if content is not None:
        (tmp_path / "r.geojson").write_text(content)
    asked = spec(slides[:1], detections, out, small_bundle, output={"regions": str(tmp_path / "r.geojson")})
    with pytest.raises(DetectionsError, match=r"r\.geojson"):
        classify_batch(asked, Silent())


def test_one_file_of_regions_for_two_slides_is_refused(
    pair: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = pair
    drawn = regions_file(tmp_path / "r.geojson", (0, 0, 10, 10))
    asked = spec(slides, detections, out, small_bundle, output={"regions": str(drawn)})
    with pytest.raises(DetectionsError, match="does not say whose they are"):
        classify_batch(asked, Silent())


@pytest.mark.parametrize(
    "output",
    [
        *({"hotspot_aspect": aspect} for aspect in ("4", "0:1", "a:b", "11:1", "4:-3", "4:3:2")),
        *({"hotspot_area": area} for area in (-1, 1001, float("nan"))),
        *({"hotspots": number} for number in (0, 101)),
    ],
)
def test_impossible_hotspots_are_refused_by_name(tmp_path: Path, output: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(output))):
        spec(["a"], tmp_path, tmp_path, tmp_path, output=output)
