"""`--dicom` over a folder of slides."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from tests.dicom_files import complaints, dicom_slide
from tests.runs import CANDIDATES, SLIDE_PX, Silent, candidates_csv, run, slides_in, spec, summary
from tests.slide_files import textured
from wsi_mitosis.errors import SpecError
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.jobs.batch import run_batch

NAME = "slide-1.dcm"
DICOM = {"dicom": True}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dicom_slide(tmp_path_factory.mktemp("series") / "slides", textured(*SLIDE_PX, seed=3))


@pytest.fixture
def detections(tmp_path: Path) -> Path:
    return candidates_csv(tmp_path / "d.csv", [NAME])


def annotations_of(out: Path) -> Path:
    return out / "dicom" / f"{NAME}.dcm"


def report_of(out: Path) -> Path:
    return out / "dicom" / f"{NAME}.sr.dcm"


def points_of(path: Path) -> list[tuple[float, float, str]]:
    return sorted(
        (*point, group.AnnotationGroupLabel.removeprefix("Untrained: ").lower())
        for group in highdicom.ann.annread(path).AnnotationGroupSequence
        for point in np.concatenate(group.get_graphic_data("2D")).tolist()
    )


def figures_of(out: Path) -> list[tuple[float, float, str]]:
    table = read_figures(out / "figures" / f"{NAME}.parquet")
    return sorted(
        table.loc[table["label"].notna(), ["x_px0", "y_px0", "label"]].itertuples(index=False, name=None)
    )


def test_a_dicom_slides_figures_are_written_as_annotations(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    out = tmp_path / "out"
    assert run([series], detections, out, small_bundle, output=DICOM).exit_status == 0
    assert points_of(annotations_of(out)) == figures_of(out)
    assert len(points_of(annotations_of(out))) == len(CANDIDATES)
    assert complaints(annotations_of(out)) == []
    measured = []
    for group in highdicom.ann.annread(annotations_of(out)).AnnotationGroupSequence:
        algorithm = group.algorithm_identification
        assert algorithm.name == "wsi-mitosis small"
        assert algorithm.parameters["bundle_digest"] == summary(out)[NAME]["bundle_digest"]
        measured += np.hstack(
            [np.concatenate(group.get_graphic_data("2D")), group.get_measurements()[1]]
        ).tolist()
    columns = ["x_px0", "y_px0", "p_atypical", "votes_atypical", "votes_cast"]
    table = read_figures(out / f"figures/{NAME}.parquet")[columns].to_numpy(np.float64)
    np.testing.assert_allclose(sorted(measured), sorted(table.tolist()), rtol=1e-6)  # float32 keeps 24 bits


def test_without_the_option_nothing_of_it_is_written(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    result = run([series], detections, tmp_path / "out", small_bundle)
    assert not (tmp_path / "out/dicom").exists()
    assert not any("DICOM" in warning for warning in result.warnings)


def test_a_done_slide_is_annotated_without_inference_and_once(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    out = tmp_path / "out"
    run([series], detections, out, small_bundle)
    table = (out / f"figures/{NAME}.parquet").stat().st_mtime_ns
    second = run([series], detections, out, small_bundle, output=DICOM)
    assert second.kept == {NAME}
    written = annotations_of(out).read_bytes()
    for changes in (DICOM, {**DICOM, "hotspots": 2}, {}):
        assert run([series], detections, out, small_bundle, output=changes).kept == {NAME}
        assert annotations_of(out).read_bytes() == written
    annotations_of(out).unlink()
    run([series], detections, out, small_bundle, output=DICOM)
    assert pydicom.dcmread(annotations_of(out)).SOPInstanceUID == second_uid(written, tmp_path)
    assert (out / f"figures/{NAME}.parquet").stat().st_mtime_ns == table


def second_uid(content: bytes, folder: Path) -> str:
    (folder / "written.dcm").write_bytes(content)
    return str(pydicom.dcmread(folder / "written.dcm").SOPInstanceUID)


def test_annotations_of_an_earlier_result_do_not_stay(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    out = tmp_path / "out"
    run([series], detections, out, small_bundle, output=DICOM)
    fewer = candidates_csv(tmp_path / "fewer.csv", [NAME], CANDIDATES[:2])
    run([series], fewer, out, small_bundle)
    assert not annotations_of(out).exists()
    assert not report_of(out).exists()
    run([series], fewer, out, small_bundle, output=DICOM)
    assert len(points_of(annotations_of(out))) == 2


def test_what_gets_no_annotations_is_counted_and_told(
    series: Path, tmp_path: Path, small_bundle: Path
) -> None:
    """A DICOM slide whose candidates are all excluded, and two TIFFs: neither is a failure."""
    tiffs = slides_in(tmp_path / "tiffs", ["a.tiff", "b.tiff"])
    candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    with (tmp_path / "d.csv").open("a") as file:
        file.write(f"{NAME},100,100,0.1\n")
    out, options = tmp_path / "out", {"output": DICOM, "result": {"min_score": 0.2}}
    result = run([series, *tiffs], tmp_path / "d.csv", out, small_bundle, **options)
    assert result.exit_status == 0
    assert [path.name for path in (out / "dicom").iterdir()] == [report_of(out).name], (
        "a report of no figures"
    )
    assert [told for told in result.warnings if "DICOM" in told] == [
        "no DICOM annotations for 2 of 3 slides: no DICOM slides",
        "no DICOM annotations for 1 of 3 slides: no figures on them",
    ]
    drawn = (out / f"geojson/{NAME}.geojson").stat().st_mtime_ns
    run([series], tmp_path / "d.csv", out, small_bundle, **options)
    assert (out / f"geojson/{NAME}.geojson").stat().st_mtime_ns == drawn, "it stands and is not drawn again"


def test_a_header_that_does_not_serve_fails_its_slide_alone(
    series: Path, tmp_path: Path, small_bundle: Path
) -> None:
    (tmp_path / "s").mkdir()
    for path in series.parent.iterdir():
        data = pydicom.dcmread(path)
        del data.StudyInstanceUID
        data.save_as(tmp_path / "s" / path.name)
    tiffs = slides_in(tmp_path / "s", ["a.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", [NAME, "a.tiff"])
    result = run([tmp_path / "s"], detections, tmp_path / "out", small_bundle, output=DICOM)
    assert result.exit_status == 1
    assert result.statuses == {NAME: "failed", tiffs[0].name: "done"}
    assert "StudyInstanceUID" in result.errors[NAME]
    assert result.errors[NAME].endswith("run without --dicom")
    assert not annotations_of(tmp_path / "out").exists()
    without = run([tmp_path / "s"], detections, tmp_path / "out", small_bundle)
    assert without.kept == {NAME, tiffs[0].name}, "what was computed is not lost"


def test_the_counts_and_hotspots_are_a_structured_report_beside_the_annotations(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    out = tmp_path / "out"
    run([series], detections, out, small_bundle, output={**DICOM, "hotspot_area": 0.005})
    report = highdicom.sr.srread(report_of(out)).content
    (slide,) = report.get_image_measurement_groups()
    row = summary(out)[NAME]
    counted = {m.name.value.removeprefix("VOID_N_"): m.value for m in slide.get_measurements()}
    expected = {name: float(row[name.lower()]) for name in ("ATYPICAL", "TYPICAL")}
    assert counted | expected == counted
    assert counted["FIGURES"] == float(row["classified"]) == len(CANDIDATES)
    (hotspot,) = report.get_planar_roi_measurement_groups()
    corner = [float(row["hotspot_x_px0"]), float(row["hotspot_y_px0"])]
    assert hotspot.roi.value[0].tolist() == np.float32(corner).tolist(), "which SCOORD keeps"
    assert complaints(report_of(out)) == []


def test_a_report_is_written_again_if_the_hotspots_change_and_only_then(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    out, two = tmp_path / "out", {**DICOM, "hotspot_area": 0.002, "hotspots": 2}
    run([series], detections, out, small_bundle, output={**DICOM, "hotspot_area": 0.005})
    first, annotations = report_of(out).read_bytes(), annotations_of(out).read_bytes()
    run([series], detections, out, small_bundle, output={**DICOM, "hotspot_area": 0.005})
    assert report_of(out).read_bytes() == first
    assert run([series], detections, out, small_bundle, output=two).kept == {NAME}
    assert len(highdicom.sr.srread(report_of(out)).content.get_planar_roi_measurement_groups()) == 2
    assert annotations_of(out).read_bytes() == annotations
    run([series], detections, out, small_bundle, output={"hotspot_area": 0.005})
    assert not report_of(out).exists(), "its hotspots would not be those of summary.csv"
    assert annotations_of(out).read_bytes() == annotations


def test_a_moved_slide_is_annotated_where_it_is_now(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    for path in series.parent.iterdir():
        (before / path.name).write_bytes(path.read_bytes())
    run([before / NAME], detections, tmp_path / "out", small_bundle)
    before.rename(after)
    moved = run([after / NAME], detections, tmp_path / "out", small_bundle, output=DICOM)
    assert moved.kept == {NAME}
    assert points_of(annotations_of(tmp_path / "out")) == figures_of(tmp_path / "out")


def test_results_among_the_slides_are_no_slides(series: Path, tmp_path: Path, small_bundle: Path) -> None:
    """A second run over a folder that the first one wrote into finds the same slides."""
    folder = tmp_path / "slides"
    slide = dicom_slide(folder, textured(*SLIDE_PX))
    detections = candidates_csv(tmp_path / "d.csv", [slide.name])
    for _ in range(2):
        result = run(
            [folder], detections, folder / "out", small_bundle, output=DICOM, input={"recursive": True}
        )
        assert result.statuses == {slide.name: "done"}


def test_without_highdicom_nothing_is_started(
    series: Path, detections: Path, tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    asked = spec([series], detections, tmp_path / "out", small_bundle, output=DICOM)
    with pytest.raises(SpecError, match=r"pip install '?highdicom"):
        run_batch(asked, lambda *_: pytest.fail("started"), Silent())
    assert not (tmp_path / "out").exists()
