"""Regions that a user drew in QuPath, read from its GeoJSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import shapely

from wsi_mitosis.core.qupath import is_program_class
from wsi_mitosis.core.regions import Region
from wsi_mitosis.io.detections.common import fault
from wsi_mitosis.io.detections.content import open_content
from wsi_mitosis.io.detections.geojson import class_name, features_of, properties_of
from wsi_mitosis.io.digests import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_POLYGONS = ("Polygon", "MultiPolygon")
_SEGMENTS = 64
"""Sides of the polygon for a quarter of an ellipse, whose area is then 0.01 % too small."""


@dataclass(frozen=True)
class RegionFile:
    """A slide's regions.

    Attributes:
        path: The file.
        sha256: Its digest.
        regions: In the file's own frame, px.
    """

    path: Path
    sha256: str
    regions: tuple[Region, ...]

    def placed(self, origin_px0: tuple[int, int]) -> tuple[Region, ...]:
        """Return the regions in the slide's frame.

        Args:
            origin_px0: (x, y) of the file's origin, level-0 px, slide frame.
        """
        return tuple(
            replace(region, geometry=shapely.transform(region.geometry, lambda xy: xy + origin_px0))
            for region in self.regions
        )


def read_regions(path: Path) -> RegionFile:
    """Read the areas among a file's annotations, and ignore its other objects.

    Detections, cells, points and lines are not regions, nor are the figures and hotspots of this program,
    which an export of all objects contains. Rings that cross themselves are repaired, and an ellipse is read
    as an ellipse.

    Args:
        path: A FeatureCollection, a Feature or a list of features; it may be compressed with gzip.

    Raises:
        DetectionsError: if the file is not GeoJSON, or has no area.
    """
    content = open_content(path)
    if content.kind != "json" or "geojson" not in content.formats:
        raise fault("regions must be GeoJSON, and this is not", path, "Export the annotations from QuPath")
    features = features_of(content.data, path)
    regions = regions_of(features, path)
    if not regions:
        raise fault("none of its objects is an area", path, "Draw regions as annotations and export them")
    return RegionFile(path, file_sha256(path), regions)


def regions_of(features: Sequence[Mapping[str, Any]], path: Path) -> tuple[Region, ...]:
    """Return the regions among features, px, in the file's own frame.

    Args:
        features: Features of GeoJSON.
        path: The file, for messages.
    """
    return tuple(_regions(features))


def _regions(features: Sequence[Mapping[str, Any]]) -> Iterator[Region]:
    for number, feature in enumerate(features, start=1):
        properties = properties_of(feature)
        name = class_name(properties) or ""
        if properties.get("objectType", "annotation") != "annotation" or is_program_class(name):
            continue
        area = _area(feature.get("geometry"))
        if area is not None:
            yield Region(str(properties.get("name") or f"Region {number}"), name, area)


def _area(geometry: Mapping[str, Any] | None) -> Any:
    """A valid Polygon or MultiPolygon; None for anything else."""
    if not isinstance(geometry, dict) or geometry.get("type") not in _POLYGONS:
        return None
    shape = shapely.from_geojson(json.dumps(geometry), on_invalid="ignore")
    if shape is None or shape.is_empty:
        return None
    if geometry.get("isEllipse") is True:
        return _ellipse(*shape.bounds)
    parts = shapely.get_parts(shapely.make_valid(shape))
    whole = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])  # of polygons
    return None if whole.is_empty else whole


def _ellipse(left: float, top: float, right: float, bottom: float) -> Any:
    circle = shapely.buffer(shapely.points(0, 0), 1, quad_segs=_SEGMENTS)
    half, middle = ((right - left) / 2, (bottom - top) / 2), ((left + right) / 2, (top + bottom) / 2)
    return shapely.transform(circle, lambda xy: xy * half + middle)
