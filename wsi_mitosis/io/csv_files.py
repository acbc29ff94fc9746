"""The CSV files that the program writes, and reads again.

Other programs' tables are read by `io.text_tables`.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_FORMULA = re.compile(
    r"'*(?![+-](?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z)[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", re.ASCII
)
"""The start of a text that a spreadsheet may run, with the apostrophes before it. The signs are those of
OWASP's page "CSV Injection" (owasp.org/www-community/attacks/CSV_Injection). A signed number is not run."""


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    r"""Write a CSV file: UTF-8, separated by commas, lines ending in `\n`, whole or not at all.

    A text that a spreadsheet may run as a formula is written as `neutralise` returns it.

    Args:
        path: The file. Its folder is created if needed.
        columns: The header.
        rows: Values by column. A column that a row lacks, None, NaN and `pandas.NA` are empty cells.

    Raises:
        ValueError: if a row has a value for a column that is not in the header.
        OSError: if the file cannot be written.
    """
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, restval="")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    write_text(path, "".join(lines))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame without its index, as `write_rows` does."""
    names = [str(name) for name in frame.columns]
    columns = [frame[name].tolist() for name in frame.columns]
    write_rows(path, names, (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a file of `write_rows`; texts are those that were given to it, and an empty cell is "".

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8.
        csv.Error: if it is not CSV.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, restval="", restkey="")
        return [{name: restore(text) for name, text in row.items() if name} for row in rows]


def neutralise(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet may run as a formula, such as `=a.svs`.

    One more is put before a text that starts with apostrophes and such a formula, so that `restore` returns
    every text as it was.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def restore(text: str) -> str:
    """Remove the apostrophe that `neutralise` put before a text."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


class _Lines(list[str]):
    r"""Receives the lines of a `csv.writer`, which only quotes a `\r` if its own lines end in one."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return neutralise(value)
    return "" if value is None or value is pd.NA or value != value else value
