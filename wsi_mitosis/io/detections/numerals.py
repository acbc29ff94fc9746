"""Numbers in a table's text. A whole column decides its decimal and thousands signs, or is refused.

`2.438` may be 2438 or about 2.4, which a single cell cannot decide. The other cells of its column can
(`0.5`, `12.25`, `1.234.567`, `1.234,5`), or the other columns of the same table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from wsi_mitosis.io.detections.common import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from wsi_mitosis.errors import DetectionsError
    from wsi_mitosis.tables import DecimalSign

Decimal = Literal[".", ","]
"""The sign before the fraction. The other one of the two then separates thousands."""

MISSING = ("", "na", "n/a", "nan", "null", "none")
"""Texts of a cell that mean a missing value, in upper or lower case."""
SIGNS: dict[DecimalSign, Decimal] = {"point": ".", "comma": ","}
_OTHER: dict[Decimal, Decimal] = {".": ",", ",": "."}
_BLANKS = " \u00a0\u2009\u202f'\u2019"
"""Signs that only ever separate thousands: blanks of several widths, and the Swiss apostrophe."""
_ODD = rf"[,{_BLANKS}+]|\..*\."
"""Found in cells that are not a plain number with a decimal point."""
_SHORT_WHOLE = r"^[+-]?\d{1,3}$"
"""Whole numbers among grouped ones. A program that writes three decimals writes them in every cell."""
_GLANCE = 1024
"""Rows that are examined first, because most columns show their signs there."""
_REMEDY = "Pass --decimal point or --decimal comma, or write the numbers without a thousands separator"


class _Evidence(NamedTuple):
    """The decimal signs that one column shows.

    Attributes:
        certain: The decimal signs that a cell certainly has, each with the first such row.
        doubtful: The first row whose sign may be either; None if there is none.
    """

    certain: dict[Decimal, int]
    doubtful: int | None


def read_numbers(
    columns: Mapping[str, pa.ChunkedArray],
    path: Path,
    *,
    separator: str | None,
    decimal: DecimalSign | None,
    places: Iterable[str],
) -> dict[str, NDArray[np.float64]]:
    """Read the columns of one table that hold numbers.

    Args:
        columns: Texts or numbers by the column's name.
        path: The file, for messages.
        separator: What separates the table's cells. Between commas, a point is a decimal sign. None for a
            Parquet table.
        decimal: The decimal sign, if the user has stated it.
        places: The columns that hold coordinates, which share their signs.

    Returns:
        (rows,) float64 by the column's name; NaN if a cell is empty or means a missing value.

    Raises:
        DetectionsError: if a cell is not a number, or may be two. It names column, row and value.
    """
    quick = {name: usual_numbers(values) for name, values in columns.items()}
    if decimal is None and all(numbers is not None for numbers in quick.values()):
        return {name: numbers for name, numbers in quick.items() if numbers is not None}
    texts = {name: _cleaned(values) for name, values in columns.items()}
    given = None if decimal is None else SIGNS[decimal]
    signs = _signs(texts, path, separator, given, frozenset(places))
    return {name: _parsed(texts[name], name, path, signs[name]) for name in columns}


def usual_numbers(values: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Read a usual column, which has at most one sign and shows in its first rows that it is decimal.

    Returns:
        (rows,) float64; None for a column that must be examined as a whole.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if not _is_text(values):
            return _floats(values) if pa.types.is_primitive(values.type) else None
        certain = _evidence(_cleaned(values.slice(0, _GLANCE))).certain
        if "," in certain:
            return None if _has(values, ".") else _floats(pc.replace_substring(values, ",", "."))
        return _floats(values) if "." in certain or not _has(values, ".") else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # blanks, words for a missing value, or no numbers: the whole column is examined
    return None


def table_decimal(columns: Iterable[pa.ChunkedArray]) -> Decimal | None:
    """Return the decimal sign that columns certainly show; None if they show none, or both."""
    found = {sign for column in columns for sign in _evidence(_cleaned(column)).certain}
    return found.pop() if len(found) == 1 else None


def as_plain(
    values: pa.ChunkedArray, separator: str | None, decimal: Callable[[], Decimal | None]
) -> pa.ChunkedArray | None:
    """Return the texts of one column with decimal points and without thousands signs, ready to be cast.

    Args:
        values: Texts or numbers.
        separator: What separates the table's cells.
        decimal: The decimal sign of the table's other columns, for a column that does not show its own.

    Returns:
        The texts; None if their signs are uncertain.
    """
    text = _cleaned(values)
    if not _is_text(text) or (separator == "," and not _has(text, ",")):
        return text
    evidence = _evidence(text)
    if len(evidence.certain) > 1:
        return None
    sign = next(iter(evidence.certain), None) or decimal()
    if sign is None and evidence.doubtful is not None:
        return None
    return _plain(text, sign or ".")


def _signs(
    texts: Mapping[str, pa.ChunkedArray],
    path: Path,
    separator: str | None,
    decimal: Decimal | None,
    places: frozenset[str],
) -> dict[str, Decimal]:
    """The decimal sign of each column: the user's, its own, or that of the coordinates."""
    if decimal is not None:
        return dict.fromkeys(texts, decimal)
    evidence = {name: _evidence(text) for name, text in texts.items()}
    for name, found in evidence.items():
        if len(found.certain) > 1:
            raise _contradiction(name, found, texts[name], path)
    shared = {sign for name in places for sign in evidence[name].certain}
    signs: dict[str, Decimal] = {}
    for name, found in evidence.items():
        own: Collection[Decimal] = found.certain or (shared if len(shared) == 1 else ())
        if not own and found.doubtful is not None:
            own = _by_the_rest(texts[name], separator)
            if not own:
                raise _doubt(name, found.doubtful, texts[name], path)
        signs[name] = next(iter(own), ".")
    return signs


def _evidence(text: pa.ChunkedArray) -> _Evidence:
    if not _is_text(text):
        return _Evidence({}, None)
    certain: dict[Decimal, int] = {}
    for sign, other in _OTHER.items():
        row = _first(text, _certainly_decimal(sign))
        row = _first(text, _certainly_thousands(other)) if row is None else row
        if row is not None:
            certain[sign] = row
    return _Evidence(certain, None if certain else _first(text, r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"))


def _by_the_rest(text: pa.ChunkedArray, separator: str | None) -> Collection[Decimal]:
    """The decimal sign of an uncertain column, by other cells' thousands or the table's separator.

    If another cell has thousands with blanks or without a sign (`2438`), the sign must be decimal.
    """
    commas, points = (_first(text, re.escape(sign)) is not None for sign in ",.")
    sign: Decimal = "," if commas else "."
    alone = not (commas and points)
    between_commas = separator == "," and sign == "." and _first(text, _SHORT_WHOLE) is None
    decided = between_commas or _first(text, rf"\d[{_BLANKS}]\d{{3}}|^[+-]?\d{{4,}}$") is not None
    return {sign} if alone and decided else set()


def _certainly_decimal(sign: Decimal) -> str:
    """Cells in which a sign can only be decimal, because of the number of digits before or after it."""
    s, other = re.escape(sign), re.escape(_OTHER[sign])
    return (
        rf"^[+-]?\d*{s}(\d{{0,2}}|\d{{4,}})([eE][+-]?\d+)?$"  # not three digits behind it
        rf"|^[+-]?(0\d*|\d{{4,}}|){s}\d{{3}}$"  # no group of one to three digits before it
        rf"|^[+-]?\d*{s}\d+[eE][+-]?\d+$"
        rf"|^[+-]?\d{{1,3}}([{_BLANKS}{other}]\d{{3}})+{s}\d*$"  # thousands of another sign before it
    )


def _certainly_thousands(sign: Decimal) -> str:
    """Cells in which a sign can only separate thousands, because it occurs twice."""
    s = re.escape(sign)
    return rf"^[+-]?\d{{1,3}}({s}\d{{3}}){{2,}}$"


def _parsed(text: pa.ChunkedArray, name: str, path: Path, sign: Decimal) -> NDArray[np.float64]:
    import pyarrow as pa

    plain = _plain(text, sign)
    try:
        return _floats(plain)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = _first_bad_row(plain)
        cause = f"row {row + 1}: '{name}' is '{text[row]}', not a number"
        if re.search(r"\d\s*%$", str(text[row])):
            cause += ", but a percentage"
        raise fault(cause, path, "Correct this cell, or name another column with --columns") from error


def _plain(text: pa.ChunkedArray, sign: Decimal) -> pa.ChunkedArray:
    """Texts with a decimal point and no thousands signs. Texts that are not such numbers are marked."""
    import pyarrow.compute as pc

    if not _is_text(text) or (sign == "." and _first(text, _ODD) is None):
        return text
    s, other = re.escape(sign), re.escape(_OTHER[sign])
    number = (
        rf"^[+-]?(\d+|\d{{1,3}}({other}\d{{3}})+|\d{{1,3}}([{_BLANKS}]\d{{3}})+)?({s}\d*)?([eE][+-]?\d+)?$"
    )
    stripped = pc.replace_substring_regex(text, rf"[{other}{_BLANKS}+]", "")
    if sign == ",":
        stripped = pc.replace_substring(stripped, ",", ".")
    return pc.if_else(pc.match_substring_regex(text, number), stripped, _refused(text))


def _refused(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts that are not numbers in the column's signs, changed so that none is read as a number.

    Words such as `inf` are unchanged. A number with other signs gets a mark in front.
    """
    import pyarrow.compute as pc

    return pc.replace_substring_regex(text, r"^([+-]?[\d.,])", r"?\1")


def _floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    import pyarrow as pa

    if pa.types.is_boolean(values.type):
        raise pa.ArrowInvalid("true and false are not numbers")
    return np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _cleaned(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without blanks around them, null for words that mean a missing value. Numbers are unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if not _is_text(values):
        return values
    text = pc.replace_substring(pc.utf8_trim_whitespace(values), "\u2212", "-")
    missing = pc.is_in(pc.utf8_lower(text), pa.array(MISSING, text.type))
    return pc.if_else(missing, None, text)


def _is_text(values: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def _has(text: pa.ChunkedArray, sign: str) -> bool:
    """Whether any text contains a sign."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.match_substring(text, sign)).as_py())


def _first(text: pa.ChunkedArray, pattern: str) -> int | None:
    """Index of the first text that matches a pattern; None if none does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for start, part in ((0, text.slice(0, _GLANCE)), (_GLANCE, text.slice(_GLANCE))):
        row = pc.index(pc.match_substring_regex(part, pattern), pa.scalar(True)).as_py()
        if row >= 0:
            return start + int(row)
    return None


def _first_bad_row(values: pa.ChunkedArray) -> int:
    """Index of the first value that is not a number, by bisection."""
    import pyarrow as pa

    start, stop = 0, len(values)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            _floats(values.slice(start, middle - start))
            start = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            stop = middle
    return start


def _doubt(name: str, row: int, text: pa.ChunkedArray, path: Path) -> DetectionsError:
    value = str(text[row])
    whole, fraction = re.sub("[.,]", "", value), value.replace(",", ".")
    return fault(
        f"row {row + 1}: '{name}' is '{value}', which may be {fraction}, or {whole} with a thousands sign",
        path,
        _REMEDY,
    )


def _contradiction(name: str, found: _Evidence, text: pa.ChunkedArray, path: Path) -> DetectionsError:
    first, second = sorted(found.certain.values())
    return fault(
        f"'{name}' is '{text[first]}' in row {first + 1} and '{text[second]}' in row {second + 1}: "
        "their decimal and thousands signs contradict each other",
        path,
        "Write all numbers of the column in one way",
    )
