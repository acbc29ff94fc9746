"""The report of real figures at their true places; their labels here are drawn by lot and mean nothing."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tests.report_files import Done, page_of, results_folder
from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.jobs.report import report


def test_the_mosaics_figures_are_in_the_middle_of_their_pictures(real_data: Path, tmp_path: Path) -> None:
    with (real_data / "labels/mosaic-094.csv").open(newline="") as file:
        xy = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)]
    slide = Done(real_data / "slides/mosaic-094.tiff", xy, mpp=(0.23, 0.23))
    result = report(results_folder(tmp_path / "out", [slide], shape=HotspotShape(0.5)))
    assert result.without_picture == {}
    page = page_of(tmp_path / "out")
    assert "82</b> <span>mitotic figures</span>" in page
    assert "per mm² in the hotspot of 0.5 mm²" in page
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), dtype=float)
        for data in re.findall(r'<img [^>]*src="data:image/jpeg;base64,([^"]+)"', page)
    ]
    assert len(pictures) >= 24
    # chromatin is dark: the middle of a picture of a figure has more of it than all of it has
    darker = [np.quantile(p[44:84, 44:84], 0.1) < np.quantile(p, 0.1) for p in pictures]
    assert np.mean(darker) > 0.8
