"""DICOM series: several files that are one slide."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@lru_cache(maxsize=100_000)
def series_uid(path: Path) -> str | None:
    """SeriesInstanceUID of a file; None where it is no readable DICOM file or states none."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            # over-long values and the like are the scanner's, and harmless; pydicom warns on looking at them
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            return str(header.SeriesInstanceUID) if "SeriesInstanceUID" in header else None
    except (InvalidDicomError, OSError):
        return None


def series_files(path: Path) -> list[Path]:
    """All files beside `path` that belong to its series, sorted; only `path` where it states no series."""
    uid = series_uid(path)
    if uid is None:
        return [path]
    return sorted(p for p in path.parent.iterdir() if p.suffix.lower() == ".dcm" and series_uid(p) == uid)
