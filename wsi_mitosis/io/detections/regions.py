"""Regions that a user drew in QuPath, read from its GeoJSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import shapely

from wsi_mitosis.core.classes import is_of_figures
from wsi_mitosis.core.regions import Region, named_apart
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.common import in_short, text_or_none
from wsi_mitosis.io.detections.content import open_geojson
from wsi_mitosis.io.detections.geojson import object_type, own_class, properties_of
from wsi_mitosis.io.detections.shapes import LINE, LINES_INSIDE, area_of, kinds_of, not_used, read_shapes
from wsi_mitosis.io.digests import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.io.detections.shapes import Shapes
    from wsi_mitosis.units import Frame

STAGE = "reading regions"
NO_AREA = "it has no area"
_NO_CLASS = "no class"
_CROSSING = "where it crosses itself, every second area is a hole"
_OTHER_TYPES = {"detection": "detection", "cell": "cell", "tile": "tile", "tmacore": "TMA core"}


@dataclass(frozen=True)
class RegionFile:
    """A slide's regions.

    Attributes:
        path: The file.
        sha256: Its digest.
        regions: In the file's own frame, px.
        frame: That frame.
        others: How many objects are no regions, by kind: `detection`, `point`, `of class Hotspot`, ...
        notes: What the user should know of this file.
    """

    path: Path
    sha256: str
    regions: tuple[Region, ...]
    frame: Frame = "qupath"
    others: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def placed(self, origin_px0: tuple[int, int]) -> tuple[Region, ...]:
        """Return the regions in the slide's frame.

        Args:
            origin_px0: (x, y) of the file's origin, level-0 px, slide frame.
        """
        return tuple(
            replace(region, geometry=shapely.transform(region.geometry, lambda xy: xy + origin_px0))
            for region in self.regions
        )


def read_regions(path: Path, frame: Frame = "qupath") -> RegionFile:
    """Read the areas among a file's annotations.

    Detections, cells, points and lines are not regions, nor are objects of classes of figures, hotspots and
    look-alikes, which an export of all objects contains. They are named in the notes. Open rings are closed,
    rings that cross themselves are read as the areas that they enclose, and an ellipse is read as an ellipse.

    Args:
        path: A FeatureCollection, a Feature or a list of features; it may be compressed with gzip.
        frame: The frame of its coordinates.

    Raises:
        DetectionsError: if the file is not GeoJSON, if it has no region, or if an annotation has no area that
            can be read.
    """
    features = open_geojson(path, STAGE, "Export the annotations from QuPath as GeoJSON")
    drawn = _drawn(features, path, range(len(features)))
    if not drawn.regions:
        found = f"none of its objects is a region: {not_used(drawn.others)}"
        cause = found if features else "it has no objects"
        raise _fault(cause, path, "Draw regions as annotations in QuPath, and export them")
    regions = named_apart(drawn.regions)
    return RegionFile(
        path,
        file_sha256(path),
        regions,
        frame,
        Counter(drawn.others.values()),
        tuple(_notes(drawn, regions, path)),
    )


def regions_of(features: Sequence[Mapping[str, Any]], path: Path, rows: Sequence[int]) -> tuple[Region, ...]:
    """Return the regions among some features, in the file's own frame, px.

    Args:
        features: All features of a GeoJSON file.
        path: The file, for messages.
        rows: Indices of the features that may be regions.

    Raises:
        DetectionsError: if an annotation among them has no area that can be read.
    """
    return named_apart(_drawn([features[row] for row in rows], path, rows).regions)


def region_note(files: Iterable[RegionFile]) -> str:
    """Return how many regions of each class are counted and cut out, and what is no region.

    Args:
        files: The files of a run.
    """
    counted, cut_out, others = Counter[str](), Counter[str](), Counter[str]()
    for file in files:
        for region in file.regions:
            (cut_out if region.excludes else counted)[region.class_name or _NO_CLASS] += 1
        others.update(file.others)
    parts = (
        ("counted", [f"{name} ({number})" for name, number in counted.most_common()]),
        ("cut out", [f"{name} ({number})" for name, number in cut_out.most_common()]),
        ("not regions", [_numbered(kind, number) for kind, number in others.most_common()]),
    )
    return "regions: " + "; ".join(f"{part}: {', '.join(texts)}" for part, texts in parts if texts)


def _numbered(kind: str, number: int) -> str:
    """`1 point`, `12 detections`, `2 of class Hotspot`."""
    return f"{number} {kind}{'s' if number > 1 and not kind.startswith('of ') else ''}"


@dataclass(frozen=True)
class _Drawn:
    """The features of a file.

    Attributes:
        regions: Its regions, under the names in the file.
        rows: The index of each region's feature.
        others: The kind of each feature that is no region, by its index.
        partly: What of a region is not used, by the index of its feature.
        crossing: Indices of the features of regions whose rings cross.
    """

    regions: tuple[Region, ...]
    rows: tuple[int, ...]
    others: Mapping[int, str]
    partly: Mapping[int, str]
    crossing: frozenset[int]


def _fault(cause: str, path: Path, remedy: str | None) -> DetectionsError:
    return DetectionsError(cause, subject=path, stage=STAGE, remedy=remedy)


def _drawn(features: Sequence[Mapping[str, Any]], path: Path, rows: Sequence[int]) -> _Drawn:
    """Return the regions among features, and what the others are.

    Args:
        features: The features that may be regions.
        path: Their file, for messages.
        rows: Their indices in the file.

    Raises:
        DetectionsError: if an annotation has no area that can be read. The others are not counted without it.
    """
    shapes = read_shapes(features)
    others = {at: kind for at, feature in enumerate(features) if (kind := _other_object(feature))}
    others |= {at: kind for at, kind in _other_shapes(features, shapes).items() if at not in others}
    remaining = [at for at in range(len(features)) if at not in others]
    names = {rows[at]: text_or_none(properties_of(features[at]).get("name")) for at in remaining}
    areas = set(shapes.feature[shapes.is_area].tolist())
    faults = {rows[at]: reason for at in remaining if (reason := _fault_of(at, shapes, areas))}
    if faults:
        raise _fault(
            f"no region can be made of {not_used(faults, names)}",
            path,
            "Draw it again as a closed area or delete it in QuPath, and export the annotations again",
        )
    return _Drawn(
        tuple(_region(features[at], names[rows[at]] or f"Region {rows[at] + 1}") for at in remaining),
        tuple(names),
        {rows[at]: kind for at, kind in others.items()},
        {rows[at]: part for at, part in _parts_not_used(features, shapes, remaining)},
        frozenset(rows[at] for at in shapes.crossing.intersection(remaining)),
    )


def _region(feature: Mapping[str, Any], name: str) -> Region:
    return Region(name, own_class(feature) or "", area_of(feature["geometry"]))


def _other_object(feature: Mapping[str, Any]) -> str | None:
    """What a feature is that is no annotation, or one of figures; None if it may be a region."""
    kind = object_type(feature)
    if kind != "annotation":
        return _OTHER_TYPES.get(kind, f"of type {in_short(kind)}")
    name = own_class(feature)
    return f"of class {name}" if name and is_of_figures(name) else None


def _other_shapes(features: Sequence[Mapping[str, Any]], shapes: Shapes) -> dict[int, str]:
    """The kind of each feature of lines or points only."""
    lines = {row: "line" for row, reason in shapes.unused.items() if reason == LINE}
    places = set(shapes.feature[~shapes.is_area].tolist())
    points = {row: "point" for row in places if "Polygon" not in kinds_of(features[row].get("geometry"))}
    return lines | points


def _fault_of(row: int, shapes: Shapes, areas: set[int]) -> str | None:
    """Why no region can be made of a feature; None if one can."""
    if (reason := shapes.unused.get(row)) is not None:
        return reason
    part = shapes.partly.get(row)
    if part is not None and part != LINES_INSIDE:
        return part
    return None if row in areas else NO_AREA


def _parts_not_used(
    features: Sequence[Mapping[str, Any]], shapes: Shapes, rows: Iterable[int]
) -> Iterator[tuple[int, str]]:
    """The index of each region of which a part is no area, and that part."""
    places = set(shapes.feature[~shapes.is_area].tolist())
    for row in rows:
        parts = [shapes.partly[row]] if row in shapes.partly else []
        if row in places:
            points = "Point" in kinds_of(features[row]["geometry"])
            parts.append("the points in it" if points else "a part without area")
        if parts:
            yield row, " and ".join(parts)


def _notes(drawn: _Drawn, regions: Sequence[Region], path: Path) -> Iterator[str]:
    if drawn.others:
        yield f"{path.name}: not regions: {not_used(drawn.others)}"
    names = {row: region.name for row, region in zip(drawn.rows, drawn.regions, strict=True)}
    if drawn.partly:
        yield f"{path.name}: used in part, without {not_used(drawn.partly, names)}"
    if drawn.crossing:
        crossing = not_used(dict.fromkeys(drawn.crossing, _CROSSING), names)
        yield f"{path.name}: check the outline of {crossing}"
    renamed = [
        f"feature {row + 1} as {after.name}"
        for row, before, after in zip(drawn.rows, drawn.regions, regions, strict=True)
        if before.name != after.name
    ]
    if renamed:
        yield f"{path.name}: regions whose names are taken are listed under others: {listed(renamed)}"
    if all(region.excludes for region in regions):
        yield f"{path.name}: all its regions are cut out, so that what counts is the rest of the slide"
