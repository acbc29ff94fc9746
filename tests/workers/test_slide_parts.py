"""Slides in parts: a run sees each slide once, whatever happens to its parts.

Most tests have workers in this process in the place of Ray's, so that they are quick.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults.folders import assert_same, finished, rows
from tests.runs import SLIDE_PX, Silent, candidates_csv, files_in, slides_in, spec
from wsi_mitosis.core import parts
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.slides.staging import Stager
from wsi_mitosis.jobs.admission import Admission
from wsi_mitosis.jobs.batch import BatchResult
from wsi_mitosis.jobs.classifier import Classifier, classify_task
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.plan import ClassifyTask, SlideTask
from wsi_mitosis.specs import ClassifySpec, ResultOptions
from wsi_mitosis.workers import pool
from wsi_mitosis.workers import slides as slide_work
from wsi_mitosis.workers.crews import Report
from wsi_mitosis.workers.losses import Loss
from wsi_mitosis.workers.slides import classify_batch
from wsi_mitosis.workers.worker import Ahead, Begun, Ended

ROOT = Path(__file__).parents[2]
LARGE, SMALL = 60, 5
"""Candidates of a slide that is split, and of one that is not."""
OF = 6
"""Parts of a large slide."""
PLACEMENT = {"workers": 2, "cpus_per_worker": 1, "batch_size": 5, "backend": "torch"}

OnPatches = Callable[[int], None]
Do = Callable[[ClassifyTask, Classifier, OnPatches], Any]


class Killed(BaseException):
    """Ends a worker in this process."""


class CrewHere:
    """Workers that do their tasks here, one after the other; the one that began first ends first."""

    def __init__(
        self, _ray: Any, build: Any, do: Do, placement: Any, _environment: Any, ahead: Ahead | None
    ) -> None:
        self._build, self._do, self._ahead = partial(build, placement.cpus), do, ahead
        self._busy: dict[object, tuple[ClassifyTask, ...]] = {}
        self._states: dict[object, Any] = {}

    def start(self) -> object:
        worker = object()
        self._states[worker] = self._build()
        return worker

    def begin(self, worker: object, task: ClassifyTask, _pause_seconds: float, following: Any) -> None:
        self._busy[worker] = (task, *following)

    def reports(self, _seconds: float) -> list[Report]:
        worker = next(iter(self._busy))
        tasks, state = self._busy.pop(worker), self._states[worker]
        events: list[Any] = [Begun()]
        try:
            if self._ahead is not None:
                self._ahead.prepare(tasks, state)
            return [Report(worker, events, Ended(self._do(tasks[0], state, events.append)))]
        except Killed:
            return [Report(worker, events, Loss("death", "its worker died (killed)"))]

    def kill(self, worker: object) -> None:
        self._busy.pop(worker, None)
        if self._ahead is not None:
            self._ahead.close(self._states[worker])

    def lacks_nodes(self) -> None:
        return None


class Granted:
    """Stands for the module `ray` of a machine with two CPUs."""

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


@contextmanager
def no_ray(_address: str | None) -> Iterator[Granted]:
    yield Granted()


class Watch(Silent):
    """Keeps the outcomes of slides."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def finished(self, outcome: SlideOutcome[Any], record: SlideRecord | None) -> None:  # noqa: ARG002
        self.ended.append(outcome.name)


@cache
def classifier_of(bundle: Path) -> Classifier:
    options = {name: PLACEMENT[name] for name in ("backend", "batch_size")}
    return Classifier(open_bundle(bundle), ResultOptions(), device="cpu", threads=1, **options)  # type: ignore[arg-type]


def shared_classifier(bundle: Bundle, _spec: ClassifySpec, _threads: int) -> Classifier:
    """The networks of all tests, because most of the time is for building them."""
    return classifier_of(bundle.folder)


@dataclass
class Night:
    """Slides and the folder for their results."""

    slides: list[Path]
    detections: Path
    bundle: Path
    out: Path
    watch: Watch = field(default_factory=Watch)
    tasks: list[tuple[str, int]] = field(default_factory=list)

    def run(self, do: Do = classify_task, **sections: Any) -> BatchResult:
        def watched(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
            self.tasks.append((task.name, task.part.number))
            return do(task, classifier, on_patches)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slide_work, "classify_task", watched)
            patch.setattr(slide_work, "_classifier", shared_classifier)
            placed = {"placement": PLACEMENT, "output": {"report": False}} | sections
            asked = spec(self.slides, self.detections, self.out, self.bundle, **placed)
            return classify_batch(asked, self.watch)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.out / "log.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == kind]

    def state(self, slide: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "states" / f"{slide}.json").read_text())
        return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver splits; workers do not see it."""
    monkeypatch.setattr(parts, "LEAST_CANDIDATES", 10)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, small_parts: None) -> None:
    monkeypatch.setattr(pool, "ray_runtime", no_ray)
    monkeypatch.setattr(pool, "RayCrew", CrewHere)


def places(number: int) -> list[tuple[float, float]]:
    width, height = SLIDE_PX
    return [(37.5 * n % width, 61.25 * n % height) for n in range(number)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Night:
    """A large slide and a small one."""
    folder = tmp_path_factory.mktemp("parts")
    slides = slides_in(folder / "slides", ["a.tiff", "b.tiff"])
    detections = candidates_csv(folder / "d.csv", ["a.tiff"], places(LARGE))
    with detections.open("a") as file:
        file.writelines(f"b.tiff,{x},{y},0.5\n" for x, y in places(SMALL))
    return Night(slides, detections, small_bundle, folder / "undisturbed")


@pytest.fixture
def undisturbed(inputs: Night) -> Path:
    """What one worker gives."""
    if not inputs.out.exists():
        inputs.run(placement=PLACEMENT | {"workers": 0})
    return inputs.out


@pytest.fixture
def night(inputs: Night, tmp_path: Path, here: None) -> Night:
    return Night(inputs.slides, inputs.detections, inputs.bundle, tmp_path / "out")


def drawn_in(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_in(out).items() if name.startswith("geojson")}


def assert_as_undisturbed(out: Path, undisturbed: Path) -> None:
    expected, found = finished(undisturbed), finished(out)
    assert found.keys() == expected.keys()
    for slide, content in expected.items():
        assert_same(slide, found[slide], content)
    assert drawn_in(out) == drawn_in(undisturbed)
    assert rows(out) == rows(undisturbed)


def test_a_run_sees_a_slide_in_parts_once(night: Night, undisturbed: Path) -> None:
    result = night.run()
    assert result.exit_status == 0
    assert sorted(night.tasks) == [*(("a.tiff", number) for number in range(OF)), ("b.tiff", 0)]
    assert night.watch.ended == ["a.tiff", "b.tiff"]
    assert night.watch.planned == (2, LARGE + SMALL)
    assert night.watch.classified == LARGE + SMALL
    assert_as_undisturbed(night.out, undisturbed)
    done = {event["slide"]: event for event in night.events("done")}
    assert done.keys() == {"a.tiff", "b.tiff"}
    assert len(night.events("done")) == 2
    assert 0 < done["a.tiff"]["stages"]["model"] <= done["a.tiff"]["seconds"], "workers here take turns"
    assert done["a.tiff"]["peak_rss_mb"] > 0


def test_a_slide_in_parts_is_kept_once_and_its_other_parts_are_not_begun(night: Night) -> None:
    night.run()
    night.tasks.clear()
    result = night.run()
    assert result.kept == {"a.tiff", "b.tiff"}
    assert [event["slide"] for event in night.events("done")[2:]] == ["a.tiff", "b.tiff"]
    assert len([name for name, _ in night.tasks if name == "a.tiff"]) == 2, "one for each worker"


def test_a_part_whose_worker_dies_is_tried_again_alone(night: Night, undisturbed: Path) -> None:
    def dying(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        if (task.name, task.part.number) == ("a.tiff", 1) and night.tasks.count(("a.tiff", 1)) == 1:
            on_patches(4)
            raise Killed
        return classify_task(task, classifier, on_patches)

    result = night.run(dying)
    assert result.exit_status == 0
    assert sorted(night.tasks) == [*(("a.tiff", n) for n in (0, 1, 1, 2, 3, 4, 5)), ("b.tiff", 0)]
    assert night.watch.classified == LARGE + SMALL, "patches of the lost attempt are not counted"
    assert (
        "a.tiff: part 2 of 6: its worker died (killed). It is tried again (attempt 2 of 3)."
        in result.warnings
    )
    assert_as_undisturbed(night.out, undisturbed)


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_part_that_fails_is_the_failure_of_its_slide(night: Night, fail_fast: bool) -> None:
    def failing(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        outcome = classify_task(task, classifier, on_patches)
        if (task.name, task.part.number) == ("a.tiff", 2):
            return SlideOutcome(task.name, "failed", error="a.tiff: a damaged tile")
        return outcome

    result = night.run(failing, output={"report": False, "fail_fast": fail_fast})
    assert result.errors == {"a.tiff": "a.tiff: a damaged tile"}
    assert result.statuses["b.tiff"] == ("pending" if fail_fast else "done")
    assert [event["slide"] for event in night.events("failed")] == ["a.tiff"]
    last = 2 if fail_fast else 3  # which the other worker had begun
    assert max(number for name, number in night.tasks if name == "a.tiff") == last
    assert night.watch.classified == 3 * LARGE // OF + (0 if fail_fast else SMALL), "not what is in vain"
    assert night.state("a.tiff")["attempts"] == 1


def test_a_part_that_is_lost_each_time_fails_its_slide_by_name(night: Night) -> None:
    def dying(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        if task.name == "a.tiff" and task.part.number == 0:
            raise Killed
        return classify_task(task, classifier, on_patches)

    result = night.run(dying, retries={"tries": 2})
    assert result.errors["a.tiff"].startswith(
        "a.tiff: part 1 of 6: its worker died (killed). It was tried 2 times."
    )
    assert result.statuses == {"a.tiff": "failed", "b.tiff": "done"}


def test_memory_that_runs_out_shrinks_the_batches_of_one_part(night: Night, undisturbed: Path) -> None:
    divisors: dict[int, list[int]] = {}

    def hungry(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        if task.name == "a.tiff":
            divisors.setdefault(task.part.number, []).append(task.batch_divisor)
            if task.part.number == 3 and task.batch_divisor == 1:
                return SlideOutcome(task.name, "failed", error="a.tiff: no memory", transient="memory")
        return classify_task(task, classifier, on_patches)

    assert night.run(hungry).exit_status == 0
    assert divisors == {0: [1], 1: [1], 2: [1], 3: [1, 4], 4: [1], 5: [1]}
    labels = [finished(out)["a.tiff"]["figures"]["label"].tolist() for out in (night.out, undisturbed)]
    assert labels[0] == labels[1]


def test_a_slide_that_changes_between_its_parts_fails(night: Night, tmp_path: Path) -> None:
    night.slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])

    def changing(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        outcome = classify_task(task, classifier, on_patches)
        if (task.name, task.part.number) == ("a.tiff", 5):
            os.utime(task.source.path, (1, 1))
        return outcome

    result = night.run(changing)
    assert result.statuses == {"a.tiff": "failed", "b.tiff": "done"}
    assert "its files changed while they were read" in result.errors["a.tiff"]


def test_a_slide_that_is_new_to_one_part_and_up_to_date_to_another_fails(night: Night) -> None:
    def changing(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
        known_key = None if task.part.number == 0 else task.known_key
        return classify_task(replace(task, known_key=known_key), classifier, on_patches)

    night.run()
    result = night.run(changing)
    assert "its parts are not of the same slide" in result.errors["a.tiff"]


@pytest.mark.parametrize("late", ["a.tiff", "b.tiff"])
def test_a_slide_in_parts_is_refused_or_begun_once(
    night: Night, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(_self: Admission, task: SlideTask) -> SlideOutcome[Any] | None:
        asked.append((task.name, task.candidates))
        is_late = late == task.name or len(asked) > 1
        return SlideOutcome(task.name, "pending", error="too late") if is_late else None

    monkeypatch.setattr(Admission, "refuse", refuse)
    result = night.run()
    assert asked == [("a.tiff", LARGE), ("b.tiff", SMALL)]
    begun = {"a.tiff": OF} if late == "b.tiff" else {}
    assert Counter(name for name, _ in night.tasks) == begun
    assert result.statuses == {name: "done" if name in begun else "pending" for name in ("a.tiff", "b.tiff")}
    assert set(result.reasons.values()) == {"too late"}


def test_each_worker_copies_a_slide_in_parts_once(
    night: Night, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []
    copy = Stager._write

    def write(self: Stager, of: Any, file: Any) -> None:
        copied.append(file.name.name)
        copy(self, of, file)

    monkeypatch.setattr(Stager, "_write", write)
    disk = tmp_path / "disk"
    disk.mkdir()
    assert night.run(staging={"stage": str(disk)}).exit_status == 0
    assert copied.count("a.tiff") == 2
    assert_as_undisturbed(night.out, undisturbed)
    assert list(disk.iterdir()) == []


def dying_once(task: ClassifyTask, classifier: Classifier, on_patches: OnPatches) -> Any:
    """Its process ends during one of the parts; not the second time."""
    marker = task.source.path.with_suffix(".died")
    if task.part == (4, OF) and not marker.exists():
        marker.touch()
        on_patches(3)
        time.sleep(1)  # until the run knows of them
        os._exit(1)
    return classify_task(task, classifier, on_patches)


def test_parts_on_ray_give_what_one_process_gives_although_a_worker_dies(
    inputs: Night, undisturbed: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_work, "classify_task", dying_once)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    watch, out = Watch(), tmp_path / "out"
    output = {"report": False}
    asked = spec(inputs.slides, inputs.detections, out, inputs.bundle, placement=PLACEMENT, output=output)
    result = classify_batch(asked, watch)
    assert result.statuses == {"a.tiff": "done", "b.tiff": "done"}
    (warning,) = (message for message in result.warnings if "again" in message)
    assert warning.startswith("a.tiff: part 5 of 6: its worker died (ActorDiedError: ")
    assert watch.classified == LARGE + SMALL
    assert_as_undisturbed(out, undisturbed)
