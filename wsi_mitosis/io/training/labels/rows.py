"""Rows of a CSV of labels, each with its place in the file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError, DetectionsError, listed
from wsi_mitosis.io.detections.columns import is_known_column
from wsi_mitosis.io.detections.numerals import read_numbers
from wsi_mitosis.io.limits import LimitError, read_bytes
from wsi_mitosis.io.text_tables import decode, detect_dialect, read_records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.io.text_tables import Dialect

STAGE = "reading labels"
CORRECT = "Correct this row, or leave it out"
LABELS = {
    **dict.fromkeys(("amf", "atypical", "1", "true"), 1),
    **dict.fromkeys(("nmf", "typical", "normal", "0", "false"), 0),
}
"""What a label may be called; upper and lower case are alike."""


@dataclass(frozen=True)
class LabelRow:
    """One row of labels.

    Attributes:
        cells: By the names of their columns.
        place: The file and the row's number, counted from 1 below the header.
        separator: What separates the cells.
    """

    cells: Mapping[str, str]
    place: str
    separator: str = ","

    def text(self, column: str) -> str:
        """A cell without blanks around it.

        Raises:
            DatasetError: if it is empty.
        """
        if not (text := self.cells[column].strip()):
            raise DatasetError(f"'{column}' is empty", subject=self.place, stage=STAGE, remedy=CORRECT)
        return text

    def number(self, column: str) -> float:
        """Return a cell as a finite number with a decimal point.

        Raises:
            DatasetError: If it is not one.
        """
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(
                f"'{column}' is '{text}', not a number", subject=self.place, stage=STAGE, remedy=CORRECT
            )
        return value

    def label(self, column: str) -> int:
        """Return a cell as a label: 0 typical, 1 atypical.

        Raises:
            DatasetError: If it is not one of LABELS.
        """
        text = self.text(column)
        if text.lower() not in LABELS:
            raise DatasetError(
                f"'{column}' is '{text}', not a label",
                subject=self.place,
                stage=STAGE,
                remedy=f"Labels are {', '.join(LABELS)}",
            )
        return LABELS[text.lower()]


def read_label_rows(path: Path) -> list[LabelRow]:
    """Read all rows of a table with a header, separated by commas, semicolons or tabs, without empty rows.

    Raises:
        DatasetError: if the file cannot be read, has no rows, or a row has not as many cells as the header.
    """
    try:
        text = decode(read_bytes(path))
    except LimitError as error:
        raise _fault(f"cannot be read: {error}", path) from error
    except OSError as error:
        raise _fault(f"cannot be read: {error.strerror}", path) from error
    if text is None:
        raise _fault("cannot be read: the file is not text in UTF-8, UTF-16 or Windows-1252", path)
    dialect, table = detect_dialect(text, is_known_column)
    if twice := [name for name, number in Counter(dialect.header).items() if number > 1 and name.strip()]:
        raise _fault(f"two columns are called {listed(twice)}", path)
    try:
        records = [record for record in read_records(table, dialect) if record]
    except ValueError as error:
        raise _fault(str(error), path) from error
    if not records:
        raise _fault("holds no rows", path)
    return [_row(record, dialect, f"{path.name}: row {n}") for n, record in enumerate(records, start=1)]


def _row(record: Sequence[str], dialect: Dialect, place: str) -> LabelRow:
    if len(record) != len(dialect.header):
        raise _fault(f"{len(record)} cells below a header of {len(dialect.header)}", place)
    return LabelRow(dict(zip(dialect.header, record, strict=True)), place, dialect.separator)


def _fault(cause: str, subject: object) -> DatasetError:
    return DatasetError(cause, subject=subject, stage=STAGE, remedy="Correct the table, or export it again")


def coordinates(rows: Sequence[LabelRow], x: str, y: str, path: Path) -> tuple[list[float], list[float]]:
    """The columns `x` and `y`, level-0 px, whose signs are decided as in a table of detections.

    Between commas, a number has a decimal point.

    Raises:
        DatasetError: if a cell is empty, is no finite number, or may be two.
    """
    if rows[0].separator != ",":
        rows = _with_points(rows, (x, y), path)
    return [row.number(x) for row in rows], [row.number(y) for row in rows]


def _with_points(rows: Sequence[LabelRow], columns: Sequence[str], path: Path) -> list[LabelRow]:
    """Rows whose numbers have a decimal point and no thousands signs."""
    import pyarrow as pa

    texts = {name: pa.chunked_array([[row.text(name) for row in rows]], pa.string()) for name in columns}
    try:
        numbers = read_numbers(texts, path, separator=rows[0].separator, decimal=None, places=list(columns))
    except DetectionsError as error:
        remedy = "Write numbers with a decimal point and without a thousands separator"
        raise DatasetError(error.cause, subject=path, stage=STAGE, remedy=remedy) from error
    return [
        replace(row, cells={**row.cells, **{name: repr(float(numbers[name][at])) for name in columns}})
        for at, row in enumerate(rows)
    ]


def need_columns(rows: Sequence[LabelRow], columns: Sequence[str], path: Path, what: str) -> None:
    """Refuse a table without the columns that `what`, a data set's name, has.

    Raises:
        DatasetError: If it lacks one of them.
    """
    if absent := [name for name in columns if name not in rows[0].cells]:
        raise DatasetError(
            f"no column {', '.join(absent)}, which {what} has",
            subject=path,
            stage=STAGE,
            remedy="Name the file that the data set is published with, or read yours by --source csv",
        )
