"""What all readers share: their error, their column types, their numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from wsi_mitosis.core.classes import is_look_alike, is_plainly_look_alike
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import CANDIDATE_COLUMNS, input_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STAGE = "reading detections"
_LEAST_NUMBERED = 4
"""Rows from which on distinct whole numbers are taken for numbers of the rows: classes would repeat."""
_GLANCE = 100
"""Rows that are looked at first: classes repeat in them."""
_MOST_TEXTS = 20
"""Distinct texts in those rows at most, in a place that may say look-alike: more are names or prose."""
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


def numbers(
    values: Sequence[Any], what: str, path: Path, *, entries: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """Numbers of a JSON document.

    Args:
        values: Numbers, their texts (QuPath writes "NaN"), or None, which becomes NaN.
        what: What they are, for the message.
        path: The file, for the message.
        entries: The entry of each, from 0, for the message; None where each is an entry of its own.

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
            result[index] = _number(value)
        except (TypeError, ValueError) as error:
            place = index if entries is None else int(entries[index])
            cause = f"entry {place + 1}: the {what} is {value!r}, not a number"
            raise fault(cause, path, "Correct this entry, or leave the value out") from error
    return result


def _number(value: Any) -> float:
    """A JSON number or its text; not what Python reads beyond them (`True`, `1_000`)."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


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


def mostly_shares(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether points, (n,) each, lie between 0 and 1 on both axes: all, or most with fractions among them."""
    present = np.isfinite(x + y)
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & present
    fractions = (x[inside] % 1 != 0) | (y[inside] % 1 != 0)
    number, total = int(inside.sum()), int(present.sum())
    return number > 0 and (number == total or (2 * number > total and bool(fractions.any())))


def backward(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes, (n, 4) x1, y1, x2, y2, end before they begin, (n,)."""
    return np.asarray((corners[:, 2:] < corners[:, :2]).any(axis=1))


def refuse_backward(corners: NDArray[np.float64], path: Path, *, what: str) -> None:
    """Refuse boxes that end before they begin, as boxes [x, y, width, height] do.

    Args:
        corners: (n, 4) x1, y1, x2, y2 in any unit.
        path: The file, for the message.
        what: What the file calls a box's entry, such as "row".

    Raises:
        DetectionsError: naming the first such entry, counted from 1.
    """
    if (flags := backward(corners)).any():
        entry = int(np.argmax(flags))
        raise fault(
            f"{what} {entry + 1}: the box {corners[entry].tolist()} ends before it begins",
            path,
            "Boxes are [x1, y1, x2, y2] here. Convert those of COCO, [x, y, width, height], or call their "
            "columns x, y, width, height",
        )


Place = TypeVar("Place", bound=Hashable)


def chosen_classes(
    columns: Mapping[Place, NDArray[np.object_]],
) -> tuple[Place, NDArray[Any]] | tuple[None, None]:
    """Choose what the classes of candidates are among all the places of a file that name classes.

    Args:
        columns: (n,) texts or None, the best place first. One whose texts only number the candidates is
            passed over.

    Returns:
        The place that was chosen and its classes, in which a look-alike that only another place names stands
        for its candidate; None and None without any.
    """
    left = {place: names for place, names in columns.items() if not _are_numbers_of_rows(names)}
    place = next((place for place, names in left.items() if any(name is not None for name in names)), None)
    if place is None:
        return None, None
    classes = left.pop(place)
    for others in left.values():
        classes = _with_look_alikes(classes, others)
    return place, classes


def _are_numbers_of_rows(names: NDArray[np.object_]) -> bool:
    """Whether texts are whole numbers of which none occurs twice, as of labelled objects in a mask."""
    if len(names) < _LEAST_NUMBERED or len(set(names[:_GLANCE])) < len(names[:_GLANCE]):
        return False
    distinct = set(names)
    return len(distinct) == len(names) and all(name is not None and name.isdecimal() for name in distinct)


def _with_look_alikes(classes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    found = {name for name in set(others) if name is not None and is_look_alike(name)}
    if not found:
        return classes
    pairs = zip(classes, others, strict=True)
    merged = [other if other in found and not is_look_alike(own or "") else own for own, other in pairs]
    return np.array([*merged, None], dtype=object)[:-1]  # the None keeps the type where there are no rows


def said_to_be_look_alikes(texts: Sequence[str | None]) -> list[str | None]:
    """The texts that say look-alike, None for the others; a property of many texts is not looked at."""
    if len(set(texts[:_GLANCE])) > _MOST_TEXTS:
        return [None] * len(texts)
    said = {text for text in set(texts) if text and is_plainly_look_alike(text)}
    return [text if text in said else None for text in texts]


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
