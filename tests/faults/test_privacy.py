"""Nothing of a slide but tissue, size and scale is in the results: no label, no macro image, no metadata."""

from __future__ import annotations

import base64
import gzip
import io
import re
from pathlib import Path

import numpy as np
import openslide
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
from PIL import Image

from tests.dicom_files import dicom_slide
from tests.runs import SLIDE_PX, candidates_csv, run
from tests.slide_files import ome_slide, textured

SECRETS = ("DOE^JANE", "MRN-4711", "S-2026-0815", "SN-SCANNER-99", "BARCODE-123456", "Dr. Who", "1970-01-31")
LABEL_COLOUR, MACRO_COLOUR = (0, 255, 0), (255, 0, 255)
"""Colours that no tissue of the tests has."""
APERIO = (
    "Aperio Image Library v12.0\n{width}x{height} [0,0 {width}x{height}] (240x240)|AppMag = 40|MPP = 0.25"
    "|Patient = DOE^JANE|ScanScope ID = SN-SCANNER-99|Barcode = BARCODE-123456|Case = S-2026-0815"
    "|MRN = MRN-4711|User = Dr. Who|DOB = 1970-01-31"
)


def aperio_with_label(path: Path) -> Path:
    """An SVS as a ScanScope writes it: the slide, a thumbnail, then the label and the macro image."""
    image = textured(*SLIDE_PX)
    width, height = SLIDE_PX
    with tifffile.TiffWriter(path) as tiff:
        description = APERIO.format(width=width, height=height)
        how = {"photometric": "rgb", "metadata": None}
        tiff.write(image, tile=(240, 240), compression="deflate", description=description, **how)
        tiff.write(
            image[::4, ::4], description=f"Aperio Image Library v12.0\n{width}x{height} -> 150x125", **how
        )
        for name, colour, kind in (("label", LABEL_COLOUR, 1), ("macro", MACRO_COLOUR, 9)):
            picture = np.full((160, 200, 3), colour, np.uint8)
            text = f"Aperio Image Library v12.0\n{name} 200x160"
            tiff.write(picture, subfiletype=kind, description=text, rowsperstrip=16, compression="lzw", **how)
    return path


def ome_with_patient(path: Path) -> Path:
    ome_slide(path, textured(*SLIDE_PX), tile=(256, 256))
    with tifffile.TiffFile(path) as tiff:
        xml, image = tiff.pages[0].description, tiff.pages[0].asarray()
    facts = "".join(
        f"<XMLAnnotation ID='A:{n}'><Value>{s}</Value></XMLAnnotation>" for n, s in enumerate(SECRETS)
    )
    experimenter = "<Experimenter ID='E:0' LastName='Dr. Who'/>"
    xml = xml.replace("</OME>", f"{experimenter}<StructuredAnnotations>{facts}</StructuredAnnotations></OME>")
    how = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, image, description=xml.encode(), **how)
    return path


def dicom_with_patient(folder: Path) -> Path:
    slide = dicom_slide(folder, textured(*SLIDE_PX), levels=1)
    header = pydicom.dcmread(slide)
    header.PatientName, header.PatientID, header.AccessionNumber = "DOE^JANE", "MRN-4711", "S-2026-0815"
    header.DeviceSerialNumber, header.ContainerIdentifier = "SN-SCANNER-99", "BARCODE-123456"
    header.ReferringPhysicianName, header.PatientBirthDate = "Dr. Who", "19700131"
    header.save_as(slide)
    return slide


@pytest.fixture(scope="module", params=["svs", "ome", "dicom"])
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_bundle: Path
) -> Path:
    """The output folder of a run with every output that is not asked for by name."""
    folder = tmp_path_factory.mktemp("privacy")
    slide = {
        "svs": lambda: aperio_with_label(folder / "a.svs"),
        "ome": lambda: ome_with_patient(folder / "a.ome.tif"),
        "dicom": lambda: dicom_with_patient(folder / "series"),
    }[request.param]()
    held = slide.read_bytes()
    assert all(secret.encode() in held for secret in SECRETS[:6])  # the slide does have them
    candidates_csv(folder / "d.csv", [slide.name])
    out = folder / "out"
    result = run([slide], folder / "d.csv", out, small_bundle, output={"qupath_project": True})
    assert result.exit_status == 0, result.errors
    return out


def texts(out: Path) -> dict[str, bytes]:
    """The files of the output folder; those that are compressed also as what they unpack to."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found[path.name] = gzip.decompress(data) if path.suffix == ".gz" else data
    return found


def test_no_metadata_of_the_slide_is_in_any_output(results: Path) -> None:
    files = texts(results)
    assert {"run.json", "summary.csv", "report.html", "project.qpproj"} <= files.keys()
    found = {(name, secret) for name, data in files.items() for secret in SECRETS if secret.encode() in data}
    assert found == set()
    table = pq.read_table(next((results / "figures").glob("*.parquet")))  # Parquet compresses its texts
    read = f"{table.schema.metadata} {table.to_pydict()}"
    assert [secret for secret in SECRETS if secret in read] == []


def test_no_label_or_macro_image_is_in_any_output(tmp_path: Path, small_bundle: Path) -> None:
    slide = aperio_with_label(tmp_path / "a.svs")
    with openslide.OpenSlide(slide) as opened:
        assert set(opened.associated_images) == {"label", "macro", "thumbnail"}
        label = np.asarray(opened.associated_images["label"].convert("RGB"))
    assert (label == LABEL_COLOUR).all()
    candidates_csv(tmp_path / "d.csv", ["a.svs"])
    assert run([slide], tmp_path / "d.csv", tmp_path / "out", small_bundle).exit_status == 0
    page = (tmp_path / "out" / "report.html").read_text()
    pictures = [pixels_of(text) for text in re.findall(r"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)", page)]
    assert pictures
    for pixels in pictures:
        for colour in (LABEL_COLOUR, MACRO_COLOUR):
            assert np.abs(pixels.astype(int) - colour).sum(axis=2).min() > 60


def test_associated_images_are_never_asked_for(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an associated image was asked for")

    slide = aperio_with_label(tmp_path / "a.svs")
    monkeypatch.setattr(openslide.AbstractSlide, "associated_images", property(refuse))
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    candidates_csv(tmp_path / "d.csv", ["a.svs"])
    project = {"qupath_project": True}
    assert run([slide], tmp_path / "d.csv", tmp_path / "out", small_bundle, output=project).exit_status == 0


def test_only_dicom_objects_carry_the_patient(tmp_path: Path, small_bundle: Path) -> None:
    """An object of a study has the study's patient (PS3.3 C.7.1.1); nothing else that is written has."""
    slide = dicom_with_patient(tmp_path / "series")
    candidates_csv(tmp_path / "d.csv", [slide.name])
    out = tmp_path / "out"
    assert run([slide], tmp_path / "d.csv", out, small_bundle, output={"dicom": True}).exit_status == 0
    carrying = {name for name, data in texts(out).items() if b"DOE^JANE" in data or b"MRN-4711" in data}
    assert carrying == {f"{slide.name}.dcm", f"{slide.name}.sr.dcm"}


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
