"""GeoJSON that QuPath exports, or that TIAToolbox writes for QuPath."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import listed
from wsi_mitosis.io.detections.classes import chosen_classes, plain_look_alikes
from wsi_mitosis.io.detections.columns import alias_key, names_classes
from wsi_mitosis.io.detections.common import (
    candidate_table,
    carried_columns,
    fault,
    in_short,
    numbers,
    text_or_none,
)
from wsi_mitosis.io.detections.shapes import not_used, part_ids, placed, read_shapes
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.detections.shapes import Shapes

_TIATOOLBOX_ID = re.compile(r"detection_\d+")
_TYPES_ELSEWHERE = {
    **{name: name for name in ("annotation", "detection", "cell", "tile", "tmacore")},
    **{f"path{name}object": name for name in ("annotation", "detection", "cell", "tile")},
    "tmacoreobject": "tmacore",
}
"""What QuPath writes into `type` or the id of an object, in lower case, and the type that it means."""
_NO_PROSE = frozenset({"objectType", "isLocked", "color", "measurements", "classification"})
"""QuPath's own properties, which do not mention look-alikes."""


def is_geojson(document: Any) -> bool:
    """Return whether a document is a FeatureCollection, a Feature, or a list that is empty or of features."""
    if isinstance(document, dict):
        return document.get("type") in ("FeatureCollection", "Feature")
    return not document or (isinstance(document[0], dict) and "geometry" in document[0])


def perhaps_features(document: Any) -> Any:
    """Return what holds the features of GeoJSON, which may be anything in a damaged file."""
    return document.get("features", [document]) if isinstance(document, dict) else document


def is_tiatoolbox(features: Any) -> bool:
    """Return whether features have ids `detection_<n>`, or `class_value`, as only TIAToolbox writes them.

    NucleusDetector writes `class_value` beside `properties`, MultiTaskSegmentor inside.
    """
    if not isinstance(features, list):
        return False
    return any(
        "class_value" in feature
        or "class_value" in properties_of(feature)
        or _TIATOOLBOX_ID.fullmatch(str(feature.get("id"))) is not None
        for feature in features
        if isinstance(feature, dict)
    )


def read_geojson(document: Any, path: Path, *, tiatoolbox: bool) -> Detections:
    """Return the centroids of features as candidates, in the order of the file.

    Each part of a MultiPoint, MultiPolygon or GeometryCollection is a candidate, with the id `<id>/1`,
    `<id>/2`, ... A feature that `read_shapes` does not use has NaN coordinates and is named in the notes with
    its number and the reason.

    Args:
        document: A parsed FeatureCollection, Feature or list of features.
        path: The file, for messages.
        tiatoolbox: Whether TIAToolbox wrote it. It is in the slide's frame then, and in QuPath's otherwise.

    Raises:
        DetectionsError: if an entry is not a feature, or a score is not a number.
    """
    features = features_of(document, path)
    shapes = read_shapes(features)
    counts, located = placed(shapes, len(features))
    table = candidate_table(
        int(counts.sum()),
        {
            **located,
            "id": part_ids([text_or_none(feature.get("id")) for feature in features], counts),
            **{name: np.repeat(values, counts) for name, values in _described(features, path).items()},
        },
        {name: np.repeat(values, counts) for name, values in _others(features).items()},
    )
    notes = _notes_of_shapes(features, shapes, counts, path)
    if tiatoolbox:
        return Detections(table, "px", "slide", "any", "tiatoolbox", notes=notes)
    return Detections(table, "px", "qupath", "qupath", "geojson", notes=notes)


def features_of(document: Any, path: Path) -> list[dict[str, Any]]:
    """Return the features of a parsed FeatureCollection, Feature or list of features.

    Raises:
        DetectionsError: if an entry is not a feature.
    """
    if isinstance(document, dict):
        document = document.get("features") if document["type"] == "FeatureCollection" else [document]
    if not isinstance(document, list):
        raise fault("'features' is not a list", path, "Export the objects again")
    for index, feature in enumerate(document):
        if not isinstance(feature, dict):
            raise fault(
                f"feature {index + 1} is {in_short(feature)}, not an object", path, "Export the objects again"
            )
    return document


def _notes_of_shapes(
    features: Sequence[Mapping[str, Any]], shapes: Shapes, counts: NDArray[np.intp], path: Path
) -> tuple[str, ...]:
    """Notes on features that are not used, and on those with several parts."""
    if len(shapes.unused) == len(features) > 0:
        raise fault(
            f"none of its {len(features)} objects is a point or an area: {not_used(shapes.unused)}",
            path,
            "Export the objects again as GeoJSON with points or closed rings of numbers",
        )
    names = {row: text_or_none(features[row].get("id")) for row in (*shapes.unused, *shapes.partly)}
    notes = []
    if shapes.unused:
        notes.append(f"{path.name}: no candidates: {not_used(shapes.unused, names)}")
    if shapes.partly:
        notes.append(f"{path.name}: used in part, without {not_used(shapes.partly, names)}")
    several = np.flatnonzero(counts > 1)
    if len(several):
        total = int(counts[several].sum())
        every = [
            text_or_none(feature.get("id")) or f"feature {at + 1}" for at, feature in enumerate(features)
        ]
        notes.append(f"{path.name}: {_counted(several, every)} has several parts: {total} candidates")
    return tuple(notes)


def _counted(rows: NDArray[np.intp], names: Sequence[str]) -> str:
    """`1 object ('a')`, `each of 1200 objects ('a', 'b', 'c' and 1197 more)`."""
    shown = listed(names[row] for row in rows)
    return f"1 object ({shown})" if len(rows) == 1 else f"each of {len(rows)} objects ({shown})"


def _described(features: Sequence[Mapping[str, Any]], path: Path) -> dict[str, NDArray[Any]]:
    """Class and score of each feature."""
    scores = numbers([_score(feature) for feature in features], "score", path)
    _, classes = chosen_classes(_class_places(features))
    return {"score": scores} if classes is None else {"score": scores, "detector_class": classes}


def object_type(feature: Mapping[str, Any]) -> str:
    """Return a feature's type in lower case: `annotation`, `detection`, `cell`, `tile`, `tmacore` or another.

    QuPath calls the property `objectType`, and `object_type` in 0.3; it reads `type` too, and 0.2 had it in
    the id.
    """
    properties = properties_of(feature)
    stated = [str(properties[key]) for key in ("objectType", "object_type") if properties.get(key)]
    kinds = [text.casefold().replace("_", "") for text in stated]
    perhaps = [str(value).casefold() for value in (properties.get("type"), feature.get("id"))]
    kinds += [_TYPES_ELSEWHERE[text] for text in perhaps if text in _TYPES_ELSEWHERE]
    return kinds[0] if kinds else "annotation"


def own_class(feature: Mapping[str, Any]) -> str | None:
    """Return QuPath's class of a feature, or else the text of a property that names one, such as `label`.

    Names and descriptions are ignored: what a reviewer writes about a figure is not its class.
    """
    properties = properties_of(feature)
    others = (
        text_or_none(value)
        for name, value in properties.items()
        if isinstance(value, str) and names_classes(name) and value.casefold() not in _TYPES_ELSEWHERE
    )
    return class_name(properties) or next(filter(None, others), None)


def _class_places(features: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """The classes of the features in each place that may name one, QuPath's own first.

    Other properties count if their texts mention look-alikes.
    """
    described = [properties_of(feature) for feature in features]
    names: dict[str, list[str | None]] = {"classification": [class_name(item) for item in described]}
    for items in (described, features):
        for key in dict.fromkeys(key for item in items for key in item):
            if key in names or (key == "type" and items is features):  # GeoJSON's own
                continue
            if names_classes(key):
                names[key] = [_text_of(item.get(key)) for item in items]
            elif items is described and key not in _NO_PROSE:
                names[key] = plain_look_alikes([_prose(item.get(key)) for item in items])
    return names


def _prose(value: Any) -> str | None:
    """The texts of a property, also of a list or object."""
    if isinstance(value, str):
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return " / ".join(item for item in inside if isinstance(item, str)) or None


def _text_of(value: Any) -> str | None:
    """The text of a property that may name a class, as a text, a list or an object with a name."""
    if isinstance(value, dict):
        value = value.get("name")
    elif isinstance(value, list):
        value = _prose(value)
    return text_or_none(value) if isinstance(value, str | int) else None


def properties_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return a feature's properties, empty if it has none."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def class_name(properties: Mapping[str, Any]) -> str | None:
    """Return QuPath's class, such as "A: B" for a derived class, or TIAToolbox's, which may be a number."""
    classification = properties.get("classification")
    if not isinstance(classification, dict):
        return text_or_none(classification)
    names = classification.get("names")
    joined = ": ".join(map(str, names)) if isinstance(names, list) else None
    stated = (classification.get(key) for key in ("name", "class", "label"))
    return text_or_none(next((name for name in stated if name is not None), joined))


def measurements_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return measurements by name; old versions of QuPath write them as a list of {"name", "value"}."""
    measurements = properties_of(feature).get("measurements")
    if isinstance(measurements, list):
        pairs = [item for item in measurements if isinstance(item, dict) and "name" in item]
        return {str(item["name"]): item.get("value") for item in pairs}
    return measurements if isinstance(measurements, dict) else {}


@functools.cache
def _score_rank(name: str) -> int | None:
    """Place of a name among the aliases of the score; None for other names."""
    keys = [alias_key(alias) for alias in ALIASES["score"]]
    key = alias_key(name)
    return keys.index(key) if key in keys else None


def _score_name(names: Mapping[str, Any]) -> str | None:
    ranks = {name: rank for name in names if (rank := _score_rank(name)) is not None}
    return min(ranks, key=ranks.__getitem__, default=None)


def _score(feature: Mapping[str, Any]) -> Any:
    """The score among the measurements, or else among the properties."""
    for values in (measurements_of(feature), properties_of(feature)):
        name = _score_name(values)
        if name is not None:
            return values[name]
    return None


def _others(features: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The measurements that are not the score, as columns."""
    records = []
    for feature in features:
        measured = measurements_of(feature)
        score = _score_name(measured)
        records.append({name: value for name, value in measured.items() if name != score})
    return {
        name: np.asarray(values, dtype=None if isinstance(values, np.ndarray) else object)
        for name, values in carried_columns(records).items()
    }
