"""The CSV files that the program writes, and reads again.

Other programs' tables are read by `io.text_tables`.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""A spreadsheet may run a text that starts with one of these. Source: OWASP's page "CSV Injection"
(owasp.org/www-community/attacks/CSV_Injection)."""
_NUMBER = r"[+-](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z"
_FORMULA = re.compile(rf"'*(?!{_NUMBER})[{re.escape(_SIGNS)}]", re.ASCII)
"""The start of a text that a spreadsheet may run, with the apostrophes before it. A number is not run."""


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
    from pandas import NA  # imported late, because reading a table does not need pandas

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            return neutralise(value)
        return "" if value is None or value is NA or value != value else value

    lines = _Lines()
    writer = csv.DictWriter(lines, columns, restval="")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    write_text(path, "".join(lines))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame without its index, as `write_rows` does."""
    names = [str(name) for name in frame.columns]
    columns = [frame[name].tolist() for name in frame.columns]
    write_rows(path, names, (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a file of `write_rows`; texts are those that were given to it, and an empty cell is "".

    A byte order mark, which a spreadsheet may have added, is ignored.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not UTF-8.
        csv.Error: if it is not CSV.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restval="", restkey="")
        return [{name: restore(text) for name, text in row.items() if name} for row in rows]


def neutralise(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet may run as a formula, such as `=a.svs`.

    One more is put before a text that starts with apostrophes and such a formula, so that `restore` returns
    every text as it was.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def may_be_neutralised(text: str) -> bool:
    """Return whether a whole file may have cells that `restore` changes."""
    return any(f"'{sign}" in text for sign in _SIGNS)


def restore(text: str) -> str:
    """Remove the apostrophe that `neutralise` put before a text."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


class _Lines(list[str]):
    r"""Receives the lines of a `csv.writer`, which only quotes a `\r` if its own lines end in one."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")
