"""Which column of a table is what, by the columns' names."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, cast

from wsi_mitosis.core.qupath import MICRO_SIGN, is_centroid_column
from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.common import fault
from wsi_mitosis.tables import ALIASES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.errors import DetectionsError
    from wsi_mitosis.units import LengthUnit

BOX = ("x1", "y1", "x2", "y2")
CORNER_AND_SIZE = ("x1", "y1", "width", "height")
CENTRE = ("x", "y")
COORDINATES = (*CENTRE, *BOX, "width", "height")
UNITS = ("px", "um", "mm", "nm", "fraction", "percent")
"""Units in which the name of a coordinate may end."""
_MEANS_CENTRE = re.compile(r"cent(re|er|roid)|^[xy]c$|^c[xy]$")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_UNIT_WORDS = {
    "um": f"{MICRO_SIGN.casefold()}m|microns?|micromet(?:er|re)s?",
    "mm": "millimet(?:er|re)s?",
    "nm": "nanomet(?:er|re)s?",
    "px": "pixels?",
    "percent": "%|pct|percentage",
    "fraction": "norm|normali[sz]ed|rel|relative|frac|share",
}


@functools.cache
def alias_key(name: str) -> str:
    """Return a column's name in lower case, with one spelling of blanks, punctuation and units.

    `casefold` turns the micro sign U+00B5 into the Greek letter mu U+03BC, so that both are recognised.
    """
    key = re.sub(r"[\s_()\[\]/,-]+", "_", name.strip().casefold()).rstrip("_")
    key = key.replace("_in_", "_") if key.startswith(("x_in_", "y_in_")) else key
    for unit, spellings in _UNIT_WORDS.items():
        key = re.sub(
            rf"_?%$|_(?:{spellings})$" if unit == "percent" else rf"_(?:{spellings})$", f"_{unit}", key
        )
    return key


def column_keys(name: str) -> tuple[str, ...]:
    """Return the keys of a column's name: as it is, and with camel case (`xCenter`) split into words."""
    return tuple(dict.fromkeys((alias_key(name), alias_key(_CAMEL_CASE.sub("_", name)))))


def role_keys(role: str) -> list[str]:
    """Return the keys that a role's columns may have, best first: the aliases, then those with a unit."""
    keys = [alias_key(alias) for alias in ALIASES[role]]
    return [*keys, *(f"{key}_{unit}" for key in keys for unit in UNITS)] if role in COORDINATES else keys


_CLASS_KEYS = frozenset(role_keys("detector_class"))
_KNOWN_KEYS = frozenset(key for role in ALIASES for key in role_keys(role))


def names_classes(name: str) -> bool:
    """Return whether a column or property has a name of one that holds classes."""
    return not _CLASS_KEYS.isdisjoint(column_keys(name))


def is_known_column(name: str, others: Iterable[str] = ()) -> bool:
    """Return whether a column has a name of ALIASES, in any spelling, or one of `others`."""
    keys = column_keys(name)
    return not _KNOWN_KEYS.isdisjoint(keys) or any(alias_key(other) in keys for other in others)


def resolve_columns(header: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return which column has which role.

    Args:
        header: The table's column names.
        columns: The user's, as in ReadOptions. They take precedence over the aliases.
        path: The file, for messages.

    Returns:
        Role to column name. The coordinates are those of CENTRE, of BOX or of CORNER_AND_SIZE; or CENTRE and
        one of the other two, if only the numbers can tell whether `x` and `y` are a corner.

    Raises:
        DetectionsError: if a named column is missing, if the coordinates are missing or unclear, or if a
            column that is needed occurs twice.
    """
    named = {_role(key, path): _present(name, header, path) for key, name in columns.items()}
    roles = {**_by_alias(header, named), **named}
    coordinates = _coordinates(roles, frozenset(named), header, path)
    roles = {role: name for role, name in roles.items() if role not in COORDINATES} | coordinates
    for name in roles.values():
        if list(header).count(name) > 1:
            raise fault(f"two columns are called '{name}'", path, "Rename one of them")
    return roles


def _role(key: str, path: Path) -> str:
    for role, aliases in ALIASES.items():
        if alias_key(key) in {alias_key(role), *map(alias_key, aliases)}:
            return role
    cause = f"--columns names '{key}', which is none of {', '.join(ALIASES)}"
    raise fault(cause, path, "Write --columns ROLE=NAME, with one of these as ROLE")


def _present(name: str, header: Sequence[str], path: Path) -> str:
    if name in header:
        return name
    for column in header:
        if alias_key(column) == alias_key(name):
            return column
    raise fault(
        f"the table has no column '{name}', which --columns names; its columns are {listed(header, 30)}",
        path,
        "Name a column of this table with --columns",
    )


def _by_alias(header: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Roles by aliases alone, of the columns that the user has not named."""
    free: dict[str, str] = {}
    for name in header:
        if name not in named.values():
            for key in column_keys(name):
                free.setdefault(key, name)
    found = _first_corners(free) if not named.keys() & set(COORDINATES) else {}
    for role in ALIASES.keys() - named.keys():
        if present := [free[key] for key in role_keys(role) if key in free]:
            found.setdefault(role, present[0])
    if not named.keys() & set(CENTRE):
        found.update(_pair(free))
    return found


def _first_corners(free: Mapping[str, str]) -> dict[str, str]:
    """Corners that are numbered from 0, where `x1` is the second one."""
    if {"x0", "y0", "x1", "y1"} <= free.keys() and "x2" not in free:
        return {"x1": free["x0"], "y1": free["y0"], "x2": free["x1"], "y2": free["y1"]}
    return {"x1": free["x0"], "y1": free["y0"]} if {"x0", "y0"} <= free.keys() else {}


def _pair(free: Mapping[str, str]) -> dict[str, str]:
    """The best x and y that belong together. Of `x_um, x, y_um`, it is never one in um and one in px."""
    for x, y in zip(role_keys("x"), role_keys("y"), strict=True):
        if x in free and y in free:
            return {"x": free[x], "y": free[y]}
    return {}


def _coordinates(
    roles: Mapping[str, str], named: frozenset[str], header: Sequence[str], path: Path
) -> dict[str, str]:
    """The columns of the coordinates, by role.

    Columns `x` and `y` beside a width and height, or beside `x2` and `y2`, are the corner of a box and not
    its centre, unless their names contain "centre" or the user has named them with --columns.
    """
    named_coordinates = named & set(COORDINATES)
    if roles.keys() >= set(CENTRE) and named_coordinates <= set(CENTRE):
        if named_coordinates or all(_MEANS_CENTRE.search(alias_key(roles[axis])) for axis in CENTRE):
            return _taken(roles, CENTRE)
        for box in (BOX, CORNER_AND_SIZE):
            if roles.keys() >= set(box):
                return _taken(roles, (*CENTRE, *box))
    for box in (BOX, CORNER_AND_SIZE):
        if roles.keys() >= set(box):
            return _taken(roles, box)
    if roles.keys() >= set(CENTRE):
        return _corner_or_centre(roles, path)
    raise _no_coordinates(header, path)


def _taken(roles: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    return {role: roles[role] for role in wanted}


def _corner_or_centre(roles: Mapping[str, str], path: Path) -> dict[str, str]:
    """What `x` and `y` are in a table that has no whole box beside them."""
    corner = {"x1": roles["x"], "y1": roles["y"]}
    for rest in (("x2", "y2"), ("width", "height")):
        if roles.keys() >= set(rest):
            return corner | _taken(roles, rest)
    if roles.keys() >= {"x1", "y1"}:
        raise fault(
            f"'{roles['x']}' and '{roles['y']}', beside '{roles['x1']}' and '{roles['y1']}', may be a centre "
            "or a corner",
            path,
            "Name what they are with --columns x=...,y=... or --columns x1=...,y1=...,x2=...,y2=...",
        )
    return _taken(roles, CENTRE)


def _no_coordinates(header: Sequence[str], path: Path) -> DetectionsError:
    return fault(
        f"the table has no columns for x and y; its header is {listed(header, 30)}",
        path,
        f"Name them with --columns x=...,y=..., or call x one of {', '.join(ALIASES['x'])} "
        f"(y likewise), or give a box {', '.join(BOX)}",
    )


def is_qupath_table(roles: Mapping[str, str]) -> bool:
    """Return whether the columns of the coordinates have QuPath's names, and are then in QuPath's frame."""
    return all(is_centroid_column(roles.get(axis, "")) for axis in CENTRE)


def coordinate_unit(
    roles: Mapping[str, str], path: Path, given: LengthUnit | None
) -> tuple[LengthUnit, float]:
    """Return the unit of the coordinates, and the factor that converts their numbers to it.

    Args:
        roles: Role to column name.
        path: The file, for messages.
        given: The user's unit, which replaces the one in the columns' names. The default is px.

    Raises:
        DetectionsError: if the names of two coordinates state different units.
    """
    units: dict[str, str] = {}
    for role in COORDINATES:
        if role in roles:
            units.setdefault(_stated_unit(roles[role]), roles[role])
    if len(units) > 1:
        (one, first), (other, second), *_ = units.items()
        cause = f"'{first}' is in {one}, '{second}' in {other}"
        raise fault(cause, path, "Name columns of one unit with --columns x=...,y=...")
    (unit,) = units
    if unit == "percent" and given in {None, "fraction"}:
        return "fraction", 0.01
    return given or cast("LengthUnit", unit), 1.0


def _stated_unit(name: str) -> str:
    suffixes = (key.rpartition("_")[2] for key in column_keys(name))
    return next((suffix for suffix in suffixes if suffix in UNITS), "px")
