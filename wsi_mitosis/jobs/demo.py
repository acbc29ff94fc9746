"""The demonstration: a real H&E image becomes a slide, its darkest nuclei candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from wsi_mitosis.core.nuclei import darkest_nuclei
from wsi_mitosis.core.qupath import COORDINATE_DECIMALS
from wsi_mitosis.io.csv_files import write_frame
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.demo import draw_overview, he_image, write_slide

if TYPE_CHECKING:
    from pathlib import Path

DEMO_MPP = 0.25
"""The image states no pixel size; its nuclei are as large as nuclei are at 0.25 um/px."""
DEMO_CANDIDATES = 40


@dataclass(frozen=True)
class DemoFiles:
    """What the demonstration consists of."""

    slide: Path
    candidates: Path
    results: Path
    overview: Path


def demo_files(folder: Path) -> DemoFiles:
    """The places of all files under a folder."""
    slide = folder / "slides" / "demo.tiff"
    return DemoFiles(slide, folder / "candidates.csv", folder / "results", folder / "overview.png")


def build_demo(folder: Path) -> DemoFiles:
    """Write the slide and its candidates.

    Raises:
        InputError: if TIAToolbox's image is missing.
    """
    files = demo_files(folder)
    image = he_image()
    write_slide(files.slide, image, DEMO_MPP)
    nuclei = darkest_nuclei(image, DEMO_MPP, DEMO_CANDIDATES)
    table = pd.DataFrame(nuclei.round(COORDINATE_DECIMALS), columns=["x", "y", "score"])
    table.insert(0, "slide", files.slide.name)
    write_frame(files.candidates, table)
    return files


def finish_demo(files: DemoFiles) -> None:
    """Draw the classified figures on the slide."""
    figures = read_figures(files.results / "figures" / f"{files.slide.name}.parquet")
    with open_slide(files.slide) as slide:
        draw_overview(files.overview, slide, figures)
