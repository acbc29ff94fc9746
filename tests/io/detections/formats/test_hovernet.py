"""HoVer-Net's nuclei: their magnification, their types, and files that make no sense."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import pytest

from tests.detection_files import write_json
from tests.runs import run
from tests.slide_files import aperio_slide, textured, tiff_slide
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.parts import Part
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.outcomes import ignore_progress
from wsi_mitosis.jobs.plan import ClassifyTask
from wsi_mitosis.jobs.predictions import result_of_parts
from wsi_mitosis.specs import ResultOptions
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Mpp


def nucleus(x: Any = 60.5, y: Any = 25.25, **others: Any) -> dict[str, Any]:
    """A nucleus with its box in HoVer-Net's order [[top, left], [bottom, right]]."""
    return {
        "bbox": [[20, 40], [31, 81]],
        "centroid": [x, y],
        "contour": [[40, 20], [81, 20], [81, 31], [40, 31]],
        "type_prob": 0.75,
        "type": 1,
        **others,
    }


def document(*nuclei: dict[str, Any], mag: Any = 40) -> dict[str, Any]:
    return {"mag": mag, "nuc": {str(at + 1): item for at, item in enumerate(nuclei)}}


def examples(folder: Path) -> list[Path]:
    """Valid files, for the fuzzing of readers."""
    items = [nucleus(type="mitosis"), nucleus(100, 200, type="mitosis", type_prob=None)]
    return [write_json(folder / "image.json", document(*items, mag=None))]


def read(tmp_path: Path, content: Any, **options: Any) -> Detections:
    return read_detections(write_json(tmp_path / "d.json", content), **options)


def placed(detections: Detections, **options: Any) -> list[tuple[float, float, str | None]]:
    size = {"size_px0": (320, 300), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    table = prepare_candidates(detections, **{**size, **options})
    return list(table[["x_px0", "y_px0", "excluded_reason"]].itertuples(index=False, name=None))


def test_a_nucleus_worked_by_hand(tmp_path: Path) -> None:
    detections = read(tmp_path, document(nucleus()))
    assert (detections.format, detections.units, detections.frame) == ("hovernet", "px", "slide")
    assert detections.magnification == 40
    assert detections.table.iloc[0].tolist() == [None, 60.5, 25.25, 0.75, "1", "1", 41]
    assert detections.notes == ("d.json: coordinates are px at 40x", "d.json: classes: '1' (1)")


@pytest.mark.parametrize(("mag", "factor"), [(40, 1), (20, 2), (80, 0.5)])
def test_the_slides_objective_leads_to_level_0(tmp_path: Path, mag: float, factor: float) -> None:
    detections = read(tmp_path, document(nucleus(), mag=mag))
    with open_slide(aperio_slide(tmp_path / "a.svs", textured(320, 300))) as slide:  # AppMag 40
        power = slide.backend.objective_power
        found = placed(detections, size_px0=slide.size_px0, objective_power=power, classes=["1"])
    assert found == [(60.5 * factor, 25.25 * factor, None)]


def test_a_slide_that_states_no_objective_is_refused_unless_the_user_knows(tmp_path: Path) -> None:
    with open_slide(tiff_slide(tmp_path / "a.tiff", textured(320, 300))) as slide:
        power = slide.backend.objective_power
    detections = read(tmp_path, document(nucleus()))
    with pytest.raises(DetectionsError, match="pixels at 40x, and the slide does not state") as caught:
        placed(detections, objective_power=power, classes=["1"])
    assert "--units px" in str(caught.value.remedy)
    as_stated = read(tmp_path, document(nucleus()), units="px")
    assert placed(as_stated, objective_power=power, classes=["1"]) == [(60.5, 25.25, None)]


def test_an_image_has_pixels_of_its_own(tmp_path: Path) -> None:
    detections = read(tmp_path, document(nucleus(), mag=None))
    assert detections.magnification is None
    assert placed(detections, classes=["1"]) == [(60.5, 25.25, None)]
    assert "'mag' is not stated" in detections.notes[0]
    assert read(tmp_path, {"nuc": {"1": nucleus()}}).magnification is None


def test_types_are_numbers_of_which_the_user_names_the_mitotic_one(tmp_path: Path) -> None:
    items = [nucleus(60 + at, type=kind) for at, kind in enumerate((1, 2, 2, 5))]
    detections = read(tmp_path, document(*items, mag=None))
    assert detections.notes[1] == "d.json: classes: '2' (2), '1' (1), '5' (1)"
    with pytest.raises(
        DetectionsError, match="the classes '1', '2', '5' do not say which of them are mitotic"
    ):
        placed(detections)
    assert [reason for *_, reason in placed(detections, classes=["5"])] == ["class", "class", "class", None]
    with pytest.raises(
        DetectionsError, match="none of the file's classes is named after mitotic figures: '1'"
    ):
        placed(read(tmp_path, document(nucleus(), mag=None)))


def test_nuclei_without_types_are_not_mitotic_figures(tmp_path: Path) -> None:
    detections = read(tmp_path, document(nucleus(type=None, type_prob=None), mag=None))
    with pytest.raises(DetectionsError, match=r"none of the file's classes .*: 'nucleus'") as caught:
        placed(detections)
    assert "--class" in str(caught.value.remedy)
    assert [reason for *_, reason in placed(detections, classes=["nucleus"])] == [None]


def test_types_that_are_named_after_mitosis_need_no_choice(tmp_path: Path) -> None:
    items = [
        nucleus(60 + at, type=kind) for at, kind in enumerate(("mitosis", "hard negative", "lymphocyte"))
    ]
    found = placed(read(tmp_path, document(*items, mag=None)))
    assert [reason for *_, reason in found] == [None, "class", "class"]


def test_exchanged_axes_are_refused_by_name(tmp_path: Path) -> None:
    items = [nucleus(10 + at, 310, type="mitosis") for at in range(5)]
    detections = read(tmp_path, document(*items, mag=None))
    with pytest.raises(DetectionsError) as caught:
        placed(detections)
    assert "with x and y exchanged" in str(caught.value.remedy)


def test_a_compressed_file_and_one_without_nuclei(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(document(nucleus())).encode()))
    assert len(read_detections(tmp_path / "a.json.gz").table) == 1
    empty = read(tmp_path, document())
    assert (empty.format, len(empty.table)) == ("hovernet", 0)
    assert placed(empty) == []


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"mag": 40, "nuc": {"7": 3}}, "nucleus 7 is 3, not an object"),
        (document(nucleus(mag=1), mag="40x"), "the magnification 'mag' is '40x'"),
        (document(nucleus(), mag=0), "the magnification 'mag' is 0"),
        (document(nucleus(), mag=10**400), "the magnification 'mag' is 1000"),
        (document(nucleus(), mag=True), "the magnification 'mag' is True"),
        (document(nucleus(), mag=float("nan")), "the magnification 'mag' is nan"),
        (
            document(nucleus(), nucleus(centroid=[1, 2, 3])),
            r"entry 2: the centroid is \[1, 2, 3\], not \[x, y\]",
        ),
        (document(nucleus(), nucleus(centroid=7)), r"entry 2: the centroid is 7, not \[x, y\]"),
        (document(nucleus(), nucleus("a")), "entry 2: the x of the centroid is 'a', not a number"),
        (document(nucleus(type_prob="high")), "entry 1: the type_prob is 'high', not a number"),
        (document({"type": 1}), "none of its 1 nuclei has coordinates"),
        ({"mag": 40, "nuc": []}, "JSON of no known format"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, content: Any, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause):
        read(tmp_path, content)


def test_nuclei_without_a_place_or_a_usable_box_are_rows(tmp_path: Path) -> None:
    boxes = [None, [[1, 2], [3, "a"]], [1, 2, 3, 4], [[1, 2], [float("nan"), 4]]]
    items = [nucleus(60 + at, type="mitosis", bbox=box) for at, box in enumerate(boxes)]
    items += [nucleus(float("nan"), type="mitosis"), {"type": "mitosis"}]
    detections = read(tmp_path, document(*items, mag=None))
    assert detections.table["extent"].iloc[:4].isna().all()
    assert [reason for *_, reason in placed(detections)] == [None] * 4 + ["not_finite"] * 2


def test_a_run_places_figures_by_the_slides_objective_whole_or_in_parts(
    tmp_path: Path, small_bundle: Path
) -> None:
    slide = aperio_slide(tmp_path / "a.svs", textured(320, 300))  # AppMag 40
    file = write_json(tmp_path / "a.json", document(nucleus(type="mitosis"), mag=20))
    run([slide], file, tmp_path / "out", small_bundle)
    figures = pd.read_parquet(tmp_path / "out" / "figures" / "a.svs.parquet")
    assert figures[["x_px0", "y_px0"]].to_numpy().tolist() == [[121, 50.5]]

    task = ClassifyTask(SlideSource(slide, slide.name), slide.name, None, "new", read_detections(file))
    classifier = Classifier(open_bundle(small_bundle), ResultOptions.parse({}, "test"), device="cpu")
    parts = [classifier.predict_part(replace(task, part=Part(at, 2)), ignore_progress) for at in range(2)]
    merged = result_of_parts(task, parts, classifier.bundle, classifier.options, perf_counter())
    assert merged.table[["x_px0", "y_px0"]].to_numpy().tolist() == [[121, 50.5]]
    note = "a.svs: coordinates at 20x became pixels at level 0, which the slide states to have 40x"
    assert note in merged.record.warnings
