"""The way from real slides to candidates and on to classify, with a stub in KongNet's place."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from tests.detector_files import MODEL, stub_network
from tests.runs import Silent, run, summary
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.nets import detector
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.workers.slides import detect_batch

HALF_CROP = 64


def candidates(slide: Path, out: Path, **options: float) -> pd.DataFrame:
    placement = {"workers": 0, "device": "cpu"}
    data = {"slides": [str(slide)], "out": str(out), "placement": placement, **options}
    result = detect_batch(DetectSpec.parse(data, "test"), Silent())
    assert result.errors == {}
    return pd.read_csv(out)


@pytest.fixture(autouse=True)
def a_stub_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "OS-1-detail.ome.tif"])
def test_a_candidate_lies_on_the_dark_spot_that_the_stub_saw(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    """By OpenSlide at 0.499 um/px; by TIAToolbox at 0.227, where the network sees 2.2 x 2.2 px as one."""
    found = candidates(real_data / "slides" / name, tmp_path / "dets.csv", min_score=0.6)
    assert len(found) > 20
    with open_slide(real_data / "slides" / name) as slide:
        reach = MODEL.mpp / slide.mpp.x / 2
        for x, y, score in found[["x", "y", "score"]].to_numpy():
            left, top = (math.floor(place - reach + 0.01) for place in (x, y))
            right, bottom = (math.ceil(place + reach - 0.01) for place in (x, y))
            light = slide.window(0, left, top, right - left, bottom - top, 255).pixels[..., 0] / 255
            assert 1 - light.max() - 0.01 <= score <= 1 - light.min() + 0.01, (x, y)
        apart_um = cKDTree(found[["x", "y"]].to_numpy() * slide.mpp.x).query(
            found[["x", "y"]].to_numpy() * slide.mpp.x, k=2
        )[0][:, 1]
    assert apart_um.min() >= MODEL.min_distance_px * MODEL.mpp * 0.99


def test_candidates_of_the_mosaic_lie_in_its_figures_and_classify_takes_them(
    real_data: Path, tmp_path: Path, small_bundle: Path
) -> None:
    slide = real_data / "slides/mosaic-094.tiff"
    found = candidates(slide, tmp_path / "dets.csv")
    labels = pd.read_csv(real_data / "labels/mosaic-094.csv")
    figures, xy = labels[["x", "y"]].to_numpy(float), found[["x", "y"]].to_numpy()
    from_figure = np.abs(xy[:, None] - figures).max(axis=2)
    assert (from_figure.min(axis=1) <= HALF_CROP + 1).all()  # there is nothing else on the canvas
    assert (from_figure.min(axis=0) <= HALF_CROP).mean() > 0.9
    assert run([slide], tmp_path / "dets.csv", tmp_path / "out", small_bundle).exit_status == 0
    assert int(summary(tmp_path / "out")["mosaic-094.tiff"]["candidates"]) == len(found)
