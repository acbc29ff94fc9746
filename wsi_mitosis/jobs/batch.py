"""Classify the candidates of many slides into one output folder.

This module does not know Ray: it hands tasks to an executor and takes outcomes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.states import lost_results, missing_assessments
from wsi_mitosis.io.results.dicom import check_installed
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.io.results.project import check_project
from wsi_mitosis.jobs.classifier import checked_bundle
from wsi_mitosis.jobs.inputs import read_inputs
from wsi_mitosis.jobs.ledger import Ledger, RunResult
from wsi_mitosis.jobs.outcomes import Progress, Reporter, SlideOutcome, process
from wsi_mitosis.jobs.plan import ClassifyTask, names_in_folder, plan_classification
from wsi_mitosis.jobs.products import (
    missing_dicom,
    missing_hotspots,
    write_qupath_project,
    write_report,
)
from wsi_mitosis.jobs.slide_files import SlideFiles
from wsi_mitosis.jobs.slide_result import SlideResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.inputs import Inputs
    from wsi_mitosis.specs import ClassifySpec
    from wsi_mitosis.tables import SlideSource

Executor = Callable[
    [Sequence[ClassifyTask], "Bundle", "ClassifySpec", Progress],
    Generator[SlideOutcome[SlideResult], None, None],
]
"""Takes tasks, largest first, and yields an outcome for each as it ends; reports warnings and patches."""


@dataclass(kw_only=True)
class BatchResult(RunResult):
    """The result of a run.

    Attributes:
        folder: The output folder.
        bundle: Name of the ensemble.
        bundle_digest: Its digest.
        trained: Whether its labels mean anything.
        rows: The rows of `summary.csv`.
        report: The report; None if there is none.
    """

    folder: Path
    bundle: str
    bundle_digest: str
    trained: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None


def run_batch(spec: ClassifySpec, execute: Executor, reporter: Reporter) -> BatchResult:
    """Classify the candidates of many slides into one output folder.

    A failed slide leaves the others alone. After an interrupt, finished slides are kept, the others
    (including those being processed) are `pending`, and the result says so.

    Args:
        spec: The run.
        execute: Processes the slides.
        reporter: Displays the progress.

    Raises:
        InputError: if nothing can be started.
    """
    if spec.output.dicom:
        check_installed()
    bundle = checked_bundle(spec.model)
    inputs = read_inputs(spec)
    with ResultFolder(Path(spec.output.folder)) as folder:
        if spec.output.qupath_project:
            check_project(folder.folder)
        return _run(spec, bundle, inputs, folder, execute, reporter)


@dataclass(frozen=True)
class _Batch:
    """The parts of one run.

    Attributes:
        spec: What was requested.
        inputs: Its slides and their candidates.
        names: Name in the output folder by slide.
        files: Writes the files of each slide.
        ledger: Its account.
        result: Its result.
    """

    spec: ClassifySpec
    inputs: Inputs
    names: Mapping[SlideSource, str]
    files: SlideFiles
    ledger: Ledger
    result: BatchResult


def _run(
    spec: ClassifySpec,
    bundle: Bundle,
    inputs: Inputs,
    folder: ResultFolder,
    execute: Executor,
    reporter: Reporter,
) -> BatchResult:
    """Plan, process and write, and leave the folder consistent whatever happens."""
    records, earlier = folder.records(), folder.earlier_states()
    names = names_in_folder(inputs.sources, inputs.openable, records)
    tasks = plan_classification(inputs.detections, names, records, overwrite=spec.output.overwrite)
    files = SlideFiles.of(folder, records, spec, inputs, names)
    result = _new_result(folder, bundle)
    sources = {names[source]: source for source in inputs.sources}
    ledger = Ledger(folder, result, reporter, sources, _facts(spec, result, inputs))
    batch = _Batch(spec, inputs, names, files, ledger, result)
    fail_fast = spec.output.fail_fast
    with ledger.closing(lambda: _finish(batch, earlier)):
        _start(batch, tasks)
        process(tasks, lambda t: execute(t, bundle, spec, ledger), files.write, ledger, fail_fast=fail_fast)
    return result


def _new_result(folder: ResultFolder, bundle: Bundle) -> BatchResult:
    manifest = bundle.manifest
    return BatchResult(
        folder=folder.folder, bundle=manifest.name, bundle_digest=bundle.digest, trained=manifest.trained
    )


def _facts(spec: ClassifySpec, result: BatchResult, inputs: Inputs) -> dict[str, object]:
    """Return what `run.json` states of the run as a whole."""
    return {
        "bundle": result.bundle,
        "bundle_digest": result.bundle_digest,
        "trained": result.trained,
        "parameters": spec.model_dump(mode="json"),
        "detections": inputs.files,
        "regions": inputs.region_files,
    }


def _start(batch: _Batch, tasks: Sequence[ClassifyTask]) -> None:
    """Enter what is known before the first slide: what is to do, and what cannot be done."""
    inputs, names, result = batch.inputs, batch.names, batch.result
    notes = list(inputs.notes)
    if not result.trained:
        notes.append(f"bundle {result.bundle} is untrained: its labels mean nothing")
    result.statuses |= {names[source]: "no_detections" for source in inputs.absent}
    batch.ledger.open(
        [task.name for task in tasks],
        {names[source]: error for source, error in inputs.failures.items()},
        notes,
        candidates=sum(len(task.detections.table) for task in tasks),
        slides=len(inputs.sources),
        bundle=result.bundle,
    )


def _finish(batch: _Batch, earlier: Mapping[str, SlideState]) -> None:
    """Write the files of the run as a whole, in the order of their worth."""
    output, files, ledger, result = batch.spec.output, batch.files, batch.ledger, batch.result
    states = files.states(result, earlier)
    mine = [state for state in states if state.name in result.statuses]
    for warning in (
        *missing_hotspots(mine, output.hotspot_area),
        *missing_assessments(states),
        *lost_results(earlier.values(), {state.name for state in states}),
        *(missing_dicom(mine, files.dicom) if output.dicom else ()),
    ):
        ledger.warn(warning)
    result.rows = files.folder.write_summary(states)
    assessments = {state.name: state.assessment for state in states if state.assessment is not None}
    files.folder.write_reviews(assessments)
    if output.qupath_project:
        _write_project(batch)
    reasons = {state.name: {"no_hotspot": state.no_hotspot} for state in states}
    ledger.write_run(ended=True, notes=reasons)
    result.report = write_report(files.folder, ledger, requested=output.report)
    if result.report is None and (result.interrupted or result.errors):
        ledger.write_run(ended=True, notes=reasons)  # the report's failure is one of the run's
    ledger.log("end", exit_status=result.exit_status)


def _write_project(batch: _Batch) -> None:
    """Write the QuPath project with every slide of the folder, also those without figures."""
    inputs, names, records = batch.inputs, batch.names, batch.files.records
    slides = {name: Path(record.slide.path) for name, record in records.items()}
    slides |= {names[source]: source.path for source in inputs.openable}
    unusable = [names[source] for source in inputs.unusable]
    families = {batch.result.trained, *(record.model.trained for record in records.values())}
    frame = batch.spec.output.geojson_frame
    write_qupath_project(batch.files.folder, slides, unusable, frame, families, batch.ledger)
