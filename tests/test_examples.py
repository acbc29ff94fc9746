"""The walk-through: its script runs, and its page says and shows what the script does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"\]\((pictures/[^)]+)\)", PAGE)
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("walk through")
    command = [
        sys.executable,
        EXAMPLES / "walk_through.py",
        "walk-through",
        "--drawn",
        "--model",
        small_bundle,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "walk-through"


def test_the_script_makes_the_pictures_that_the_page_shows(walked: Path) -> None:
    made = {path.relative_to(walked).as_posix(): path for path in (walked / "pictures").iterdir()}
    assert made.keys() == set(SHOWN)
    for name, path in made.items():
        for picture in (path, EXAMPLES / name):
            assert picture.stat().st_size < MOST_BYTES
        with Image.open(path) as new, Image.open(EXAMPLES / name) as committed:
            assert (new.size, new.format) == (committed.size, committed.format)


def test_figures_and_hotspot_are_in_the_overview(walked: Path) -> None:
    with Image.open(walked / "pictures/overview.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    geojson = json.loads((walked / "results/geojson/slide.tiff.geojson").read_text())
    colours = {tuple(f["properties"]["classification"]["color"]) for f in geojson["features"]}
    assert len(colours) >= 2
    for colour in colours:  # JPEG blurs them
        assert (np.abs(pixels - colour).max(axis=-1) < 40).sum() > 50, colour


def test_the_project_is_where_the_page_says(walked: Path) -> None:
    named = set(re.findall(r"`walk-through/([^`]+)`", PAGE))
    assert "results/qupath/project.qpproj" in named
    assert all((walked / name).is_file() for name in named)


def test_the_page_gives_the_command_that_the_script_runs() -> None:
    source = (EXAMPLES / "walk_through.py").read_text(encoding="utf-8")
    parts = re.search(r"^CLASSIFY = \(\n(.*?)^\)", source, flags=re.MULTILINE | re.DOTALL)
    assert parts is not None
    command = "".join(re.findall(r'"(.*)"', parts[1]))
    assert f"\n    {command}\n" in PAGE
