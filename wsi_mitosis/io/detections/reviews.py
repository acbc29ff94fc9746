"""What a pathologist exported from QuPath after a review, and the files of a recount."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.qupath import GEOJSON_FOLDER
from wsi_mitosis.errors import DetectionsError, OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.detections import find_files, read_detections
from wsi_mitosis.io.results.geojson import geojson_paths, read_provenance
from wsi_mitosis.tables import CHANGE_COLUMNS, REGION_COLUMNS, SUMMARY_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.tables import Detections, SlideSource

STAGE = "reading the review"
ENDINGS = (".geojson.gz", ".json.gz", ".geojson", ".json")
FOLDER = "reviewed"
"""Where a recount is written, inside the folder of results."""
_BESIDE = ("reviewed", "relabelled", "removed", "added")
"""What a recount's summary says of a slide beside its numbers: whether there is a review, and its changes."""
RECOUNT_COLUMNS = (
    *SUMMARY_COLUMNS,
    *(f"machine_{name}" for name in SUMMARY_COLUMNS if name != "slide"),
    *_BESIDE,
)
REGION_COUNTS = ("mitoses", "atypical", "typical", "mitoses_per_mm2")
"""What a review changes of a region."""
RECOUNT_REGION_COLUMNS = (*REGION_COLUMNS, *(f"machine_{name}" for name in REGION_COUNTS), "reviewed")


def find_reviews(folder: Path, sources: Sequence[SlideSource]) -> FoundFiles:
    """Each slide's reviewed files, named after it as detections are; what is no GeoJSON is passed over.

    Raises:
        DetectionsError: where the folder is none, or no file of it is named after one of the slides.
    """
    if not folder.is_dir():
        raise DetectionsError(
            "is a file" if folder.exists() else "no such folder",
            subject=folder,
            stage=STAGE,
            remedy="Give the folder with the GeoJSON that was exported from QuPath, a file per slide",
        )
    return find_files(folder, sources, endings=ENDINGS)


def strangers(folder: Path, reviews: FoundFiles) -> tuple[str, ...]:
    """GeoJSON files of the folder and its sub-folders that fit no slide, sorted."""
    there = (path for path in folder.rglob("*") if not path.name.startswith(".") and _is_geojson(path))
    return tuple(sorted(path.relative_to(folder).as_posix() for path in there if path not in reviews.fitting))


def read_review(path: Path) -> Detections:
    """Read a GeoJSON file as it is.

    Raises:
        DetectionsError: where it cannot be read, or is something else.
    """
    review = read_detections(path)
    if review.format not in {"geojson", "tiatoolbox"}:
        raise DetectionsError(
            f"this is {review.format}, not GeoJSON",
            subject=path,
            stage=STAGE,
            remedy="Export the objects from QuPath as GeoJSON",
        )
    return review


def drawn_as(results: Path, slide: str) -> dict[str, Any]:
    """How `classify` drew a slide for QuPath, as its GeoJSON says; empty where none stands."""
    for path in geojson_paths(results / GEOJSON_FOLDER / slide):
        if path.exists() and (stated := read_provenance(path)) is not None:
            return stated
    return {}


def read_recount(results: Path) -> dict[str, dict[str, str]]:
    """The reviewed slides' rows of the recount in a folder of results; empty without a whole one."""
    folder = results / FOLDER
    if not (folder / "agreement.json").is_file() or not (folder / "summary.csv").is_file():
        return {}
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file) if row["reviewed"] == "true"}


def is_our_own(path: Path) -> bool:
    """Whether `classify` wrote a file: its mark is lost when QuPath exports."""
    return read_provenance(path) is not None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_recount(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]],
    regions: Sequence[Mapping[str, Any]],
    agreement: Mapping[str, Any],
) -> None:
    """Write the tables and last `agreement.json`: where it stands, all are of one recount.

    Args:
        folder: Made if it does not exist.
        rows: By RECOUNT_COLUMNS; a column that a row lacks is an empty cell.
        changes: By CHANGE_COLUMNS.
        regions: By RECOUNT_REGION_COLUMNS; without any there is no `regions.csv`.
        agreement: Plain data.

    Raises:
        OutputError: where the folder cannot be written.
    """
    try:
        (folder / "agreement.json").unlink(missing_ok=True)
        write_text(folder / "summary.csv", _csv(RECOUNT_COLUMNS, rows))
        write_text(folder / "changes.csv", _csv(CHANGE_COLUMNS, changes))
        if regions:
            write_text(folder / "regions.csv", _csv(RECOUNT_REGION_COLUMNS, regions))
        else:
            (folder / "regions.csv").unlink(missing_ok=True)
        text = json.dumps(agreement, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "agreement.json", f"{text}\n")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=folder,
            stage="writing the recount",
            remedy="Make the folder of results writable",
        ) from error


def _is_geojson(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
