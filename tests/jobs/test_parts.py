"""A slide in parts: what is merged is what one worker gives, and parts of different slides are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pytest

from tests.faults.folders import TIMES
from tests.jobs.test_sharpness import LIMIT, limited
from tests.slide_files import ndpi_slide, textured, transparent_slide
from wsi_mitosis.core import parts, sharpness
from wsi_mitosis.core.parts import Part
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.outcomes import ignore_progress
from wsi_mitosis.jobs.plan import ClassifyTask, split_large
from wsi_mitosis.jobs.predictions import PredictedSlide, result_of_parts
from wsi_mitosis.jobs.slide_result import SlideResult
from wsi_mitosis.specs import ResultOptions
from wsi_mitosis.tables import CANDIDATE_COLUMNS, Detections, SlideSource

SIDE = 300
Predict = Callable[[ClassifyTask], PredictedSlide]


def task_of(path: Path, number: int, seed: int = 0) -> ClassifyTask:
    """A slide with so many candidates, a few of them outside it."""
    xy = np.random.default_rng(seed).uniform(0, SIDE * 1.1, (number, 2)).round(2)
    table = pd.DataFrame(xy, columns=["x", "y"]).reindex(columns=[*CANDIDATE_COLUMNS])
    table["note"] = [f"row {row}" for row in range(number)]
    found = Detections(table, "px", "slide", "any", "table")
    return ClassifyTask(SlideSource(path, path.name), path.name, None, "new", found)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """Without pixels in its upper third, so that whole parts are blank."""
    return transparent(tmp_path / "a.tiff", SIDE // 3)


def transparent(path: Path, rows: int) -> Path:
    image = np.dstack([textured(SIDE, SIDE), np.full((SIDE, SIDE), 255, np.uint8)])
    image[:rows, :, 3] = 0
    return transparent_slide(path, image)


@pytest.fixture(scope="module")
def classifier(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """It measures the sharpness, stops a vote early, and has small batches on torch."""
    bundle = limited(open_bundle(small_bundle), tmp_path_factory.mktemp("parts") / "limited", LIMIT)
    options = ResultOptions.parse({"vote": "early", "merge_um": 1.0}, "test")
    return Classifier(bundle, options, device="cpu", backend="torch", batch_size=4, threads=1)


def predicted(classifier: Classifier, task: ClassifyTask, of: int) -> list[PredictedSlide]:
    found = [
        classifier.predict_part(replace(task, part=Part(number, of)), ignore_progress) for number in range(of)
    ]
    return [part for part in found if part is not None]


def merged(classifier: Classifier, task: ClassifyTask, parts: Sequence[PredictedSlide]) -> SlideResult:
    return result_of_parts(task, parts, classifier.bundle, classifier.options, perf_counter())


def whole(classifier: Classifier, task: ClassifyTask) -> SlideResult:
    result = classifier.classify(task.source, task.name, task.detections)
    assert result is not None
    return result


def test_parts_know_where_the_slide_lies_on_the_glass(classifier: Classifier, tmp_path: Path) -> None:
    path = ndpi_slide(tmp_path / "a.ndpi", textured(SIDE, SIDE), (1_500_000, -800_000))
    task = task_of(path, 30)
    table = task.detections.table  # a px is 250 nm, and the middle of the image is (150, 150)
    table["x"], table["y"] = (table.x - 150) * 250 + 1_500_000, (table.y - 150) * 250 - 800_000
    task = replace(task, detections=replace(task.detections, units="nm", frame="slide-centre"))
    result = merged(classifier, task, predicted(classifier, task, 3))
    pd.testing.assert_frame_equal(result.table, whole(classifier, task).table, check_exact=True)


@pytest.mark.parametrize("of", [2, 7, 60])
def test_the_result_of_parts_is_that_of_the_whole_slide(
    classifier: Classifier, slide: Path, of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpness, "MOST_FIGURES", 30)
    task = task_of(slide, 70)
    found = predicted(classifier, task, of)
    assert any(part.predictions.blank.all() for part in found if len(part.predictions.rows)) or of == 2
    result, expected = merged(classifier, task, found[::-1]), whole(classifier, task)
    pd.testing.assert_frame_equal(result.table, expected.table, check_exact=True)
    assert result.table["votes_cast"].nunique() == 2, "the vote stops early"
    assert result.record.sharpness is not None
    assert result.record.sharpness.value is not None
    assert result.record.model_dump(exclude=set(TIMES)) == expected.record.model_dump(exclude=set(TIMES))
    assert result.record.cost.stages.keys() == expected.record.cost.stages.keys()
    seconds = [part.predictions.seconds["model"] for part in found]
    assert result.record.cost.stages["model"] == pytest.approx(sum(seconds))


def test_smaller_batches_leave_the_parts_as_they_are(classifier: Classifier, slide: Path) -> None:
    task = replace(task_of(slide, 30), part=Part(1, 3))
    one, other = (
        classifier.predict_part(replace(task, batch_divisor=divisor), ignore_progress) for divisor in (1, 4)
    )
    assert one is not None
    assert other is not None
    assert one.predictions.rows.tolist() == other.predictions.rows.tolist()
    np.testing.assert_allclose(one.predictions.probabilities, other.predictions.probabilities, rtol=1e-5)


def test_a_slide_is_blank_only_if_all_of_its_parts_are(classifier: Classifier, tmp_path: Path) -> None:
    task = task_of(transparent(tmp_path / "b.tiff", SIDE), 20)
    with pytest.raises(UnreadableSlideError) as of_whole:
        whole(classifier, task)
    with pytest.raises(UnreadableSlideError) as of_parts:
        merged(classifier, task, predicted(classifier, task, 3))
    assert str(of_parts.value) == str(of_whole.value)
    assert str(of_parts.value).startswith("b.tiff: reading patches: all ")


def test_parts_of_a_slide_that_has_changed_between_them_are_refused(
    classifier: Classifier, slide: Path
) -> None:
    task = task_of(slide, 20)
    first, _ = predicted(classifier, task, 2)
    transparent(slide, 10)
    _, second = predicted(classifier, task, 2)
    with pytest.raises(UnreadableSlideError, match=r"^a\.tiff: merging parts: its parts are not of the same"):
        merged(classifier, task, [first, second])


def test_a_part_of_a_slide_whose_result_is_known_is_not_classified(
    classifier: Classifier, slide: Path
) -> None:
    task = task_of(slide, 20)
    key = whole(classifier, task).record.key
    assert predicted(classifier, replace(task, known_key=key), 2) == []


def test_parts_are_in_the_queue_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LEAST_CANDIDATES", 10)
    tasks = [task_of(tmp_path / f"{number}", number) for number in (90, 40, 10)]
    split = split_large(tasks, 2)
    assert [(task.name, task.part, task.candidates) for task in split] == [
        ("40", (0, 1), 40),
        *(("90", (number, 4), size) for number, size in enumerate((22, 23, 22, 23))),
        ("10", (0, 1), 10),
    ]
    assert split_large(tasks, 1) == tasks


def test_a_slide_that_has_a_result_does_not_keep_others_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LEAST_CANDIDATES", 10)
    old, new = (
        replace(task_of(tmp_path / "old", 90), known_key="k", reason="check"),
        task_of(tmp_path / "new", 40),
    )
    assert [task.name for task in split_large([old, new], 2)].count("new") == 4
