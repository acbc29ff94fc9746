"""Find candidates on many slides with a detector.

This module does not know Ray: it hands tasks to an executor and takes outcomes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.core.naming import allot_names
from wsi_mitosis.io.results.candidates import CandidateFolder
from wsi_mitosis.io.slides import FoundSlides, find_slides
from wsi_mitosis.jobs.inputs import notes_of
from wsi_mitosis.jobs.ledger import Ledger, RunResult
from wsi_mitosis.jobs.outcomes import Progress, Reporter, SlideOutcome, process
from wsi_mitosis.jobs.plan import SlideTask, names_in_folder, plan_detection
from wsi_mitosis.jobs.slide_detector import SlideCandidates
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.tables import SlideSource

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
    """

    out: Path
    model: str
    weights_sha256: str
    candidates: dict[str, int]


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

    found = find_slides(spec.slides, recursive=spec.recursive)
    model = find_detector(spec.model, spec.weights)
    with CandidateFolder(Path(spec.out)) as folder:
        return _run(spec, model, found, folder, execute, reporter)


def _run(
    spec: DetectSpec,
    model: DetectorModel,
    found: FoundSlides,
    folder: CandidateFolder,
    execute: Executor,
    reporter: Reporter,
) -> DetectResult:
    """Plan, process and write, and leave the folder consistent whatever happens."""
    records = folder.records()
    names = names_in_folder(found.sources, found.usable, records)
    tasks = plan_detection(found.usable, names, records, overwrite=spec.overwrite)
    result = DetectResult(out=folder.out, model=model.name, weights_sha256=model.sha256, candidates={})
    facts = {"model": model.name, "weights_sha256": model.sha256, "parameters": spec.model_dump(mode="json")}
    sources = {name: source for source, name in names.items()}
    ledger = Ledger(folder, result, reporter, sources, facts)

    def write(outcome: SlideOutcome[SlideCandidates]) -> tuple[SlideRecord, dict[str, float]]:
        if outcome.result is not None:
            folder.write_slide(outcome.result.record, outcome.result.candidates)
            records[outcome.name] = outcome.result.record
        return records[outcome.name], {}

    with ledger.closing(lambda: _finish(ledger, result, folder, records, sources)):
        ledger.open(
            [task.name for task in tasks],
            {names[source]: fault for source, fault in found.faults.items()},
            notes_of(found),
            slides=len(tasks),
            model=model.name,
        )
        process(tasks, lambda t: execute(t, model, spec, ledger), write, ledger, fail_fast=spec.fail_fast)
    return result


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
        if result.statuses.get(name) != "failed"
    }
    folder.write_csv(_names_in_csv(paths))
    ledger.write_run(ended=True)
    ledger.log("end", exit_status=result.exit_status)


def _names_in_csv(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the names by which `classify` distinguishes the slides, by those in the folder.

    The folder's names stay the same from run to run. A plain `a.svs` among them becomes ambiguous when
    another `a.svs` is added.
    """
    sources = {name: SlideSource(path, path.name) for name, path in paths.items()}
    names = allot_names(tuple(sources.values()), {}, most_bytes=None)
    return {name: names[source] for name, source in sources.items()}
