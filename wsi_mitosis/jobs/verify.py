"""Check what was changed in a folder of results since the program wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from wsi_mitosis.core.recount import CHANGES, compare
from wsi_mitosis.core.reviews import placed_objects, reviewed_figures
from wsi_mitosis.errors import InputError, WsiMitosisError
from wsi_mitosis.io.detections.reviews import read_review
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.digests import FILE as DIGESTS
from wsi_mitosis.io.results.digests import read_digests
from wsi_mitosis.io.results.earlier import read_earlier
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.io.results.geojson import read_provenance, read_sealed_provenance
from wsi_mitosis.io.results.recounts import (
    CONSENSUS_FILE,
    VERDICTS_FILE,
    read_consensus,
    read_recount,
    read_verdicts,
)
from wsi_mitosis.io.results.recounts import FOLDER as REVIEWED
from wsi_mitosis.tables import MATCH_UM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.units import Frame

STAGE = "verifying"
Verdict = Literal["intact", "corrected", "changed", "missing"]
MEANING: dict[Verdict, str] = {
    "intact": "as the program wrote it",
    "corrected": "figures were changed as a pathologist does in QuPath; no number is read from this file",
    "changed": "edited or damaged since it was written",
    "missing": "a file of a finished slide or run that is not there",
}


class Finding(NamedTuple):
    """What was found of one file.

    Attributes:
        file: Its path in the folder.
        verdict: What it is; see `MEANING`.
        detail: What is known about the change; empty if nothing is.
    """

    file: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """What was found in a folder of results.

    Attributes:
        folder: The folder.
        findings: One for each file, sorted.
    """

    folder: Path
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        """0 if no file was changed or is missing; a correction is no fault."""
        return int(any(finding.verdict in {"changed", "missing"} for finding in self.findings))


def verify(path: Path) -> Verification:
    """Compare the files of a folder of results with the digests that were written with them.

    The digests tell of an edit and of damage. They do not tell of somebody who computes them again.

    Args:
        path: The folder.

    Raises:
        InputError: if it is no folder of results.
    """
    if not (path / "figures").is_dir() and not (path / "run.json").is_file():
        raise InputError(
            "this folder has no results of `classify`",
            subject=path,
            stage=STAGE,
            remedy="Give the folder that `classify` wrote to",
        )
    folder = ResultFiles(path)
    return Verification(path, tuple(sorted(_findings(folder))))


def _findings(folder: ResultFiles) -> Iterator[Finding]:
    records = folder.records()
    done = {history.slide for history in folder.histories().values() if history.status == "done"}
    tables = (folder.folder / "figures").rglob("*.parquet")
    on_disk = {folder.slide_of(table) for table in tables if not table.name.startswith(".")}
    for slide in sorted(done | on_disk):
        yield from _of_slide(folder, slide, records.get(slide))
    digests = read_digests(folder.folder)
    if not digests:
        yield Finding(DIGESTS, "missing", "the last run has not ended, or it was one of an earlier version")
    for name, digest in digests.items():
        yield _against(folder.folder, name, digest)
    yield from _of_recount(folder.folder)


def _of_slide(folder: ResultFiles, slide: str, record: SlideRecord | None) -> Iterator[Finding]:
    table, assessment = folder.figures_path(slide), folder.assessment_path(slide)
    yield _found(folder, table, is_intact=record is not None)
    if record is None:
        return
    yield _found(folder, assessment, is_intact=folder.assessed(record) is not None)
    earlier = folder.earlier_path(slide)
    if earlier.exists():
        yield _found(folder, earlier, is_intact=read_earlier(earlier) is not None)
    drawn = folder.geojson_files(slide)
    if not drawn:
        yield Finding(f"geojson/{slide}.geojson", "missing")
    for path in drawn:
        yield _drawing(folder, path, record)


def _found(folder: ResultFiles, path: Path, *, is_intact: bool) -> Finding:
    name = path.relative_to(folder.folder).as_posix()
    if is_intact:
        return Finding(name, "intact")
    return Finding(name, "changed" if path.exists() else "missing")


def _drawing(folder: ResultFiles, path: Path, record: SlideRecord) -> Finding:
    """Tell a correction of figures from any other change of a GeoJSON file."""
    name = path.relative_to(folder.folder).as_posix()
    if (sealed := read_sealed_provenance(path)) is not None:
        is_current = sealed.get("result_key") == record.key
        return Finding(name, "intact" if is_current else "changed", "" if is_current else "of another result")
    try:
        changes = _corrections(folder, path, record)
    except (WsiMitosisError, OSError) as error:
        return Finding(name, "changed", str(error))
    return Finding(name, "corrected" if changes else "changed", changes or "not in its figures")


def _corrections(folder: ResultFiles, path: Path, record: SlideRecord) -> str:
    """Return the numbers of changed figures in words; empty if all figures are as they were."""
    provenance, scale = read_provenance(path) or {}, record.scale
    frame: Frame = "slide" if provenance.get("frame") == "slide" else "qupath"
    drawn = placed_objects(read_review(path).objects, frame=frame, mpp=scale.mpp, bounds=scale.bounds)
    figures = folder.figures(record.name)
    review = reviewed_figures(drawn, figures[figures["label"].notna()], record.name)
    compared = compare(figures, review, slide=record.name, mpp=scale.mpp, distance_um=MATCH_UM)
    table = compared.table
    numbers = {change: int((table["change"] == change).sum()) for change in CHANGES}
    return ", ".join(f"{number} {change}" for change, number in numbers.items() if number)


def _against(folder: Path, name: str, digest: str) -> Finding:
    try:
        if not (folder / name).is_file():  # a link to a device would have no end
            return Finding(name, "missing")
        is_intact = file_sha256(folder / name) == digest
    except OSError:
        return Finding(name, "missing")
    return Finding(name, "intact" if is_intact else "changed")


def _of_recount(folder: Path) -> Iterator[Finding]:
    summary = f"{REVIEWED}/summary.csv"
    if not (folder / summary).is_file():
        return
    try:
        read_recount(folder)
    except WsiMitosisError:
        yield Finding(summary, "changed")
        return
    yield Finding(summary, "intact")
    for name, read in {VERDICTS_FILE: read_verdicts, CONSENSUS_FILE: read_consensus}.items():
        if (folder / REVIEWED / name).is_file() and (folder / REVIEWED / "agreement.json").is_file():
            yield Finding(f"{REVIEWED}/{name}", "intact" if _is_readable(read, folder) else "changed")


def _is_readable(read: Callable[[Path], object], folder: Path) -> bool:
    try:
        read(folder)
    except WsiMitosisError:
        return False
    return True
