"""A pipeline: its search for candidates, and what a run of it would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.jobs.classifier import Classifier, checked_bundle
from wsi_mitosis.jobs.inputs import Left, Searched, read_inputs
from wsi_mitosis.jobs.preparation import prepare
from wsi_mitosis.specs import ClassifySpec, DetectSpec, PipelineSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_mitosis.jobs.plan import ClassifyTask
    from wsi_mitosis.jobs.preparation import Prepared

Action = Literal["search", "classify", "keep", "wait", "set aside", "skip", "fail"]
SEARCH_FIRST = "candidates are searched on it first"


class PlannedSlide(NamedTuple):
    """What a run would do with a slide.

    Attributes:
        slide: Its name in the output folder.
        action: What would be done.
        candidates: Number of its candidates; None if it is not known.
        reason: Why.
    """

    slide: str
    action: Action
    candidates: int | None
    reason: str


class RunPlan(NamedTuple):
    """What a run would do.

    Attributes:
        folder: The output folder.
        holder: The run that holds it now; None if none does.
        slides: What it would do with each slide, in the order of work.
    """

    folder: Path
    holder: str | None
    slides: tuple[PlannedSlide, ...]


def search_spec(spec: PipelineSpec) -> DetectSpec | None:
    """Return the search for candidates that a pipeline begins with; None if it has none."""
    if spec.detect is None:
        return None
    return DetectSpec(
        slides=spec.input.slides,
        out=spec.input.detections,
        **spec.detect.model_dump(),
        mpp=spec.result.mpp,
        recursive=spec.input.recursive,
        overwrite=spec.output.overwrite,
        fail_fast=spec.output.fail_fast,
        steal_lock=spec.output.steal_lock,
        placement=spec.placement,
        retries=spec.retries,
        schedule=spec.schedule,
        staging=spec.staging,
    )


def plan_run(spec: ClassifySpec) -> RunPlan:
    """Return what a run would do and why. Nothing is started and nothing is written.

    Raises:
        InputError: if nothing could be started.
    """
    bundle = checked_bundle(spec.model)
    inputs = read_inputs(spec, _searched_before(spec))
    folder = ResultFiles(Path(spec.output.folder))
    prepared = prepare(spec, bundle, inputs, folder)
    placement = spec.placement
    classifier = Classifier(bundle, spec.result, device=placement.device, backend=placement.backend)
    holder = folder.holder()
    return RunPlan(
        folder.folder, None if holder is None else str(holder), tuple(_planned(prepared, classifier))
    )


def _searched_before(spec: ClassifySpec) -> Searched | None:
    """Return the candidates that a search would keep; the other slides are left, to be searched first."""
    search = search_spec(spec) if isinstance(spec, PipelineSpec) else None
    if search is None:
        return None
    from wsi_mitosis.jobs.detect import planned_search  # the detector's network takes time to import

    return planned_search(search, Left("pending", SEARCH_FIRST))


def _planned(prepared: Prepared, classifier: Classifier) -> Iterator[PlannedSlide]:
    names, inputs = prepared.names, prepared.inputs
    for task in prepared.tasks:
        yield _of_task(task, classifier)
    for source, (status, reason) in inputs.left.items():
        actions: dict[str, Action] = {"waiting": "wait", "set_aside": "set aside", "pending": "search"}
        yield PlannedSlide(names[source], actions[status], None, reason)
    for source, error in inputs.failures.items():
        yield PlannedSlide(names[source], "fail", None, error)
    for source in inputs.absent:
        yield PlannedSlide(names[source], "skip", None, "it has no detections")


def _of_task(task: ClassifyTask, classifier: Classifier) -> PlannedSlide:
    """Return whether a slide is classified or kept. One that has a result is opened to find that out."""
    action: Action = "classify"
    if task.reason == "new":
        reason = "it has no result"
    elif task.reason == "overwrite":
        reason = "--overwrite computes its result again"
    else:
        try:
            is_kept = classifier.has_result(task)
        except WsiMitosisError as error:
            return PlannedSlide(task.name, "fail", task.candidates, str(error))
        action = "keep" if is_kept else "classify"
        reason = (
            "its result is up to date"
            if is_kept
            else "its slide, its candidates, the bundle or an option has changed"
        )
    return PlannedSlide(task.name, action, task.candidates, reason)
