"""The inputs of a run: slides, their candidates and their regions, read and matched."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.core.matching import Split, split_by_slide
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections import find_files, read_detections
from wsi_mitosis.io.detections.folder import only_file
from wsi_mitosis.io.detections.regions import RegionFile, read_regions
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.slides import find_slides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.io.slides import FoundSlides
    from wsi_mitosis.specs import ClassifySpec
    from wsi_mitosis.tables import Detections, SlideSource


@dataclass(frozen=True)
class Inputs:
    """The slides of a run and their candidates.

    Attributes:
        detections: Candidates by slide.
        failures: Slides that cannot be classified, and why: they cannot be opened, their own detections
            file cannot be used, or it is not certain which candidates are theirs.
        absent: Slides without a row and without a file.
        notes: What the user should know.
        files: The detections files that were read: path, format, frame, units, SHA-256.
        regions: Regions by slide; empty without any.
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
    def region_files(self) -> list[dict[str, str]]:
        """The files of regions that were read: path, SHA-256; sorted."""
        read = {(str(file.path.absolute()), file.sha256) for file in self.regions.values()}
        return [{"path": path, "sha256": digest} for path, digest in sorted(read)]

    @property
    def openable(self) -> tuple[SlideSource, ...]:
        """The slides whose files may be opened."""
        return tuple(source for source in self.sources if source not in self.unusable)


def read_inputs(spec: ClassifySpec) -> Inputs:
    """Find the slides, read the detections and match the two.

    Raises:
        InputError: if there are no slides, or a detections file that all share cannot be used.
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
    """Return the inputs with every slide that must not be opened among the failures."""
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
    """Return notes about rows that fit no slide of the run."""
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
            detections = _read(spec, only_file(paths, source.relative))
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
    """Return the inputs with their regions; a slide whose own regions cannot be read fails alone."""
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
                regions[source] = read_regions(only_file(paths, source.relative, "reading regions"))
        except DetectionsError as error:
            del detections[source]
            failures[source] = str(error)
    lacking = len(sources) - len(regions) - (len(failures) - len(read.failures))
    note = f"{path.name}: no regions for {lacking} of the slides, which are read as a whole"
    notes = (*read.notes, note) if lacking else read.notes
    return replace(read, detections=detections, failures=failures, regions=regions, notes=notes)


def _described(path: Path, detections: Detections) -> dict[str, str]:
    return {
        "path": str(path.absolute()),
        "sha256": file_sha256(path),
        "format": detections.format,
        "units": detections.units,
        "frame": detections.frame,
    }


def notes_of(found: FoundSlides) -> tuple[str, ...]:
    """Return what the user should know about the search for slides."""
    skipped = (
        "1 file that is not a slide was"
        if found.skipped == 1
        else f"{found.skipped} files that are not slides were"
    )
    return (*([f"{skipped} left out"] if found.skipped else []), *found.notes)
