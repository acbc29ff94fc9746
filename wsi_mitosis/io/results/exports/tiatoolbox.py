"""TIAToolbox's annotation store: one SQLite database per slide, which TIAViz shows.

The store is written by TIAToolbox's own `SQLiteStore`. Figures are points in level-0 px of the slide frame,
their keys are the figures' ids, and their properties are `type` (the class in QuPath), `prob` (the
probability that the figure is atypical), the votes and the detector's score. Source: the documentation of
`tiatoolbox.annotation.storage`, of which TIAViz colours figures by `type`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.results.exports.common import PROVENANCE, Export, plain_numbers
from wsi_mitosis.io.slides.tiatoolbox_backend import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write one slide.

    Raises:
        OSError: if the file cannot be written.
    """
    (export,) = exports
    try:
        with replacing(path) as temporary, Listener(), closing(_store(temporary)) as store:
            store.metadata[PROVENANCE] = export.provenance
            if len(export.figures):  # without keys the store would make its own
                store.append_many(_annotations(export), export.figures["figure_id"].tolist())
    except sqlite3.Error as error:
        raise OSError(f"SQLite: {error}") from error


def _store(path: Path) -> Any:
    """Open TIAToolbox's store, which the caller closes.

    TIAToolbox 2.1 switches SQLite's extensions on before it asks for SQLite's options, for which it needs
    none, and fails where Python was built without them. It also closes a store again when that is collected,
    and thereby makes the file again that was given another name meanwhile.
    """
    from tiatoolbox.annotation import SQLiteStore

    class Store(SQLiteStore):  # type: ignore[misc]
        @staticmethod
        def compile_options() -> list[str]:
            with closing(sqlite3.connect(":memory:")) as database:
                return [option for (option,) in database.execute("PRAGMA compile_options")]

        def __del__(self) -> None:
            pass

    return Store(path)


def _annotations(export: Export) -> Iterator[Any]:
    from shapely import Point
    from tiatoolbox.annotation import Annotation

    for figure, name in zip(export.figures.itertuples(index=False), export.classes, strict=True):
        numbers = plain_numbers(figure)
        properties = {"type": name, "prob": numbers.pop("p_atypical"), **numbers}
        yield Annotation(Point(figure.x_px0, figure.y_px0), properties)
