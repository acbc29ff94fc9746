"""SQLite databases: TIAToolbox's annotation store and SlideRunner's (EXACT's) annotations."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.columns import names_classes
from wsi_mitosis.io.detections.common import (
    box_columns,
    candidate_table,
    carried_columns,
    chosen_classes,
    fault,
    numbers,
    said_to_be_look_alikes,
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
    """Tell by its tables who wrote a database.

    Raises:
        DetectionsError: for a damaged database, one that is being written, or one of neither.
    """
    with _opened(path) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names >= _SLIDERUNNER_TABLES:
            return "sliderunner"
        if {column[1] for column in database.execute("PRAGMA table_info(annotations)")} >= _STORE_COLUMNS:
            return "tiatoolbox"
    tables = listed(sorted(names)) or "none"
    raise fault(f"a SQLite database of no known format, with the tables {tables}", path, "Check the path")


def read_tiatoolbox_store(path: Path) -> Detections:
    """Read TIAToolbox's SQLite store: centres in level-0 px, slide frame; properties as JSON.

    Raises:
        DetectionsError: for a damaged database, or properties that are no JSON object.
    """
    with _opened(path) as database:
        rows = database.execute(_STORE_QUERY).fetchall()
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
    """Read SlideRunner's annotations that are not deleted, with the class that was agreed on.

    Several coordinates (a box, a circle, a polygon) give the centre of their bounding box, level-0 px.

    Raises:
        DetectionsError: for a damaged database.
    """
    with _opened(path) as database:
        rows = database.execute(_SLIDERUNNER_QUERY).fetchall()
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
    """Open a database without writing to its folder.

    `immutable` keeps SQLite from making lock files, which a read-only share would refuse; it also makes it
    overlook what has not yet reached the file, so that is refused.
    """
    for ending in ("-wal", "-journal"):
        pending = path.with_name(path.name + ending)
        if _holds_changes(pending):
            cause = f"changes are still in '{pending.name}'"
            raise fault(cause, path, "Close the program that has the database open, and try again")
    uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise fault(f"a damaged SQLite database: {error}", path, "Write or copy it again") from error


def _holds_changes(pending: Path) -> bool:
    if not pending.is_file() or not pending.stat().st_size:
        return False
    if pending.name.endswith("-wal"):
        return True
    with pending.open("rb") as file:
        return file.read(len(_HOT_JOURNAL)) == _HOT_JOURNAL


def _parsed(text: str | bytes | None, path: Path) -> dict[str, Any]:
    try:
        properties = json.loads(text or "{}")
    except ValueError as error:
        raise fault(f"properties that are no JSON: {error}", path, "Write the store again") from error
    if not isinstance(properties, dict):
        raise fault(f"properties that are no JSON object: {properties!r}", path, "Write the store again")
    return properties


def _taken_score(properties: dict[str, Any]) -> Any:
    """The score, taken out of the properties; None without one."""
    name = next((alias for alias in ALIASES["score"] if alias in properties), None)
    return properties.pop(name) if name else None


def _taken_classes(properties: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """TIAToolbox's `type`, taken out of the properties, or a look-alike that another property names."""
    own = [text_or_none(values.pop("type", None)) for values in properties]
    keys = dict.fromkeys(key for values in properties for key in values)
    named = [key for key in keys if names_classes(key)]
    places = {"type": own} | {key: [text_or_none(values.get(key)) for values in properties] for key in named}
    for key in keys:
        if key not in places:
            texts = [value if isinstance(value := values.get(key), str) else None for values in properties]
            places[key] = said_to_be_look_alikes(texts)
    arrays = {name: np.array([*texts, None], dtype=object)[:-1] for name, texts in places.items()}
    _, classes = chosen_classes(arrays)
    return np.array([*own, None], dtype=object)[:-1] if classes is None else classes
