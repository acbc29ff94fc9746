"""A worker is killed, runs out of memory, or reads a slide whose storage never answers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.dicom_files import dicom_slide
from tests.faults.folders import assert_same, assert_whole, finished
from tests.faults.runs import LONG, ROOT, Night, attempts, events, in_hand, night, wait_until, workers_of
from tests.faults.runs import end_of as end_of_run
from tests.runs import Silent, candidates_csv, run, slides_in, spec, summary
from tests.slide_files import textured
from wsi_mitosis.jobs.classifier import Classifier, classify_task
from wsi_mitosis.jobs.plan import ClassifyTask
from wsi_mitosis.workers import slides as slide_work
from wsi_mitosis.workers.slides import classify_batch

SEED = 31
HANGS = "nothing has happened for 3 s: its reader or its storage does not answer"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Night:
    return night(tmp_path_factory.mktemp("night"), small_bundle)


@pytest.fixture(scope="module")
def undisturbed(inputs: Night) -> Path:
    out = inputs.folder / "undisturbed"
    status, printed = inputs.run(out, "--workers", "0")
    assert status == 0, printed
    return out


@pytest.mark.faults
@pytest.mark.parametrize("number", range(8))
def test_a_worker_that_is_killed_costs_no_slide(
    number: int, inputs: Night, undisturbed: Path, tmp_path: Path
) -> None:
    """At a moment that a seed gives, while it works on a slide."""
    out = tmp_path / "out"
    process = inputs.start(out, "--workers", "1")
    wait_until(lambda: LONG in in_hand(out) and bool(workers_of(process)), process)
    time.sleep(random.Random(SEED + number).random() * 4)
    (worker,) = workers_of(process)
    worker.kill()
    status, printed = end_of_run(process)
    assert status == 0, printed
    (warning,) = (event["message"] for event in events(out) if "worker" in event.get("message", ""))
    assert "its worker died (ActorDiedError: " in warning
    assert warning.endswith("It is tried again (attempt 2 of 3).")
    for slide, content in finished(undisturbed).items():
        assert_same(slide, finished(out)[slide], content)


@pytest.mark.faults
def test_a_worker_that_is_killed_each_time_costs_its_slide_alone(
    inputs: Night, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = inputs.start(out, "--workers", "1", "--tries", "2")
    killed: list[psutil.Process] = []

    def workers() -> list[psutil.Process]:
        return [worker for worker in workers_of(process) if worker not in killed]

    for attempt in (1, 2):
        wait_until(lambda number=attempt: attempts(out, LONG) == number and bool(workers()), process)
        time.sleep(1)
        (worker,) = workers()
        worker.kill()
        killed.append(worker)
    status, printed = end_of_run(process)
    assert status == 1, printed
    rows = summary(out)
    assert {name: row["status"] for name, row in rows.items() if name != LONG} == dict.fromkeys(
        ["a.tiff", "b.tiff", "c.tiff"], "done"
    )
    assert rows[LONG]["status"] == "failed"
    assert rows[LONG]["error"].startswith(f"{LONG}: its worker died (")
    assert "It was tried 2 times. Pass fewer --workers" in rows[LONG]["error"]
    status, printed = inputs.run(out, "--workers", "0")
    assert status == 0, printed
    assert_whole(out, undisturbed)


def hungry(task: ClassifyTask, classifier: Classifier, on_patches: Callable[[int], None]) -> Any:
    """Needs more memory than any machine has, unless batches are smaller."""
    if task.name == "b.tiff" and task.batch_divisor == 1:
        classifier = BrokenByMemory(classifier)  # type: ignore[assignment]
    return classify_task(task, classifier, on_patches)


class BrokenByMemory:
    """A classifier that asks for too much."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def classify(self, *arguments: Any, **options: Any) -> Any:
        torch.empty(2**60, dtype=torch.uint8)
        return self._classifier.classify(*arguments, **options)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_a_slide_for_which_memory_runs_out_gets_smaller_batches_and_the_same_labels(
    number: int, tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.tiff", "b.tiff"]
    slides, detections = slides_in(tmp_path / "slides", names), candidates_csv(tmp_path / "d.csv", names)
    placement = {"cpus_per_worker": 1, "batch_size": 4}
    run(slides, detections, tmp_path / "expected", small_bundle, placement=placement)
    monkeypatch.setattr(slide_work, "classify_task", hungry)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = spec(
        slides, detections, tmp_path / "out", small_bundle, placement=placement | {"workers": number}
    )
    result = classify_batch(asked, Silent())
    assert result.statuses == dict.fromkeys(names, "done"), result.errors
    (warning,) = (message for message in result.warnings if "again" in message)
    assert warning.startswith("b.tiff: memory ran out (")
    assert warning.endswith("). It is tried again with smaller batches (attempt 2 of 3).")
    expected, found = finished(tmp_path / "expected"), finished(tmp_path / "out")
    for name in names:
        labels = [content[name]["figures"][["figure_id", "label"]] for content in (expected, found)]
        assert labels[0].equals(labels[1])


def greedy(task: ClassifyTask, classifier: Classifier, on_patches: Callable[[int], None]) -> Any:
    """Takes memory, page by page, until Ray's monitor ends its process, unless batches are smaller."""
    taken = []
    while task.name == "b.tiff" and task.batch_divisor == 1:
        taken.append(torch.ones(2**24))  # 64 MiB
        time.sleep(0.01)
        on_patches(0)
    return classify_task(task, classifier, on_patches)


@pytest.mark.faults
def test_a_worker_that_ray_s_memory_monitor_ends_gets_smaller_batches(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor acts when the machine has 3 GiB less than now."""
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 3 * 2**30) / memory.total
    if threshold > 0.95:
        pytest.skip("less than 3 GiB of memory are free")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(slide_work, "classify_task", greedy)
    names = ["a.tiff", "b.tiff"]
    slides, detections = slides_in(tmp_path / "slides", names), candidates_csv(tmp_path / "d.csv", names)
    asked = spec(
        slides, detections, tmp_path / "out", small_bundle, placement={"workers": 1, "cpus_per_worker": 1}
    )
    result = classify_batch(asked, Silent())
    assert result.statuses == dict.fromkeys(names, "done"), result.errors
    (warning,) = (message for message in result.warnings if "again" in message)
    assert warning.startswith("b.tiff: Ray ended its worker because the node ran out of memory (")
    assert warning.endswith(" It is tried again with smaller batches (attempt 2 of 3).")


@pytest.fixture
def with_a_pipe(tmp_path: Path, small_bundle: Path) -> Night:
    """Two slides, and a DICOM series whose folder has a named pipe, which OpenSlide opens and waits for."""
    folder = tmp_path / "hanging"
    slides_in(folder / "slides", ["a.tiff", "b.tiff"])
    series = dicom_slide(folder / "slides", textured(600, 500))
    os.mkfifo(folder / "slides/slide-9.dcm")
    candidates_csv(folder / "d.csv", ["a.tiff", "b.tiff", series.name])
    return Night(folder, small_bundle)


@pytest.mark.parametrize("number", ["0", pytest.param("1", marks=pytest.mark.faults)])
def test_a_reader_that_never_answers_costs_its_slide_alone(
    number: str, with_a_pipe: Night, tmp_path: Path
) -> None:
    """The run goes on, and the program ends although a thread of it hangs."""
    out = tmp_path / "out"
    status, printed = with_a_pipe.run(
        out, "--workers", number, "--stall-seconds", "3", "--tries", "2", "--no-report"
    )
    assert status == 1, printed
    rows = summary(out)
    assert {name: row["status"] for name, row in rows.items() if name.endswith("tiff")} == {
        "a.tiff": "done",
        "b.tiff": "done",
    }
    failed = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert failed["slide-1.dcm"] == (
        f"slide-1.dcm: {HANGS}. It was tried 2 times. Check the file and its storage, or raise "
        "stall_seconds, and run again. Finished slides are kept."
    )
    messages = [event["message"] for event in events(out) if event["event"] == "warning"]
    assert f"slide-1.dcm: {HANGS}. It is tried again (attempt 2 of 2)." in messages
    (with_a_pipe.folder / "slides/slide-9.dcm").unlink()
    status, printed = with_a_pipe.run(out, "--workers", "0", "--no-report")
    assert status == 0, printed


@pytest.mark.faults
def test_a_run_whose_reader_hangs_can_be_ended(with_a_pipe: Night, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hanging = partial(in_hand, out)
    process = with_a_pipe.start(out, "--workers", "0")
    wait_until(lambda: hanging() == ["slide-1.dcm"], process)
    process.send_signal(signal.SIGTERM)
    status, printed = end_of_run(process)
    assert status == 130, printed
    assert summary(out)["slide-1.dcm"]["status"] == "pending"
