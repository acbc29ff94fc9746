"""What all readers share: their error, their column types, their numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import CANDIDATE_COLUMNS, input_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STAGE = "reading detections"
_TEXT_COLUMNS = frozenset({"slide", "id", "detector_class"})


def fault(cause: str, path: Path, remedy: str | None = None) -> DetectionsError:
    """The error of a reader, to be raised by the caller."""
    return DetectionsError(cause, subject=path, stage=STAGE, remedy=remedy)


def candidate_table(
    rows: int, columns: Mapping[str, Any], extras: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Put columns into the order and types of CANDIDATE_COLUMNS.

    Args:
        rows: Number of candidates.
        columns: (rows,) values of some of CANDIDATE_COLUMNS; the others become None or NaN.
        extras: (rows,) values of the input's other columns, by the input's names.

    Returns:
        CANDIDATE_COLUMNS, then the extras under the names of `carried_names`.
    """
    extras = extras or {}
    ours = {name: _typed(name, rows, columns.get(name)) for name in CANDIDATE_COLUMNS}
    others = {
        name: pd.Series(values) for name, values in zip(carried_names(extras), extras.values(), strict=True)
    }
    return pd.DataFrame({**ours, **others}, index=pd.RangeIndex(rows))


def _typed(name: str, rows: int, values: Any) -> pd.Series:
    if name in _TEXT_COLUMNS:
        return pd.Series(np.full(rows, None) if values is None else values, dtype=object)
    return pd.Series(np.full(rows, math.nan) if values is None else values, dtype=np.float64)


def carried_names(names: Iterable[str]) -> list[str]:
    """Names under which other columns are carried: `input_<name>` for ours, all of them distinct."""
    used: set[str] = set(CANDIDATE_COLUMNS)
    carried = []
    for name in map(input_name, names):
        while name in used:
            name = f"input_{name}"
        used.add(name)
        carried.append(name)
    return carried


def numbers(values: Sequence[Any], what: str, path: Path) -> NDArray[np.float64]:
    """Numbers of a JSON document.

    Args:
        values: Numbers, their texts (QuPath writes "NaN"), or None, which becomes NaN.
        what: What they are, for the message.
        path: The file, for the message.

    Returns:
        (len(values),) float64.

    Raises:
        DetectionsError: naming the first entry, counted from 1, that is no number.
    """
    result = np.full(len(values), math.nan)
    for index, value in enumerate(values):
        if value is None:
            continue
        try:
            result[index] = float(value)
        except (TypeError, ValueError) as error:
            cause = f"entry {index + 1}: the {what} is {value!r}, not a number"
            raise fault(cause, path, "Mend this entry, or leave the value out") from error
    return result


def boxes(values: Sequence[Any], path: Path) -> NDArray[np.float64]:
    """Boxes [x1, y1, x2, y2] of a JSON document, (len(values), 4) float64; NaN for a missing box.

    Raises:
        DetectionsError: for a box that does not have four numbers.
    """
    rows = [[None] * 4 if value is None else value for value in values]
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4:
            cause = f"entry {index + 1}: the box is {row!r}, not four numbers"
            raise fault(cause, path, "A box is [x1, y1, x2, y2] in level-0 pixels")
    columns = [numbers([row[axis] for row in rows], "box", path) for axis in range(4)]
    return np.stack(columns, axis=1)


def box_columns(corners: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Centre and longer side of boxes.

    Args:
        corners: (n, 4) x1, y1, x2, y2 in any unit.

    Returns:
        `x`, `y` and `extent`, (n,) each, in the same unit.
    """
    x1, y1, x2, y2 = corners.T
    extent = np.maximum(np.abs(x2 - x1), np.abs(y2 - y1))
    return {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "extent": extent}


def text_or_none(value: Any) -> str | None:
    """A name or id of a JSON document or database as text; None where it is missing or blank."""
    if value is None:
        return None
    return str(value).strip() or None


def carried_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any] | NDArray[np.float64]]:
    """Turn records with differing keys into columns, in the order in which the keys are first seen.

    Returns:
        float64 columns where every value is a number or missing, texts or None elsewhere.
    """
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: _number_or_text([record.get(key) for record in records]) for key in keys}


def _number_or_text(values: Sequence[Any]) -> list[Any] | NDArray[np.float64]:
    try:
        return np.array([math.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        return [None if value is None else str(value) for value in values]
