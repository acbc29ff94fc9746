"""Areas that were drawn during a review: they change nothing, and it is said; or they are counted in."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import run, slides_in
from wsi_mitosis.jobs.recount import RecountResult, recount

POINTS = ((438.25, 196.5), (157.5, 338.25), (486.5, 62.25), (263.75, 89.75))
HOTSPOT = {"hotspot_area": 0.004}
WHOLE, LEFT, RIGHT = (0, 0, 600, 500), (0, 0, 300, 500), (300, 0, 600, 500)  # of 4, 2 and 2 figures
Feature = dict[str, Any]


def area(box: tuple[float, float, float, float], name: str | None, called: str | None = None) -> Feature:
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    if called is not None:
        properties["name"] = called
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def classified(folder: Path, bundle: Path, regions: list[Feature] | None = None) -> Path:
    slides = slides_in(folder / "slides", ["a.tiff"])
    rows = [f"a.tiff,{x},{y}" for x, y in POINTS]
    (folder / "d.csv").write_text("\n".join(["slide,x,y", *rows]) + "\n")
    output: dict[str, Any] = dict(HOTSPOT)
    if regions is not None:
        (folder / "r.geojson").write_text(json.dumps(regions))
        output["regions"] = str(folder / "r.geojson")
    assert run(slides, folder / "d.csv", folder / "out", bundle, output=output).exit_status == 0
    return folder / "out"


def reviewed(out: Path, more: list[Feature], **options: Any) -> RecountResult:
    """Recount after nothing but areas was changed."""
    objects = json.loads((out / "geojson/a.tiff.geojson").read_text())["features"]
    (out.parent / "rev").mkdir(exist_ok=True)
    (out.parent / "rev/a.geojson").write_text(json.dumps([*objects, *more]))
    result = recount(out, out.parent / "rev", **options)
    assert result.rows[0].get("classified", 4) == 4, "the slide's own counts are of the whole slide"
    return result


def counts(out: Path) -> dict[str, tuple[int, int]]:
    """Figures by region, and the machine's beside them."""
    path = out / "reviewed/regions.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            row["region"]: (int(row["mitoses"]), int(row["machine_mitoses"])) for row in csv.DictReader(file)
        }


def test_a_drawn_area_has_no_effect_unless_it_is_asked_for(tmp_path: Path, small_bundle: Path) -> None:
    out = classified(tmp_path, small_bundle)
    more = [area(LEFT, "Tumor", "left"), area((0, 0, 250, 250), None)]
    told = reviewed(out, more)
    assert counts(out) == {}
    assert told.warnings == [
        "a.tiff: what was drawn in the review has no effect (2 areas: 'Tumor', no class). Pass "
        "--regions-from-review to count in it, or to cut it out"
    ]
    told = reviewed(out, more, regions_from_review=True)
    assert counts(out) == {"left": (2, 2), "Region 7": (0, 0), "all regions": (2, 2)}
    assert "a.tiff: drawn in the review: counted: Tumor (1), no class (1)" in told.warnings
    assert told.rows[0]["hotspot_x_px0"] < 300


def test_a_figure_that_is_removed_is_not_in_a_drawn_region(tmp_path: Path, small_bundle: Path) -> None:
    out = classified(tmp_path, small_bundle)
    objects = json.loads((out / "geojson/a.tiff.geojson").read_text())["features"]
    (tmp_path / "rev").mkdir()
    (tmp_path / "rev/a.geojson").write_text(json.dumps([*objects[1:], area(RIGHT, "Tumor", "right")]))
    recount(out, tmp_path / "rev", regions_from_review=True)
    assert counts(out) == {"right": (1, 2), "all regions": (1, 2)}


def test_what_cuts_out_is_cut_out_of_the_whole_slide_or_of_the_runs_regions(
    tmp_path: Path, small_bundle: Path
) -> None:
    out = classified(tmp_path, small_bundle)
    told = reviewed(out, [area(RIGHT, "Ignore*")], regions_from_review=True)
    assert counts(out) == {"all regions": (2, 2)}
    assert "a.tiff: drawn in the review: cut out: Ignore* (1)" in told.warnings
    (tmp_path / "two").mkdir()
    out = classified(tmp_path / "two", small_bundle, [area(WHOLE, "Tumor", "T")])
    reviewed(out, [area(RIGHT, "Tumor: Necrosis")], regions_from_review=True)
    assert counts(out) == {"T": (2, 2), "all regions": (2, 2)}


def test_the_runs_own_regions_in_an_export_are_nothing_new(tmp_path: Path, small_bundle: Path) -> None:
    own = [area(LEFT, "Tumor", "left"), area(RIGHT, "Tumor", "right")]
    out = classified(tmp_path, small_bundle, own)
    for options in ({}, {"regions_from_review": True}):
        assert reviewed(out, own, **options).warnings == []
        assert counts(out) == {"left": (2, 2), "right": (2, 2), "all regions": (4, 4)}


@pytest.mark.parametrize(
    ("review", "after"),
    [
        ([area(LEFT, "Tumor", "left")], {"left": (2, 2), "all regions": (2, 2)}),
        (
            [area(LEFT, "Tumor", "left"), area(RIGHT, "Necrosis", "right")],
            {"left": (2, 2), "all regions": (2, 2)},
        ),
        (
            [area(LEFT, "Tumor", "left"), area((300, 0, 600, 150), "Tumor", "right")],
            {"left": (2, 2), "right": (1, 1), "all regions": (3, 3)},
        ),
    ],
    ids=["deleted", "another class", "redrawn"],
)
def test_a_region_of_the_run_that_was_changed(
    tmp_path: Path, small_bundle: Path, review: list[Feature], after: dict
) -> None:
    own = [area(LEFT, "Tumor", "left"), area(RIGHT, "Tumor", "right")]
    out = classified(tmp_path, small_bundle, own)
    told = reviewed(out, review)
    assert counts(out) == {"left": (2, 2), "right": (2, 2), "all regions": (4, 4)}
    assert any(
        "regions of the run that are not in the review, or were changed: 'right'" in note
        for note in told.warnings
    )
    reviewed(out, review, regions_from_review=True)
    assert counts(out) == after


def test_a_drawn_region_off_the_slide_or_without_an_area_is_refused(
    tmp_path: Path, small_bundle: Path
) -> None:
    out = classified(tmp_path, small_bundle)
    told = reviewed(out, [area((5000, 5000, 5300, 5300), "Tumor", "far")], regions_from_review=True)
    assert "px at level 0, read in frame qupath) lies wholly outside the slide" in told.errors["a.tiff"]
    endless = area(LEFT, "Tumor")
    endless["geometry"]["coordinates"][0][1] = [float("inf"), 0]
    told = reviewed(out, [endless, area(RIGHT, "Tumor")], regions_from_review=True)
    assert "feature 6 (its coordinates are not all finite numbers)" in told.errors["a.tiff"]
    assert counts(out) == {}
