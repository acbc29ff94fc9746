"""A folder of slides: what is to do, who did it, and what stands in the output folder afterwards.

This module knows no Ray: it hands tasks to an executor and takes outcomes from it.
"""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.core.matching import Split, split_by_slide
from wsi_mitosis.core.naming import allot_names
from wsi_mitosis.core.reading import Reading
from wsi_mitosis.errors import DetectionsError, OutputError, listed
from wsi_mitosis.io.detections import find_files, read_detections
from wsi_mitosis.io.detections.folder import the_one
from wsi_mitosis.io.detections.regions import RegionFile, read_regions
from wsi_mitosis.io.results.dicom import check_installed
from wsi_mitosis.io.results.folder import Drawing, ResultFolder, SlideRecord
from wsi_mitosis.io.results.project import check_project, project_path, write_project
from wsi_mitosis.io.slides import find_slides
from wsi_mitosis.io.slides.dicom import is_dicom
from wsi_mitosis.jobs.classify import SlideResult, checked_bundle
from wsi_mitosis.jobs.report import FILE as REPORT
from wsi_mitosis.jobs.report import make_report
from wsi_mitosis.jobs.runs import (
    Reporter,
    Run,
    RunResult,
    SlideOutcome,
    attempt,
    notes_of,
    size_bytes,
    standing_names,
)
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.slides import FoundSlides
    from wsi_mitosis.jobs.classify import Classifier
    from wsi_mitosis.specs import ClassifySpec
    from wsi_mitosis.tables import Detections, SlideSource


@dataclass(frozen=True)
class SlideTask:
    """One slide to classify.

    Attributes:
        name: What it is called in the output folder.
        known_key: Key of the result that stands there, unless it is to be computed again.
    """

    source: SlideSource
    name: str
    detections: Detections
    known_key: str | None

    @property
    def size(self) -> tuple[int, int]:
        """Sort key of the largest task: candidates, then bytes."""
        return len(self.detections.table), size_bytes(self.source)


Executor = Callable[
    [Sequence[SlideTask], "Bundle", "ClassifySpec", Reporter],
    Generator[SlideOutcome[SlideResult], None, None],
]
"""Takes tasks, largest first, and yields an outcome for each as it ends."""


@dataclass(frozen=True)
class Inputs:
    """The slides and their candidates, read and matched.

    Attributes:
        detections: Candidates by slide.
        failures: Slides that cannot be classified, and why: they cannot be opened, their own detections
            file cannot be used, or which candidates are theirs is not certain.
        absent: Slides that no row and no file is for.
        notes: What the user should know.
        files: The detections files that were read: path, format, frame, units, SHA-256.
        regions: Regions by slide, where any were given.
        unusable: The failures that must not be opened.
    """

    detections: dict[SlideSource, Detections]
    failures: dict[SlideSource, str]
    absent: tuple[SlideSource, ...]
    notes: tuple[str, ...]
    files: tuple[dict[str, str], ...]
    regions: Mapping[SlideSource, RegionFile] = field(default_factory=dict)
    unusable: frozenset[SlideSource] = frozenset()

    @property
    def sources(self) -> tuple[SlideSource, ...]:
        """All slides of the run."""
        return (*self.detections, *self.failures, *self.absent)

    @property
    def openable(self) -> tuple[SlideSource, ...]:
        """The slides whose files may be opened."""
        return tuple(source for source in self.sources if source not in self.unusable)


@dataclass(kw_only=True)
class BatchResult(RunResult):
    """A run's end.

    Attributes:
        folder: The output folder.
        rows: The rows of `summary.csv`.
        report: The report; None where there is none.
    """

    folder: Path
    bundle: str
    bundle_digest: str
    trained: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None


def run_batch(spec: ClassifySpec, execute: Executor, reporter: Reporter) -> BatchResult:
    """Classify the candidates of many slides into one output folder.

    A failed slide leaves the others alone. After an interrupt what is done stands, the rest (the slides under
    work among it) is `pending`, and the result says so.

    Args:
        spec: The run.
        execute: Who does the slides.
        reporter: Who tells the user.

    Raises:
        InputError: where nothing can be started.
    """
    if spec.output.dicom:
        check_installed()
    bundle = checked_bundle(spec.model)
    inputs = read_inputs(spec)
    with ResultFolder(Path(spec.output.folder)) as folder:
        if spec.output.qupath_project:
            check_project(folder.folder)
        run = _Run(spec, bundle, inputs, folder, reporter)
        return run.through(lambda tasks: execute(tasks, bundle, spec, reporter))


def run_task(
    task: SlideTask, classifier: Classifier, on_patches: Callable[[int], None]
) -> SlideOutcome[SlideResult]:
    """Do one slide."""
    return attempt(
        task.name,
        lambda: classifier.classify(
            task.source, task.name, task.detections, known_key=task.known_key, on_patches=on_patches
        ),
    )


def read_inputs(spec: ClassifySpec) -> Inputs:
    """Find the slides, read the detections and match the two.

    Raises:
        InputError: where there are no slides, or a detections file that all share cannot be used.
    """
    found = find_slides(spec.input.slides, recursive=spec.input.recursive)
    path = Path(spec.input.detections)
    if not path.exists():
        raise DetectionsError("no such file or folder", subject=path, stage="reading detections")
    inputs = _from_folder if path.is_dir() else _from_file
    read = _without_unusable(inputs(spec, path, found.sources), found)
    read = replace(read, notes=(*notes_of(found), *read.notes))
    return read if spec.output.regions is None else _with_regions(read, Path(spec.output.regions))


def _without_unusable(read: Inputs, found: FoundSlides) -> Inputs:
    """The inputs with every slide that must not be opened among the failures."""
    return replace(
        read,
        detections={s: detections for s, detections in read.detections.items() if s not in found.faults},
        failures=read.failures | dict(found.faults),
        absent=tuple(source for source in read.absent if source not in found.faults),
        unusable=frozenset(found.faults),
    )


def _read(spec: ClassifySpec, path: Path) -> Detections:
    options = spec.input
    return read_detections(
        path,
        format=options.format,
        columns=dict(options.columns),
        units=options.units,
        frame=options.frame,
        decimal=options.decimal,
    )


def _from_file(spec: ClassifySpec, path: Path, sources: Sequence[SlideSource]) -> Inputs:
    detections = _read(spec, path)
    split = split_by_slide(detections, sources)
    notes = [f"{path.name}: read as {detections.format}, {detections.units}, frame {detections.frame}"]
    notes += [*detections.notes, *_unmatched(path, split)]
    failures = {source: str(error) for source, error in split.refused.items()}
    absent = tuple(source for source in sources if source not in split.parts and source not in failures)
    return Inputs(dict(split.parts), failures, absent, tuple(notes), (_described(path, detections),))


def _unmatched(path: Path, split: Split) -> list[str]:
    """What to say of rows that no slide of the run has."""
    names, others = split.unmatched_names, split.unmatched_rows - split.nameless_rows
    notes = []
    if others:
        slides = (
            f"{len(names)} slides that were not given" if len(names) > 1 else "a slide that was not given"
        )
        notes.append(f"{path.name}: {_rows(others)} for {slides}: {listed(names)}")
    if split.nameless_rows:
        unused = "which is not used" if split.nameless_rows == 1 else "which are not used"
        notes.append(f"{path.name}: {_rows(split.nameless_rows)} without the name of a slide, {unused}")
    return notes


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number} rows"


def _from_folder(spec: ClassifySpec, folder: Path, sources: Sequence[SlideSource]) -> Inputs:
    files = find_files(folder, sources)
    detections_by_slide: dict[SlideSource, Detections] = {}
    failures = {source: str(error) for source, error in files.refused.items()}
    kinds: Counter[str] = Counter()
    notes, described = [], []
    for source, paths in files.of_slide.items():
        if not paths:
            continue
        try:
            detections = _read(spec, the_one(paths, source.relative))
            split = split_by_slide(detections, [source])
        except DetectionsError as error:
            failures[source] = str(error)
            continue
        notes += [*detections.notes, *_unmatched(paths[0], split)]
        kinds[f"read as {detections.format}, {detections.units}, frame {detections.frame}"] += 1
        detections_by_slide[source] = split.parts[source]
        described.append(_described(paths[0], detections))
    notes += [f"{number} of the detections files {kind}" for kind, number in kinds.items()]
    absent = tuple(source for source, paths in files.of_slide.items() if not paths)
    return Inputs(detections_by_slide, failures, absent, tuple(notes), tuple(described))


def _with_regions(read: Inputs, path: Path) -> Inputs:
    """The inputs with their regions: a slide whose own regions cannot be read fails alone."""
    if not path.exists():
        raise DetectionsError("no such file or folder", subject=path, stage="reading regions")
    sources = list(read.detections)
    if not path.is_dir():
        if len(sources) > 1:
            raise DetectionsError(
                f"one file of regions, and {len(sources)} slides: it does not say whose they are",
                subject=path,
                stage="reading regions",
                remedy="Give a folder with one file per slide, named after it",
            )
        return replace(read, regions=dict.fromkeys(sources, read_regions(path)))
    detections, failures, regions = dict(read.detections), dict(read.failures), {}
    files = find_files(path, sources)
    for source, error in files.refused.items():
        del detections[source]
        failures[source] = str(error)
    for source, paths in files.of_slide.items():
        try:
            if paths:
                regions[source] = read_regions(the_one(paths, source.relative, "reading regions"))
        except DetectionsError as error:
            del detections[source]
            failures[source] = str(error)
    lacking = len(sources) - len(regions) - (len(failures) - len(read.failures))
    note = f"{path.name}: no regions for {lacking} of the slides, which are read as a whole"
    notes = (*read.notes, note) if lacking else read.notes
    return replace(read, detections=detections, failures=failures, regions=regions, notes=notes)


def _described(path: Path, detections: Detections) -> dict[str, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "path": str(path.absolute()),
        "sha256": digest,
        "format": detections.format,
        "units": detections.units,
        "frame": detections.frame,
    }


class _Run(Run[SlideTask, SlideResult, SlideRecord, BatchResult]):
    def __init__(
        self, spec: ClassifySpec, bundle: Bundle, inputs: Inputs, folder: ResultFolder, reporter: Reporter
    ) -> None:
        manifest = bundle.manifest
        result = BatchResult(
            folder=folder.folder,
            bundle=manifest.name,
            bundle_digest=bundle.digest,
            trained=manifest.trained,
        )
        super().__init__(folder, result, folder.records(), reporter, fail_fast=spec.output.fail_fast)
        self.spec, self.inputs, self.folder = spec, inputs, folder
        output = spec.output
        self.drawing = Drawing(
            "detection" if output.objects == "detections" else "annotation",
            output.geojson_frame,
            HotspotShape(output.hotspot_area, output.hotspot_sides) if output.hotspot_area else None,
            output.hotspots,
        )
        self.earlier = folder.earlier_rows()
        self.names = allot_names(inputs.sources, standing_names(self.records, inputs.openable))
        self.regions = {self.names[source]: regions for source, regions in inputs.regions.items()}
        self.dicom = {self.names[s]: s.path for s in inputs.openable if output.dicom and is_dicom(s.path)}
        self.readings: dict[str, Reading] = {}

    def tasks(self) -> list[SlideTask]:
        """Every slide that has candidates."""
        again = self.spec.output.overwrite
        tasks = []
        for source, detections in self.inputs.detections.items():
            name = self.names[source]
            record = self.records.get(name)
            known = record.key if record is not None and not again else None
            tasks.append(SlideTask(source, name, detections, known))
        return sorted(tasks, key=lambda task: task.size, reverse=True)

    def begin(self, tasks: Sequence[SlideTask]) -> None:
        """Tell what there is to do, and what can never be done."""
        statuses = self.result.statuses
        statuses |= {task.name: "pending" for task in tasks}
        statuses |= {self.names[source]: "no_detections" for source in self.inputs.absent}
        self.folder.log(
            "start", program=__version__, slides=len(self.inputs.sources), bundle=self.result.bundle
        )
        for note in self.inputs.notes:
            self.warn(note)
        if not self.result.trained:
            self.warn(f"bundle {self.result.bundle} is untrained: its labels mean nothing")
        failures = self.inputs.failures
        candidates = sum(len(task.detections.table) for task in tasks)
        self.reporter.start(len(tasks) + len(failures), candidates)
        for source, error in failures.items():
            self.take(SlideOutcome(self.names[source], "failed", error=error))
        self._write_run(None)

    def keep(self, outcome: SlideOutcome[SlideResult]) -> dict[str, float]:
        """Write a slide's files; where they stand, draw them again if they are drawn another way."""
        name = outcome.name
        if outcome.result is not None:
            self.records[name] = self._write(outcome.result)
            return outcome.result.seconds
        if not self.folder.is_drawn(self.records[name], self._drawing(name)):
            self.folder.redraw(self.records[name], self._drawing(name))
        return {}

    def _drawing(self, name: str) -> Drawing:
        return replace(self.drawing, regions=self.regions.get(name), dicom=self.dicom.get(name))

    def _write(self, result: SlideResult) -> SlideRecord:
        record = SlideRecord(
            slide=result.slide,
            source=str(result.path),
            key=result.key,
            identity=result.identity,
            size_px0=result.size_px0,
            mpp=(result.mpp.x, result.mpp.y),
            mpp_source=result.mpp_source,
            bounds=result.bounds,
            bundle=result.bundle,
            bundle_digest=result.bundle_digest,
            trained=result.trained,
            program=result.program,
            counts=result.counts.columns(),
            seconds=result.seconds["total"],
            warnings=result.warnings,
        )
        self.folder.write_slide(record, result.figures, self._drawing(result.slide))
        return record

    def end(self) -> None:
        """Write what is told of all slides together."""
        standing = (name for name in self.records if self.result.statuses.get(name) != "failed")
        found = {name: self.folder.reading(name) for name in standing}
        self.readings = {name: reading for name, reading in found.items() if reading is not None}
        self._tell_of_missing_hotspots()
        self._tell_of_missing_dicom()
        self.result.rows = self._rows()
        self.folder.write_summary(self.result.rows)
        self.folder.write_readings(self.readings)
        if self.spec.output.qupath_project:
            self._write_project()
        self._write_run(datetime.now(UTC))
        self._write_report()
        self.folder.log("end", exit_status=self.result.exit_status)

    def _tell_of_missing_hotspots(self) -> None:
        """Once for all slides: folders of small slides are normal."""
        mine = [name for name in self.result.statuses if name in self.readings]
        reasons = {name: self.readings[name].hotspot_reason for name in mine}
        missing = {name: reason for name, reason in reasons.items() if reason is not None}
        if missing:
            area = f"{self.spec.output.hotspot_area:g} mm^2"
            if len(missing) == 1:
                ((name, reason),) = missing.items()
                self.warn(f"{name}: no hotspot: {reason}")
            else:
                self.warn(
                    f"{len(missing)} of {len(mine)} slides have no hotspot of {area}; run.json says why"
                )

    def _tell_of_missing_dicom(self) -> None:
        """Once for all slides, with `--dicom`: other slides are normal, and so are slides without figures."""
        if not self.spec.output.dicom:
            return
        done = [name for name, status in self.result.statuses.items() if status == "done"]
        figures = {name: self.records[name].counts["classified"] for name in done if name in self.dicom}
        others, empty = len(done) - len(figures), list(figures.values()).count(0)
        for number, why in ((others, "no DICOM slides"), (empty, "no figures on them")):
            if number:
                self.warn(f"no DICOM annotations for {number} of {len(done)} slides: {why}")

    def _write_project(self) -> None:
        """With every slide of the folder, also those without figures: whoever looks wants to see them too."""
        slides = {name: Path(record.source) for name, record in self.records.items()}
        slides |= {self.names[source]: source.path for source in self.inputs.openable}
        unusable = {self.names[source] for source in self.inputs.unusable}
        slides = {name: path for name, path in slides.items() if name not in unusable}
        families = {self.result.trained, *(record.trained for record in self.records.values())}
        try:
            absent = write_project(self.folder.folder, slides, self.drawing.frame, families)
        except (OutputError, OSError) as failure:  # changed since `check_project`, or the disk is full
            name = str(project_path(Path()))
            told = str(failure) if isinstance(failure, OutputError) else f"{name}: writing: {failure}"
            self.result.errors[name] = told
            self.folder.log("failed", file=name, error=told)
        else:
            if left_out := sorted({*absent, *unusable}):
                self.warn(f"not in the QuPath project, because they cannot be opened: {listed(left_out)}")

    def _write_report(self) -> None:
        """Last, for it may take minutes: all else stands by then, and its failure loses nothing but itself.

        A report that this run does not renew is removed: it would tell other numbers than `summary.csv`.
        """
        path = self.folder.folder / REPORT
        try:
            path.unlink(missing_ok=True)
            if self.result.interrupted or not self.spec.output.report:
                return
            self.reporter.say(f"making {REPORT}")
            made = make_report(self.folder)
        except KeyboardInterrupt:
            self.result.interrupted = True
        except Exception as failure:  # noqa: BLE001 - the results stand; the traceback is kept
            told = (
                f"{REPORT}: {type(failure).__name__}: {failure}. `wsi-mitosis report {path.parent}` makes it"
            )
            self.result.errors[REPORT] = told
            self.folder.log("failed", file=REPORT, error=told, details=traceback.format_exc())
        else:
            self.result.report = path
            self.folder.log("report", seconds=made.seconds, size_bytes=made.size_bytes)
            for message in made.told():
                self.warn(message)
            return
        self._write_run(datetime.now(UTC))

    def _rows(self) -> list[dict[str, Any]]:
        """Every slide of the folder: tables that stand, then this run's other states, then earlier ones."""
        rows: dict[str, dict[str, Any]] = {
            name: dict(row) for name, row in self.earlier.items() if row["status"] != "done"
        }
        for name, status in self.result.statuses.items():
            rows[name] = {"slide": name, "status": status, "error": self.result.errors.get(name, "")}
        for name, record in self.records.items():
            if self.result.statuses.get(name) != "failed":
                reading = self.readings.get(name, Reading())
                rows[name] = record.summary_row() | reading.hotspot_columns()
        return list(rows.values())

    def _write_run(self, ended: datetime | None) -> None:
        self.write_run(
            ended,
            bundle=self.result.bundle,
            bundle_digest=self.result.bundle_digest,
            trained=self.result.trained,
            parameters=self.spec.model_dump(mode="json"),
            detections=self.inputs.files,
            slides=[self._described(source) for source in self.inputs.sources],
        )

    def _described(self, source: SlideSource) -> dict[str, Any]:
        name = self.names[source]
        reason = self.readings.get(name, Reading()).hotspot_reason
        return {**self.described(name, source), "no_hotspot": reason}
