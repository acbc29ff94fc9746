"""Reviews: GeoJSON that a pathologist exported from QuPath after correcting figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from wsi_mitosis.core import qupath
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.common import text_or_none
from wsi_mitosis.io.detections.content import open_geojson
from wsi_mitosis.io.detections.folder import find_files
from wsi_mitosis.io.detections.geojson import measurements_of, object_type, own_class
from wsi_mitosis.io.detections.shapes import LINE, LINES_INSIDE, not_used, read_shapes
from wsi_mitosis.io.digests import file_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.io.detections.shapes import Shapes
    from wsi_mitosis.tables import SlideSource

STAGE = "reading the review"
ENDINGS = (".geojson.gz", ".json.gz", ".geojson", ".json")


@dataclass(frozen=True)
class ReviewFile:
    """The objects of a reviewed file.

    Attributes:
        path: The file.
        sha256: Its digest.
        objects: A row for each point or area, as `core.reviews.OBJECT_COLUMNS` describes; px, in the file's
            own frame.
        features: The features of the file.
        unused: What of the file is not used, and why; empty if all of it is.
        broken: Numbers, from 1, of the features whose geometry cannot be used, though it is no line.
        broken_classes: Their classes.
    """

    path: Path
    sha256: str
    objects: pd.DataFrame
    features: Sequence[Mapping[str, Any]]
    unused: str
    broken: tuple[int, ...]
    broken_classes: tuple[str | None, ...]


def find_reviews(folder: Path, sources: Sequence[SlideSource]) -> FoundFiles:
    """Find the reviewed files of each slide, named after it as detections are; other files are skipped.

    Raises:
        DetectionsError: if the folder does not exist, or no file of it is named after one of the slides.
    """
    if not folder.is_dir():
        raise DetectionsError(
            "is a file" if folder.exists() else "no such folder",
            subject=folder,
            stage=STAGE,
            remedy="Give the folder with the GeoJSON that was exported from QuPath, a file per slide",
        )
    return find_files(folder, sources, endings=ENDINGS)


def strangers(folder: Path, reviews: FoundFiles) -> tuple[str, ...]:
    """Return notes about the files of the folder and its subfolders that are not read."""
    there = [path for path in sorted(folder.rglob("*")) if _is_visible(path, folder) and path.is_file()]
    names = {path: path.relative_to(folder).as_posix() for path in there if path not in reviews.fitting}
    others = [name for path, name in names.items() if not _is_geojson(path)]
    unread = f"{listed(others)}: not GeoJSON by the ending, and not read" if others else ""
    unknown = (
        f"{name}: fits no slide, and is not counted" for path, name in names.items() if _is_geojson(path)
    )
    return (*unknown, *filter(None, [unread]))


def read_review(path: Path) -> ReviewFile:
    """Read a GeoJSON file without converting anything.

    Raises:
        DetectionsError: if it cannot be read, or is not GeoJSON.
    """
    features = open_geojson(path, STAGE, "Export the objects from QuPath as GeoJSON")
    shapes = read_shapes(features)
    names = {row: text_or_none(features[row].get("id")) for row in (*shapes.unused, *shapes.partly)}
    unused = {**shapes.unused, **shapes.partly}
    broken = [row for row, reason in unused.items() if reason not in {LINE, LINES_INSIDE}]
    classes = [own_class(feature) for feature in features]
    return ReviewFile(
        path=path,
        sha256=file_sha256(path),
        objects=_objects(features, classes, shapes),
        features=features,
        unused=not_used(unused, names) if unused else "",
        broken=tuple(row + 1 for row in broken),
        broken_classes=tuple(classes[row] for row in broken),
    )


def _objects(
    features: Sequence[Mapping[str, Any]], classes: Sequence[str | None], shapes: Shapes
) -> pd.DataFrame:
    rows, centres = shapes.feature, shapes.centres()
    bounds = shapely.bounds(shapes.parts).reshape(-1, 4)
    sides = bounds[:, 2:] - bounds[:, :2]
    ids = [text_or_none(feature.get("id")) for feature in features]

    def texts(values: Sequence[str | None]) -> pd.Series[Any]:
        return pd.Series([values[row] for row in rows.tolist()], dtype=object)

    return pd.DataFrame(
        {
            "feature": rows + 1,
            # UUIDs are the same in upper and lower case
            "object_id": texts([name and name.lower() for name in ids]),
            "kind": texts([object_type(feature) for feature in features]),
            "class": texts(classes),
            "x": centres[:, 0],
            "y": centres[:, 1],
            "width": sides[:, 0],
            "height": sides[:, 1],
            "extent": shapes.extent,
            "whole_extent": _whole_extents(bounds, shapes),
            **{column: measured[rows] for column, measured in _measured(features).items()},
        }
    )


def _whole_extents(bounds: NDArray[np.float64], shapes: Shapes) -> NDArray[np.float64]:
    """(m,) the longer side of the bounding box of all parts of a part's feature, px."""
    whole = pd.DataFrame(bounds).groupby(shapes.feature)
    low, high = whole[[0, 1]].transform("min").to_numpy(), whole[[2, 3]].transform("max").to_numpy()
    sides: NDArray[np.float64] = (high - low).max(axis=1, initial=0)
    return np.maximum(sides, shapes.extent)


def _measured(features: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """The measurements that this program wrote, (n,) each; NaN where there is none or no number."""
    found = {column: np.full(len(features), np.nan) for column in qupath.REVIEW_MEASUREMENTS}
    for row, feature in enumerate(features):
        measurements = measurements_of(feature)
        for column, name in qupath.REVIEW_MEASUREMENTS.items():
            found[column][row] = _number(measurements.get(name))
    return found


def _number(value: Any) -> float:
    """A measurement, which QuPath writes as a number, or as text where it is not finite."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _is_visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_geojson(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)
