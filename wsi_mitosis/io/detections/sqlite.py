"""SQLite databases of other programs, opened for reading only."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wsi_mitosis.io import limits
from wsi_mitosis.io.detections.common import fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOT_JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""First bytes of a rollback journal that is still needed: https://www.sqlite.org/fileformat.html."""

_STEPS_AT_ONCE = 10_000_000
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
"""Neither views nor virtual tables: both compute their rows, and can do so for ever."""
_COLUMNS = "SELECT name FROM pragma_table_info(?)"


def tables_of(path: Path) -> dict[str, frozenset[str]]:
    """Return the names of the columns of each table.

    Raises:
        DetectionsError: if the database is damaged, or is being written.
    """
    with _opened(path) as database:
        names = [str(name) for (name,) in database.execute(_TABLES)]
        return {
            name: frozenset(str(column) for (column,) in database.execute(_COLUMNS, (name,)))
            for name in names
        }


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query.

    Raises:
        DetectionsError: if the database is damaged, is being written, or has too many rows.
    """
    with _opened(path) as database:
        rows = database.execute(query).fetchmany(limits.MOST_ROWS + 1)
    if len(rows) > limits.MOST_ROWS:
        raise fault(f"the database has more than {limits.MOST_ROWS} rows", path, "Split it by slide")
    return rows


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


def _holds_changes(pending: Path) -> bool:
    if not pending.is_file() or not pending.stat().st_size:
        return False
    if pending.name.endswith("-wal"):
        return True
    with pending.open("rb") as file:
        return file.read(len(_HOT_JOURNAL)) == _HOT_JOURNAL
