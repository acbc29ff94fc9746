"""Objects of reviews, as QuPath keeps them and as they are read."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wsi_mitosis.core.reviews import OBJECT_COLUMNS, placed_objects
from wsi_mitosis.units import Bounds, Frame, Mpp

MPP = Mpp(0.25, 0.5)
Feature = dict[str, Any]


class Drawn(NamedTuple):
    """An object of a review; its feature is its position among the others, unless it is stated.

    Attributes:
        x: Centre, px.
        y: Likewise.
        class_name: Its class.
        object_id: Its id.
        kind: QuPath's type of object.
        extent: The longer side of its bounding box, px.
        height: Its shorter side; None for the same.
        whole: The same of all parts of its feature; None for its own.
        p_atypical: Probability among its measurements.
        result: Result number among its measurements.
        feature: Number of its feature, from 1.
    """

    x: float
    y: float
    class_name: str | None
    object_id: str | None = None
    kind: str = "annotation"
    extent: float = 20.0
    height: float | None = None
    whole: float | None = None
    p_atypical: float = np.nan
    result: float = np.nan
    feature: int | None = None


def objects_of(
    *drawn: Drawn, frame: Frame = "slide", mpp: Mpp = MPP, bounds: Bounds | None = None
) -> pd.DataFrame:
    """The objects of a review as from `placed_objects`."""
    rows = [
        {
            "feature": one.feature or number,
            "object_id": one.object_id,
            "kind": one.kind,
            "class": one.class_name,
            "x": float(one.x),
            "y": float(one.y),
            "width": float(one.extent),
            "height": float(one.extent if one.height is None else one.height),
            "extent": float(one.extent),
            "whole_extent": float(one.extent if one.whole is None else one.whole),
            "p_atypical": one.p_atypical,
            "result": one.result,
        }
        for number, one in enumerate(drawn, start=1)
    ]
    texts = ("object_id", "kind", "class")
    table = pd.DataFrame(
        {
            name: pd.Series([row[name] for row in rows], dtype=object if name in texts else float)
            for name in OBJECT_COLUMNS
        }
    )
    return placed_objects(table.astype({"feature": int}), frame=frame, mpp=mpp, bounds=bounds)


def figures_table(*rows: tuple[str | None, float, float, str | None]) -> pd.DataFrame:
    """The ensemble's figures by id, place and label, of 5 votes: 4 or none of them for atypical."""
    labels = [row[3] for row in rows]
    return pd.DataFrame(
        {
            "figure_id": pd.Series([row[0] for row in rows], dtype=object),
            "x_px0": [float(row[1]) for row in rows],
            "y_px0": [float(row[2]) for row in rows],
            "label": pd.Series(labels, dtype=object),
            "p_atypical": [
                np.nan if label is None else 0.8 if label == "atypical" else 0.1 for label in labels
            ],
            "votes_atypical": pd.array(
                [None if label is None else 4 if label == "atypical" else 0 for label in labels],
                dtype="Int16",
            ),
            "votes_cast": pd.array([None if label is None else 5 for label in labels], dtype="Int16"),
        }
    )


# As GeoJSON


def moved(features: list[Feature], factor: float = 1, by: tuple[float, float] = (0, 0)) -> list[Feature]:
    """The objects, which are polygons, in another image: scaled, then shifted, px."""
    features = copy.deepcopy(features)
    for feature in features:
        feature["geometry"]["coordinates"] = [
            [[round(x * factor + by[0], 2), round(y * factor + by[1], 2)] for x, y in ring]
            for ring in feature["geometry"]["coordinates"]
        ]
    return features


def without(features: list[Feature], *names: str) -> list[Feature]:
    """The objects without some members, such as their ids or measurements."""
    features = copy.deepcopy(features)
    for feature in features:
        for name in names:
            feature.pop(name, None)
            feature["properties"].pop(name, None)
    return features
