"""Tables with a header: CSV and its kin, QuPath's measurement tables, Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import box_columns, candidate_table, fault
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from wsi_mitosis.units import LengthUnit

BOX = ("x1", "y1", "x2", "y2")
_SEPARATORS = ("\t", ";", ",")
_MISSING = ("", "na", "n/a", "nan", "null", "none")
_QUPATH_CENTROID = re.compile(r"centroid [xy] (px|\u03bcm)")
_KEPT_AS_TEXT = r"^\s*[+-]?(0[0-9]|[0-9]{16,}\s*$)"
"""Leading zeros and long numbers are names, and would be damaged as numbers."""


def alias_key(name: str) -> str:
    """A column's name without what does not tell names apart.

    `casefold` also turns the micro sign U+00B5 into Greek mu U+03BC: both are read.
    """
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


_KNOWN_KEYS = {alias_key(alias) for aliases in ALIASES.values() for alias in aliases}


class _Dialect(NamedTuple):
    separator: str
    header: list[str]
    quoted: bool


def read_delimited(text: str, path: Path, columns: Mapping[str, str]) -> Detections:
    """Read a table separated by commas, semicolons or tabs.

    Args:
        text: The whole file, decoded.
        path: The file, for messages.
        columns: `--columns`: a role of ALIASES (or one of its aliases) to the name of a column.

    Raises:
        DetectionsError: for a header without coordinates, a row longer than the header, or a coordinate
            or score that is no number.
    """
    text = text.lstrip("\r\n")
    dialect = _dialect(text, columns)
    roles = resolve_columns(dialect.header, columns, path)
    table = _text_table(text, dialect, path)
    return _detections(table, roles, path, decimal_comma=dialect.separator != ",", format_name="csv")


def read_parquet(data: bytes, path: Path, columns: Mapping[str, str]) -> Detections:
    """Read a Parquet table, such as one of our own figures tables; arguments as for `read_delimited`.

    Raises:
        DetectionsError: for a damaged file, and as `read_delimited`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise fault(f"a damaged Parquet file: {error}", path, "Write or copy it again") from error
    roles = resolve_columns(table.column_names, columns, path)
    return _detections(table, roles, path, decimal_comma=False, format_name="parquet")


def resolve_columns(header: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Find out which column is what.

    Args:
        header: The table's column names.
        columns: As for `read_delimited`; these win over the aliases.
        path: The file, for messages.

    Returns:
        Role to column name: `x` and `y`, or all of BOX, and those of the other roles that are there.

    Raises:
        DetectionsError: if a column named is absent, if there are no coordinates, or if a column that is
            needed is there twice.
    """
    named = {_role(key, path): _present(name, header, path) for key, name in columns.items()}
    roles = {**_by_alias(header, named), **named}
    if not {"x", "y"} <= roles.keys() and not set(BOX) <= roles.keys():
        raise _no_coordinates(header, path)
    unused = ("x", "y") if named.keys() & set(BOX) or not {"x", "y"} <= roles.keys() else BOX
    roles = {role: name for role, name in roles.items() if role not in unused}
    for name in roles.values():
        if list(header).count(name) > 1:
            raise fault(f"two columns are called '{name}'", path, "Rename one of them")
    return roles


def _role(key: str, path: Path) -> str:
    for role, aliases in ALIASES.items():
        if alias_key(key) in {alias_key(role), *map(alias_key, aliases)}:
            return role
    raise fault(f"--columns names '{key}', which is none of {', '.join(ALIASES)}", path)


def _present(name: str, header: Sequence[str], path: Path) -> str:
    if name in header:
        return name
    for column in header:
        if alias_key(column) == alias_key(name):
            return column
    raise fault(
        f"no column '{name}', which --columns names; there are {listed(header, 30)}", path, "Mend --columns"
    )


def _by_alias(header: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Roles told by aliases alone, from columns that the user has not named."""
    free = {alias_key(name): name for name in reversed(header) if name not in named.values()}
    found = {}
    for role, aliases in ALIASES.items():
        present = [free[alias_key(alias)] for alias in aliases if alias_key(alias) in free]
        if role not in named and present:
            found[role] = present[0]
    if not named.keys() & {"x", "y"}:
        found.update(_pair(free))
    return found


def _pair(free: Mapping[str, str]) -> dict[str, str]:
    """The best x and y that belong together: of `x_um, x, y_um` never one in um and one in px."""
    for x, y in zip(ALIASES["x"], ALIASES["y"], strict=True):
        if alias_key(x) in free and alias_key(y) in free:
            return {"x": free[alias_key(x)], "y": free[alias_key(y)]}
    return {}


def _no_coordinates(header: Sequence[str], path: Path) -> Exception:
    return fault(
        f"no columns for x and y; the first row reads {listed(header, 30)}",
        path,
        f"Name them with --columns x=...,y=..., or call x one of {', '.join(ALIASES['x'])} "
        f"(y likewise), or give a box {', '.join(BOX)}",
    )


def _detections(
    table: pa.Table, roles: Mapping[str, str], path: Path, *, decimal_comma: bool, format_name: str
) -> Detections:
    """Detections of an Arrow table whose columns have their roles."""
    index = {role: table.column_names.index(name) for role, name in roles.items()}

    def numeric(role: str) -> NDArray[np.float64]:
        return _numbers(table.column(index[role]), roles[role], path, decimal_comma)

    columns: dict[str, Any] = {role: numeric(role) for role in ("x", "y", "score") if role in roles}
    columns |= {role: _texts(table.column(index[role])) for role in _texts_of(roles)}
    if "x" not in roles:
        columns |= box_columns(np.stack([numeric(role) for role in BOX], axis=1))
    others = [at for at in range(table.num_columns) if at not in index.values()]
    names = _distinct(table.column_names[at] for at in others)
    extras = {name: _carried(table.column(at), decimal_comma) for name, at in zip(names, others, strict=True)}
    qupath = _is_qupath(roles)
    return Detections(
        table=candidate_table(table.num_rows, columns, extras),
        units=_units(roles, path),
        frame="qupath" if qupath else "slide",
        class_rule="qupath" if qupath else "any",
        format=format_name,
    )


def _texts_of(roles: Mapping[str, str]) -> list[str]:
    return [role for role in ("slide", "id", "detector_class") if role in roles]


def _distinct(names: Iterable[str]) -> list[str]:
    """Column names with the second of a name called `<name>_2`."""
    distinct: list[str] = []
    for name in names:
        ways = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
        distinct.append(next(way for way in ways if way not in distinct))
    return distinct


def _is_qupath(roles: Mapping[str, str]) -> bool:
    """Whether the coordinates are called as QuPath calls them, which is in QuPath's frame."""
    names = [roles.get(axis, "").strip().casefold() for axis in ("x", "y")]
    return all(_QUPATH_CENTROID.fullmatch(name) for name in names)


def _units(roles: Mapping[str, str], path: Path) -> LengthUnit:
    """The unit that the names of the coordinates state; px where they state none."""
    across, down = (_unit(roles.get(axis, "")) for axis in ("x", "y"))
    if across != down:
        cause = f"'{roles['x']}' is in {across}, '{roles['y']}' in {down}"
        raise fault(cause, path, "Name two columns of one unit with --columns x=...,y=...")
    return across


def _unit(name: str) -> LengthUnit:
    key = alias_key(name)
    if key in _KNOWN_KEYS and key.endswith(("_um", "_\u03bcm")):
        return "um"
    return "mm" if key in _KNOWN_KEYS and key.endswith("_mm") else "px"


def _dialect(text: str, columns: Mapping[str, str]) -> _Dialect:
    """Separator and header: the separator whose header has most names that are known, then most names."""
    first_line = text.split("\n", 1)[0]
    known = _KNOWN_KEYS | {alias_key(name) for name in columns.values()}
    headers = {separator: _header(text, separator) for separator in _SEPARATORS}

    def merit(separator: str) -> tuple[int, int]:
        header = headers[separator]
        return sum(alias_key(name) in known for name in header), len(header)

    separator = max(_SEPARATORS, key=merit)
    # QuPath quotes nothing, so a quotation mark in an object's name is only that.
    qupath = any(_QUPATH_CENTROID.fullmatch(name.strip().casefold()) for name in headers[separator])
    quoted = not (qupath and separator == "\t" and '"' not in first_line)
    return _Dialect(separator, headers[separator], quoted)


def _header(text: str, separator: str) -> list[str]:
    """The first record; a column without a name, such as an index, is called `column_<n>`."""
    fields = next(csv.reader(io.StringIO(text), delimiter=separator))
    return [name.strip() or f"column_{at}" for at, name in enumerate(fields, start=1)]


def _text_table(text: str, dialect: _Dialect, path: Path) -> pa.Table:
    """All cells as text, without the header; an empty cell is null."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    width = len(dialect.header)
    # Arrow refuses names that occur twice in `column_types`, so the columns are numbered meanwhile.
    places = [str(at) for at in range(width)]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text.encode()),
            read_options=arrow_csv.ReadOptions(column_names=places, skip_rows_after_names=1),
            parse_options=arrow_csv.ParseOptions(
                delimiter=dialect.separator,
                quote_char='"' if dialect.quoted else False,
                newlines_in_values=dialect.quoted,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:  # rows of differing length: read them one by one, which can tell which
        table = pa.table(dict(zip(places, _squared(text, dialect, path), strict=True)))
    return table.rename_columns(dialect.header)


def _squared(text: str, dialect: _Dialect, path: Path) -> list[pa.Array]:
    """Columns of a table whose rows differ in length: short ones are filled, empty surplus is cut."""
    import pyarrow as pa

    width = len(dialect.header)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text), delimiter=dialect.separator, quoting=quoting):
            if not any(field.strip() for field in row):
                continue
            if any(row[width:]):
                cause = f"row {len(rows)} has {len(row)} fields, the header has {width}"
                raise fault(cause, path, "Give every row as many fields as the header")
            rows.append([*row[:width], *[""] * (width - len(row))])
    except csv.Error as error:
        raise fault(f"row {len(rows)} cannot be read: {error}", path) from error
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * width
    return [pa.array([field or None for field in column], pa.string()) for column in columns]


def _numbers(values: pa.ChunkedArray, name: str, path: Path, decimal_comma: bool) -> NDArray[np.float64]:
    """Numbers of a column: (rows,) float64, NaN where a cell is empty or says so."""
    import pyarrow as pa

    cleaned = _cleaned(values, decimal_comma)
    try:
        return _floats(cleaned)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = _first_bad_row(cleaned)
        cause = f"row {row + 1}: '{name}' is '{values[row]}', not a number"
        raise fault(cause, path, "Mend this cell, or name another column with --columns") from error


def _floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    import pyarrow as pa

    return np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _cleaned(values: pa.ChunkedArray, decimal_comma: bool) -> pa.ChunkedArray:
    """Texts without blanks, with decimal points, null for the words that mean missing; else unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    text = pc.utf8_trim_whitespace(values)
    if decimal_comma:
        text = pc.replace_substring(text, ",", ".")
    missing = pc.is_in(pc.utf8_lower(text), pa.array(_MISSING, text.type))
    return pc.if_else(missing, None, text)


def _first_bad_row(values: pa.ChunkedArray) -> int:
    """Index of the first value that is no number, by halving."""
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


def _texts(values: pa.ChunkedArray) -> NDArray[np.object_]:
    """Texts of a column, (rows,) objects, None for empty cells; equal texts are one object."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.equal(values, pc.floor(values))).as_py():
        values = values.cast(pa.int64())  # whole numbers that had to be floats beside a missing one
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    words = [word.strip() or None for word in encoded.dictionary.to_pylist()]
    codes = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
    texts: NDArray[np.object_] = np.array([*words, None], dtype=object)[codes]
    return texts


def _carried(values: pa.ChunkedArray, decimal_comma: bool) -> Any:
    """Another column: numbers where all of it are numbers and survive it, else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(values.type):
        return values.to_pandas().to_numpy()
    cleaned = _cleaned(values, decimal_comma)
    if pc.any(pc.match_substring_regex(values, _KEPT_AS_TEXT)).as_py() or cleaned.null_count == len(cleaned):
        return _texts(values)
    for kind in (pa.int64(), pa.float64()):
        try:
            return cleaned.cast(kind).to_numpy()
        except pa.ArrowInvalid:
            continue
    return _texts(values)
