"""The inputs of a run: slides, their candidates and their regions, read and matched."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wsi_mitosis.core.matching import Split, split_by_slide
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections import find_files, read_detections
from wsi_mitosis.io.detections.folder import only_file
from wsi_mitosis.io.detections.regions import STAGE as READING_REGIONS
from wsi_mitosis.io.detections.regions import RegionFile, read_regions, region_note
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.remote import is_url, shown_url
from wsi_mitosis.io.slides import find_slides

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.io.slides import FoundSlides
    from wsi_mitosis.specs import ClassifySpec, DetectSpec
    from wsi_mitosis.tables import Detections, SlideSource
    from wsi_mitosis.units import Frame


STAGE = "reading detections"
MISSING = "Correct the path, or mount its disk"
PLACEHOLDERS = ("{stem}", "{name}", "{folder}")
"""What a path of detections may hold of its slide: the file name without its ending, the file name, and the
absolute path of the folder."""
REGION_ENDINGS = (
    *(".geojson.gz", ".json.gz", ".geojson", ".json"),
    *(".csv", ".tsv", ".parquet", ".db", ".sqlite"),
)
"""The endings of files that a folder of regions is searched for; a table of a slide is refused by name."""
PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


class Left(NamedTuple):
    """Why a run leaves a slide for a later one.

    Attributes:
        status: What the slide is until then.
        reason: In a sentence.
    """

    status: Literal["waiting", "set_aside", "pending"]
    reason: str


@dataclass(frozen=True)
class Searched:
    """What a search for candidates gave, by the path of the slide.

    Attributes:
        files: The table of each slide's candidates.
        failures: Slides that could not be searched, and why.
        left: Slides that the search left for a later run, and why.
        begun: When the search began, with a zone; None if nothing was searched.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)
    left: dict[Path, Left] = field(default_factory=dict)
    begun: datetime | None = None


@dataclass(frozen=True)
class Inputs:
    """The slides of a run and their candidates.

    Attributes:
        detections: Candidates by slide.
        failures: Slides that cannot be classified, and why: they cannot be opened, their own detections
            file cannot be used, or it is not certain which candidates are theirs.
        absent: Slides without a row and without a file.
        left: Slides that this run leaves for a later one, and why.
        own_files: The detections file that is a slide's own.
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
    left: Mapping[SlideSource, Left] = field(default_factory=dict)
    own_files: Mapping[SlideSource, Path] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[SlideSource, ...]:
        """All slides of the run."""
        return (*self.detections, *self.failures, *self.absent, *self.left)

    @property
    def region_files(self) -> list[dict[str, str]]:
        """The files of regions that were read: path, SHA-256; sorted."""
        read = {(str(file.path.absolute()), file.sha256) for file in self.regions.values()}
        return [{"path": path, "sha256": digest} for path, digest in sorted(read)]

    @property
    def openable(self) -> tuple[SlideSource, ...]:
        """The slides whose files may be opened."""
        return tuple(source for source in self.sources if source not in self.unusable)

    def without(
        self, failures: Mapping[SlideSource, str], left: Mapping[SlideSource, Left] | None = None
    ) -> Inputs:
        """Return the inputs with further slides that fail or are left; one that is left does not fail."""
        left = left or {}
        gone = failures.keys() | left.keys()
        failing = {source: error for source, error in failures.items() if source not in left}
        return replace(
            self,
            detections={s: detections for s, detections in self.detections.items() if s not in gone},
            failures={s: error for s, error in self.failures.items() if s not in gone} | failing,
            absent=tuple(source for source in self.absent if source not in gone),
            left={s: why for s, why in self.left.items() if s not in gone} | dict(left),
        )


def read_inputs(spec: ClassifySpec, searched: Searched | None = None) -> Inputs:
    """Find the slides, read the detections and match the two.

    Args:
        spec: The run.
        searched: What a search for candidates gave; None to read what `--detections` names.

    Raises:
        InputError: if there are no slides, or a detections file that all share cannot be used.
    """
    options = spec.input
    staged = spec.staging.stage is not None
    found = find_slides(options.slides, recursive=options.recursive, staged=staged)
    if searched is None:
        read = _reader(spec.input.detections)(spec, Path(spec.input.detections), found.sources)
    else:
        read = _from_search(spec, searched, found.sources)
    read = read.without(found.faults)
    read = replace(read, unusable=frozenset(found.faults), notes=(*notes_of(found), *read.notes))
    if (regions := spec.output.regions) is None:
        return read
    return _with_regions(read, Path(regions), spec.output.geojson_frame)


def _reader(detections: str) -> Callable[[ClassifySpec, Path, Sequence[SlideSource]], Inputs]:
    """Return the function that reads what `--detections` names."""
    path = Path(detections)
    if not path.exists() and any(placeholder in detections for placeholder in PLACEHOLDERS):
        return _from_pattern
    if not path.exists():
        raise DetectionsError("no such file or folder", subject=path, stage=STAGE, remedy=MISSING)
    return _from_folder if path.is_dir() else _from_file


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
    failures = {source: str(error) for source, error in files.refused.items()}
    own: dict[SlideSource, Path] = {}
    for source, paths in files.of_slide.items():
        try:
            own |= {source: only_file(paths, source.relative)} if paths else {}
        except DetectionsError as error:
            failures[source] = str(error)
    absent = tuple(source for source, paths in files.of_slide.items() if not paths)
    return _from_own_files(spec, own, failures, absent)


def _from_own_files(
    spec: ClassifySpec,
    own: Mapping[SlideSource, Path],
    failures: Mapping[SlideSource, str],
    absent: tuple[SlideSource, ...],
) -> Inputs:
    """Read the detections file of each slide; a slide whose file cannot be used fails alone."""
    detections_by_slide: dict[SlideSource, Detections] = {}
    failing = dict(failures)
    kinds: Counter[str] = Counter()
    notes, described = [], []
    for source, path in own.items():
        try:
            detections = _read(spec, path)
            split = split_by_slide(detections, [source])
        except DetectionsError as error:
            failing[source] = str(error)
            continue
        notes += [*detections.notes, *_unmatched(path, split)]
        kinds[f"read as {detections.format}, {detections.units}, frame {detections.frame}"] += 1
        detections_by_slide[source] = split.parts[source]
        described.append(_described(path, detections))
    notes += [f"{number} of the detections files {kind}" for kind, number in kinds.items()]
    return Inputs(detections_by_slide, failing, absent, tuple(notes), tuple(described), own_files=own)


def _from_pattern(spec: ClassifySpec, pattern: Path, sources: Sequence[SlideSource]) -> Inputs:
    """Read the file that a pattern names for each slide; a slide whose file has not come waits for it.

    Raises:
        DetectionsError: if the folder above all of them does not exist: all slides would wait without end.
    """
    if not (folder := _above_placeholders(pattern)).is_dir():
        raise DetectionsError(
            "no such folder of detections",
            subject=folder,
            stage=STAGE,
            remedy="Correct the path, mount its disk, or make the folder that the detector writes to",
        )
    placeless = [source for source in sources if source.remote and "{folder}" in str(pattern)]
    paths = {source: _filled(pattern, source) for source in sources if source not in placeless}
    shared = {path for path, number in Counter(paths.values()).items() if number > 1}
    failures = {source: str(_shared(path, source)) for source, path in paths.items() if path in shared}
    failures |= {source: str(_without_folder(source)) for source in placeless}
    own = {source: path for source, path in paths.items() if source not in failures}
    left = {
        source: Left("waiting", f"{source.relative}: waits for its detections: there is no '{path}'")
        for source, path in own.items()
        if not os.path.lexists(path)
    }
    come = {source: path for source, path in own.items() if source not in left}
    return replace(_from_own_files(spec, come, failures, ()), left=left)


def _from_search(spec: ClassifySpec, searched: Searched, sources: Sequence[SlideSource]) -> Inputs:
    """Read the candidates that a search has found; a slide that came after the search is left."""
    failures = {s: searched.failures[s.path] for s in sources if s.path in searched.failures}
    new = Left("waiting", "waits for the next run, because it came after the search for candidates")
    known = searched.files.keys() | searched.failures.keys()
    left = {s: searched.left.get(s.path, new) for s in sources if s.path not in known}
    own = {s: searched.files[s.path] for s in sources if s.path in searched.files}
    return _from_own_files(spec, own, failures, ()).without({}, left)


def _above_placeholders(pattern: Path) -> Path:
    """Return the part of a pattern that is the same for all slides."""
    plain = takewhile(lambda part: PLACEHOLDER.search(part) is None, pattern.parts)
    return Path(*plain)


def _filled(pattern: Path, source: SlideSource) -> Path:
    """Return the path that a pattern names for a slide."""
    path = source.path
    values = {"{stem}": path.stem, "{name}": path.name, "{folder}": str(path.parent)}
    return Path(PLACEHOLDER.sub(lambda found: values[found[0]], str(pattern)))


def _without_folder(source: SlideSource) -> DetectionsError:
    return DetectionsError(
        "a slide at a URL has no {folder} on this machine",
        subject=source.relative,
        stage=STAGE,
        remedy="Put its candidates into a folder, and write {stem} or {name} only",
    )


def _shared(path: Path, source: SlideSource) -> DetectionsError:
    return DetectionsError(
        f"the pattern gives {path.name} for other slides too",
        subject=source.relative,
        stage=STAGE,
        remedy="Write {name} in place of {stem}, or {folder} before it",
    )


def _with_regions(read: Inputs, path: Path, frame: Frame) -> Inputs:
    """Return the inputs with their regions; a slide whose own regions cannot be read fails alone."""
    if not path.exists():
        raise DetectionsError("no such file or folder", subject=path, stage=READING_REGIONS, remedy=MISSING)
    # whose regions they are must not depend on which slides are complete tonight
    sources = [*read.detections, *read.failures, *read.left]
    if path.is_dir():
        return _with_regions_of_folder(read, path, frame, sources)
    if len(sources) > 1:
        raise DetectionsError(
            f"one file of regions, and {len(sources)} slides: it does not say whose they are",
            subject=path,
            stage=READING_REGIONS,
            remedy="Give a folder with one file per slide, named after it",
        )
    file = read_regions(path, frame)
    return replace(
        read,
        regions=dict.fromkeys(read.detections, file),
        notes=(*read.notes, region_note([file]), *file.notes),
    )


def _with_regions_of_folder(
    read: Inputs, folder: Path, frame: Frame, sources: Sequence[SlideSource]
) -> Inputs:
    try:
        files = find_files(folder, [*sources, *read.absent], endings=REGION_ENDINGS)
    except DetectionsError as error:
        raise _of_regions(error) from error
    regions: dict[SlideSource, RegionFile] = {}
    failures = {s: str(_of_regions(e)) for s, e in files.refused.items() if s in read.detections}
    for source in [source for source in read.detections if source not in failures]:
        try:
            if paths := files.of_slide[source]:
                regions[source] = read_regions(only_file(paths, source.relative, READING_REGIONS), frame)
        except DetectionsError as error:
            failures[source] = str(error)
    lacking = [source for source in read.detections if source not in regions and source not in failures]
    notes = [region_note(regions.values())] if regions else []
    notes += [note for file in regions.values() for note in file.notes]
    notes += _unread_regions(folder, files, lacking)
    return replace(read.without(failures), regions=regions, notes=(*read.notes, *notes))


def _of_regions(error: DetectionsError) -> DetectionsError:
    """Return the error of a search for files, as one of regions."""
    return DetectionsError(error.cause, subject=error.subject, stage=READING_REGIONS, remedy=error.remedy)


def _unread_regions(folder: Path, files: FoundFiles, lacking: Sequence[SlideSource]) -> list[str]:
    """Return notes about slides without regions, and about files that may have been meant for them."""
    notes = []
    folders = sorted({folder, *(path.parent for path in files.fitting)})
    visible = [path for each in folders for path in sorted(each.iterdir()) if _is_visible_file(path)]
    others = [path.name for path in visible if not path.name.lower().endswith(REGION_ENDINGS)]
    if lacking:
        strangers = [path.name for path in visible if path not in files.fitting and path.name not in others]
        fits = f". These files there fit no slide of this run: {listed(strangers)}" if strangers else ""
        slides = listed(source.relative for source in lacking)
        number = f"{len(lacking)} of the slides, which are read as a whole"
        notes.append(f"{folder.name}: no regions for {number}: {slides}{fits}")
    if others:
        notes.append(f"{folder.name}: not read as regions, because of their endings: {listed(others)}")
    return notes


def _is_visible_file(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()


def _described(path: Path, detections: Detections) -> dict[str, str]:
    return {
        "path": str(path.absolute()),
        "sha256": file_sha256(path),
        "format": detections.format,
        "units": detections.units,
        "frame": detections.frame,
    }


def shown_parameters(spec: ClassifySpec | DetectSpec) -> dict[str, Any]:
    """Return the options of a run as plain data, without what may be secret in URLs and in the command."""
    parameters: dict[str, Any] = spec.model_dump(mode="json")
    table = parameters.get("input", parameters)
    table["slides"] = [shown_url(slide) if is_url(slide) else slide for slide in table["slides"]]
    if notify := parameters.get("output", {}).get("notify"):
        parameters["output"]["notify"] = "".join(notify.split()[:1])  # an argument may be a secret
    return parameters


def notes_of(found: FoundSlides) -> tuple[str, ...]:
    """Return what the user should know about the search for slides."""
    skipped = (
        "1 file that is not a slide was"
        if found.skipped == 1
        else f"{found.skipped} files that are not slides were"
    )
    return (*([f"{skipped} left out"] if found.skipped else []), *found.notes)
