"""Structured reports, read back by highdicom and checked by `dciodvfy` and `dcentvfy`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from tests.dicom_files import complaints, dicom_slide
from tests.export_files import DIGEST, PLACES, figures, record
from tests.records import assessed_slide
from tests.slide_files import textured
from wsi_mitosis.core.assessments import AssessedSlide
from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.summary import count
from wsi_mitosis.errors import SlideError
from wsi_mitosis.io.results.dicom import write_dicom
from wsi_mitosis.io.results.dicom_report import is_report_of, write_dicom_report
from wsi_mitosis.io.slides import find_slides
from wsi_mitosis.io.slides.dicom import is_annotations

SIZE_PX = (700, 500)
SPOTS = (
    Hotspot(10.25, 20.5, 400.0, 300.0, 0.0075, 2, 1),
    Hotspot(500.0, 20.0, 100.0, 75.0, 0.00046875, 1, 1),
)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two levels, called by its first file, which is not level 0."""
    return dicom_slide(tmp_path_factory.mktemp("series"), textured(*SIZE_PX))


def assessed(slide: Path, places: Any = PLACES, spots: Any = SPOTS, **changes: Any) -> AssessedSlide:
    table = figures(places)
    given = {"path": str(slide), "size_px0": SIZE_PX, "counts": count(table)} | changes
    plain = assessed_slide(record(slide.name, **given), table)
    return plain.model_copy(update={"assessment": plain.assessment.model_copy(update={"hotspots": spots})})


def written(path: Path, slide: Path, of: AssessedSlide) -> Any:
    write_dicom_report(path, slide, of)
    return highdicom.sr.srread(path)


def values(group: Any) -> dict[str, tuple[float, str]]:
    return {m.name.value: (float(m.value), m.unit.value) for m in group.get_measurements()}


def level0(series: Path) -> pydicom.Dataset:
    (found,) = (
        data
        for data in map(pydicom.dcmread, series.parent.iterdir())
        if (data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows) == SIZE_PX
    )
    return found


# --- what is read back


def test_the_whole_slide_has_its_counts_and_the_atypical_share(series: Path, tmp_path: Path) -> None:
    report = written(tmp_path / "a.dcm", series, assessed(series)).content
    (group,) = report.get_image_measurement_groups()
    assert group.tracking_identifier == "whole slide"
    assert values(group) == {
        "N_FIGURES": (3, "{counts}"),
        "N_ATYPICAL": (2, "{counts}"),
        "N_TYPICAL": (1, "{counts}"),
        "SHARE": (0.666667, "1"),
    }
    assert group.finding_type.value == "FIGURES"
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == level0(series).SOPInstanceUID


def test_each_hotspot_has_its_window_area_counts_and_density(series: Path, tmp_path: Path) -> None:
    report = written(tmp_path / "a.dcm", series, assessed(series)).content
    first, second = report.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in (first, second)] == ["hotspot 1", "hotspot 2"]
    assert values(first) == {
        "42798000": (0.0075, "mm2"),
        "N_FIGURES": (2, "{counts}"),
        "N_ATYPICAL": (1, "{counts}"),
        "N_TYPICAL": (1, "{counts}"),
        "DENSITY": (266.666667, "/mm2"),
    }
    assert values(second)["42798000"] == (0.000469, "mm2")
    region = first.roi
    assert region.graphic_type.value == "POLYLINE"
    corners = [(10.25, 20.5), (410.25, 20.5), (410.25, 320.5), (10.25, 320.5), (10.25, 20.5)]
    np.testing.assert_array_equal(region.value, corners)
    assert region.PixelOriginInterpretation == "VOLUME"
    source = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert source.ReferencedSOPInstanceUID == level0(series).SOPInstanceUID


def test_a_slide_without_figures_has_a_report_of_none(series: Path, tmp_path: Path) -> None:
    report = written(tmp_path / "a.dcm", series, assessed(series, (), ())).content
    (group,) = report.get_image_measurement_groups()
    assert values(group) == dict.fromkeys(("N_FIGURES", "N_ATYPICAL", "N_TYPICAL"), (0, "{counts}"))
    assert report.get_planar_roi_measurement_groups() == []
    assert complaints(tmp_path / "a.dcm") == []


def test_the_bundle_is_the_observer_and_the_specimen_the_subject(series: Path, tmp_path: Path) -> None:
    document = written(tmp_path / "a.dcm", series, assessed(series))
    context = document.content.get_observer_contexts(observer_type=codes.DCM.Device)[0]
    device = context.observer_identifying_attributes
    assert (device.name, device.model_name, device.serial_number) == ("wsi-mitosis 1.2.3", "nano", DIGEST)
    subject = document.content.get_subject_contexts(subject_class=codes.DCM.Specimen)[0]
    specimen = subject.subject_class_specific_context
    assert (specimen.specimen_identifier, specimen.container_identifier) == ("SP-1", "C-1")
    assert specimen.specimen_uid == level0(series).SpecimenDescriptionSequence[0].SpecimenUID


@pytest.mark.parametrize(
    ("trained", "begin"), [(True, "Research use only"), (False, "UNTRAINED, labels mean")]
)
def test_it_says_what_the_labels_are(series: Path, tmp_path: Path, trained: bool, begin: str) -> None:
    document = written(tmp_path / "a.dcm", series, assessed(series, trained=trained))
    assert document.SeriesDescription.startswith(begin)
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    groups = [
        *document.content.get_image_measurement_groups(),
        *document.content.get_planar_roi_measurement_groups(),
    ]
    assert len(groups) == 3
    for group in groups:
        texts = [item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        assert any(text.startswith(f"use: {begin}") for text in texts)
        assert {"bundle: nano", f"bundle_digest: {DIGEST}", f"trained: {str(trained).lower()}"} <= set(texts)
        private = [m.name for m in group.get_measurements() if m.name.scheme_designator == "99WSIMITOSIS"]
        assert len(private) == 4
        for name in (group.finding_type, *private):
            assert name.value.startswith("VOID_") == (not trained)
            assert name.meaning.startswith("Untrained, no finding: ") == (not trained)
            assert len(name.value) <= 16, "longer values are no code values (SH)"


# --- how it lies in the study


def test_it_is_a_series_of_the_slides_study(series: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "a.dcm", series, assessed(series))
    source = level0(series)
    for copied in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert data[copied].value == source[copied].value
    assert data.Modality == "SR"
    (study,) = data.CurrentRequestedProcedureEvidenceSequence
    (evidence,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == source.StudyInstanceUID
    assert evidence.SeriesInstanceUID == source.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence] == [
        source.SOPInstanceUID
    ]


def test_the_same_assessment_is_the_same_report_and_another_is_another(series: Path, tmp_path: Path) -> None:
    one, other = assessed(series), assessed(series).model_copy(update={"key": "o" * 64})
    first, again, second = (
        written(tmp_path / name, series, of) for name, of in (("1", one), ("2", one), ("3", other))
    )
    assert first.SOPInstanceUID == again.SOPInstanceUID
    assert first.SeriesInstanceUID == again.SeriesInstanceUID
    assert (
        len({first.SOPInstanceUID, second.SOPInstanceUID, first.SeriesInstanceUID, second.SeriesInstanceUID})
        == 4
    )
    tracked = [
        {group.tracking_uid for group in report.content.get_planar_roi_measurement_groups()}
        for report in (first, second)
    ]
    assert tracked[0].isdisjoint(tracked[1]), "a window of another assessment is another window"
    assert is_report_of(tmp_path / "1", one)
    assert not is_report_of(tmp_path / "1", other)
    assert not is_report_of(tmp_path / "none", one)


def test_a_report_beside_slides_is_no_slide(tmp_path: Path) -> None:
    slide = dicom_slide(tmp_path, textured(*SIZE_PX))
    write_dicom_report(tmp_path / "0.dcm", slide, assessed(slide))
    assert is_annotations(tmp_path / "0.dcm")
    assert [source.relative for source in find_slides([str(tmp_path)]).sources] == [slide.name]


# --- validity


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("spots", [(), SPOTS])
def test_dciodvfy_finds_no_error(series: Path, tmp_path: Path, trained: bool, spots: Any) -> None:
    of = assessed(series, spots=spots, trained=trained, bundle="b" * 80)
    write_dicom_report(tmp_path / "a.dcm", series, of)
    assert complaints(tmp_path / "a.dcm") == []


def test_dcentvfy_finds_that_slide_annotations_and_report_fit_together(series: Path, tmp_path: Path) -> None:
    if shutil.which("dcentvfy") is None:
        pytest.skip("dcentvfy is not installed: apt-get install dicom3tools")
    of = assessed(series)
    write_dicom_report(tmp_path / "a.sr.dcm", series, of)
    write_dicom(tmp_path / "a.dcm", series, figures(), of.record)
    files = [*series.parent.iterdir(), tmp_path / "a.dcm", tmp_path / "a.sr.dcm"]
    done = subprocess.run(["dcentvfy", *files], capture_output=True, text=True)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line] == []
    assert done.returncode == 0


def test_dciodvfys_complaints_reach_the_tests(series: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "a.dcm", series, assessed(series))
    del data.CompletionFlag
    data.save_as(tmp_path / "a.dcm")
    assert any("CompletionFlag" in complaint for complaint in complaints(tmp_path / "a.dcm"))


# --- headers as they come


def changed(series: Path, folder: Path, **changes: object) -> Path:
    """The series with other values in all its files; None takes an attribute away."""
    folder.mkdir()
    for path in series.parent.iterdir():
        data = pydicom.dcmread(path)
        for keyword, value in changes.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
        data.save_as(folder / path.name)
    return folder / series.name


def test_a_slide_of_an_unknown_specimen_has_a_report_too(series: Path, tmp_path: Path) -> None:
    bare = changed(series, tmp_path / "s", SpecimenDescriptionSequence=None)
    document = written(tmp_path / "a.dcm", bare, assessed(bare))
    assert document.content.get_subject_contexts() == []


def test_a_slide_of_several_specimens_names_none_of_them(series: Path, tmp_path: Path) -> None:
    (specimen,) = level0(series).SpecimenDescriptionSequence
    other = pydicom.Dataset()
    other.update(specimen)
    other.SpecimenUID = "1.2.3"
    two = changed(series, tmp_path / "s", SpecimenDescriptionSequence=[specimen, other])
    assert written(tmp_path / "a.dcm", two, assessed(two)).content.get_subject_contexts() == []


def test_a_header_that_does_not_serve_is_named(series: Path, tmp_path: Path) -> None:
    bad = changed(series, tmp_path / "s", StudyInstanceUID=None)
    with pytest.raises(SlideError, match=rf"^{series.name}: writing the DICOM report: .*StudyInst.*--dicom$"):
        write_dicom_report(tmp_path / "a.dcm", bad, assessed(bad))
    assert not (tmp_path / "a.dcm").exists()
