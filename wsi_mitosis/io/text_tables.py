"""Tables of text that other programs write: their encoding, separator, header and quotation marks.

Detections, slide lists and labels are read with it. The program's own files are read by `io.csv_files`.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from wsi_mitosis.core.qupath import is_centroid_column
from wsi_mitosis.io.csv_files import restore

if TYPE_CHECKING:
    from collections.abc import Callable

_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ENCODING_SAMPLE_BYTES = 64
"""Enough of a header of plain letters to recognise UTF-16."""
_BINARY_SAMPLE = 4096
SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r'\s*"?\s*sep\s*=\s*?(\\t|tab|[^\s"]|\t)\s*"?[;,\s]*', re.IGNORECASE)
"""The first line of a table from Excel, which states what separates the cells."""


class Dialect(NamedTuple):
    """How a table is written.

    Attributes:
        separator: The character between two cells.
        header: The names of the columns without blanks around them; the n-th column without a name is called
            `column_<n>`.
        quoted: Whether a quotation mark encloses a cell. QuPath does not quote, and writes such marks as they
            are.
        spaced: Whether blanks may precede a quotation mark, as in tables from R.
    """

    separator: str
    header: list[str]
    quoted: bool
    spaced: bool


def decode(data: bytes) -> str | None:
    r"""Decode UTF-8, UTF-16 with or without a byte order mark, or else Windows-1252.

    Returns:
        The text, with lines that end in `\n`; None if the data is not text.
    """
    marked = next((name for mark, name in _BOMS.items() if data.startswith(mark)), _unmarked_utf16(data))
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
        return None if encoding == "cp1252" and is_binary(text) else text
    return None


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, if every other of the first bytes is zero."""
    start = data[:_ENCODING_SAMPLE_BYTES]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = start[first::2], start[1 - first :: 2]
        if len(zeros) > 1 and not any(zeros) and all(others):
            return encoding
    return None


def is_binary(text: str) -> bool:
    """Return whether a text has control characters that no table or JSON document has."""
    return "\x00" in text or any(char < " " and char not in "\t\n\f" for char in text[:_BINARY_SAMPLE])


def detect_dialect(text: str, is_column: Callable[[str], bool]) -> tuple[Dialect, str]:
    """Detect how a table is written.

    Args:
        text: The table, as `decode` returns it.
        is_column: Whether the reader knows a column of this name. The separator is the one whose header has
            most such names, then most names; Excel's line `sep=` decides before both.

    Returns:
        The dialect, and the table from its header on.
    """
    stated, text = _separator_line(text.lstrip("\n"))
    headers = {separator: _header(text, separator) for separator in ([stated] if stated else SEPARATORS)}
    separator = max(headers, key=lambda one: (sum(map(is_column, headers[one])), len(headers[one])))
    header = headers[separator]
    quoted = not (separator == "\t" and _is_unquoted(text.partition("\n")[0], header))
    spaced = quoted and '"' in text and re.search(rf'(?:^|{re.escape(separator)}) +"', text, re.M) is not None
    return Dialect(separator, header, quoted, spaced), text


def _separator_line(text: str) -> tuple[str | None, str]:
    """The separator that Excel's first line states, and the text below it."""
    line, end, rest = text.partition("\n")
    stated = _SEPARATOR_LINE.fullmatch(line)
    if not end or stated is None:
        return None, text
    return "\t" if stated[1].lower() in {"\\t", "tab"} else stated[1], rest.lstrip("\n")


def _header(text: str, separator: str) -> list[str]:
    try:
        fields = next(csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # a cell of more than csv.field_size_limit() characters, which is no name
        return []
    return [name.strip() or f"column_{at}" for at, name in enumerate(fields, start=1)]


def _is_unquoted(first_line: str, header: list[str]) -> bool:
    """Whether a table is QuPath's, in which a quotation mark is part of an object's name."""
    return '"' not in first_line and any(map(is_centroid_column, header))


def read_records(text: str, dialect: Dialect) -> list[list[str]]:
    """Read the records below the header. One whose cells are all blank is empty.

    Raises:
        ValueError: if the text is not a table of this dialect.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    records: list[list[str]] = []
    lines = io.StringIO(text)
    try:
        for row in csv.reader(
            lines, delimiter=dialect.separator, quoting=quoting, skipinitialspace=dialect.spaced
        ):
            cells = [restore(cell) for cell in row]
            records.append(cells if any(cell.strip() for cell in row) else [])
    except csv.Error as error:
        raise ValueError(f"row {len(records)} cannot be read: {error}") from error
    return records[1:]
