"""`--qupath-project` in a run: what is in the project, and what a run does with one that stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import candidates_csv, run, slides_in
from tests.slide_files import leica_slide, textured, tiff_of_resolution
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.io.results.geojson import read_provenance
from wsi_mitosis.jobs import products

PROJECT = {"qupath_project": True}


def project(out: Path) -> dict[str, Any]:
    return json.loads((out / "qupath/project.qpproj").read_text(encoding="utf-8"))


def names(out: Path) -> list[str]:
    return [entry["imageName"] for entry in project(out)["images"]]


def test_every_slide_that_opens_is_in_the_project(tmp_path: Path, small_bundle: Path) -> None:
    """A slide without figures is one that a pathologist wants to look at."""
    slides = slides_in(tmp_path, ["done.tiff", "none.tiff"])
    slides.append(tiff_of_resolution(tmp_path / "no_mpp.tiff", textured(300, 300), None))
    slides.append(tmp_path / "broken.tiff")
    slides[-1].write_bytes(b"no slide")
    detections = candidates_csv(tmp_path / "d.csv", ["done.tiff", "no_mpp.tiff", "broken.tiff"])
    result = run(slides, detections, tmp_path / "out", small_bundle, output=PROJECT)
    assert sorted(result.statuses.values()) == ["done", "failed", "failed", "no_detections"]
    assert names(tmp_path / "out") == ["done.tiff", "no_mpp.tiff", "none.tiff"]
    assert "not in the QuPath project, because they cannot be opened: 'broken.tiff'" in result.warnings


def test_without_the_option_there_is_no_project(tmp_path: Path, small_bundle: Path) -> None:
    run(
        slides_in(tmp_path, ["a.tiff"]),
        candidates_csv(tmp_path / "d.csv", ["a.tiff"]),
        tmp_path / "out",
        small_bundle,
    )
    assert not (tmp_path / "out/qupath").exists()


def test_the_script_finds_each_slides_figures(tmp_path: Path, small_bundle: Path) -> None:
    """By the entry's metadata, also where file names are the same."""
    slides = [slides_in(tmp_path / folder, ["s.tiff"])[0] for folder in ("a", "b")]
    detections = candidates_csv(tmp_path / "d.csv", ["a/s.tiff", "b/s.tiff"])
    run([tmp_path / "*/s.tiff"], detections, tmp_path / "out", small_bundle, output=PROJECT)
    for entry, slide in zip(project(tmp_path / "out")["images"], slides, strict=True):
        name = entry["metadata"]["wsi-mitosis"]
        assert entry["serverBuilder"]["uri"] == slide.as_uri()
        assert Path(name).parts[-2:] == slide.parts[-2:]
        assert (tmp_path / f"out/geojson/{name}.geojson").is_file()


def test_a_second_run_adds_to_the_project(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path, ["b.tiff", "a.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    run(slides[:1], detections, tmp_path / "out", small_bundle, output=PROJECT)
    first = project(tmp_path / "out")["images"]
    run(slides[1:], detections, tmp_path / "out", small_bundle, output=PROJECT)
    assert project(tmp_path / "out")["images"][:1] == first
    assert names(tmp_path / "out") == ["b.tiff", "a.tiff"]


def test_a_project_begun_later_has_the_earlier_slides_too(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path, ["a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    run(slides[:1], detections, tmp_path / "out", small_bundle)
    run(slides[1:], detections, tmp_path / "out", small_bundle, output=PROJECT)
    assert names(tmp_path / "out") == ["a.tiff", "b.tiff"]


@pytest.mark.parametrize(
    ("frame", "arguments", "size"), [("qupath", [], [600, 500]), ("slide", ["--no-crop"], [1200, 900])]
)
def test_figures_say_which_crop_of_the_slide_they_are_for(
    tmp_path: Path, small_bundle: Path, frame: str, arguments: list[str], size: list[int]
) -> None:
    slide = leica_slide(tmp_path / "s.scn", textured(600, 500), (300, 160), (1200, 900))
    detections = candidates_csv(tmp_path / "d.csv", ["s.scn"], [(500, 400)])
    output = PROJECT | {"geojson_frame": frame}
    run([slide], detections, tmp_path / "out", small_bundle, output=output)
    assert project(tmp_path / "out")["images"][0]["serverBuilder"]["args"] == arguments
    provenance = read_provenance(tmp_path / "out/geojson/s.scn.geojson")
    assert provenance is not None
    assert provenance["image_px"] == size


def test_a_project_that_cannot_be_read_stops_the_run_before_it_starts(
    tmp_path: Path, small_bundle: Path
) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    path = tmp_path / "out/qupath/project.qpproj"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(OutputError, match=r"project\.qpproj"):
        run(
            slides,
            candidates_csv(tmp_path / "d.csv", ["a.tiff"]),
            tmp_path / "out",
            small_bundle,
            output=PROJECT,
        )
    assert path.read_text() == "{"
    assert not (tmp_path / "out/figures").exists()


@pytest.mark.parametrize(
    "failure", [OutputError("it is gone", subject="p"), OSError("disk full")], ids=["ours", "os"]
)
def test_a_project_that_fails_at_the_end_is_told_and_the_results_stand(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(products, "write_project", fail)
    slides = slides_in(tmp_path, ["a.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    result = run(slides, detections, tmp_path / "out", small_bundle, output=PROJECT)
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done"}
    assert str(failure) in result.errors["qupath/project.qpproj"]
    assert json.loads((tmp_path / "out/run.json").read_text())["exit_status"] == 1
    assert '"event": "failed", "file": "qupath/project.qpproj"' in (tmp_path / "out/log.jsonl").read_text()
    with ResultFolder(tmp_path / "out") as folder:
        assert list(folder.records()) == ["a.tiff"]
