"""GeoJSON as QuPath exports it and as TIAToolbox writes it for QuPath."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from wsi_mitosis.io.detections.common import candidate_table, carried_columns, fault, numbers, text_or_none
from wsi_mitosis.io.detections.delimited import alias_key
from wsi_mitosis.tables import ALIASES, Detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_TIATOOLBOX_ID = re.compile(r"detection_\d+")
_AREA = 2
"""Shapely's dimension of polygons and collections with polygons."""


def is_tiatoolbox(features: Any) -> bool:
    """Whether features have TIAToolbox's marks: ids `detection_<n>`, or `class_value`.

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
    """Turn features into candidates: centroids, in the order of the file.

    A feature whose geometry is missing or broken has NaN coordinates. A MultiPoint gives a candidate for
    each of its points, called `<id>/1`, `<id>/2`, ...

    Args:
        document: A parsed FeatureCollection, Feature or list of features.
        path: The file, for messages.
        tiatoolbox: Whether it is TIAToolbox's, which is in the slide's frame; else in QuPath's.

    Raises:
        DetectionsError: if something else stands among the features, or a score is no number.
    """
    features = features_of(document, path)
    shapes = _shapes(features)
    several = shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT
    # An empty MultiPoint still is one row, without coordinates.
    counts = np.where(several, np.maximum(shapely.get_num_geometries(shapes), 1), 1)
    table = candidate_table(
        int(counts.sum()),
        {
            **_places(shapes, several),
            "id": _ids(features, counts, several),
            **{name: np.repeat(values, counts) for name, values in _described(features, path).items()},
        },
        {name: np.repeat(values, counts) for name, values in _others(features).items()},
    )
    if tiatoolbox:
        return Detections(table, "px", "slide", "any", "tiatoolbox")
    return Detections(table, "px", "qupath", "qupath", "geojson")


def features_of(document: Any, path: Path) -> list[dict[str, Any]]:
    """The features of a parsed FeatureCollection, Feature or list of features.

    Raises:
        DetectionsError: if something else stands among them.
    """
    if isinstance(document, dict):
        document = document.get("features") if document["type"] == "FeatureCollection" else [document]
    if not isinstance(document, list):
        raise fault("'features' is no list", path, "Export the objects again")
    for index, feature in enumerate(document):
        if not isinstance(feature, dict):
            raise fault(
                f"feature {index + 1} is {feature!r}, not an object", path, "Export the objects again"
            )
    return document


def _shapes(features: Sequence[Mapping[str, Any]]) -> NDArray[np.object_]:
    """Geometries, (n,) objects, None where missing or broken."""
    texts = [json.dumps(feature.get("geometry")) for feature in features]
    return np.asarray(shapely.from_geojson(np.array(texts, dtype=object), on_invalid="ignore"))


def _places(shapes: NDArray[np.object_], several: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Centroids and longer sides of areas, a MultiPoint's points one by one."""
    single = [
        part
        for shape, split in zip(shapes, several, strict=True)
        for part in (shape.geoms if split and not shape.is_empty else [shape])
    ]
    parts = np.array([*single, None], dtype=object)[:-1]  # the None keeps numpy from looking inside
    with np.errstate(invalid="ignore"):
        centres = shapely.centroid(parts)
        centres[shapely.is_empty(centres)] = None
        centres[shapely.is_empty(centres)] = None
        left, top, right, bottom = shapely.bounds(parts).T
        area = shapely.get_dimensions(parts) == _AREA
        extent = np.where(area, np.maximum(right - left, bottom - top), np.nan)
        return {"x": shapely.get_x(centres), "y": shapely.get_y(centres), "extent": extent}


def _ids(
    features: Sequence[Mapping[str, Any]], counts: NDArray[np.int_], several: NDArray[np.bool_]
) -> list[str | None]:
    ids: list[str | None] = []
    for feature, count, split in zip(features, counts, several, strict=True):
        own = text_or_none(feature.get("id"))
        ids += [f"{own}/{at + 1}" for at in range(count)] if own and split else [own] * int(count)
    return ids


def _described(features: Sequence[Mapping[str, Any]], path: Path) -> dict[str, NDArray[Any]]:
    """Class and score of each feature."""
    classes = np.array([*(class_name(properties_of(feature)) for feature in features), None], dtype=object)
    scores = numbers([_score(feature) for feature in features], "score", path)
    return {"detector_class": classes[:-1], "score": scores}


def properties_of(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature's properties, empty where it has none."""
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def class_name(properties: Mapping[str, Any]) -> str | None:
    """QuPath's class, whose derived classes read "A: B"; TIAToolbox's may be a number."""
    classification = properties.get("classification")
    if not isinstance(classification, dict):
        return text_or_none(classification)
    names = classification.get("names")
    joined = ": ".join(map(str, names)) if isinstance(names, list) else None
    return text_or_none(classification.get("name", joined))


def _measurements(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements by name; old QuPath files list them as {"name", "value"}."""
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
    """The score among the measurements, else among the properties."""
    for values in (_measurements(feature), properties_of(feature)):
        name = _score_name(values)
        if name is not None:
            return values[name]
    return None


def _others(features: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The measurements that are not the score, as columns."""
    records = []
    for feature in features:
        measured = _measurements(feature)
        score = _score_name(measured)
        records.append({name: value for name, value in measured.items() if name != score})
    return {
        name: np.asarray(values, dtype=None if isinstance(values, np.ndarray) else object)
        for name, values in carried_columns(records).items()
    }
