"""Classify the candidates of many slides into one output folder.

This module does not know Ray: it hands tasks to an executor and takes outcomes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.states import lost_results, missing_assessments, summary_rows
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.dicom import check_installed
from wsi_mitosis.io.results.digests import FILE as DIGESTS_FILE
from wsi_mitosis.io.results.digests import remove_digests, write_digests
from wsi_mitosis.io.results.folder import REVIEW_FILE, SUMMARY_FILE, ResultFolder
from wsi_mitosis.io.results.project import check_project
from wsi_mitosis.jobs.admission import Admission
from wsi_mitosis.jobs.announcements import announce
from wsi_mitosis.jobs.classifier import check_compared, checked_bundle
from wsi_mitosis.jobs.inputs import read_inputs, shown_parameters
from wsi_mitosis.jobs.ledger import Ledger, RunResult
from wsi_mitosis.jobs.outcomes import Progress, Reporter, SlideOutcome, process
from wsi_mitosis.jobs.plan import ClassifyTask
from wsi_mitosis.jobs.preparation import prepare
from wsi_mitosis.jobs.products import (
    missing_dicom,
    missing_hotspots,
    write_qupath_project,
    write_report,
    write_tiatoolbox,
)
from wsi_mitosis.jobs.slide_files import SlideFiles
from wsi_mitosis.jobs.slide_result import SlideResult
from wsi_mitosis.jobs.staging import check_staging

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.inputs import Inputs, Searched
    from wsi_mitosis.jobs.preparation import Prepared
    from wsi_mitosis.specs import ClassifySpec

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
        last_success: When a run into the folder ended with exit status 0 before this one, ISO 8601; None if
            none did.
    """

    folder: Path
    bundle: str
    bundle_digest: str
    trained: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None
    last_success: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return the result as plain data."""
        names = ("exit_status", "bundle", "bundle_digest", "trained", "statuses", "errors", "reasons")
        return {
            "out": str(self.folder),
            **{name: getattr(self, name) for name in names},
            "warnings": self.warnings,
            "kept": sorted(self.kept),
            "summary": self.rows,
        }


def run_batch(
    spec: ClassifySpec, execute: Executor, reporter: Reporter, searched: Searched | None = None
) -> BatchResult:
    """Classify the candidates of many slides into one output folder.

    A failed slide leaves the others alone. After an interrupt, finished slides are kept, the others
    (including those being processed) are `pending`, and the result says so.

    Args:
        spec: The run.
        execute: Processes the slides.
        reporter: Displays the progress.
        searched: What a search for candidates gave; None to read what `--detections` names.

    Raises:
        InputError: if nothing can be started.
    """
    output = spec.output
    if output.dicom:
        check_installed()
    check_staging(spec.staging, spec.placement)
    bundle = checked_bundle(spec.model)
    check_compared(bundle, spec.result)
    inputs = read_inputs(spec, searched)
    with ResultFolder(Path(output.folder), steal=output.steal_lock) as folder:
        if output.qupath_project:
            check_project(folder.folder)
        prepared = prepare(spec, bundle, inputs, folder)
        begun = None if searched is None else searched.begun
        return _run(spec, bundle, prepared, folder, execute, reporter, begun)


@dataclass(frozen=True)
class _Batch:
    """The parts of one run.

    Attributes:
        spec: What was requested.
        prepared: Its slides, and what to do with each.
        files: Writes the files of each slide.
        ledger: Its account.
        result: Its result.
    """

    spec: ClassifySpec
    prepared: Prepared
    files: SlideFiles
    ledger: Ledger
    result: BatchResult


def _run(
    spec: ClassifySpec,
    bundle: Bundle,
    prepared: Prepared,
    folder: ResultFolder,
    execute: Executor,
    reporter: Reporter,
    begun: datetime | None,
) -> BatchResult:
    """Process and write, and leave the folder consistent whatever happens."""
    (earlier, notes), last_success = _earlier(folder), _last_success(folder.run())
    inputs, names = prepared.inputs, prepared.names
    files = SlideFiles.of(folder, prepared.records, spec, inputs, names)
    result = _new_result(folder, bundle)
    result.last_success = last_success
    sources = {names[source]: source for source in inputs.sources}
    admission = Admission(folder.folder, spec.schedule, begun)
    facts = _facts(spec, result, inputs)
    ledger = Ledger(folder, result, reporter, sources, facts, prepared.histories, admission)
    batch = _Batch(spec, prepared, files, ledger, result)
    tasks, fail_fast = prepared.tasks, spec.output.fail_fast
    with ledger.closing(lambda: _finish(batch, earlier)):
        _start(batch, notes)
        write = partial(_write_slide, files, ledger)
        process(tasks, lambda t: execute(t, bundle, spec, ledger), write, ledger, fail_fast=fail_fast)
    return result


def _write_slide(
    files: SlideFiles, ledger: Ledger, outcome: SlideOutcome[SlideResult]
) -> tuple[SlideRecord, Mapping[str, float]]:
    """Write a slide's files, and warn of its regions; see `SlideFiles.write`."""
    record, stages = files.write(outcome)
    if (note := files.note(record)) is not None:
        ledger.warn(note)
    return record, stages


def _earlier(folder: ResultFolder) -> tuple[dict[str, SlideState], list[str]]:
    """Return the states that earlier runs left, and notes about them.

    A summary that cannot be read, such as one that a spreadsheet has saved in its own format, ends no night:
    the states of slides are in files of their own. It is kept under another name.
    """
    try:
        return folder.earlier_states(), []
    except OutputError as error:
        kept = folder.put_summary_aside()
        note = f"{error.subject}: {error.cause}. It is kept as {kept.name}, and is written again"
        return folder.earlier_states(), [note]


def _new_result(folder: ResultFolder, bundle: Bundle) -> BatchResult:
    manifest = bundle.manifest
    return BatchResult(
        folder=folder.folder, bundle=manifest.name, bundle_digest=bundle.digest, trained=manifest.trained
    )


def _last_success(run: Mapping[str, Any]) -> str | None:
    """Return when a run into the folder last succeeded, as its `run.json` states it."""
    stated = run.get("ended") if run.get("exit_status") == 0 else run.get("last_success")
    try:
        return None if stated is None else datetime.fromisoformat(stated).isoformat()
    except (TypeError, ValueError):
        return None  # an edited file ends no night


def _facts(spec: ClassifySpec, result: BatchResult, inputs: Inputs) -> dict[str, object]:
    """Return what `run.json` states of the run as a whole."""
    return {
        "bundle": result.bundle,
        "bundle_digest": result.bundle_digest,
        "trained": result.trained,
        "last_success": result.last_success,
        "parameters": shown_parameters(spec),
        "detections": inputs.files,
        "regions": inputs.region_files,
    }


def _start(batch: _Batch, earlier: Sequence[str]) -> None:
    """Enter what is known before the first slide: what is to do, and what cannot be done."""
    inputs, names, result = batch.prepared.inputs, batch.prepared.names, batch.result
    notes = [*inputs.notes, *earlier]
    if not result.trained:
        notes.append(f"bundle {result.bundle} is untrained: its labels mean nothing")
    result.statuses |= {names[source]: "no_detections" for source in inputs.absent}
    left = batch.prepared.left()
    sources = {name: source for source, name in names.items()}
    batch.prepared.histories.leave_all(left, sources)
    absent = {
        names[source]: source for source in inputs.absent if names[source] not in batch.prepared.records
    }
    batch.prepared.histories.enter_absent(absent)
    remove_digests(batch.files.folder.folder)
    batch.ledger.open(
        batch.prepared.tasks,
        {names[source]: error for source, error in inputs.failures.items()},
        left,
        notes,
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
    result.rows = summary_rows(states)
    assessments = {state.name: state.assessment for state in states if state.assessment is not None}
    ledger.write(SUMMARY_FILE, lambda: files.folder.write_summary(states))
    ledger.write(REVIEW_FILE, lambda: files.folder.write_reviews(assessments))
    if output.qupath_project:
        _write_project(batch)
    if output.tiatoolbox:
        write_tiatoolbox(files.folder, mine, ledger)
    reasons = {state.name: {"no_hotspot": state.no_hotspot} for state in states}
    ledger.write_run(ended=True, notes=reasons)
    entered = len(result.errors), len(result.warnings), result.interrupted
    result.report = write_report(files.folder, ledger, requested=output.report)
    announce(output, ledger, result)
    if entered != (len(result.errors), len(result.warnings), result.interrupted):
        ledger.write_run(ended=True, notes=reasons)  # what failed since is the run's as well
    ledger.write(DIGESTS_FILE, lambda: write_digests(files.folder.folder))
    ledger.log_end()


def _write_project(batch: _Batch) -> None:
    """Write the QuPath project with every slide of the folder, also those without figures."""
    inputs, names, records = batch.prepared.inputs, batch.prepared.names, batch.files.records
    slides = {name: Path(record.slide.path) for name, record in records.items()}
    slides |= {names[source]: source.path for source in inputs.openable}
    unusable = [names[source] for source in inputs.unusable]
    families = {batch.result.trained, *(record.model.trained for record in records.values())}
    frame = batch.spec.output.geojson_frame
    write_qupath_project(batch.files.folder, slides, unusable, frame, families, batch.ledger)
