"""The shipped ensemble on real figures, and a scripted review of five of them.

The figures are among those that the ensemble was trained on: nothing here is a measure of it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from tests.report_files import page_of
from tests.runs import run
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.jobs.recount import recount
from wsi_mitosis.jobs.report import report


def test_five_corrections_on_the_mosaic(real_data: Path, tmp_path: Path) -> None:
    """Two relabelled, one removed, two added: one with an id of its own, one without."""
    bundle = open_bundle(find_bundle(DEFAULT_BUNDLE))
    slide, labels = real_data / "slides/mosaic-094.tiff", real_data / "labels/mosaic-094.csv"
    out = tmp_path / "out"
    assert run([slide], labels, out, bundle.folder, output={"hotspot_area": 0.5}).exit_status == 0
    drawn = out / "geojson/mosaic-094.tiff.geojson"
    features = json.loads(drawn.read_text())["features"]
    figures = [f for f in features if f["properties"]["objectType"] == "detection"]
    hotspot = features[-1]["properties"]
    assert hotspot["name"] == "Hotspot 1"
    assert hotspot["measurements"]["Hotspot area mm^2"] == 0.5
    with (out / "review.csv").open(newline="") as file:
        review = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in review] == list(range(1, 51))
    assert np.all(np.diff([float(row["expected_change"]) for row in review]) <= 0)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    relabelled, removed = [figures[3]["id"], figures[40]["id"]], figures[20]["id"]
    machine = {f["id"]: f["properties"]["classification"]["name"].split(": ")[1].lower() for f in figures}
    for figure in figures:
        if figure["id"] in relabelled:
            other = "Typical" if machine[figure["id"]] == "atypical" else "Atypical"
            figure["properties"]["classification"] = {"names": ["Mitosis", other], "color": [1, 2, 3]}
    reviewed = [feature for feature in features if feature["id"] != removed]
    for x, y, name in ((400.0, 400.0, "AMF"), (1500.5, 420.25, "Mitosis: Typical")):
        point = {"type": "Point", "coordinates": [x, y]}
        kind = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
        reviewed.append({"type": "Feature", "geometry": point, "properties": kind})
    (tmp_path / "rev").mkdir()
    (tmp_path / "rev/mosaic-094.geojson").write_text(json.dumps(reviewed))

    result = recount(out, tmp_path / "rev")
    assert result.exit_status == 0, result.errors
    assert all(path.read_bytes() == content for path, content in before.items())
    told = result.agreement
    assert (told["machine"], told["reviewed"], told["matched"], told["by_id"]) == (82, 83, 81, 81)
    assert (told["kept"], told["relabelled"], told["removed"], told["added"]) == (79, 2, 1, 2)
    assert {row["figure_id"] for row in result.changes if row["change"] == "relabelled"} == set(relabelled)
    assert [row["figure_id"] for row in result.changes if row["change"] == "removed"] == [removed]
    with (out / "reviewed/summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    turned = sum(1 if machine[name] == "typical" else -1 for name in relabelled)
    assert int(row["machine_atypical"]) == list(machine.values()).count("atypical")
    assert (
        int(row["atypical"]) == int(row["machine_atypical"]) + turned - (machine[removed] == "atypical") + 1
    )
    assert int(row["classified"]) == 83
    assert float(row["hotspot_area_mm2"]) == 0.5
    assert float(row["atypical_to_typical"]) == int(row["atypical"]) / int(row["typical"])

    report(out)
    page = page_of(out)
    assert "UNTRAINED" not in page
    assert f"<strong>After review:</strong> {row['atypical']} atypical of 83 figures" in page
    assert "2 relabelled, 1 removed, 2 added" in page
