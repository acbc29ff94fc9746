"""The cells of a table, as Arrow's columns of text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.csv_files import may_be_neutralised, restore
from wsi_mitosis.io.detections.common import fault
from wsi_mitosis.io.detections.numerals import as_plain, usual_numbers
from wsi_mitosis.io.text_tables import read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from wsi_mitosis.io.detections.numerals import Decimal
    from wsi_mitosis.io.text_tables import Dialect

_KEPT_AS_TEXT = r"^\s*[+-]?(0[0-9]|[0-9]{16,}\s*$)"
"""Leading zeros and long numbers are names, and would be damaged as numbers."""


def read_cells(
    text: str, dialect: Dialect, path: Path, coordinates: Sequence[int]
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read a table's cells as text, and notes on lines that are left out.

    Args:
        text: The table from its header on.
        dialect: How it is written.
        path: The file, for messages.
        coordinates: Indices of the columns that every candidate needs.

    Returns:
        A column of text per column of the header, in which an empty cell is null.

    Raises:
        DetectionsError: if a row is longer than the header.
    """
    import pyarrow as pa

    # Arrow refuses names that occur twice in `column_types`, so the columns are numbered at first.
    numbered = [str(at) for at in range(len(dialect.header))]
    notes: tuple[str, ...] = ()
    try:
        if dialect.spaced or _has_blank_line(text, dialect):
            raise pa.ArrowInvalid("Arrow ignores blank lines, and blanks before quotation marks")
        table = _read_by_arrow(text, dialect, numbered)
    except pa.ArrowInvalid:  # the rows may differ in length, which is checked row by row
        columns, notes = _read_by_row(text, dialect, path, coordinates)
        table = pa.table(dict(zip(numbered, columns, strict=True)))
    return table.rename_columns(dialect.header), notes


def _has_blank_line(text: str, dialect: Dialect) -> bool:
    """Whether a line is empty, or all of its cells are."""
    empty = dialect.separator * (len(dialect.header) - 1)
    at = text.find("\n\n")
    return (at >= 0 and bool(text[at:].strip())) or (bool(empty) and f"\n{empty}\n" in text)


def _read_by_arrow(text: str, dialect: Dialect, names: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    table = arrow_csv.read_csv(
        io.BytesIO(text.encode()),
        read_options=arrow_csv.ReadOptions(column_names=names, skip_rows_after_names=1),
        parse_options=arrow_csv.ParseOptions(
            delimiter=dialect.separator,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=dialect.quoted,
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    if not may_be_neutralised(text):
        return table
    return pa.table({name: _restored(table.column(name)) for name in names})


def _restored(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    encoded = values.combine_chunks().dictionary_encode()
    words = pa.array([restore(word) for word in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([words.take(encoded.indices)], pa.string())


def _read_by_row(
    text: str, dialect: Dialect, path: Path, coordinates: Sequence[int]
) -> tuple[list[pa.Array], tuple[str, ...]]:
    """The columns of a table whose rows differ in length, and a note on the lines after it."""
    try:
        records = read_records(text, dialect)
    except ValueError as error:
        raise fault(str(error), path) from error
    width = len(dialect.header)
    if {len(row) for row in records if row} == {width + 1}:
        raise fault(
            f"every row has {width + 1} fields, the header has {width}",
            path,
            "Give every column a name; R writes names of rows without one",
        )
    rows, after = _without_notes(records, width, coordinates)
    columns = _columns_of_width(rows, width, path)
    if not after:
        return columns, ()
    lines = listed(dialect.separator.join(line).strip() for line in after)
    return columns, (f"{path.name}: lines after the table are not read as candidates: {lines}",)


def _columns_of_width(rows: Sequence[list[str]], width: int, path: Path) -> list[pa.Array]:
    """Columns of rows that are filled up with empty cells, or lose empty cells beyond the header."""
    import pyarrow as pa

    for number, row in enumerate(rows, start=1):
        if any(field.strip() for field in row[width:]):
            cause = f"row {number} has {len(row)} fields, the header has {width}"
            raise fault(cause, path, "Give every row as many fields as the header")
    filled = [[*row[:width], *[""] * (width - len(row))] for row in rows]
    columns = zip(*filled, strict=True) if filled else [()] * width
    return [pa.array([field or None for field in column], pa.string()) for column in columns]


def _without_notes(
    records: Sequence[list[str]], width: int, coordinates: Sequence[int]
) -> tuple[list[list[str]], list[list[str]]]:
    """The rows, and the lines after them that are notes, such as a total or the name of the exporter.

    A note lacks a coordinate, and is shorter than the header or follows a blank line.
    """

    def has_coordinates(row: Sequence[str]) -> bool:
        return all(at < len(row) and row[at].strip() for at in coordinates)

    last = max((at for at, row in enumerate(records) if has_coordinates(row)), default=len(records))
    first = next(
        (at for at in range(last + 1, len(records)) if not records[at] or len(records[at]) < width),
        len(records),
    )
    return [row for row in records[:first] if row], [row for row in records[first:] if row]


def texts(values: pa.ChunkedArray) -> NDArray[np.object_]:
    """Return the texts of a column, (rows,) objects, None for empty cells. Equal texts are one object."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.equal(values, pc.floor(values))).as_py():
        values = values.cast(pa.int64())  # whole numbers are floats in a column with an empty cell
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    words = [word.strip() or None for word in encoded.dictionary.to_pylist()]
    codes = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
    result: NDArray[np.object_] = np.array([*words, None], dtype=object)[codes]
    return result


def numbers_or_texts(
    values: pa.ChunkedArray, separator: str | None, decimal: Callable[[], Decimal | None]
) -> Any:
    """Return a column that the reader does not interpret, (rows,).

    Args:
        values: The cells.
        separator: What separates the table's cells; None for Parquet.
        decimal: The decimal sign of the table's coordinates, for a column that does not show its own.

    Returns:
        Numbers if every cell is certainly a number, and its digits survive; else texts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(values.type):
        return values.to_pandas().to_numpy()
    if values.null_count == len(values) or pc.any(pc.match_substring_regex(values, _KEPT_AS_TEXT)).as_py():
        return texts(values)
    numbers = _as_type(values, pa.int64())
    if numbers is None:
        numbers = usual_numbers(values)
    if numbers is None:
        numbers = _doubtful_numbers(as_plain(values, separator, decimal))
    return texts(values) if numbers is None else numbers


def _doubtful_numbers(plain: pa.ChunkedArray | None) -> Any:
    """Numbers of a column whose decimal sign was decided; None if it was not, or if there are none."""
    import pyarrow as pa

    if plain is None or plain.null_count == len(plain):
        return None
    whole = _as_type(plain, pa.int64())
    return _as_type(plain, pa.float64()) if whole is None else whole


def _as_type(values: pa.ChunkedArray, kind: pa.DataType) -> Any:
    import pyarrow as pa

    try:
        return values.cast(kind).to_numpy()
    except pa.ArrowInvalid:
        return None
