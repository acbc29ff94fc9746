"""Slides with names that a spreadsheet would run as formulas: CSV files are harmless, names survive."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tests.runs import CANDIDATES, run, slides_in
from wsi_mitosis.cli import main
from wsi_mitosis.io.csv_files import read_rows, write_frame
from wsi_mitosis.tables import REVIEW_COLUMNS

NAMES = ("+c.tiff", "-b.tiff", "=a.tiff", "@d.tiff")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    """A run and its recount, with detections as `detect` writes them, and regions."""
    folder = tmp_path_factory.mktemp("formulas")
    slides = slides_in(folder, NAMES)
    rows = [(name, x, y) for name in NAMES for x, y in CANDIDATES]
    write_frame(folder / "dets.csv", pd.DataFrame(rows, columns=["slide", "x", "y"]))
    ring = [[0, 0], [600, 0], [600, 500], [0, 500], [0, 0]]
    region = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"name": "=R"},
    }
    (folder / "regions").mkdir()
    (folder / "reviews").mkdir()
    for name in NAMES:
        (folder / "regions" / f"{name}.geojson").write_text(json.dumps([region]))
    for _ in range(2):  # the second run reads the summary of the first one
        result = run(
            slides,
            folder / "dets.csv",
            folder / "out",
            small_bundle,
            output={"regions": str(folder / "regions")},
        )
        assert result.exit_status == 0, result.errors
    for name in NAMES:
        exported = json.loads((folder / "out" / "geojson" / f"{name}.geojson").read_text())
        (folder / "reviews" / f"{name}.geojson").write_text(json.dumps(exported["features"][:-1]))
    told = CliRunner().invoke(main, ["recount", str(folder / "out"), "--reviewed", str(folder / "reviews")])
    assert told.exit_code == 0, told.output
    return folder


FILES = ("summary.csv", "review.csv", "regions.csv", "reviewed/summary.csv", "reviewed/regions.csv")


@pytest.mark.parametrize(
    "file", [*FILES, "reviewed/changes.csv", "reviewed/verdicts.csv", "reviewed/consensus.csv"]
)
def test_no_cell_of_a_file_is_a_formula_and_the_names_are_read_again(folder: Path, file: str) -> None:
    with (folder / "out" / file).open(newline="") as text:
        cells = [cell for row in csv.reader(text) for cell in row]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@")) and not _is_number(cell)] == []
    names = {row["slide"] for row in read_rows(folder / "out" / file)}
    assert names == set(NAMES)


def test_the_name_of_a_region_is_read_again(folder: Path) -> None:
    rows = read_rows(folder / "out" / "regions.csv")
    assert {row["region"] for row in rows} == {"=R", "all regions"}


def test_every_slide_is_classified_once(folder: Path) -> None:
    rows = {row["slide"]: row for row in read_rows(folder / "out" / "summary.csv")}
    assert [rows[name]["classified"] for name in NAMES] == ["5"] * 4
    assert tuple(read_rows(folder / "out" / "review.csv")[0]) == REVIEW_COLUMNS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
