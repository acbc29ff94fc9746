"""Slides on Ray: the same results as in this process, and a worker that dies."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import Silent, candidates_csv, files_in, run, slides_in, spec, summary
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.errors import InputError
from wsi_mitosis.jobs.classifier import Classifier, classify_task
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.plan import ClassifyTask
from wsi_mitosis.jobs.slide_detector import SlideDetector
from wsi_mitosis.nets import detector
from wsi_mitosis.nets.detector import DetectorModel
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.workers import slides as slide_work
from wsi_mitosis.workers.slides import classify_batch

ROOT = Path(__file__).parents[2]
ONE_CPU = {"cpus_per_worker": 1}
"""Another number of threads sums in another order: equal bytes need the same share."""
NAMES = ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]


@pytest.fixture
def four(tmp_path: Path) -> tuple[list[Path], Path]:
    return slides_in(tmp_path / "slides", NAMES), candidates_csv(tmp_path / "d.csv", NAMES)


def geojson_in(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_in(out).items() if name.startswith("geojson")}


@pytest.mark.faults
def test_ray_workers_that_copy_slides_give_what_one_process_gives(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections = four
    slides[2].write_bytes(b"no slide")
    here = run(slides, detections, tmp_path / "here", small_bundle, placement=ONE_CPU)
    reporter = Silent()
    (tmp_path / "disk").mkdir()
    there = classify_batch(
        spec(
            slides,
            detections,
            tmp_path / "there",
            small_bundle,
            placement={"workers": 2, "cpus_per_worker": 1},
            staging={"stage": str(tmp_path / "disk")},
        ),
        reporter,
    )
    assert list((tmp_path / "disk").iterdir()) == []
    assert there.statuses == here.statuses
    assert there.exit_status == here.exit_status == 1
    assert geojson_in(tmp_path / "there") == geojson_in(tmp_path / "here")
    assert reporter.classified == 15


def test_a_cluster_of_two_nodes_by_address(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    slides, detections = four
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        placement = {"workers": 2, "address": cluster.address}
        result = classify_batch(
            spec(slides, detections, tmp_path / "out", small_bundle, placement=placement), Silent()
        )
    finally:
        cluster.shutdown()
    assert result.exit_status == 0
    run(slides, detections, tmp_path / "here", small_bundle, placement=ONE_CPU)
    assert geojson_in(tmp_path / "out") == geojson_in(tmp_path / "here")


def dying_once(task: ClassifyTask, classifier: Classifier, on_patches: Callable[[int], None]) -> Any:
    """Its process ends under one of the slides, as it would when memory runs out; not the second time."""
    marker = task.source.path.with_suffix(".died")
    if task.name == "b.tiff" and not marker.exists():
        marker.write_text(str(os.getpid()))
        on_patches(3)
        time.sleep(1)  # until the run knows of them
        os._exit(1)
    outcome = classify_task(task, classifier, on_patches)
    return replace(outcome, details=str(os.getpid()))


class Watching(Silent):
    """Keeps the process of each slide."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, str | None] = {}

    def finished(self, outcome: SlideOutcome[Any], record: SlideRecord | None) -> None:
        super().finished(outcome, record)
        self.processes[outcome.name] = outcome.details


def test_a_slide_whose_worker_dies_is_classified_by_a_new_worker(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, detections = four
    monkeypatch.setattr(slide_work, "classify_task", dying_once)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    reporter, placement = Watching(), {"workers": 1, "cpus_per_worker": 1}
    result = classify_batch(
        spec(slides, detections, tmp_path / "out", small_bundle, placement=placement), reporter
    )
    assert result.statuses == dict.fromkeys(NAMES, "done")
    assert set(reporter.processes) == set(NAMES)
    dead = (tmp_path / "slides" / "b.died").read_text()
    assert reporter.processes["b.tiff"] not in {dead, *(reporter.processes[name] for name in ("a.tiff",))}
    assert reporter.classified == 20, "patches of the lost attempt are not counted"
    (warning,) = (message for message in reporter.messages if "worker" in message)
    assert re.fullmatch(r"b\.tiff: its worker died \(.+\)\. It is tried again \(attempt 2 of 3\)\.", warning)
    assert warning in result.warnings
    assert warning in json.loads((tmp_path / "out/run.json").read_text())["warnings"]


def dying(task: ClassifyTask, classifier: Classifier, on_patches: Callable[[int], None]) -> Any:
    if task.name == "b.tiff":
        os._exit(1)
    return classify_task(task, classifier, on_patches)


@pytest.mark.faults
def test_a_slide_that_kills_every_worker_fails_and_no_other(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, detections = four
    monkeypatch.setattr(slide_work, "classify_task", dying)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "out"
    result = classify_batch(
        spec(slides, detections, out, small_bundle, placement={"workers": 1, "cpus_per_worker": 1}), Silent()
    )
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done", "d.tiff": "done"}
    error = summary(out)["b.tiff"]["error"]
    assert error.startswith("b.tiff: its worker died (ActorDiedError: ")
    assert error.endswith(
        "). It was tried 3 times. Pass fewer --workers, which need less memory, and run again. "
        "Finished slides are kept."
    )


def test_a_model_that_no_worker_can_build_is_an_error_as_in_this_process(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections = four
    errors = []
    for workers_asked in (0, 1):
        placement = {"workers": workers_asked, "device": "cuda:99"}
        with pytest.raises(InputError) as raised:
            run(slides, detections, tmp_path / f"{workers_asked}", small_bundle, placement=placement)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    assert "cuda:99" in errors[0]


class CertainDetector(SlideDetector):
    """Finds one figure on every slide, without a network."""

    def _search(self, _name, slide, _plan, on_tiles, _batch_divisor):  # type: ignore[no-untyped-def]
        on_tiles(1)
        return np.array([[slide.size_px0[0] / 2, 20.0, 0.9]]), ()


def certain_detector(model: DetectorModel, spec: DetectSpec, threads: int) -> CertainDetector:
    """By its own name in this module: what is patched here is not patched in a worker's process."""
    return CertainDetector(model, spec, threads=threads)


def test_detection_is_shared_out_like_classification(
    four: tuple[list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DetectorModel("stub", tmp_path / "none.pth", "0" * 64, 512, 0.5, 21, 0.4)
    monkeypatch.setattr(detector, "find_detector", lambda *_: model)
    monkeypatch.setattr(slide_work, "_slide_detector", certain_detector)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    slides, out, reporter = [str(slide) for slide in four[0][:2]], tmp_path / "dets.csv", Silent()
    placement = {"workers": 2, "cpus_per_worker": 1, "device": "cpu"}
    asked = DetectSpec.parse({"slides": slides, "out": str(out), "placement": placement}, "test")
    result = slide_work.detect_batch(asked, reporter)
    assert result.errors == {}
    assert result.candidates == {"a.tiff": 1, "b.tiff": 1}
    assert [line.split(",")[:4] for line in out.read_text().splitlines()[1:]] == [
        ["a.tiff", "300.0", "20.0", "0.9"],
        ["b.tiff", "300.0", "20.0", "0.9"],
    ]
    assert reporter.classified == 2
