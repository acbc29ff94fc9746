"""The walk-through: its script runs and makes the pictures that the tutorial shows."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import browser

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SHOWN = set(re.findall(r"\]\(pictures/([^)]+)\)", TUTORIAL))
OF_PAGES = {"report.png", "reviewed.png", "review.png"}
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("walk through")
    script = ROOT / "examples/walk_through.py"
    command = [sys.executable, script, "walk-through", "--drawn", "--model", small_bundle]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "walk-through"


def test_the_script_makes_the_pictures_that_the_tutorial_shows(walked: Path) -> None:
    made = {path.name: path for path in (walked / "pictures").iterdir()}
    assert SHOWN >= OF_PAGES
    assert made.keys() == (SHOWN if browser.found() else SHOWN - OF_PAGES)
    for name, path in made.items():
        for picture in (path, PICTURES / name):
            assert picture.stat().st_size < MOST_BYTES
        with Image.open(path) as new, Image.open(PICTURES / name) as committed:
            assert (new.size, new.format) == (committed.size, committed.format)


def test_figures_and_hotspot_are_in_the_overview(walked: Path) -> None:
    with Image.open(walked / "pictures/overview.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    geojson = json.loads((walked / "results/geojson/slide.tiff.geojson").read_text())
    colours = {tuple(f["properties"]["classification"]["color"]) for f in geojson["features"]}
    assert len(colours) >= 2
    for colour in colours:  # JPEG blurs them
        assert (np.abs(pixels - colour).max(axis=-1) < 40).sum() > 50, colour


def test_the_review_relabels_one_figure_and_removes_one(walked: Path) -> None:
    with (walked / "results/reviewed/changes.csv").open(newline="") as file:
        changes = [row["change"] for row in csv.DictReader(file)]
    assert sorted(changes) in (["relabelled", "removed"], ["removed"])  # the first may be typical already


def test_the_project_is_where_the_tutorial_says(walked: Path) -> None:
    assert (walked / "results/qupath/project.qpproj").is_file()
    assert "`tutorial/results/qupath/project.qpproj`" in TUTORIAL


def test_tutorial_and_script_run_the_same_command() -> None:
    source = (ROOT / "examples/walk_through.py").read_text(encoding="utf-8")
    parts = re.search(r"^CLASSIFY = \(\n(.*?)^\)", source, flags=re.MULTILINE | re.DOTALL)
    assert parts is not None
    options = "".join(re.findall(r'"(.*)"', parts[1])).partition(" --merge-um ")[2]
    assert re.search(rf"^wsi-mitosis classify .* --merge-um {re.escape(options)}$", TUTORIAL, re.MULTILINE)
