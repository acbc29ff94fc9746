"""Candidate mitotic figures, read from the files of detectors, viewers and challenges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.common import fault, mostly_shares
from wsi_mitosis.io.detections.content import chosen_format, open_document
from wsi_mitosis.io.detections.folder import find_files
from wsi_mitosis.io.detections.formats import ENDINGS, FORMATS, ReadOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from wsi_mitosis.tables import DecimalSign, Detections
    from wsi_mitosis.units import InputFrame, LengthUnit

__all__ = ["ENDINGS", "FORMATS", "find_files", "read_detections"]


def read_detections(
    path: str | os.PathLike[str],
    *,
    format: str = "auto",  # noqa: A002 - the option's name
    columns: Mapping[str, str] | None = None,
    units: LengthUnit | None = None,
    frame: InputFrame | None = None,
    decimal: DecimalSign | None = None,
) -> Detections:
    """Read a detections file without converting its coordinates.

    Args:
        path: A file of any of FORMATS, which may be compressed with gzip.
        format: One of FORMATS, or `auto` to detect it from the content.
        columns: For a table: role (`x`, `slide`, ... as in ALIASES) to column name, before the aliases.
        units: Unit of the coordinates, in which px are those of level 0, whatever the file states. None for
            the format's own: mm for Grand Challenge, the header's for a table, px for the others.
        frame: Frame of the coordinates. None for the format's own: `qupath` for GeoJSON and measurement
            tables of QuPath, `slide` for the others.
        decimal: For a table: the decimal sign; None to decide it from the columns.

    Raises:
        DetectionsError: if the file cannot be read, has another format than the given one, or has rows that
            are impossible or ambiguous. It names the file, the place and the remedy.
    """
    path = Path(path)
    document = open_document(path)
    taken = chosen_format(format, document)
    if not taken.is_table:
        for option, given in (("--columns", columns), ("--decimal", decimal)):
            if given:
                raise fault(f"{option} is for tables, and this is {taken.name}", path, f"Leave out {option}")
    detections = taken.read(document, ReadOptions(columns or {}, units, decimal))
    if units is None:
        _refuse_shares(detections, path)
    else:
        detections = replace(detections, units=units, magnification=None, image_sizes={})
    return replace(detections, frame=frame or detections.frame)


def _refuse_shares(detections: Detections, path: Path) -> None:
    """Refuse coordinates in px or um that mostly lie between 0 and 1, as fractions of an image do."""
    table = detections.table
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    if detections.units not in {"px", "um"} or not ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).any():
        return
    of_slides = (rows for rows in table.groupby("slide").indices.values() if len(rows) > 1)
    if mostly_shares(x, y) or any(mostly_shares(x[rows], y[rows]) for rows in of_slides):
        raise fault(
            f"all coordinates lie within 0 to 1 {detections.units}, as shares of an image do",
            path,
            "Pass --units fraction if they are shares of width and height, --units mm if they are in "
            f"millimetres, or --units {detections.units} to take them as they are",
        )
