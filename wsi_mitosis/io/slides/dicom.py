"""DICOM series: several files that are one slide, and their headers."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from wsi_mitosis.errors import UnreadableSlideError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydicom.dataset import Dataset

DICOM_ENDING = ".dcm"
ABOUT_SLIDES = ("1.2.840.10008.5.1.4.1.1.91.1", "1.2.840.10008.5.1.4.1.1.88.")
"""How the SOP class UIDs begin of Microscopy Bulk Simple Annotations and of all structured reports, PS3.4
B.5."""


def series_uid(path: Path) -> str | None:
    """Return the SeriesInstanceUID of a file; None if it is not a readable DICOM file or states none."""
    return _identifiers(path)[0]


def is_dicom(path: Path) -> bool:
    """Return whether a slide is a DICOM series."""
    return path.suffix.lower() == DICOM_ENDING and series_uid(path) is not None


def is_annotations(path: Path) -> bool:
    """Return whether a file holds annotations of a slide or a report on it, and is not a slide itself."""
    return path.suffix.lower() == DICOM_ENDING and (_identifiers(path)[1] or "").startswith(ABOUT_SLIDES)


def is_deflated(path: Path) -> bool:
    """Return whether a DICOM file is compressed as a whole, which may unpack to any size when it is read.

    Slides are not: PS3.5 A.5 defines it for objects without compressed pixels, and OpenSlide refuses it.
    """
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        return bool(read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)
    except (InvalidDicomError, OSError):
        return False


def series_files(path: Path) -> list[Path]:
    """Return all files beside `path` of its series, sorted; only `path` if it states no series."""
    uid = series_uid(path)
    if uid is None:
        return [path]
    beside = (p for p in path.parent.iterdir() if p.suffix.lower() == DICOM_ENDING)
    return sorted(p for p in beside if series_uid(p) == uid)


def header_of_level0(path: Path, size_px0: tuple[int, int], *, tags: Sequence[str] | None = None) -> Dataset:
    """Return the header, without pixels, of the series' instance whose total pixel matrix is level 0.

    Args:
        path: A file of the series.
        size_px0: (width, height) of level 0, px.
        tags: The keywords to read, which is faster if there are many frames; all if None.

    Raises:
        UnreadableSlideError: if the series has no such instance.
    """
    from pydicom import dcmread

    wanted = ["ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows"]
    for file in series_files(path):
        found = dcmread(file, stop_before_pixels=True, specific_tags=list(wanted))
        size = found.get("TotalPixelMatrixColumns"), found.get("TotalPixelMatrixRows")
        if size == size_px0 and "VOLUME" in found.get("ImageType", ()):
            return dcmread(file, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
    raise UnreadableSlideError(
        f"no file of its series has a VOLUME image of {size_px0[0]} x {size_px0[1]} px",
        subject=path.name,
        stage="reading DICOM headers",
        remedy="Check that the series is complete, and that all of its files are in one folder",
    )


@lru_cache(maxsize=100_000)
def _identifiers(path: Path) -> tuple[str | None, str | None]:
    """SeriesInstanceUID and SOPClassUID of a file, each None if it states none."""
    from pydicom import dcmread

    if not path.is_file():  # a named pipe would block
        return None, None
    try:
        with warnings.catch_warnings():
            # pydicom warns of harmless faults of scanners, such as values that are too long
            warnings.simplefilter("ignore")
            if is_deflated(path):
                return None, None
            header = dcmread(
                path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPClassUID"]
            )
            series, kind = header.get("SeriesInstanceUID"), header.get("SOPClassUID")
    except Exception:  # noqa: BLE001 - pydicom raises many kinds; opened as a slide, the file is refused by name
        return None, None
    return None if series is None else str(series), None if kind is None else str(kind)
