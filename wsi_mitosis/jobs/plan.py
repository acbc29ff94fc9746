"""The plan of a run: which slides to process, under which names, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wsi_mitosis.core.figures import table_digest
from wsi_mitosis.core.naming import allot_names
from wsi_mitosis.core.parts import WHOLE, Part, number_of_parts
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.remote import is_url
from wsi_mitosis.io.slides import identify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.core.records import Origin, SlideRecord
    from wsi_mitosis.io.detections.regions import RegionFile
    from wsi_mitosis.tables import Backend, Detections, SlideSource

Reason = Literal["new", "overwrite", "check"]
"""Why a slide is processed: it has no result, its result is computed again on request (`--overwrite`), or it
has a result, which is kept if nothing that it depends on has changed."""


@dataclass(frozen=True)
class SlideTask:
    """One slide to process.

    Attributes:
        source: The slide.
        name: Its name in the output folder.
        known_key: Key of its result on disk; None if there is none or if it is computed again.
        reason: Why it is processed.
        made: How its result on disk was made, if its store says that the slide is the same as then and all
            else is the same, too; None otherwise, and for a file, which is opened to find that out.
        batch_divisor: Batches are smaller by this factor, after memory ran out.
    """

    source: SlideSource
    name: str
    known_key: str | None
    reason: Reason
    made: Origin | None = field(default=None, kw_only=True)
    batch_divisor: int = field(default=1, kw_only=True)

    @property
    def candidates(self) -> int | None:
        """Number of patches at most; None if it is not known."""
        return None

    @property
    def depends_on(self) -> str:
        """Digest of what the slide's result depends on, beside the slide and what is the run's."""
        return ""

    def was_made_with(self, device: str, backend: Backend) -> bool:
        """Return whether `made` is known, and names this kind of device and this backend."""
        made = self.made
        return made is not None and (made.device, made.backend) == (device.partition(":")[0], backend)


@dataclass(frozen=True)
class ClassifyTask(SlideTask):
    """One slide to classify, or a part of it.

    Attributes:
        detections: The slide's candidates.
        regions: Its regions, which must lie on it; None without any. The result does not depend on them.
        part: Which of its candidates are classified.
    """

    detections: Detections
    regions: RegionFile | None = field(default=None, kw_only=True)
    part: Part = field(default=WHOLE, kw_only=True)

    @property
    def candidates(self) -> int:
        """Number of the candidates that are classified, at most."""
        return self.part.share(len(self.detections.table))

    @property
    def depends_on(self) -> str:
        """Its candidates, its pixel size in the list of slides, and its regions, for which it may fail."""
        found = self.detections
        where = f"{found.units} {found.frame} {found.class_rule} {self.source.mpp}"
        drawn = "" if self.regions is None else f" {self.regions.sha256} {self.regions.frame}"
        return f"{table_digest(found.table)} {where}{drawn}"


def plan_classification(
    detections: Mapping[SlideSource, Detections],
    names: Mapping[SlideSource, str],
    records: Mapping[str, SlideRecord],
    *,
    overwrite: bool,
    regions: Mapping[SlideSource, RegionFile] | None = None,
) -> list[ClassifyTask]:
    """Return the slides to classify, largest first: by number of candidates, then by file size.

    Args:
        detections: Candidates by slide.
        names: Name in the output folder by slide.
        records: Records of the folder's finished slides, by name.
        overwrite: Compute every slide again.
        regions: Regions by slide.
    """
    drawn = regions or {}
    tasks = [
        ClassifyTask(
            source,
            names[source],
            *_known(records.get(names[source]), overwrite),
            found,
            regions=drawn.get(source),
        )
        for source, found in detections.items()
    ]
    return sorted(tasks, key=lambda t: (len(t.detections.table), size_bytes(t.source)), reverse=True)


def plan_detection(
    sources: Sequence[SlideSource],
    names: Mapping[SlideSource, str],
    records: Mapping[str, SlideRecord],
    *,
    overwrite: bool,
) -> list[SlideTask]:
    """Return the slides to search, largest file first. Arguments are as for `plan_classification`."""
    tasks = [
        SlideTask(source, names[source], *_known(records.get(names[source]), overwrite)) for source in sources
    ]
    return sorted(tasks, key=lambda task: size_bytes(task.source), reverse=True)


def split_large(tasks: Sequence[ClassifyTask], workers: int) -> list[ClassifyTask]:
    """Split the slides that would keep one worker busy while others are idle; see `number_of_parts`.

    A slide that has a result is most likely kept, so that its candidates are no load for the others.

    Args:
        tasks: Whole slides, largest first.
        workers: Number of workers.

    Returns:
        Whole slides and parts, largest first. Parts of a slide follow each other.
    """
    load = sum(task.candidates for task in tasks if task.known_key is None)
    numbers = [number_of_parts(task.candidates, load, workers) for task in tasks]
    parts = [
        replace(task, part=Part(index, number))
        for task, number in zip(tasks, numbers, strict=True)
        for index in range(number)
    ]
    return sorted(parts, key=lambda task: len(task.detections.table) // task.part.of, reverse=True)


def _known(record: SlideRecord | None, overwrite: bool) -> tuple[str | None, Reason]:
    if record is None:
        return None, "new"
    return (None, "overwrite") if overwrite else (record.key, "check")


def size_bytes(source: SlideSource) -> int:
    """Return the size of a slide's file; 0 if it is not known, which fails later."""
    if source.remote is not None:
        return source.remote.size or 0
    try:
        return source.path.stat().st_size
    except OSError:
        return 0


def names_in_folder(
    sources: Sequence[SlideSource], openable: Sequence[SlideSource], records: Mapping[str, SlideRecord]
) -> dict[SlideSource, str]:
    """Return the name of each slide in the output folder.

    A slide that was processed before keeps its name, also if it was moved since. A slide that is gone keeps
    its name too, so that another one of the same file name does not take the place of its results.

    Args:
        sources: The slides of the run.
        openable: Those of them that may be opened.
        records: Records of the folder's finished slides, by name.
    """
    known = {record.slide.path for record in records.values()}
    newcomers = [source for source in openable if source.place not in known]
    mine = {source.place for source in sources}
    earlier = {}
    for name, record in records.items():
        path = Path(record.slide.path)
        is_there = record.slide.path in mine if is_url(record.slide.path) else path.exists()
        namesakes = [] if is_there else [s for s in newcomers if s.path.name == path.name]
        moved = next((source for source in namesakes if _is_same(source, record)), None)
        earlier[record.slide.path if moved is None else moved.place] = name
    return allot_names(sources, earlier)


def _is_same(source: SlideSource, record: SlideRecord) -> bool:
    if source.remote is not None:
        return False  # its content is not known before it is copied
    try:
        return identify(source.path) == record.slide.digest
    except UnreadableSlideError:
        return False  # it fails under a name of its own
