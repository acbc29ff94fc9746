"""TIAToolbox: its annotation stores in SQLite, and the GeoJSON that it writes for QuPath."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_mitosis.io import limits
from wsi_mitosis.io.detections.classes import as_objects, chosen_classes, plain_look_alikes
from wsi_mitosis.io.detections.columns import names_classes
from wsi_mitosis.io.detections.common import (
    candidate_table,
    carried_columns,
    fault,
    in_short,
    numbers,
    text_or_none,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.geojson import is_geojson, is_tiatoolbox, perhaps_features, read_geojson
from wsi_mitosis.io.detections.sqlite import rows_of
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_STORE_COLUMNS = {"key", "cx", "cy", "properties"}
_STORE_QUERY = "SELECT key, cx, cy, properties FROM annotations ORDER BY id"


def _fits(document: Document) -> Fit:
    if document.kind == "sqlite":
        is_store = document.data.get("annotations", set()) >= _STORE_COLUMNS
        return Fit.LIKELY if is_store else Fit.NO
    if not is_geojson(document.data):
        return Fit.NO
    return Fit.LIKELY if is_tiatoolbox(perhaps_features(document.data)) else Fit.POSSIBLE


def _read(document: Document, _options: ReadOptions) -> Detections:
    if document.kind == "sqlite":
        return _read_store(document.path)
    return read_geojson(document.data, document.path, tiatoolbox=True)


def _read_store(path: Path) -> Detections:
    """Read TIAToolbox's SQLite store, whose centres are in level-0 px, slide frame.

    Raises:
        DetectionsError: if the database is damaged, or properties are not a JSON object.
    """
    rows = rows_of(path, _STORE_QUERY)
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


FORMAT = Format(
    name="tiatoolbox",
    about="TIAToolbox: an annotation store (SQLite), or the GeoJSON that it writes for QuPath.",
    kinds=("json", "sqlite"),
    fits=_fits,
    read=_read,
    endings=(".db",),
)
