"""Slides on workers: classified, and searched for candidates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from wsi_mitosis.core.parts import WHOLE
from wsi_mitosis.jobs.batch import run_batch
from wsi_mitosis.jobs.classifier import Classifier, classify_task
from wsi_mitosis.jobs.detect import run_detection
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.plan import SlideTask, size_bytes
from wsi_mitosis.jobs.slide_detector import SlideDetector, detect_task
from wsi_mitosis.jobs.staging import build_staging, close_staging, expect_slides, staged_task
from wsi_mitosis.workers.losses import Loss
from wsi_mitosis.workers.nodes import Needs
from wsi_mitosis.workers.pool import Hooks, Retries, Work, run_tasks
from wsi_mitosis.workers.slide_parts import SlideParts
from wsi_mitosis.workers.worker import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.batch import BatchResult
    from wsi_mitosis.jobs.detect import DetectResult
    from wsi_mitosis.jobs.inputs import Searched
    from wsi_mitosis.jobs.outcomes import Progress, Reporter
    from wsi_mitosis.jobs.plan import ClassifyTask
    from wsi_mitosis.jobs.slide_detector import SlideCandidates
    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.jobs.staging import Processor
    from wsi_mitosis.nets.detector import DetectorModel
    from wsi_mitosis.specs import ClassifySpec, DetectSpec, RetryOptions, StagingOptions

BATCH_STEP = 4
"""Batches of a slide become so many times smaller after memory ran out."""

AnyTask = TypeVar("AnyTask", bound=SlideTask)
Model = TypeVar("Model", bound="Processor")


def classify_batch(spec: ClassifySpec, reporter: Reporter, searched: Searched | None = None) -> BatchResult:
    """Classify many slides; see `jobs.batch.run_batch`."""
    return run_batch(spec, _classify, reporter, searched)


def detect_batch(spec: DetectSpec, reporter: Reporter) -> DetectResult:
    """Search many slides for candidates; see `jobs.detect.run_detection`."""
    return run_detection(spec, _detect, reporter)


def _classify(
    tasks: Sequence[ClassifyTask], bundle: Bundle, spec: ClassifySpec, progress: Progress
) -> Generator[SlideOutcome[SlideResult], None, None]:
    bundle = replace(bundle, folder=bundle.folder.absolute())  # a node may have another working directory
    needs = partial(_needs, "bundle", bundle.folder, bundle.digest)
    parts = SlideParts(bundle, spec.result, progress)
    work = replace(
        _slide_work(partial(_classifier, bundle, spec), classify_task, needs, spec.staging),
        name=lambda task: task.name if task.part == WHOLE else f"{task.name}: {task.part}",
        split=parts.split,
    )
    return parts.whole(run_tasks(tasks, work, spec.placement, parts.hooks, _retries(spec.retries)))


def _classifier(bundle: Bundle, spec: ClassifySpec, threads: int) -> Classifier:
    options = spec.placement
    return Classifier(
        bundle,
        spec.result,
        device=options.device,
        backend=options.backend,
        batch_size=options.batch_size,
        threads=threads,
    )


def _detect(
    tasks: Sequence[SlideTask], model: DetectorModel, spec: DetectSpec, progress: Progress
) -> Generator[SlideOutcome[SlideCandidates], None, None]:
    model = replace(model, weights=model.weights.absolute())
    needs = partial(_needs, "weights", model.weights, model.sha256)
    work = _slide_work(partial(_slide_detector, model, spec), detect_task, needs, spec.staging)
    return run_tasks(tasks, work, spec.placement, _slide_hooks(progress), _retries(spec.retries))


def _slide_detector(model: DetectorModel, spec: DetectSpec, threads: int) -> SlideDetector:
    return SlideDetector(model, spec, threads=threads)


def _slide_work(
    build: Callable[[int], Model],
    do: Callable[[AnyTask, Model, Callable[[int], None]], SlideOutcome[Any]],
    needs: Callable[[Sequence[AnyTask]], Needs],
    staging: StagingOptions,
) -> Work[AnyTask, Any, int, SlideOutcome[Any]]:
    make: Callable[[int], Any] = build
    process: Callable[[AnyTask, Any, Callable[[int], None]], SlideOutcome[Any]] = do
    ahead = None
    if staging.stage is not None:
        folder = Path(staging.stage).absolute()
        make = partial(build_staging, build, folder, staging.stage_gib)
        process, ahead = partial(staged_task, do), Ahead(expect_slides, close_staging)
    return Work(
        make,
        process,
        _lost_slide,
        lambda task: task.name,
        "Finished slides are kept.",
        transient=_transient_slide,
        smaller=lambda task: replace(task, batch_divisor=task.batch_divisor * BATCH_STEP),
        needs=needs,
        ahead=ahead,
    )


def _needs(kind: Literal["bundle", "weights"], model: Path, digest: str, tasks: Sequence[SlideTask]) -> Needs:
    """Return what a node must have. A slide that cannot be found here fails by itself."""
    files = [task.source for task in tasks if task.source.remote is None]
    sizes = [(str(source.path), size_bytes(source)) for source in files]
    return Needs(kind, model, digest, tuple((path, size) for path, size in sizes if size))


def _retries(options: RetryOptions) -> Retries:
    return Retries(options.tries, options.stall_seconds)


def _slide_hooks(progress: Progress) -> Hooks[Any, int, SlideOutcome[Any]]:
    return Hooks(
        on_start=lambda task: progress.started(task.name),
        on_event=lambda task, number: progress.patches(task.name, number) if number else None,
        warn=progress.warn,
        refuse=progress.refuse,
    )


def _lost_slide(task: SlideTask, loss: Loss) -> SlideOutcome[Any]:
    transient = loss.cause if loss.cause in ("memory", "storage", "node") else None
    return SlideOutcome(task.name, "failed", error=loss.reason, details=loss.details, transient=transient)


def _transient_slide(outcome: SlideOutcome[Any]) -> Loss | None:
    if outcome.transient not in ("memory", "storage"):
        return None
    error = str(outcome.error).removeprefix(f"{outcome.name}: ").rstrip(".")
    return Loss(outcome.transient, error, outcome.details)
