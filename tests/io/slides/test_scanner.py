"""The scanner that a slide states."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

from tests.slide_files import TILED, aperio_slide, leica_slide, textured, tiff_slide
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.slides.openslide_backend import stated_scanner

IMAGE = textured(300, 260)


def made_by(path: Path, make: str, model: str) -> Path:
    """A generic TIFF with the tags Make and Model of TIFF 6.0."""
    tags = [(271, "s", 0, make, True), (272, "s", 0, model, True)]
    tifffile.imwrite(path, IMAGE, extratags=tags, **TILED)
    return path


def scanner(path: Path) -> str | None:
    with open_native(path) as slide:
        return slide.scanner


def test_slides_of_several_vendors(tmp_path: Path) -> None:
    assert scanner(aperio_slide(tmp_path / "a.svs", IMAGE, "0.25|ScanScope ID = SS1302")) == "SS1302"
    assert scanner(leica_slide(tmp_path / "b.scn", IMAGE, (0, 0), (400, 360))) == "Leica SCN400"
    assert scanner(made_by(tmp_path / "c.tiff", "Hamamatsu", "C13210")) == "Hamamatsu C13210"


def test_slides_that_state_none(tmp_path: Path) -> None:
    assert scanner(aperio_slide(tmp_path / "a.svs", IMAGE)) is None
    assert scanner(tiff_slide(tmp_path / "b.tiff", IMAGE)) is None


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"dicom.Manufacturer": "Leica", "dicom.ManufacturerModelName": "GT450"}, "Leica GT450"),
        ({"philips.DICOM_MANUFACTURER": "PHILIPS"}, None),  # which of its scanners is not stated
        ({"ventana.ScannerModel": " VENTANA  DP\n200 "}, "VENTANA DP 200"),
        ({"aperio.ScanScope ID": "SS1\x1b[2J"}, "SS1\\x1b[2J"),
        ({"tiff.Make": "Hamamatsu", "tiff.Model": "C1", "hamamatsu.Product": "NanoZoomer"}, "NanoZoomer"),
        ({"aperio.ScanScope ID": " "}, None),
        ({}, None),
    ],
)
def test_properties(properties: dict[str, str], expected: str | None) -> None:
    assert stated_scanner(properties) == expected
