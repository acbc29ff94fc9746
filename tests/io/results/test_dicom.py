from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom.spatial import ImageToReferenceTransformer, ReferenceToImageTransformer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from tests.dicom_files import complaints, dicom_slide
from tests.records import slide_record
from tests.slide_files import textured
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.errors import SlideError, SpecError, UnreadableSlideError
from wsi_mitosis.io.results.dicom import MAY_BE_EMPTY, check_installed, is_of, write_dicom
from wsi_mitosis.io.slides import find_slides, open_slide
from wsi_mitosis.io.slides.dicom import is_annotations, is_dicom

SIZE_PX = (700, 500)
MEASURED = ["p_atypical", "votes_atypical", "votes_cast"]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two levels, called by its first file, which is not level 0."""
    return dicom_slide(tmp_path_factory.mktemp("series"), textured(*SIZE_PX))


def record(slide: Path, **changes: Any) -> SlideRecord:
    given = {"size_px0": SIZE_PX, "bundle": "nano", "program": "1.2.3"} | changes
    return slide_record(slide.name, path=str(slide), **given)


def figures(
    xy: object = ((10.25, 20.5), (699.9, 0.0), (300.0, 499.5)), atypical: object = None
) -> pd.DataFrame:
    """Figures and, between them, an excluded candidate."""
    points = np.array(xy, np.float64).reshape(-1, 2)
    isatypical = np.arange(len(points)) % 2 == 0 if atypical is None else np.array(atypical, bool)
    votes = np.where(isatypical, 4, 1)
    table = pd.DataFrame(
        {
            "x_px0": points[:, 0],
            "y_px0": points[:, 1],
            "p_atypical": votes / 5 + 1 / 3000,
            "votes_atypical": pd.array(votes, dtype="Int16"),
            "votes_cast": pd.array([5] * len(points), dtype="Int16"),
            "label": np.where(isatypical, "atypical", "typical"),
        }
    )
    excluded = pd.DataFrame({"x_px0": [1.0], "y_px0": [np.nan], "label": [None]})
    return pd.concat([table[:1], excluded, table[1:]], ignore_index=True)


def by_highdicom(path: Path) -> dict[str, NDArray[np.float64]]:
    """(N, 2) coordinates by label, as highdicom reads them."""
    found = highdicom.ann.annread(path)
    return {
        group.AnnotationGroupLabel: np.concatenate(group.get_graphic_data("2D"))
        for group in found.get_annotation_groups()
    }


def by_pydicom(path: Path) -> dict[str, NDArray[np.float64]]:
    """The same without highdicom, by the words of PS3.3 C.37.1.2.1.1."""
    data = pydicom.dcmread(path)
    assert (data.AnnotationCoordinateType, data.PixelOriginInterpretation) == ("2D", "VOLUME")
    found = {}
    for group in data.AnnotationGroupSequence:
        assert group.GraphicType == "POINT"
        points = np.frombuffer(group.DoublePointCoordinatesData, "<f8").reshape(-1, 2)
        assert len(points) == group.NumberOfAnnotations
        found[group.AnnotationGroupLabel] = points
    return found


# --- what is read back


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(*[st.floats(0, 400_000, allow_subnormal=False)] * 2, st.booleans()), min_size=1, max_size=20
    )
)
def test_coordinates_and_labels_come_back_as_they_were(
    series: Path, tmp_path: Path, rows: list[tuple[float, float, bool]]
) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, series, figures([row[:2] for row in rows], [row[2] for row in rows]), record(series))
    expected = {
        f"Mitosis: {label.capitalize()}": [row[:2] for row in rows if row[2] == (label == "atypical")]
        for label in ("atypical", "typical")
    }
    for back in (by_highdicom(path), by_pydicom(path)):
        assert {label: [tuple(p) for p in points.tolist()] for label, points in back.items()} == {
            label: points for label, points in expected.items() if points
        }


def test_a_point_lies_on_the_pixel_that_the_classifier_saw(tmp_path: Path) -> None:
    """One dark pixel, off the centre and off the first tile, found in its frame by the annotation alone."""
    image = np.full((500, 700, 3), 230, np.uint8)
    image[401, 613] = (10, 20, 30)
    slide = dicom_slide(tmp_path / "s", image)
    with open_slide(slide) as opened:
        assert opened.size_px0 == SIZE_PX
        assert opened.bounds is None
        assert opened.window(0, 613, 401, 1, 1, 0).pixels.tolist() == [[[10, 20, 30]]]
    write_dicom(tmp_path / "a.dcm", slide, figures([(613.5, 401.5)]), record(slide))
    annotations = pydicom.dcmread(tmp_path / "a.dcm")
    ((x, y),) = by_pydicom(tmp_path / "a.dcm")["Mitosis: Atypical"]
    wanted = annotations.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "s").iterdir())]
    (source,) = (file for file in files if file.SOPInstanceUID == wanted)
    assert (source.TotalPixelMatrixColumns, source.TotalPixelMatrixRows) == SIZE_PX
    # the total pixel matrix is tiled in full, row by row; (0, 0) is the corner of its first pixel (C.18.6)
    across = -(-source.TotalPixelMatrixColumns // source.Columns)
    frame = int(y) // source.Rows * across + int(x) // source.Columns
    pixel = source.pixel_array[frame, int(y) % source.Rows, int(x) % source.Columns]
    assert pixel.tolist() == [10, 20, 30]


def test_a_viewer_finds_a_point_on_another_level(series: Path, tmp_path: Path) -> None:
    """Over millimetres on the slide, by highdicom: at half its place, without a shift of half a pixel."""
    write_dicom(tmp_path / "a.dcm", series, figures(), record(series))
    points = by_pydicom(tmp_path / "a.dcm")["Mitosis: Atypical"]
    levels = {file.InstanceNumber: file for file in map(pydicom.dcmread, series.parent.iterdir())}
    to_slide, to_level1 = (
        transformer.for_image(levels[number], for_total_pixel_matrix=True)
        for transformer, number in ((ImageToReferenceTransformer, 1), (ReferenceToImageTransformer, 2))
    )
    np.testing.assert_allclose(to_level1(to_slide(points))[:, :2], points / 2, atol=1e-5)


def test_probabilities_and_votes_are_coded_measurements_of_each_figure(series: Path, tmp_path: Path) -> None:
    table = figures()
    write_dicom(tmp_path / "a.dcm", series, table, record(series))
    found = highdicom.ann.annread(tmp_path / "a.dcm")
    for label in ("atypical", "typical"):
        (group,) = found.get_annotation_groups(label=f"Mitosis: {label.capitalize()}")
        names, values, units = group.get_measurements()
        assert [name.value for name in names] == [name.upper() for name in MEASURED]
        assert {name.scheme_designator for name in names} == {"99WSIMITOSIS"}
        assert [unit.value for unit in units] == ["1", "{counts}", "{counts}"]
        expected = table.loc[table["label"] == label, MEASURED].to_numpy(np.float32)
        np.testing.assert_array_equal(values, expected)


def test_groups_are_coded_and_name_the_algorithm(series: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", series, figures(), record(series))
    found = highdicom.ann.annread(tmp_path / "a.dcm")
    assert [group.AnnotationGroupLabel for group in found.get_annotation_groups()] == [
        "Mitosis: Atypical",
        "Mitosis: Typical",
    ]
    atypical, typical = found.get_annotation_groups(
        algorithm_name="wsi-mitosis nano",
        algorithm_family=codes.DCM.ArtificialIntelligence,
        algorithm_version="1.2.3",
        algorithm_type="AUTOMATIC",
    )
    assert atypical.annotated_property_category == codes.SCT.MorphologicallyAbnormalStructure
    assert typical.annotated_property_category == codes.SCT.AnatomicalStructure
    kinds = [group.annotated_property_type for group in (atypical, typical)]
    assert [(kind.value, kind.meaning) for kind in kinds] == [
        ("ATYPICAL", "atypical mitotic figure"),
        ("TYPICAL", "typical mitotic figure"),
    ]
    assert found.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == kinds[0].scheme_designator
    parameters = atypical.algorithm_identification.parameters
    assert parameters["bundle_digest"] == "d" * 64
    assert parameters["trained"] == "true"
    assert found.ContentQualification == "RESEARCH"
    assert found.SeriesDescription == "Research use only: wsi-mitosis nano"


def test_an_untrained_bundle_says_so_wherever_a_reader_looks(series: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", series, figures(), record(series, trained=False))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert data.SeriesDescription.startswith("UNTRAINED")
    assert data.ContentDescription.startswith("UNTRAINED")
    for group, label in zip(data.AnnotationGroupSequence, ("Atypical", "Typical"), strict=True):
        assert group.AnnotationGroupLabel == f"Untrained: {label}"
        assert group.AnnotationGroupDescription.startswith("Untrained, no finding")
        code = group.AnnotationPropertyTypeCodeSequence[0]
        assert code.CodeValue == f"VOID_{label.upper()}"
        assert code.CodeMeaning.startswith("Untrained, no finding")


# --- how it lies in the study


def test_it_is_a_series_of_the_slides_study_and_refers_to_level_0(series: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", series, figures(), record(series))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    levels = {file.InstanceNumber: file for file in map(pydicom.dcmread, series.parent.iterdir())}
    level0 = levels[1]
    assert pydicom.dcmread(series).SOPInstanceUID != level0.SOPInstanceUID
    for copied in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber", "ContainerIdentifier"):
        assert data[copied].value == level0[copied].value
    assert data.SeriesInstanceUID != level0.SeriesInstanceUID
    assert data.ReferencedImageSequence[0].ReferencedSOPInstanceUID == level0.SOPInstanceUID
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == level0.SeriesInstanceUID


def test_the_same_result_is_the_same_object_and_another_is_another(series: Path, tmp_path: Path) -> None:
    one, two, other = (tmp_path / f"{name}.dcm" for name in ("one", "two", "other"))
    write_dicom(one, series, figures(), record(series))
    write_dicom(two, series, figures(), record(series))
    write_dicom(other, series, figures(), record(series, key="l" * 64))
    uids = [
        [
            data.SOPInstanceUID,
            data.SeriesInstanceUID,
            *(g.AnnotationGroupUID for g in data.AnnotationGroupSequence),
        ]
        for data in map(pydicom.dcmread, (one, two, other))
    ]
    assert uids[0] == uids[1]
    assert len({*uids[0], *uids[2]}) == 8
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids[0])
    assert is_of(one, record(series))
    assert not is_of(other, record(series))
    assert not is_of(one, record(series, program="1.2.4"))


@pytest.mark.parametrize("content", [None, b"", b"\0" * 128 + b"DIC", b"x" * 2000])
def test_what_is_no_dicom_file_is_of_no_result(series: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.dcm"
    if content is not None:
        path.write_bytes(content)
    assert not is_of(path, record(series))


def test_annotations_beside_slides_are_no_slide(tmp_path: Path) -> None:
    slide = dicom_slide(tmp_path, textured(*SIZE_PX))
    write_dicom(tmp_path / "0.dcm", slide, figures(), record(slide))
    assert is_annotations(tmp_path / "0.dcm")
    assert not is_annotations(slide)
    found = find_slides([str(tmp_path)])
    assert [source.relative for source in found.sources] == [slide.name]
    assert found.skipped == 1


def test_a_dicom_slide_is_told_by_ending_and_content(series: Path, tmp_path: Path) -> None:
    assert is_dicom(series)
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    (tmp_path / "a.svs").write_bytes(series.read_bytes())
    assert not is_dicom(tmp_path / "a.dcm")
    assert not is_dicom(tmp_path / "a.svs")


# --- validity


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("atypical", [[True, False, True], [True] * 3, [False] * 3])
def test_dciodvfy_finds_no_error(series: Path, tmp_path: Path, trained: bool, atypical: list[bool]) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, series, figures(atypical=atypical), record(series, trained=trained, bundle="b" * 80))
    assert complaints(path) == []


def test_the_generated_slides_are_valid_too(series: Path) -> None:
    for path in series.parent.iterdir():
        assert complaints(path) == []


def test_dciodvfys_complaints_reach_the_tests(series: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", series, figures(), record(series))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    del data.AnnotationGroupSequence[0].NumberOfAnnotations
    data.save_as(tmp_path / "a.dcm")
    (told,) = complaints(tmp_path / "a.dcm")
    assert "NumberOfAnnotations" in told


# --- headers as they come


def changed(series: Path, folder: Path, **changes: object) -> Path:
    """The series with other values in all its files; None takes an attribute away."""
    folder.mkdir()
    with pydicom.config.disable_value_validation():
        for path in series.parent.iterdir():
            data = pydicom.dcmread(path)
            for keyword, value in changes.items():
                if value is None:
                    delattr(data, keyword)
                else:
                    setattr(data, keyword, value)
            data.save_as(folder / path.name)
    return folder / series.name


def test_what_may_be_empty_is_empty_where_the_slide_lacks_it(series: Path, tmp_path: Path) -> None:
    bare = changed(series, tmp_path / "s", **dict.fromkeys(MAY_BE_EMPTY))
    write_dicom(tmp_path / "a.dcm", bare, figures(), record(bare))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert all(not data[keyword].value for keyword in MAY_BE_EMPTY)
    assert complaints(tmp_path / "a.dcm") == []


def test_a_slides_own_odd_values_are_carried_over(series: Path, tmp_path: Path) -> None:
    """An accession number longer than the 16 characters of its representation is common."""
    odd = changed(series, tmp_path / "s", AccessionNumber="A" * 20)
    write_dicom(tmp_path / "a.dcm", odd, figures(), record(odd))
    with pydicom.config.disable_value_validation():
        assert pydicom.dcmread(tmp_path / "a.dcm").AccessionNumber == "A" * 20


def test_of_a_concatenation_the_whole_is_referred_to(series: Path, tmp_path: Path) -> None:
    part = changed(series, tmp_path / "s", SOPInstanceUIDOfConcatenationSource="1.2.3")
    write_dicom(tmp_path / "a.dcm", part, figures(), record(part))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert data.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"


@pytest.mark.parametrize(
    ("changes", "told"), [({"StudyInstanceUID": None}, "StudyInstanceUID"), ({"PatientSex": "?"}, "'\\?'")]
)
def test_a_header_that_does_not_serve_is_named(
    series: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    bad = changed(series, tmp_path / "s", **changes)
    with pytest.raises(SlideError, match=rf"^{series.name}: writing DICOM annotations: .*{told}.*--dicom$"):
        write_dicom(tmp_path / "a.dcm", bad, figures(), record(bad))
    assert not (tmp_path / "a.dcm").exists()


@pytest.mark.parametrize("changes", [{"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]}, {"Rows": 256}])
def test_a_series_without_level_0_is_an_error(
    series: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    size = SIZE_PX if "ImageType" in changes else (701, 500)
    bad = changed(series, tmp_path / "s", **changes)
    with pytest.raises(UnreadableSlideError, match=rf"{size[0]} x 500 px.*complete"):
        write_dicom(tmp_path / "a.dcm", bad, figures(), record(bad, size_px0=size))


def test_without_highdicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SpecError, match=r"^--dicom: .*pip install '?highdicom"):
        check_installed()
