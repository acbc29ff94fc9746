"""Tables with a header: text with separators, QuPath's measurement tables, Parquet."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io import limits
from wsi_mitosis.io.detections.cells import numbers_or_texts, read_cells, texts
from wsi_mitosis.io.detections.centres import find_centres
from wsi_mitosis.io.detections.classes import chosen_classes
from wsi_mitosis.io.detections.columns import (
    COORDINATES,
    coordinate_unit,
    is_known_column,
    is_qupath_table,
    resolve_columns,
)
from wsi_mitosis.io.detections.common import candidate_table, fault, mostly_shares
from wsi_mitosis.io.detections.numerals import SIGNS, read_numbers, table_decimal
from wsi_mitosis.io.detections.table_classes import class_columns
from wsi_mitosis.io.text_tables import detect_dialect
from wsi_mitosis.tables import Detections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from wsi_mitosis.io.detections.formats.format import ReadOptions
    from wsi_mitosis.io.detections.numerals import Decimal
    from wsi_mitosis.units import LengthUnit


@dataclass(frozen=True)
class _Table:
    """A table whose columns have their roles; `separator` is None for Parquet."""

    cells: pa.Table
    roles: Mapping[str, str]
    path: Path
    separator: str | None
    options: ReadOptions

    def place(self, role: str) -> int:
        """The index of a role's column."""
        return int(self.cells.column_names.index(self.roles[role]))

    def columns(self, *roles: str) -> dict[str, pa.ChunkedArray]:
        """The columns of those roles that the table has, by role."""
        return {role: self.cells.column(self.place(role)) for role in roles if role in self.roles}


def read_delimited(text: str, path: Path, options: ReadOptions) -> Detections:
    """Read a table separated by commas, semicolons or tabs.

    Args:
        text: The whole file, decoded.
        path: The file, for messages.
        options: What the user states about it.

    Raises:
        DetectionsError: if the header has no coordinates, a row is longer than the header, a coordinate or
            score is not a number or may be two, or columns contradict each other.
    """
    named = tuple(options.columns.values())
    dialect, text = detect_dialect(text, lambda name: is_known_column(name, named))
    roles = resolve_columns(dialect.header, options.columns, path)
    needed = [dialect.header.index(name) for role, name in roles.items() if role in COORDINATES]
    cells, notes = read_cells(text, dialect, path, needed)
    return _detections(_Table(cells, roles, path, dialect.separator, options), "csv", notes)


def read_parquet(data: bytes, path: Path, options: ReadOptions) -> Detections:
    """Read a Parquet table, such as a figures table of `wsi-mitosis`.

    Args:
        data: The whole file.
        path: The file, for messages.
        options: What the user states about it.

    Raises:
        DetectionsError: if the file is damaged, and as `read_delimited`.
    """
    import pyarrow as pa

    try:
        cells, lists = limits.read_parquet(data)
    except limits.LimitError as error:
        raise fault(str(error), path, error.remedy) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise fault(f"a damaged Parquet file: {error}", path, "Write or copy it again") from error
    roles = resolve_columns(cells.column_names, options.columns, path)
    left_out = f"{path.name}: columns of lists are left out: {listed(lists)}"
    return _detections(_Table(cells, roles, path, None, options), "parquet", (left_out,) if lists else ())


def _detections(table: _Table, format_name: str, notes: tuple[str, ...]) -> Detections:
    numbers = _numbers(table)
    units, columns, more_notes = _positions(table, numbers)
    columns |= {"score": numbers["score"]} if "score" in numbers else {}
    columns |= {role: texts(column) for role, column in table.columns("slide", "id").items()}
    place, classes = chosen_classes(class_columns(table.cells, table.roles))
    columns |= {} if classes is None else {"detector_class": classes}
    is_qupath = is_qupath_table(table.roles)
    return Detections(
        table=candidate_table(table.cells.num_rows, columns, _other_columns(table, place)),
        units=units,
        frame="qupath" if is_qupath else "slide",
        class_rule="qupath" if is_qupath else "any",
        format=format_name,
        notes=(*notes, *more_notes),
    )


def _numbers(table: _Table) -> dict[str, NDArray[np.float64]]:
    """(rows,) coordinates and scores by role."""
    columns = table.columns(*COORDINATES, "score")
    numbers = read_numbers(
        {table.roles[role]: column for role, column in columns.items()},
        table.path,
        separator=table.separator,
        decimal=table.options.decimal,
        places=[table.roles[role] for role in columns if role != "score"],
    )
    return {role: numbers[table.roles[role]] for role in columns}


def _positions(
    table: _Table, numbers: Mapping[str, NDArray[np.float64]]
) -> tuple[LengthUnit, dict[str, Any], tuple[str, ...]]:
    """The unit of the coordinates, (rows,) `x`, `y` and perhaps `extent` in it, and notes."""
    units, factor = coordinate_unit(table.roles, table.path, table.options.units)
    centres, notes = find_centres(numbers, table.roles, table.path)
    if factor != 1 and mostly_shares(centres["x"], centres["y"]):
        raise fault(
            "the header says percent, and the coordinates lie within 0 to 1",
            table.path,
            "Call the columns x_percent and y_percent for values to 100, or x_fraction and y_fraction",
        )
    if table.cells.num_rows and (np.isnan(centres["x"]) | np.isnan(centres["y"])).all():
        raise fault(
            f"none of its {table.cells.num_rows} rows has coordinates",
            table.path,
            "Check that the cells are separated as those of the header are, and that they are filled",
        )
    return units, {axis: values * factor for axis, values in centres.items()}, notes


def _other_columns(table: _Table, class_place: int | None) -> dict[str, Any]:
    """(rows,) values of the columns that have no role, by their names, all of them distinct."""
    used = {class_place, *(table.place(role) for role in table.roles if role != "detector_class")}
    others = [at for at in range(table.cells.num_columns) if at not in used]
    names = _distinct(table.cells.column_names[at] for at in others)
    decimal = functools.cache(lambda: _decimal(table))
    return {
        name: numbers_or_texts(table.cells.column(at), table.separator, decimal)
        for name, at in zip(names, others, strict=True)
    }


def _decimal(table: _Table) -> Decimal | None:
    """The decimal sign that the user states, or that coordinates and scores show."""
    given = table.options.decimal
    return SIGNS[given] if given else table_decimal(table.columns(*COORDINATES, "score").values())


def _distinct(names: Iterable[str]) -> list[str]:
    """Column names in which the second of a name is called `<name>_2`."""
    distinct: list[str] = []
    for name in names:
        ways = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
        distinct.append(next(way for way in ways if way not in distinct))
    return distinct
