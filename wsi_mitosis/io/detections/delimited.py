"""Tables with a header: CSV and its kin, QuPath's measurement tables, Parquet."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from wsi_mitosis.core import qupath
from wsi_mitosis.core.classes import flagged, is_look_alike, is_mitotic, is_plainly_look_alike
from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import (
    backward,
    box_columns,
    candidate_table,
    chosen_classes,
    fault,
    mostly_shares,
    refuse_backward,
)
from wsi_mitosis.io.detections.numerals import SIGNS, as_plain, read_numbers, table_decimal, usual_numbers
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from wsi_mitosis.io.detections.numerals import Decimal
    from wsi_mitosis.tables import DecimalSign
    from wsi_mitosis.units import LengthUnit

BOX = ("x1", "y1", "x2", "y2")
CORNER_AND_SIZE = ("x1", "y1", "width", "height")
CENTRE = ("x", "y")
COORDINATES = (*CENTRE, *BOX, "width", "height")
UNITS = ("px", "um", "mm", "fraction", "percent")
"""What the name of a coordinate may end in."""
_FLIPPED = 0.5
"""Share of boxes whose corners may be drawn the other way round; with more, `x2` and `y2` may be a size."""
_GLANCE, _MOST_CLASSES = 1024, 20
"""Rows that are looked at, and distinct texts among them at most, in a column that may name classes."""
_LARGEST_BOX = 1000
"""Width or height that no mitotic figure's box has in any unit: 250 um at 0.25 um/px."""
_SEPARATORS = ("\t", ";", ",")
_SEPARATOR_LINE = re.compile(r'\s*"?\s*sep\s*=\s*?(\\t|tab|[^\s"]|\t)\s*"?[;,\s]*', re.IGNORECASE)
"""Excel's first line, which tells Excel itself what separates the cells."""
_SAYS_CENTRE = re.compile(r"cent(re|er|roid)|^[xy]c$|^c[xy]$")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_KEPT_AS_TEXT = r"^\s*[+-]?(0[0-9]|[0-9]{16,}\s*$)"
"""Leading zeros and long numbers are names, and would be damaged as numbers."""
_UNIT_WORDS = {
    "um": f"{qupath.MICRO_SIGN.casefold()}m|microns?|micromet(?:er|re)s?",
    "mm": "millimet(?:er|re)s?",
    "px": "pixels?",
    "percent": "%|pct|percentage",
    "fraction": "norm|normali[sz]ed|rel|relative|frac|share",
}


def column_keys(name: str) -> tuple[str, ...]:
    """The keys of a column's name: as it is, and with its camel case as words (`ClassName`, `xCenter`)."""
    return tuple(dict.fromkeys((alias_key(name), alias_key(_CAMEL_CASE.sub("_", name)))))


def names_classes(name: str) -> bool:
    """Whether a column or property is called like one that holds classes."""
    return not _CLASS_KEYS.isdisjoint(column_keys(name))


@functools.cache
def alias_key(name: str) -> str:
    """A column's name without what does not tell names apart, and with its unit in one spelling.

    `casefold` also turns the micro sign U+00B5 into Greek mu U+03BC: both are read.
    """
    key = re.sub(r"[\s_()\[\]/,-]+", "_", name.strip().casefold()).rstrip("_")
    key = key.replace("_in_", "_") if key.startswith(("x_in_", "y_in_")) else key
    for unit, spellings in _UNIT_WORDS.items():
        key = re.sub(
            rf"_?%$|_(?:{spellings})$" if unit == "percent" else rf"_(?:{spellings})$", f"_{unit}", key
        )
    return key


_CLASS_KEYS = frozenset(alias_key(alias) for alias in ALIASES["detector_class"])
_KNOWN_KEYS = {alias_key(alias) for aliases in ALIASES.values() for alias in aliases} | {
    f"{alias_key(alias)}_{unit}" for role in COORDINATES for alias in ALIASES[role] for unit in UNITS
}


class _Dialect(NamedTuple):
    separator: str
    header: list[str]
    quoted: bool
    spaced: bool
    """Whether quotation marks follow blanks, as R and people write them."""


@dataclass(frozen=True)
class TableOptions:
    """What the user says of a table; None leaves it to the table.

    Attributes:
        columns: A role of ALIASES (or one of its aliases) to the name of a column.
        units: Unit of the coordinates.
        decimal: The decimal sign.
    """

    columns: Mapping[str, str]
    units: LengthUnit | None = None
    decimal: DecimalSign | None = None


def read_delimited(text: str, path: Path, options: TableOptions) -> Detections:
    """Read a table separated by commas, semicolons or tabs.

    Args:
        text: The whole file, decoded.
        path: The file, for messages.
        options: What the user says of it.

    Raises:
        DetectionsError: for a header without coordinates, a row longer than the header, a coordinate or
            score that is no number or may be two, or columns that contradict each other.
    """
    separator, text = _separator_line(text.lstrip("\r\n"))
    dialect = _dialect(text, options.columns, separator)
    roles = resolve_columns(dialect.header, options.columns, path)
    places = [dialect.header.index(name) for role, name in roles.items() if role in COORDINATES]
    table, notes = _text_table(text, dialect, path, places)
    detections = _detections(table, roles, path, dialect.separator, options, "csv")
    return replace(detections, notes=(*notes, *detections.notes))


def read_parquet(data: bytes, path: Path, options: TableOptions) -> Detections:
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
    roles = resolve_columns(table.column_names, options.columns, path)
    return _detections(table, roles, path, None, options, "parquet")


def resolve_columns(header: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Find out which column is what.

    Args:
        header: The table's column names.
        columns: The user's, as in TableOptions; these win over the aliases.
        path: The file, for messages.

    Returns:
        Role to column name. Of the coordinates those of CENTRE, BOX or CORNER_AND_SIZE are there, or all of
        CENTRE and one of the others, between which the numbers then decide.

    Raises:
        DetectionsError: if a column named is absent, if there are no coordinates or it is not clear which
            they are, or if a column that is needed is there twice.
    """
    named = {_role(key, path): _present(name, header, path) for key, name in columns.items()}
    roles = {**_by_alias(header, named), **named}
    places = _places(roles, frozenset(named), header, path)
    roles = {role: name for role, name in roles.items() if role not in COORDINATES} | places
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
        f"no column '{name}', which --columns names; there are {listed(header, 30)}",
        path,
        "Name a column of this table with --columns",
    )


def _by_alias(header: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Roles told by aliases alone, from columns that the user has not named."""
    free: dict[str, str] = {}
    for name in header:
        if name not in named.values():
            for key in column_keys(name):
                free.setdefault(key, name)
    found = _first_corners(free) if not named.keys() & set(COORDINATES) else {}
    for role in ALIASES.keys() - named.keys():
        if present := [free[key] for key in _keys(role) if key in free]:
            found.setdefault(role, present[0])
    if not named.keys() & set(CENTRE):
        found.update(_pair(free))
    return found


def _first_corners(free: Mapping[str, str]) -> dict[str, str]:
    """Corners that are numbered from 0: `x1` is then the second one."""
    if {"x0", "y0", "x1", "y1"} <= free.keys() and "x2" not in free:
        return {"x1": free["x0"], "y1": free["y0"], "x2": free["x1"], "y2": free["y1"]}
    return {"x1": free["x0"], "y1": free["y0"]} if {"x0", "y0"} <= free.keys() else {}


def _keys(role: str) -> list[str]:
    """How a role's columns may be called, best first: its aliases, and then with a unit behind them."""
    keys = [alias_key(alias) for alias in ALIASES[role]]
    return [*keys, *(f"{key}_{unit}" for key in keys for unit in UNITS)] if role in COORDINATES else keys


def _pair(free: Mapping[str, str]) -> dict[str, str]:
    """The best x and y that belong together: of `x_um, x, y_um` never one in um and one in px."""
    for x, y in zip(_keys("x"), _keys("y"), strict=True):
        if x in free and y in free:
            return {"x": free[x], "y": free[y]}
    return {}


def _places(
    roles: Mapping[str, str], named: frozenset[str], header: Sequence[str], path: Path
) -> dict[str, str]:
    """The columns that say where a candidate is, by role.

    Columns `x` and `y` beside a width and height, or beside `x2` and `y2`, are the corner of a box and never
    its centre, unless their name says centre or the user has named them by --columns.
    """

    def has(*wanted: str) -> bool:
        return roles.keys() >= set(wanted)

    def taken(*wanted: str) -> dict[str, str]:
        return {role: roles[role] for role in wanted}

    chosen = named & set(COORDINATES)
    box_is_chosen = bool(chosen - set(CENTRE))
    if has(*CENTRE) and not box_is_chosen:
        if chosen or all(_SAYS_CENTRE.search(alias_key(roles[axis])) for axis in CENTRE):
            return taken(*CENTRE)
        if has(*BOX):
            return taken(*CENTRE, *BOX)
        if has(*CORNER_AND_SIZE):
            return taken(*CENTRE, *CORNER_AND_SIZE)
    if has(*BOX):
        return taken(*BOX)
    if has(*CORNER_AND_SIZE):
        return taken(*CORNER_AND_SIZE)
    corner = {"x1": roles["x"], "y1": roles["y"]} if has(*CENTRE) else {}
    if corner and has("x2", "y2"):
        return corner | taken("x2", "y2")
    if corner and has("width", "height"):
        return corner | taken("width", "height")
    if corner and has("x1", "y1"):
        raise fault(
            f"'{roles['x']}' and '{roles['y']}', beside '{roles['x1']}' and '{roles['y1']}', may be a centre "
            "or a corner",
            path,
            "Name what they are with --columns x=...,y=... or --columns x1=...,y1=...,x2=...,y2=...",
        )
    if corner:
        return taken(*CENTRE)
    raise _no_coordinates(header, path)


def _no_coordinates(header: Sequence[str], path: Path) -> Exception:
    return fault(
        f"no columns for x and y; the first row reads {listed(header, 30)}",
        path,
        f"Name them with --columns x=...,y=..., or call x one of {', '.join(ALIASES['x'])} "
        f"(y likewise), or give a box {', '.join(BOX)}",
    )


def _detections(
    table: pa.Table,
    roles: Mapping[str, str],
    path: Path,
    separator: str | None,
    options: TableOptions,
    format_name: str,
) -> Detections:
    """Detections of an Arrow table whose columns have their roles."""
    of_qupath = _is_qupath(roles)
    class_columns = _class_columns(table, roles)
    roles = {role: name for role, name in roles.items() if role != "detector_class"}
    index = {role: table.column_names.index(name) for role, name in roles.items()}
    numeric = {role: name for role, name in roles.items() if role in {*COORDINATES, "score"}}
    numbers = read_numbers(
        {name: table.column(index[role]) for role, name in numeric.items()},
        path,
        separator=separator,
        decimal=options.decimal,
        places=[name for role, name in numeric.items() if role != "score"],
    )
    values = {role: numbers[name] for role, name in numeric.items()}
    units, scale = _units(roles, path, options.units)
    where, notes = _located(values, roles, path)
    if scale != 1 and mostly_shares(where["x"], where["y"]):
        raise fault(
            "the header says percent, and the coordinates lie within 0 to 1",
            path,
            "Call the columns x_percent and y_percent for values to 100, or x_fraction and y_fraction",
        )
    if table.num_rows and (np.isnan(where["x"]) | np.isnan(where["y"])).all():
        raise fault(
            f"none of its {table.num_rows} rows has coordinates",
            path,
            "Check that the cells are separated as those of the header are, and that they are filled",
        )
    columns: dict[str, Any] = {axis: array * scale for axis, array in where.items()}
    columns |= {"score": values["score"]} if "score" in values else {}
    columns |= {role: _texts(table.column(index[role])) for role in _texts_of(roles)}
    place, classes = chosen_classes(class_columns)
    columns |= {} if classes is None else {"detector_class": classes}
    others = [at for at in range(table.num_columns) if at != place and at not in index.values()]
    names = _distinct(table.column_names[at] for at in others)

    @functools.cache
    def sign() -> Decimal | None:
        given = options.decimal
        return SIGNS[given] if given else table_decimal(table.column(index[role]) for role in numeric)

    extras = {
        name: _carried(table.column(at), separator, sign) for name, at in zip(names, others, strict=True)
    }
    return Detections(
        table=candidate_table(table.num_rows, columns, extras),
        units=units,
        frame="qupath" if of_qupath else "slide",
        class_rule="qupath" if of_qupath else "any",
        format=format_name,
        notes=notes,
    )


def _located(
    values: Mapping[str, NDArray[np.float64]], roles: Mapping[str, str], path: Path
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """Centres, and extents of boxes, (rows,) each in the table's unit; and what to say of them."""
    if "x1" not in roles:
        return {axis: values[axis] for axis in CENTRE}, ()
    if "width" in roles and not np.isfinite(values["width"] + values["height"]).any():
        corner = CENTRE if "x" in roles else ("x1", "y1")  # columns of sizes without any
        return {axis: values[role] for axis, role in zip(CENTRE, corner, strict=True)}, ()
    box = _boxes(values, roles, path)
    if "x" in roles:
        return _centre_or_corner(box, values, roles, path)
    if "width" not in roles:
        return box, ()
    near, size = (f"'{roles[a]}' and '{roles[b]}'" for a, b in (("x1", "y1"), ("width", "height")))
    return box, (f"{path.name}: {near} are read as the top-left corner of boxes, whose size is {size}",)


def _boxes(
    values: Mapping[str, NDArray[np.float64]], roles: Mapping[str, str], path: Path
) -> dict[str, NDArray[np.float64]]:
    """Centres and extents of boxes by two corners, or by a corner and a size."""
    if "width" not in roles:
        corners = np.stack([values[role] for role in BOX], axis=1)
        if len(corners) and backward(corners).mean() > _FLIPPED:
            refuse_backward(corners, path, what="row")
        return box_columns(corners)
    x1, y1, width, height = (values[role] for role in CORNER_AND_SIZE)
    _refuse_rows((width < 0) | (height < 0), "the box has a negative width or height", path)
    sizes = np.maximum(width, height)
    _refuse_rows(
        (sizes > _LARGEST_BOX) & (np.nanmin(sizes) > _LARGEST_BOX),
        f"all boxes are at least {np.nanmin(sizes):g} wide or high, as an image is and no mitotic figure",
        path,
    )
    return box_columns(np.stack([x1, y1, x1 + width, y1 + height], axis=1))


def _centre_or_corner(
    box: dict[str, NDArray[np.float64]],
    values: Mapping[str, NDArray[np.float64]],
    roles: Mapping[str, str],
    path: Path,
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """What `x` and `y` are beside a box: its corner in all rows, or a point in it."""
    x, y = values["x"], values["y"]
    if _hold((x == values["x1"]) & (y == values["y1"]), x + y):
        note = f"{path.name}: '{roles['x']}' and '{roles['y']}' are the boxes' corner; their centre is taken"
        return box, (note,)
    outside = (np.abs(x - box["x"]) * 2 > box["extent"]) | (np.abs(y - box["y"]) * 2 > box["extent"])
    _refuse_rows(
        outside, f"the point ('{roles['x']}', '{roles['y']}') is not in the box of the same row", path
    )
    return {"x": x, "y": y, "extent": box["extent"]}, ()


def _hold(flags: NDArray[np.bool_], values: NDArray[np.float64]) -> bool:
    """Whether a flag holds for every row that has values, and there are any."""
    present = np.isfinite(values)
    return bool(present.any() and flags[present].all())


def _refuse_rows(flags: NDArray[np.bool_], cause: str, path: Path) -> None:
    if flags.any():
        raise fault(
            f"row {int(np.argmax(flags)) + 1}: {cause}",
            path,
            "Name the columns of the centre with --columns x=...,y=..., or those of the box "
            "with --columns x1=...,y1=...,x2=...,y2=...",
        )


def _class_columns(table: pa.Table, roles: Mapping[str, str]) -> dict[int, NDArray[np.object_]]:
    """The texts of all columns that are called like classes, best first, by their place in the table.

    Behind them come flags (`is_mitosis`) and other texts that speak of look-alikes, as the classes they mean.
    """
    used = {name for role, name in roles.items() if role != "detector_class"}
    free = [at for at, name in enumerate(table.column_names) if name not in used]
    keys = {at: column_keys(table.column_names[at]) for at in free}
    places = [at for wanted in _keys("detector_class") for at in free if wanted in keys[at]]
    if "detector_class" in roles:
        places.insert(0, table.column_names.index(roles["detector_class"]))
    columns = {at: _texts(table.column(at)) for at in dict.fromkeys(places)}
    for at in free:
        if (
            at not in columns
            and (meant := _meant_classes(table.column_names[at], table.column(at))) is not None
        ):
            columns[at] = meant
    return columns


def _meant_classes(name: str, values: pa.ChunkedArray) -> NDArray[np.object_] | None:
    """The classes that a column of another name means: a flag, or a text that says look-alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    is_flag = is_mitotic(name) or is_look_alike(name)
    if not is_text and not (is_flag and pa.types.is_primitive(values.type)):
        return None
    if len(pc.unique(values.slice(0, _GLANCE))) > _MOST_CLASSES:
        return None  # names, numbers or prose
    meant = flagged(name, _texts(values)) if is_flag else None
    if meant is None and is_text:
        says = is_look_alike if is_flag else is_plainly_look_alike
        said = {text.strip() for text in pc.unique(values).to_pylist() if text and says(text)}
        meant = [text if text in said else None for text in _texts(values)] if said else None
    return None if meant is None else np.array([*meant, None], dtype=object)[:-1]


def _texts_of(roles: Mapping[str, str]) -> list[str]:
    return [role for role in ("slide", "id") if role in roles]


def _distinct(names: Iterable[str]) -> list[str]:
    """Column names with the second of a name called `<name>_2`."""
    distinct: list[str] = []
    for name in names:
        ways = itertools.chain([name], (f"{name}_{count}" for count in itertools.count(2)))
        distinct.append(next(way for way in ways if way not in distinct))
    return distinct


def _is_qupath(roles: Mapping[str, str]) -> bool:
    """Whether the coordinates are called as QuPath calls them, which is in QuPath's frame."""
    return all(qupath.is_centroid_column(roles.get(axis, "")) for axis in ("x", "y"))


def _units(roles: Mapping[str, str], path: Path, given: LengthUnit | None) -> tuple[LengthUnit, float]:
    """The unit of the coordinates and its factor: as given, or as their names state it, else px."""
    units: dict[str, str] = {}
    for role in COORDINATES:
        if role in roles:
            units.setdefault(_unit(roles[role]), roles[role])
    if len(units) > 1:
        (one, first), (other, second), *_ = units.items()
        cause = f"'{first}' is in {one}, '{second}' in {other}"
        raise fault(cause, path, "Name columns of one unit with --columns x=...,y=...")
    (unit,) = units
    if unit == "percent" and given in {None, "fraction"}:
        return "fraction", 0.01
    return given or cast("LengthUnit", unit), 1.0


def _unit(name: str) -> str:
    suffixes = (key.rpartition("_")[2] for key in column_keys(name))
    return next((suffix for suffix in suffixes if suffix in UNITS), "px")


def _separator_line(text: str) -> tuple[str | None, str]:
    """The separator that Excel's own first line states, and the text below it."""
    end = text.find("\n")
    stated = _SEPARATOR_LINE.fullmatch(text[:end])
    if end < 0 or stated is None:
        return None, text
    separator = "\t" if stated[1].lower() in {"\\t", "tab"} else stated[1]
    return separator, text[end:].lstrip("\n")


def _dialect(text: str, columns: Mapping[str, str], stated: str | None) -> _Dialect:
    """Separator and header: the separator whose header has most names that are known, then most names."""
    first_line = text.split("\n", 1)[0]
    known = _KNOWN_KEYS | {alias_key(name) for name in columns.values()}
    headers = {separator: _header(text, separator) for separator in ([stated] if stated else _SEPARATORS)}

    def merit(separator: str) -> tuple[int, int]:
        header = headers[separator]
        return sum(not known.isdisjoint(column_keys(name)) for name in header), len(header)

    separator = max(headers, key=merit)
    # QuPath quotes nothing, so a quotation mark in an object's name is only that.
    of_qupath = any(map(qupath.is_centroid_column, headers[separator]))
    quoted = not (of_qupath and separator == "\t" and '"' not in first_line)
    spaced = quoted and '"' in text and re.search(rf'(?:^|{re.escape(separator)}) +"', text, re.M) is not None
    return _Dialect(separator, headers[separator], quoted, spaced)


def _header(text: str, separator: str) -> list[str]:
    """The first record; a column without a name, such as an index, is called `column_<n>`."""
    fields = next(csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True), [])
    return [name.strip() or f"column_{at}" for at, name in enumerate(fields, start=1)]


def _text_table(
    text: str, dialect: _Dialect, path: Path, places: Sequence[int]
) -> tuple[pa.Table, tuple[str, ...]]:
    """All cells as text, without the header, an empty cell is null; and what to say of lines left out."""
    import pyarrow as pa

    # Arrow refuses names that occur twice in `column_types`, so the columns are numbered meanwhile.
    numbered = [str(at) for at in range(len(dialect.header))]
    notes: tuple[str, ...] = ()
    try:
        if dialect.spaced or _has_blank_line(text, dialect):
            raise pa.ArrowInvalid("Arrow overlooks blank lines, and blanks before quotation marks")
        table = _read_by_arrow(text, dialect, numbered)
    except pa.ArrowInvalid:  # rows of differing length: read them one by one, which can tell which
        columns, notes = _squared(text, dialect, path, places)
        table = pa.table(dict(zip(numbered, columns, strict=True)))
    return table.rename_columns(dialect.header), notes


def _has_blank_line(text: str, dialect: _Dialect) -> bool:
    """Whether a line is empty, or all of its cells are."""
    empty = dialect.separator * (len(dialect.header) - 1)
    at = text.find("\n\n")
    return (at >= 0 and bool(text[at:].strip())) or (bool(empty) and f"\n{empty}\n" in text)


def _read_by_arrow(text: str, dialect: _Dialect, names: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(
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


def _squared(
    text: str, dialect: _Dialect, path: Path, places: Sequence[int]
) -> tuple[list[pa.Array], tuple[str, ...]]:
    """Columns of a table whose rows differ in length: short ones are filled, empty surplus is cut."""
    import pyarrow as pa

    width = len(dialect.header)
    records = _records(text, dialect, path)
    if {len(row) for row in records if row} == {width + 1}:
        raise fault(
            f"every row has {width + 1} fields, the header has {width}",
            path,
            "Give every column a name; R writes names of rows without one",
        )
    rows, notes = _without_notes(records, width, places)
    for number, row in enumerate(rows, start=1):
        if any(field.strip() for field in row[width:]):
            cause = f"row {number} has {len(row)} fields, the header has {width}"
            raise fault(cause, path, "Give every row as many fields as the header")
    squared = [[*row[:width], *[""] * (width - len(row))] for row in rows]
    columns = zip(*squared, strict=True) if squared else [()] * width
    arrays = [pa.array([field or None for field in column], pa.string()) for column in columns]
    if not notes:
        return arrays, ()
    left_out = listed(dialect.separator.join(line).strip() for line in notes)
    return arrays, (f"{path.name}: lines after the table are not read as candidates: {left_out}",)


def _records(text: str, dialect: _Dialect, path: Path) -> list[list[str]]:
    """The records below the header; a blank line is an empty one."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    records: list[list[str]] = []
    try:
        for row in csv.reader(
            io.StringIO(text), delimiter=dialect.separator, quoting=quoting, skipinitialspace=dialect.spaced
        ):
            records.append(row if any(field.strip() for field in row) else [])  # noqa: PERF401 - the error's row
    except csv.Error as error:
        raise fault(f"row {len(records)} cannot be read: {error}", path) from error
    return records[1:]


def _without_notes(
    records: Sequence[list[str]], width: int, places: Sequence[int]
) -> tuple[list[list[str]], list[list[str]]]:
    """Rows, and the lines after them that are notes, such as a total or who exported the table.

    A note has not all of a row's coordinates, and is short or behind a blank line.
    """

    def is_placed(row: Sequence[str]) -> bool:
        return all(at < len(row) and row[at].strip() for at in places)

    last = max((at for at, row in enumerate(records) if is_placed(row)), default=len(records))
    first = next(
        (at for at in range(last + 1, len(records)) if not records[at] or len(records[at]) < width),
        len(records),
    )
    return [row for row in records[:first] if row], [row for row in records[first:] if row]


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


def _carried(values: pa.ChunkedArray, separator: str | None, decimal: Callable[[], Decimal | None]) -> Any:
    """Another column: numbers where all of it are numbers beyond doubt and survive it, else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(values.type):
        return values.to_pandas().to_numpy()
    if values.null_count == len(values) or pc.any(pc.match_substring_regex(values, _KEPT_AS_TEXT)).as_py():
        return _texts(values)
    try:
        return values.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        usual = usual_numbers(values)
    if usual is not None:
        return usual
    plain = as_plain(values, separator, decimal)
    if plain is None or plain.null_count == len(plain):
        return _texts(values)
    for kind in (pa.int64(), pa.float64()):
        try:
            return plain.cast(kind).to_numpy()
        except pa.ArrowInvalid:
            continue
    return _texts(values)
