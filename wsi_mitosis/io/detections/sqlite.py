"""SQLite databases: annotation stores of TIAToolbox, and annotations of SlideRunner or EXACT."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io import limits
from wsi_mitosis.io.detections.classes import as_objects, chosen_classes, plain_look_alikes
from wsi_mitosis.io.detections.columns import names_classes
from wsi_mitosis.io.detections.common import (
    box_columns,
    candidate_table,
    carried_columns,
    fault,
    in_short,
    numbers,
    text_or_none,
)
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_STORE_COLUMNS = {"key", "cx", "cy", "properties"}
_SLIDERUNNER_TABLES = {"Slides", "Annotations", "Annotations_coordinates", "Classes"}
_HOT_JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""First bytes of a rollback journal that is still needed: https://www.sqlite.org/fileformat.html."""

_STEPS_AT_ONCE = 10_000_000
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
"""Neither views nor virtual tables: both compute their rows, and can do so for ever."""
_STORE_QUERY = "SELECT key, cx, cy, properties FROM annotations ORDER BY id"
_SLIDERUNNER_QUERY = """
    SELECT annotation.uid, slide.filename, class.name,
           box.count, box.left, box.top, box.right, box.bottom
    FROM Annotations AS annotation
    LEFT JOIN Slides AS slide ON slide.uid = annotation.slide
    LEFT JOIN Classes AS class ON class.uid = annotation.agreedClass
    LEFT JOIN (
        SELECT annoId, COUNT(*) AS count,
               MIN(coordinateX) AS left, MIN(coordinateY) AS top,
               MAX(coordinateX) AS right, MAX(coordinateY) AS bottom
        FROM Annotations_coordinates GROUP BY annoId
    ) AS box ON box.annoId = annotation.uid
    WHERE COALESCE(annotation.deleted, 0) = 0
    ORDER BY annotation.uid
"""


def database_format(path: Path) -> Literal["tiatoolbox", "sliderunner"]:
    """Return which program wrote a database, by its tables.

    Raises:
        DetectionsError: if the database is damaged, is being written, or is of another program.
    """
    with _opened(path) as database:
        names = {str(name) for (name,) in database.execute(_TABLES)}
        if names >= _SLIDERUNNER_TABLES:
            return "sliderunner"
        if (
            "annotations" in names
            and {column[1] for column in database.execute("PRAGMA table_info(annotations)")} >= _STORE_COLUMNS
        ):
            return "tiatoolbox"
    tables = listed(sorted(names)) or "none"
    raise fault(f"a SQLite database of no known format, with the tables {tables}", path, "Check the path")


def read_tiatoolbox_store(path: Path) -> Detections:
    """Read TIAToolbox's SQLite store, whose centres are in level-0 px, slide frame.

    Raises:
        DetectionsError: if the database is damaged, or properties are not a JSON object.
    """
    with _opened(path) as database:
        rows = _rows(database, _STORE_QUERY, path)
    properties = [_parsed(text, path) for *_, text in rows]
    columns = {
        "id": [text_or_none(key) for key, *_ in rows],
        "x": numbers([row[1] for row in rows], "cx", path),
        "y": numbers([row[2] for row in rows], "cy", path),
        "score": numbers([_taken_score(values) for values in properties], "score", path),
        "detector_class": _taken_classes(properties),
    }
    scalars = [{k: v for k, v in values.items() if isinstance(v, str | float | int)} for values in properties]
    table = candidate_table(len(rows), columns, carried_columns(scalars))
    return Detections(table, "px", "slide", "any", "tiatoolbox")


def read_sliderunner(path: Path) -> Detections:
    """Read SlideRunner's annotations that are not deleted, with the class that its experts agreed on.

    The centre of a box, circle or polygon is that of the bounding box of its coordinates, level-0 px.

    Raises:
        DetectionsError: if the database is damaged.
    """
    with _opened(path) as database:
        rows = _rows(database, _SLIDERUNNER_QUERY, path)
    corners = [numbers([row[at] for row in rows], "coordinate", path) for at in range(4, 8)]
    columns: dict[str, Any] = {
        "id": [str(row[0]) for row in rows],
        "slide": [text_or_none(row[1]) for row in rows],
        "detector_class": [text_or_none(row[2]) for row in rows],
        **box_columns(np.stack(corners, axis=1)),
    }
    columns["extent"][[row[3] == 1 for row in rows]] = np.nan
    return Detections(candidate_table(len(rows), columns), "px", "slide", "mitotic", "sliderunner")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading only, without writing to its folder and without its own code.

    A schema can hold expressions, which are computed when a column is read; SQLite then refuses functions
    with side effects (`trusted_schema`), extensions stay off, and a query has a limited number of steps.

    With `immutable`, SQLite creates no lock files, which a read-only share would refuse. It then also ignores
    changes that have not been written to the file, so a database with such changes is refused.
    """
    for ending in ("-wal", "-journal"):
        pending = path.with_name(path.name + ending)
        if _holds_changes(pending):
            cause = f"changes are still in '{pending.name}'"
            raise fault(cause, path, "Close the program that has the database open, and try again")
    uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            _restrict(database)
            yield database
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise fault(f"a damaged SQLite database: {error}", path, "Write or copy it again") from error


def _restrict(database: sqlite3.Connection) -> None:
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.MOST_VALUE_BYTES)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    steps = itertools.count(1)
    most = limits.MOST_DATABASE_STEPS // _STEPS_AT_ONCE
    database.set_progress_handler(lambda: next(steps) > most, _STEPS_AT_ONCE)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")


def _rows(database: sqlite3.Connection, query: str, path: Path) -> list[tuple[Any, ...]]:
    rows = database.execute(query).fetchmany(limits.MOST_ROWS + 1)
    if len(rows) > limits.MOST_ROWS:
        raise fault(f"the database has more than {limits.MOST_ROWS} rows", path, "Split it by slide")
    return rows


def _holds_changes(pending: Path) -> bool:
    if not pending.is_file() or not pending.stat().st_size:
        return False
    if pending.name.endswith("-wal"):
        return True
    with pending.open("rb") as file:
        return file.read(len(_HOT_JOURNAL)) == _HOT_JOURNAL


def _parsed(text: str | bytes | None, path: Path) -> dict[str, Any]:
    try:
        properties = limits.parse_json(text or "{}")
    except ValueError as error:
        raise fault(f"properties that are not JSON: {error}", path, "Write the store again") from error
    if not isinstance(properties, dict):
        raise fault(
            f"properties that are not a JSON object: {in_short(properties)}", path, "Write the store again"
        )
    return properties


def _taken_score(properties: dict[str, Any]) -> Any:
    """Remove the score from the properties and return it; None if there is none."""
    name = next((alias for alias in ALIASES["score"] if alias in properties), None)
    return properties.pop(name) if name else None


def _taken_classes(properties: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """Remove TIAToolbox's `type` from the properties, and return the classes, also from other properties."""
    own = [text_or_none(values.pop("type", None)) for values in properties]
    keys = dict.fromkeys(key for values in properties for key in values)
    named = [key for key in keys if names_classes(key)]
    places = {"type": own} | {key: [text_or_none(values.get(key)) for values in properties] for key in named}
    for key in keys:
        if key not in places:
            texts = [value if isinstance(value := values.get(key), str) else None for values in properties]
            places[key] = plain_look_alikes(texts)
    _, classes = chosen_classes(places)
    return as_objects(own) if classes is None else classes
