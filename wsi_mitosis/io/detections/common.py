"""What all readers share: the error, the table of candidates, numbers, boxes."""

from __future__ import annotations

import math
from collections import Counter
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
_SHOWN = 60
"""Characters of a value in a message."""
_MOST_NUMBER = 1e15
"""Numbers beyond it have no use as coordinates, and their products may not be finite."""
_MOST_CLASSES = 20
"""Classes in a message."""
_TEXT_COLUMNS = frozenset({"slide", "id", "detector_class"})


def fault(cause: str, path: Path, remedy: str | None = None) -> DetectionsError:
    """Return the error that a reader raises."""
    return DetectionsError(cause, subject=path, stage=STAGE, remedy=remedy)


def candidate_table(
    rows: int, columns: Mapping[str, Any], extras: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return a table with the columns of CANDIDATE_COLUMNS, in their order and types.

    Args:
        rows: Number of candidates.
        columns: (rows,) values of some of CANDIDATE_COLUMNS. The others become None or NaN.
        extras: (rows,) values of the input's other columns, by the input's names.

    Returns:
        CANDIDATE_COLUMNS, then the extras with the names of `carried_names`.
    """
    extras = extras or {}
    own = {name: _typed(name, rows, columns.get(name)) for name in CANDIDATE_COLUMNS}
    others = {
        name: pd.Series(values) for name, values in zip(carried_names(extras), extras.values(), strict=True)
    }
    return pd.DataFrame({**own, **others}, index=pd.RangeIndex(rows))


def _typed(name: str, rows: int, values: Any) -> pd.Series:
    if name in _TEXT_COLUMNS:
        return pd.Series(np.full(rows, None) if values is None else values, dtype=object)
    return pd.Series(np.full(rows, math.nan) if values is None else values, dtype=np.float64)


def carried_names(names: Iterable[str]) -> list[str]:
    """Return distinct names for the input's other columns: `input_<name>` for one of CANDIDATE_COLUMNS."""
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
    """Convert the numbers of a JSON document.

    Args:
        values: Numbers, their texts (QuPath writes "NaN"), or None, which becomes NaN.
        what: What they are, for the message.
        path: The file, for the message.
        entries: The entry of each value, from 0, for the message; None if each is an entry of its own.

    Returns:
        (len(values),) float64.

    Raises:
        DetectionsError: if a value is not a number. It names the entry, counted from 1.
    """
    result = np.full(len(values), math.nan)
    for index, value in enumerate(values):
        if value is None:
            continue
        try:
            result[index] = _number(value)
        except (TypeError, ValueError, OverflowError) as error:
            place = index if entries is None else int(entries[index])
            cause = f"entry {place + 1}: the {what} is {in_short(value)}, not a number"
            raise fault(cause, path, "Correct this entry, or leave the value out") from error
    return result


def _number(value: Any) -> float:
    """A JSON number or its text, but not what only Python accepts (`True`, `1_000`)."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def boxes(
    values: Sequence[Any], path: Path, form: str = "[x1, y1, x2, y2] in level-0 pixels"
) -> NDArray[np.float64]:
    """Convert boxes of a JSON document, (len(values), 4) float64; NaN for a missing box.

    Args:
        values: Boxes, or None.
        path: The file, for the message.
        form: What a box is, for the message.

    Raises:
        DetectionsError: if a box does not have four numbers.
    """
    rows = [[None] * 4 if value is None else value for value in values]
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4:
            cause = f"entry {index + 1}: the box is {in_short(row)}, not four numbers"
            raise fault(cause, path, f"A box is {form}")
    columns = [numbers([row[axis] for row in rows], "box", path) for axis in range(4)]
    return np.stack(columns, axis=1)


def box_columns(corners: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the centres and longer sides of boxes.

    Args:
        corners: (n, 4) x1, y1, x2, y2 in any unit.

    Returns:
        `x`, `y` and `extent`, (n,) each, in the same unit.
    """
    x1, y1, x2, y2 = corners.T
    extent = np.maximum(np.abs(x2 - x1), np.abs(y2 - y1))
    return {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "extent": extent}


def mostly_shares(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Return whether all points, (n,) each, lie within 0 to 1 on both axes, or most with fractions."""
    present = np.isfinite(x + y)
    inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & present
    fractions = (x[inside] % 1 != 0) | (y[inside] % 1 != 0)
    number, total = int(inside.sum()), int(present.sum())
    return number > 0 and (number == total or (2 * number > total and bool(fractions.any())))


def backward(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes, (n, 4) x1, y1, x2, y2, end before they begin, (n,)."""
    return np.asarray((corners[:, 2:] < corners[:, :2]).any(axis=1))


def refuse_backward(corners: NDArray[np.float64], path: Path, *, what: str) -> None:
    """Refuse boxes that end before they begin, as boxes [x, y, width, height] do.

    Args:
        corners: (n, 4) x1, y1, x2, y2 in any unit.
        path: The file, for the message.
        what: The file's word for the entry of a box, such as "row".

    Raises:
        DetectionsError: if there is such a box. It names the entry, counted from 1.
    """
    if (flags := backward(corners)).any():
        entry = int(np.argmax(flags))
        raise fault(
            f"{what} {entry + 1}: the box {corners[entry].tolist()} ends before it begins",
            path,
            "Boxes are [x1, y1, x2, y2] here. Convert those of COCO, [x, y, width, height], or call their "
            "columns x, y, width, height",
        )


def list_of(document: Mapping[str, Any], key: str, path: Path, count: int | None = None) -> list[Any]:
    """Return a list of a JSON object.

    Args:
        document: The object.
        key: The name of the list.
        path: The file, for the message.
        count: How many boxes there are, and so how many entries it has to have; None for any number.

    Raises:
        DetectionsError: if it is missing, not a list, or has another number of entries.
    """
    values = document.get(key)
    if not isinstance(values, list):
        raise fault(f"'{key}' is not a list", path, "Write the file again")
    if count is not None and len(values) != count:
        raise fault(f"{count} boxes, but {len(values)} {key}", path, "Write the file again")
    return values


def records_of(document: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Return a list of JSON objects.

    Raises:
        DetectionsError: if it is missing, not a list, or has an entry that is not an object.
    """
    records = list_of(document, key, path)
    if not all(isinstance(item, dict) for item in records):
        raise fault(f"not every one of '{key}' is an object", path, "Write the file again")
    return records


def names_by_id(records: Sequence[Mapping[str, Any]], name: str, path: Path) -> dict[str, Any]:
    """Return what the entries of a list call themselves, by their `id`.

    Args:
        records: The entries.
        name: The key of the name.
        path: The file, for the message.

    Raises:
        DetectionsError: if two entries of one id have different names.
    """
    names: dict[str, Any] = {}
    for record in records:
        number = str(record.get("id"))
        if names.setdefault(number, record.get(name)) != record.get(name):
            cause = f"id {number} is both {in_short(names[number])} and {in_short(record.get(name))}"
            raise fault(cause, path, "Write the file again with one id for each")
    return names


def looked_up(
    annotations: Sequence[Mapping[str, Any]], key: str, names: Mapping[str, Any], path: Path
) -> list[str | None]:
    """Return the names that annotations refer to by an id.

    Args:
        annotations: The annotations.
        key: The key of the id.
        names: Names by id.
        path: The file, for the message.

    Raises:
        DetectionsError: if an id has no entry. It names the annotation, counted from 1.
    """
    for index, item in enumerate(annotations):
        if str(item.get(key)) not in names:
            value = in_short(item.get(key))
            cause = f"annotation {index + 1} has {key} {value}, which the file does not explain"
            raise fault(cause, path, "Export the file again with the lists of its images and categories")
    return [text_or_none(names[str(item.get(key))]) for item in annotations]


def refuse_placeless(xy: NDArray[np.float64], path: Path, *, what: str) -> None:
    """Refuse objects of which none has coordinates.

    Args:
        xy: (n, 2 or more) coordinates.
        path: The file, for the message.
        what: The file's word for the objects, such as "annotations".

    Raises:
        DetectionsError: if there are objects and none has coordinates.
    """
    if len(xy) and not np.isfinite(xy).all(axis=1).any():
        raise fault(f"none of its {len(xy)} {what} has coordinates", path, "Write the file again with them")


def is_plain_number(value: Any) -> bool:
    """Return whether a value of a JSON document is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_NUMBER


def points(values: Sequence[Any], what: str, path: Path) -> NDArray[np.float64]:
    """Convert points [x, y] of a JSON document, (len(values), 2) float64; NaN for a missing point.

    Args:
        values: Points, or None.
        what: What they are, for the message.
        path: The file, for the message.

    Raises:
        DetectionsError: if a point is not two numbers. It names the entry, counted from 1.
    """
    pairs = [[None] * 2 if value is None else value for value in values]
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            cause = f"entry {index + 1}: the {what} is {in_short(pair)}, not [x, y]"
            raise fault(cause, path, "Write the file again")
    columns = [
        numbers([pair[axis] for pair in pairs], f"{'xy'[axis]} of the {what}", path) for axis in (0, 1)
    ]
    return np.stack(columns, axis=1)


def box_sides(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return the longer side of boxes [[a, b], [c, d]], (len(values),) float64, in whatever order of axes.

    A box that is missing or makes no sense has NaN: the candidate's place does not depend on it.
    """
    return np.array([_longer_side(value) for value in values], dtype=np.float64)


def _longer_side(box: Any) -> float:
    corners = box if isinstance(box, list) and len(box) == 2 else [None, None]
    flat = [value for corner in corners if isinstance(corner, list) for value in corner]
    if len(flat) != 4 or not all(map(is_plain_number, flat)):
        return math.nan
    return float(max(abs(flat[2] - flat[0]), abs(flat[3] - flat[1])))


def class_note(classes: Sequence[str | None], path: Path) -> tuple[str, ...]:
    """Return a note that counts the objects of each class, the most frequent first; empty without classes."""
    counts = Counter(name for name in classes if name is not None).most_common()
    shown = ", ".join(f"'{name}' ({number})" for name, number in counts[:_MOST_CLASSES])
    others = f" and {len(counts) - _MOST_CLASSES} more" if len(counts) > _MOST_CLASSES else ""
    return (f"{path.name}: classes: {shown}{others}",) if counts else ()


def in_short(value: Any) -> str:
    """Return a value of a file for a message, cut off if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def text_or_none(value: Any) -> str | None:
    """Return a name or id of a JSON document or database as text; None if it is missing or blank."""
    if value is None:
        return None
    return str(value).strip() or None


def carried_columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any] | NDArray[np.float64]]:
    """Convert records with differing keys to columns, in the order in which the keys first occur.

    Returns:
        float64 columns if every value is a number or missing, otherwise texts or None.
    """
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: _number_or_text([record.get(key) for record in records]) for key in keys}


def _number_or_text(values: Sequence[Any]) -> list[Any] | NDArray[np.float64]:
    try:
        return np.array([math.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError, OverflowError):
        return [None if value is None else str(value) for value in values]
