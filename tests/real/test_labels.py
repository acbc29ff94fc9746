"""Published label files, read as detections: their counts are known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import SlideSource
from wsi_mitosis.units import Mpp

DATA = os.environ.get("WSI_MITOSIS_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="WSI_MITOSIS_DATA is not set")

MIDOG_PX = (50_000, 50_000)


def labels(name: str) -> Path:
    return Path(str(DATA)) / "labels" / name


@pytest.mark.parametrize(
    ("name", "format_name", "figures", "look_alikes"),
    [("MIDOG++.json", "midog", 11_937, 14_349), ("MIDOG2021.sqlite", "sliderunner", 1_721, 2_714)],
)
def test_figures_and_look_alikes(name: str, format_name: str, figures: int, look_alikes: int) -> None:
    detections = read_detections(labels(name))
    assert detections.format == format_name
    slides = [SlideSource(Path("/slides") / name, name) for name in detections.table["slide"].unique()]
    split = split_by_slide(detections, slides)
    assert split.unmatched_rows == 0
    kept = excluded = 0
    for part in split.parts.values():
        table = prepare_candidates(
            part,
            size_px0=MIDOG_PX,
            mpp=Mpp(0.25, 0.25),
            mpp_stated=True,
            bounds=None,
        )
        kept += int((table["excluded_reason"] != "class").sum())
        excluded += int((table["excluded_reason"] == "class").sum())
    assert (kept, excluded) == (figures, look_alikes)


@pytest.mark.parametrize(
    ("name", "rows", "slides"),
    [("MIDOG25.csv", 11_937, 475), ("AMI-BR.csv", 3_720, 202), ("mosaic-094.csv", 82, 1)],
)
def test_tables(name: str, rows: int, slides: int) -> None:
    detections = read_detections(labels(name))
    assert (detections.format, detections.units, detections.frame) == ("csv", "px", "slide")
    assert len(detections.table) == rows
    assert detections.table["slide"].nunique() == slides
    assert detections.table[["x", "y"]].notna().all(axis=None)


def test_both_copies_of_midogs_breast_slides_place_their_figures_alike() -> None:
    from_json = read_detections(labels("MIDOG++.json")).table
    from_sqlite = read_detections(labels("MIDOG2021.sqlite")).table
    shared = sorted(set(from_sqlite["slide"]) & set(from_json["slide"]))[:20]
    for slide in shared:
        places = [
            set(table[table["slide"] == slide][["x", "y"]].itertuples(index=False, name=None))
            for table in (from_json, from_sqlite)
        ]
        assert places[0] == places[1]
