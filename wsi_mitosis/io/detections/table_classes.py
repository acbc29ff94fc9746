"""The classes that the columns of a table give to its candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.core.classes import flagged, is_look_alike, is_mitotic, is_plainly_look_alike
from wsi_mitosis.io.detections.cells import texts
from wsi_mitosis.io.detections.classes import as_objects
from wsi_mitosis.io.detections.columns import column_keys, role_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_SAMPLE_ROWS, _MOST_CLASSES = 1024, 20
"""A column may name classes if this many of its first rows hold at most this many distinct texts."""


def class_columns(table: pa.Table, roles: Mapping[str, str]) -> dict[int, NDArray[np.object_]]:
    """Return the texts of every column that gives classes, best first.

    Columns named like classes come first. Flags (`is_mitosis`) and other texts that mention look-alikes
    follow, as the classes that they mean.

    Args:
        table: The cells.
        roles: Role to column name.

    Returns:
        (rows,) texts or None, by the index of the column.
    """
    used = {name for role, name in roles.items() if role != "detector_class"}
    free = [at for at, name in enumerate(table.column_names) if name not in used]
    columns = {at: texts(table.column(at)) for at in _named_as_classes(table, free, roles)}
    for at in free:
        if at not in columns:
            meant = _meant_classes(table.column_names[at], table.column(at))
            columns |= {} if meant is None else {at: meant}
    return columns


def _named_as_classes(table: pa.Table, free: Sequence[int], roles: Mapping[str, str]) -> list[int]:
    """Indices of the columns named like classes, best first."""
    keys = {at: column_keys(table.column_names[at]) for at in free}
    places = [at for wanted in role_keys("detector_class") for at in free if wanted in keys[at]]
    if "detector_class" in roles:
        places.insert(0, table.column_names.index(roles["detector_class"]))
    return list(dict.fromkeys(places))


def _meant_classes(name: str, values: pa.ChunkedArray) -> NDArray[np.object_] | None:
    """The classes that another column means, if it is a flag or its texts mention look-alikes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    is_flag = is_mitotic(name) or is_look_alike(name)
    if not is_text and not (is_flag and pa.types.is_primitive(values.type)):
        return None
    if len(pc.unique(values.slice(0, _SAMPLE_ROWS))) > _MOST_CLASSES:
        return None  # names, numbers or prose
    meant = flagged(name, texts(values)) if is_flag else None
    if meant is None and is_text:
        meant = _look_alikes(values, is_flag=is_flag)
    return None if meant is None else as_objects(meant)


def _look_alikes(values: pa.ChunkedArray, *, is_flag: bool) -> list[str | None] | None:
    """The texts that mean a look-alike, None for the others; None if there are none."""
    import pyarrow.compute as pc

    is_meant = is_look_alike if is_flag else is_plainly_look_alike
    found = {text.strip() for text in pc.unique(values).to_pylist() if text and is_meant(text)}
    return [text if text in found else None for text in texts(values)] if found else None
