"""Regions that a user drew in QuPath, read from its GeoJSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import shapely

from wsi_mitosis.core.classes import is_of_figures
from wsi_mitosis.core.regions import Region, named_apart
from wsi_mitosis.errors import DetectionsError, listed
from wsi_mitosis.io.detections.columns import names_classes
from wsi_mitosis.io.detections.common import in_short, text_or_none
from wsi_mitosis.io.detections.content import open_content
from wsi_mitosis.io.detections.geojson import class_name, features_of, properties_of
from wsi_mitosis.io.detections.shapes import LINE, LINES_INSIDE, area_of, kinds_of, not_used, read_shapes
from wsi_mitosis.io.digests import file_sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.io.detections.shapes import Shapes
    from wsi_mitosis.units import Frame

STAGE = "reading regions"
NO_AREA = "it has no area"
_NO_CLASS = "no class"
_CROSSING = "where it crosses itself, every second area is a hole"
_OBJECT_TYPES = {"detection": "detection", "cell": "cell", "tile": "tile", "tmacore": "TMA core"}
_TYPES_ELSEWHERE = {
    **{name: name for name in ("annotation", *_OBJECT_TYPES)},
    **{f"path{name}object": name for name in ("annotation", "detection", "cell", "tile")},
    "tmacoreobject": "tmacore",
}
"""What QuPath writes into `type` or the id of an object, in lower case, and the type that it means."""


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
    features = _features(path)
    drawn = _drawn(features, path)
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


def regions_of(
    features: Sequence[Mapping[str, Any]], path: Path, rows: Collection[int]
) -> tuple[Region, ...]:
    """Return the regions among some features, in the file's own frame, px.

    Args:
        features: All features of a GeoJSON file.
        path: The file, for messages.
        rows: Indices of the features that may be regions.

    Raises:
        DetectionsError: if an annotation among them has no area that can be read.
    """
    return named_apart(_drawn(features, path, rows).regions)


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


def _features(path: Path) -> list[dict[str, Any]]:
    try:
        content = open_content(path)
        if content.kind == "json" and "geojson" in content.formats:
            return features_of(content.data, path)
    except DetectionsError as error:
        raise _fault(error.cause, path, error.remedy) from error
    raise _fault("regions must be GeoJSON, and this is not", path, "Export the annotations from QuPath")


def _drawn(features: Sequence[Mapping[str, Any]], path: Path, rows: Collection[int] | None = None) -> _Drawn:
    """Return the regions among features, or some of them, and what the others are.

    Raises:
        DetectionsError: if an annotation has no area that can be read. The others are not counted without it.
    """
    shapes = read_shapes(features)
    others = {row: kind for row, feature in enumerate(features) if (kind := _other_object(feature))}
    others |= {row: kind for row, kind in _other_shapes(features, shapes).items() if row not in others}
    wanted = range(len(features)) if rows is None else rows
    remaining = [row for row in wanted if row not in others]
    names = {row: text_or_none(properties_of(features[row]).get("name")) for row in remaining}
    areas = set(shapes.feature[shapes.is_area].tolist())
    faults = {row: reason for row in remaining if (reason := _fault_of(row, shapes, areas))}
    if faults:
        raise _fault(
            f"no region can be made of {not_used(faults, names)}",
            path,
            "Draw it again as a closed area or delete it in QuPath, and export the annotations again",
        )
    regions = tuple(_region(features[row], names[row] or f"Region {row + 1}") for row in remaining)
    partly = dict(_parts_not_used(features, shapes, remaining))
    return _Drawn(regions, tuple(remaining), others, partly, shapes.crossing.intersection(remaining))


def _region(feature: Mapping[str, Any], name: str) -> Region:
    return Region(name, _class_of(feature) or "", area_of(feature["geometry"]))


def _other_object(feature: Mapping[str, Any]) -> str | None:
    """What a feature is that is no annotation, or one of figures; None if it may be a region."""
    kind = _object_type(feature)
    if kind != "annotation":
        return _OBJECT_TYPES.get(kind, f"of type {in_short(kind)}")
    name = _class_of(feature)
    return f"of class {name}" if name and is_of_figures(name) else None


def _object_type(feature: Mapping[str, Any]) -> str:
    """A feature's type in lower case: `annotation`, `detection`, `cell`, `tile`, `tmacore` or another.

    QuPath calls the property `objectType`, and `object_type` in 0.3; it reads `type` too, and 0.2 had it in
    the id.
    """
    properties = properties_of(feature)
    stated = [str(properties[key]) for key in ("objectType", "object_type") if properties.get(key)]
    kinds = [text.casefold().replace("_", "") for text in stated]
    perhaps = [str(value).casefold() for value in (properties.get("type"), feature.get("id"))]
    kinds += [_TYPES_ELSEWHERE[text] for text in perhaps if text in _TYPES_ELSEWHERE]
    return kinds[0] if kinds else "annotation"


def _class_of(feature: Mapping[str, Any]) -> str | None:
    """QuPath's class, or else the text of another property that names one, such as `class` or `label`."""
    properties = properties_of(feature)
    others = (
        text_or_none(value)
        for name, value in properties.items()
        if isinstance(value, str) and names_classes(name) and value.casefold() not in _TYPES_ELSEWHERE
    )
    return class_name(properties) or next(filter(None, others), None)


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
