"""Reviews: GeoJSON that a pathologist exported from QuPath after correcting figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import find_files, read_detections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.tables import Detections, SlideSource

STAGE = "reading the review"
ENDINGS = (".geojson.gz", ".json.gz", ".geojson", ".json")


def find_reviews(folder: Path, sources: Sequence[SlideSource]) -> FoundFiles:
    """Find the reviewed files of each slide, named after it as detections are; other files are skipped.

    Raises:
        DetectionsError: if the folder does not exist, or no file of it is named after one of the slides.
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
    """Return the GeoJSON files of the folder and its subfolders that fit no slide, sorted."""
    there = (path for path in folder.rglob("*") if not path.name.startswith(".") and _is_geojson(path))
    return tuple(sorted(path.relative_to(folder).as_posix() for path in there if path not in reviews.fitting))


def read_review(path: Path) -> Detections:
    """Read a GeoJSON file without converting anything.

    Raises:
        DetectionsError: if it cannot be read, or is not GeoJSON.
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


def _is_geojson(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)
