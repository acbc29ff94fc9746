"""Find candidates on many slides with a detector.

This module does not know Ray: it hands tasks to an executor and takes outcomes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.core.naming import allot_names
from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.io.results.candidates import CandidateFiles, CandidateFolder, parts_folder
from wsi_mitosis.io.slides import FoundSlides, find_slides
from wsi_mitosis.io.slides.finding import is_regular
from wsi_mitosis.jobs.admission import Admission
from wsi_mitosis.jobs.histories import Histories, basis_of
from wsi_mitosis.jobs.inputs import Left, Searched, notes_of, shown_parameters
from wsi_mitosis.jobs.ledger import Ledger, RunResult
from wsi_mitosis.jobs.outcomes import Progress, Reporter, SlideOutcome, process
from wsi_mitosis.jobs.plan import SlideTask, names_in_folder, plan_detection
from wsi_mitosis.jobs.readiness import waiting_slides
from wsi_mitosis.jobs.slide_detector import SlideCandidates, SlideDetector
from wsi_mitosis.jobs.staging import check_staging
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.tables import SlideSource
from wsi_mitosis.version import DETECTION_VERSION

if TYPE_CHECKING:
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.nets.detector import DetectorModel


@dataclass(kw_only=True)
class DetectResult(RunResult):
    """The result of a run.

    Attributes:
        out: The CSV.
        model: Name of the detector.
        weights_sha256: SHA-256 of its weights.
        candidates: Number of candidates by slide, of this run's done slides.
        searched: What a classify run needs of it.
    """

    out: Path
    model: str
    weights_sha256: str
    candidates: dict[str, int] = field(default_factory=dict)
    searched: Searched = field(default_factory=Searched)


Executor = Callable[
    [Sequence[SlideTask], "DetectorModel", DetectSpec, Progress],
    Generator[SlideOutcome[SlideCandidates], None, None],
]
"""Takes tasks, largest first, and yields an outcome for each as it ends; reports warnings and patches."""


def run_detection(spec: DetectSpec, execute: Executor, reporter: Reporter) -> DetectResult:
    """Search many slides for candidates into one CSV.

    A failed slide leaves the others alone. After an interrupt, finished slides are kept, the others are
    `pending`, and the result says so.

    Args:
        spec: Which slides to search, and how.
        execute: Searches the slides.
        reporter: Displays the progress.

    Raises:
        InputError: if nothing can be started.
    """
    from wsi_mitosis.nets.detector import find_detector

    check_staging(spec.staging, spec.placement)
    found = find_slides(spec.slides, recursive=spec.recursive, staged=spec.staging.stage is not None)
    model = find_detector(spec.model, spec.weights)
    with CandidateFolder(Path(spec.out), steal=spec.steal_lock) as folder:
        return _run(spec, model, _prepared(spec, model, found, folder), folder, execute, reporter)


def planned_search(spec: DetectSpec, to_search: Left) -> Searched:
    """Return what a search would keep and what it would leave. Nothing is started and nothing is written.

    Args:
        spec: The search.
        to_search: What to say of a slide that would be searched.

    Raises:
        InputError: if nothing could be started.
    """
    from wsi_mitosis.nets.detector import find_detector

    found = find_slides(spec.slides, recursive=spec.recursive, staged=spec.staging.stage is not None)
    model = find_detector(spec.model, spec.weights)
    folder = CandidateFiles(parts_folder(Path(spec.out)))
    prepared = _prepared(spec, model, found, folder)
    detector = SlideDetector(model, spec)
    searched = Searched()
    for source, name in prepared.names.items():
        if source in found.faults and name not in prepared.left:
            searched.failures[source.path] = found.faults[source]
        else:
            searched.left[source.path] = prepared.left.get(name, to_search)
    for task in prepared.tasks:
        if _is_kept(detector, task):
            del searched.left[task.source.path]
            searched.files[task.source.path] = folder.path(task.name)
    return searched


def _is_kept(detector: SlideDetector, task: SlideTask) -> bool:
    try:
        return detector.has_result(task)
    except WsiMitosisError:
        return False  # the search says what is wrong


@dataclass(frozen=True)
class _Prepared:
    """A search that can begin.

    Attributes:
        found: Its slides.
        names: Name in the folder by slide.
        records: Records of the folder's finished slides, by name.
        histories: What earlier runs left of slides.
        left: Slides that it leaves for a later one, by name, and why.
        tasks: The slides to search, largest first.
    """

    found: FoundSlides
    names: Mapping[SlideSource, str]
    records: dict[str, SlideRecord]
    histories: Histories
    left: Mapping[str, Left]
    tasks: list[SlideTask]


def _prepared(
    spec: DetectSpec, model: DetectorModel, found: FoundSlides, folder: CandidateFiles
) -> _Prepared:
    """Decide what to do with each slide."""
    records = folder.records()
    names = names_in_folder(found.sources, found.usable, records)
    options = spec.model_dump(mode="json", include={"min_score", "mpp"})
    histories = Histories(folder, spec.retries, basis_of(model.sha256, DETECTION_VERSION, options))
    slides = {names[source]: source for source in found.sources if is_regular(source.path)}
    seconds, now = spec.schedule.settle_seconds, datetime.now(UTC)
    waiting = waiting_slides(slides, {}, histories.known, seconds, now)
    left = {name: Left("waiting", reason) for name, reason in waiting.items()}
    usable = [source for source in found.usable if names[source] not in left]
    tasks = plan_detection(usable, names, records, overwrite=spec.overwrite)
    aside = {task.name: reason for task in tasks if (reason := histories.set_aside(task)) is not None}
    left |= {name: Left("set_aside", reason) for name, reason in aside.items()}
    begun = [histories.with_origin(t, records.get(t.name)) for t in tasks if t.name not in left]
    return _Prepared(found, names, records, histories, left, begun)


def _run(
    spec: DetectSpec,
    model: DetectorModel,
    prepared: _Prepared,
    folder: CandidateFolder,
    execute: Executor,
    reporter: Reporter,
) -> DetectResult:
    """Process and write, and leave the folder consistent whatever happens."""
    found, names, records = prepared.found, prepared.names, prepared.records
    result = DetectResult(out=folder.out, model=model.name, weights_sha256=model.sha256)
    facts = {"model": model.name, "weights_sha256": model.sha256, "parameters": shown_parameters(spec)}
    sources = {name: source for source, name in names.items()}
    admission = Admission(folder.folder, spec.schedule)
    ledger = Ledger(folder, result, reporter, sources, facts, prepared.histories, admission)

    def write(outcome: SlideOutcome[SlideCandidates]) -> tuple[SlideRecord, dict[str, float]]:
        if outcome.result is not None:
            folder.write_slide(outcome.result.record, outcome.result.candidates)
            records[outcome.name] = outcome.result.record
        return records[outcome.name], {}

    with ledger.closing(lambda: _finish(ledger, result, folder, records, sources)):
        prepared.histories.leave_all(prepared.left, sources)
        failures = {names[s]: fault for s, fault in found.faults.items() if names[s] not in prepared.left}
        facts_of_start = {"slides": len(prepared.tasks), "model": model.name}
        ledger.open(prepared.tasks, failures, prepared.left, notes_of(found), **facts_of_start)
        process(
            prepared.tasks,
            lambda tasks: execute(tasks, model, spec, ledger),
            write,
            ledger,
            fail_fast=spec.fail_fast,
        )
    result.searched = replace(_searched(result, folder, sources), begun=ledger.started_at)
    return result


def _searched(result: DetectResult, folder: CandidateFolder, sources: Mapping[str, SlideSource]) -> Searched:
    """Return the outcome of each slide by its path."""
    searched = Searched()
    for name, status in result.statuses.items():
        path = sources[name].path
        if status == "done":
            searched.files[path] = folder.path(name)
        elif status == "failed":
            searched.failures[path] = result.errors[name]
        elif status != "no_detections":
            reason = result.reasons.get(name, f"{name}: it was not searched for candidates")
            searched.left[path] = Left(status, reason)
    return searched


def _finish(
    ledger: Ledger,
    result: DetectResult,
    folder: CandidateFolder,
    records: Mapping[str, SlideRecord],
    sources: Mapping[str, SlideSource],
) -> None:
    """Write the CSV of every slide in the folder that did not fail in this run."""
    done = [name for name, status in result.statuses.items() if status == "done"]
    result.candidates = {name: records[name].counts.candidates for name in done}
    models = {record.model for record in records.values()}
    if len(models) > 1:  # a second run adds to the CSV, and no column says how a slide was searched
        ledger.warn(f"{folder.out.name} mixes candidates of {len(models)} weights or least scores")
    paths = {
        name: sources[name].path if name in sources else Path(record.slide.path)
        for name, record in records.items()
        if result.statuses.get(name) not in {"failed", "set_aside", "waiting"}
    }
    ledger.write(folder.out.name, lambda: folder.write_csv(_names_in_csv(paths)))
    ledger.write_run(ended=True)
    ledger.log_end()


def _names_in_csv(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the names by which `classify` distinguishes the slides, by those in the folder.

    The folder's names stay the same from run to run. A plain `a.svs` among them becomes ambiguous when
    another `a.svs` is added.
    """
    sources = {name: SlideSource(path, path.name) for name, path in paths.items()}
    names = allot_names(tuple(sources.values()), {}, most_bytes=None)
    return {name: names[source] for name, source in sources.items()}
