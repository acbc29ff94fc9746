"""Which scanner made a slide, as OpenSlide's properties or the file itself state it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.records import slide_record
from tests.slide_files import aperio_slide, leica_slide, textured, tiff_slide
from wsi_mitosis import classify_slide
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.slides import open_native, open_slide
from wsi_mitosis.io.slides.scanners import MOST_CHARS, scanner_of
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.specs import ResultOptions


def code(text: str) -> str:
    return "#" + hashlib.sha256(text.encode()).hexdigest()[:6]


@pytest.mark.parametrize(
    ("vendor", "properties", "expected"),
    [
        ("aperio", {"aperio.ScanScope ID": "SS1475"}, f"Aperio {code('Aperio' + chr(10) + 'SS1475')}"),
        ("aperio", {"aperio.ScannerType": "GT450"}, "Aperio GT450"),
        ("aperio", {}, "Aperio"),
        (
            "hamamatsu",
            {"tiff.Make": "Hamamatsu", "tiff.Model": "C9600-12", "hamamatsu.Product": "C9600-12"},
            "Hamamatsu C9600-12",
        ),
        ("leica", {"leica.device-model": "Leica SCN400;Leica SCN"}, "Leica SCN400;Leica SCN"),
        ("philips", {"philips.DICOM_MANUFACTURER": "PHILIPS"}, "PHILIPS"),
        ("dicom", {"dicom.Manufacturer": " 3D\nHISTECH", "tiff.Make": "other"}, "3D HISTECH"),
        ("dicom", {"dicom.DeviceSerialNumber": "7"}, code("\n7")),
        ("dicom", {}, None),
        ("mirax", {}, "3DHISTECH"),
        ("generic-tiff", {"tiff.Make": "a maker"}, None),
        ("", {}, None),
    ],
)
def test_the_name_has_maker_and_model_as_far_as_stated(
    vendor: str, properties: dict[str, str], expected: str | None
) -> None:
    assert scanner_of(vendor, properties) == expected


def test_scanners_of_one_model_differ_and_no_serial_number_is_stated() -> None:
    names = {
        scanner_of("aperio", {"aperio.ScannerType": "GT450", "aperio.ScanScope ID": f"SN-{n}"})
        for n in range(50)
    }
    assert len(names) == 50
    assert all(name is not None and name.startswith("Aperio GT450 #") and "SN-" not in name for name in names)


def test_a_long_name_is_cut() -> None:
    name = scanner_of("dicom", {"dicom.Manufacturer": "m" * 999, "dicom.DeviceSerialNumber": "7"})
    assert name is not None
    assert len(name) == MOST_CHARS


def test_a_slide_states_its_scanner(tmp_path: Path) -> None:
    image = textured(600, 500)
    with open_native(leica_slide(tmp_path / "a.scn", image, (0, 0), (1200, 900))) as slide:
        assert slide.scanner == "Leica SCN400"
    with open_native(tiff_slide(tmp_path / "a.tiff", image)) as slide:
        assert slide.scanner is None


def test_a_result_states_the_scanner_and_its_key_does_not_depend_on_it(
    tmp_path: Path, small_bundle: Path
) -> None:
    path = aperio_slide(tmp_path / "a.svs", textured(600, 500))
    table = pd.DataFrame({"x": [100.0], "y": [100.0]})
    assert classify_slide(path, table, bundle=small_bundle, device="cpu").record.slide.scanner == "Aperio"
    classifier = Classifier(open_bundle(small_bundle), ResultOptions(), device="cpu")
    candidates = pd.DataFrame({"x_px0": [1.0]})
    with open_slide(path) as slide:
        parts = classifier.key_parts(slide, candidates)
        assert classifier.key_parts(replace(slide, scanner="Other"), candidates) == parts


def test_a_record_of_a_version_that_did_not_look_is_read() -> None:
    data = json.loads(slide_record().to_json())
    del data["slide"]["scanner"]
    assert SlideRecord.from_json(json.dumps(data)) == slide_record()
