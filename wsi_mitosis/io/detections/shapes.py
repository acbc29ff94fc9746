"""Geometries of GeoJSON: the one place where a geometry becomes points and areas, or is not used.

Readers of candidates, of reviews and of regions share it, so that an object means the same to each of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from wsi_mitosis.errors import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

MISSING = "it has no geometry"
EMPTY = "its geometry is empty"
NOT_FINITE = "its coordinates are not all finite numbers"
FAR = "its coordinates are far too large"
NESTED = "its collections are nested too deeply"
LINE = "it is a line, which is neither a place nor an area"
BROKEN = "its geometry cannot be read"
LINES_INSIDE = "the lines in it"

_SURFACE = 2
"""Shapely's dimension of areas."""
_MOST_PX = 1e12
"""A coordinate beyond it is no place: areas of such shapes overflow."""
_SEGMENTS = 64
"""Sides of the polygon for a quarter of an ellipse, whose area is then 0.01 % too small."""


@dataclass(frozen=True)
class Shapes:
    """The points and areas of a file's features, in file order.

    A point is a place. A polygon is a valid area: open rings are closed, and a ring that crosses itself
    becomes the areas that it encloses by the even-odd rule. A polygon that encloses nothing is a place, the
    middle of its bounding box. Each member of a MultiPoint, MultiPolygon or GeometryCollection is a part of
    its own. Lines are not used.

    Attributes:
        parts: (m,) valid shapely Point, Polygon or, for a ring that crosses itself, MultiPolygon; px.
        feature: (m,) index of each part's feature, not descending.
        extent: (m,) the longer side of the bounding box that the part was drawn in, px; 0 for a Point.
        unused: Why a feature has no part, by its index.
        partly: What of a feature has no part, by its index, if other parts of it have.
        crossing: Indices of features with an area whose rings crossed themselves or each other.
    """

    parts: NDArray[np.object_]
    feature: NDArray[np.intp]
    extent: NDArray[np.float64]
    unused: Mapping[int, str]
    partly: Mapping[int, str]
    crossing: frozenset[int] = frozenset()

    @property
    def is_area(self) -> NDArray[np.bool_]:
        """(m,) which parts are areas."""
        return np.asarray(shapely.get_dimensions(self.parts) == _SURFACE)

    def centres(self) -> NDArray[np.float64]:
        """Return the centroids of the parts, (m, 2) x, y in px."""
        return np.asarray(shapely.get_coordinates(shapely.centroid(self.parts)).reshape(-1, 2))


def read_shapes(features: Sequence[Mapping[str, Any]]) -> Shapes:
    """Read the geometries of features.

    Args:
        features: Features of GeoJSON; their geometries may be anything.
    """
    geometries = [feature.get("geometry") for feature in features]
    shapes = _parsed(geometries)
    plain = _is_plain(shapes)
    if plain.all():
        return _plain_shapes(shapes)
    parts: list[Any] = []
    owners: list[int] = []
    extents: list[float] = []
    unused, partly, crossing = {}, {}, set()
    for row, (shape, geometry) in enumerate(zip(shapes, geometries, strict=True)):
        found, fault = ([shape], None) if plain[row] else _parts(geometry)
        if fault is not None and not found:
            unused[row] = fault
        elif fault is not None:
            partly[row] = LINES_INSIDE if fault == LINE else f"a part of it, because {fault}"
        for part in found:
            area, extent = (part, _extent(part)) if plain[row] else _area_or_place(part)
            if not plain[row] and area.geom_type != "Point" and not part.is_valid:
                crossing.add(row)
            parts.append(area)
            owners.append(row)
            extents.append(extent)
    return Shapes(
        np.array([*parts, None], dtype=object)[:-1],
        np.array(owners, dtype=np.intp),
        np.array(extents, dtype=np.float64),
        unused,
        partly,
        frozenset(crossing),
    )


def area_of(geometry: Mapping[str, Any]) -> Any:
    """Return the area of one feature's geometry as a whole; an ellipse of QuPath is an ellipse.

    Args:
        geometry: A geometry of GeoJSON of which `read_shapes` uses every part.

    Returns:
        A valid shapely Polygon or MultiPolygon, px; an empty one for a geometry without area.
    """
    shapes = read_shapes([{"geometry": geometry}])
    whole = shapely.union_all(shapes.parts[shapes.is_area])
    if geometry.get("isEllipse") is True and not whole.is_empty:
        return _ellipse(*whole.bounds)
    return whole


def placed(shapes: Shapes, number: int) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float64]]]:
    """Return how many candidates each feature has, and their places and extents in the order of the features.

    A feature that is not used is one candidate without coordinates.

    Args:
        shapes: The points and areas of the features.
        number: How many features there are.

    Returns:
        (number,) counts; and `x`, `y` and `extent`, px, one per candidate. `extent` is NaN for a point.
    """
    lost = np.array(sorted(shapes.unused), dtype=np.intp)
    owners = np.concatenate([shapes.feature, lost])
    order = np.argsort(owners, kind="stable")
    nowhere = np.full((len(lost), 2), np.nan)
    x, y = np.concatenate([shapes.centres(), nowhere])[order].T
    extent = np.concatenate([np.where(shapes.extent > 0, shapes.extent, np.nan), nowhere[:, 0]])[order]
    return np.bincount(owners, minlength=number), {"x": x, "y": y, "extent": extent}


def part_ids(ids: Sequence[str | None], counts: NDArray[np.intp]) -> list[str | None]:
    """Return the ids of the parts of objects: the object's own, or `<id>/1`, `<id>/2`, ... of several parts.

    Args:
        ids: (n,) ids of the objects, None for one without.
        counts: (n,) how many parts each object has.
    """
    parts: list[str | None] = []
    for own, count in zip(ids, counts.tolist(), strict=True):
        parts += [f"{own}/{at + 1}" for at in range(count)] if own and count > 1 else [own] * count
    return parts


def not_used(
    faults: Mapping[int, str], names: Mapping[int, str | None] | None = None, *, what: str = "feature"
) -> str:
    """Return which features are not used, and why: `feature 2 (it is a line); features 3 and 5 (...)`.

    Args:
        faults: Reason by index.
        names: Names or ids of features that have one, by index.
        what: The file's word for a feature.
    """
    by_reason: dict[str, list[int]] = {}
    for row, reason in sorted(faults.items()):
        by_reason.setdefault(reason, []).append(row)
    return "; ".join(f"{_numbered(rows, names or {}, what)} ({reason})" for reason, rows in by_reason.items())


def _numbered(rows: Sequence[int], names: Mapping[int, str | None], what: str) -> str:
    """`feature 3 'left'`, `features 3, 4, 5 and 8 more`."""
    if len(rows) == 1:
        name = names.get(rows[0])
        return f"{what} {rows[0] + 1}" + (f" '{name}'" if name else "")
    return f"{what}s {listed(str(row + 1) for row in rows)}".replace("'", "")


def _parsed(geometries: Sequence[Any]) -> NDArray[np.object_]:
    texts = np.array([json.dumps(geometry) for geometry in geometries], dtype=object)
    with np.errstate(over="ignore"):  # of numbers that no float can hold, which `_fault` names
        shapes = shapely.from_geojson(texts, on_invalid="ignore")
    return np.asarray(shapely.force_2d(shapes))


def _is_plain(shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
    """(n,) which shapes are points or polygons that need no repair."""
    kinds = shapely.get_type_id(shapes)
    simple = (kinds == shapely.GeometryType.POINT) | (kinds == shapely.GeometryType.POLYGON)
    with np.errstate(invalid="ignore", over="ignore"):
        bounded = np.isfinite(shapely.bounds(shapes)).all(axis=1)
        bounded &= (np.abs(shapely.bounds(shapes)) < _MOST_PX).all(axis=1)
        whole = (kinds == shapely.GeometryType.POINT) | (shapely.area(shapes) > 0)
    return np.asarray(simple & bounded & whole & shapely.is_valid(shapes))


def _plain_shapes(shapes: NDArray[np.object_]) -> Shapes:
    left, top, right, bottom = shapely.bounds(shapes).T.reshape(4, -1)
    return Shapes(shapes, np.arange(len(shapes)), np.maximum(right - left, bottom - top), {}, {})


def _parts(geometry: Any) -> tuple[list[Any], str | None]:
    """The points and polygons of a geometry, not yet valid, and why something of it is not used."""
    if not isinstance(geometry, dict):
        return [], MISSING
    found, faults = [], []
    for kind, coordinates in _members(geometry):
        fault = _fault(kind, coordinates)
        part = _shape(kind, coordinates) if fault is None else None
        if part is not None:
            found.append(part)
        else:
            faults.append(fault or BROKEN)
    if not faults:
        return found, None if found else EMPTY
    return found, min(faults, key=lambda fault: fault == LINE)  # a line hides no fault


_MEMBERS = {"MultiPoint": "Point", "MultiLineString": "LineString", "MultiPolygon": "Polygon"}


def kinds_of(geometry: Any) -> frozenset[str]:
    """Return which kinds of simple geometries a geometry has: `Point`, `LineString`, `Polygon` or others."""
    return frozenset(kind for kind, _ in _members(geometry)) if isinstance(geometry, dict) else frozenset()


def _members(geometry: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The kind and the coordinates of each simple member of a geometry."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection" and depth < _MOST_NESTED:
        members = geometry.get("geometries")
        for member in members if isinstance(members, list) else []:
            yield from _members(member if isinstance(member, dict) else {}, depth + 1)
    elif isinstance(kind, str) and kind in _MEMBERS:
        for each in coordinates if isinstance(coordinates, list) else [coordinates]:
            yield _MEMBERS[kind], each
    else:
        yield str(kind), coordinates


_MOST_NESTED = 50
"""Collections inside each other. QuPath writes none inside another."""


def _fault(kind: str, coordinates: Any) -> str | None:
    """Why a member of a geometry is not used; None if its coordinates may be those of a point or an area."""
    if kind == "GeometryCollection":
        return NESTED
    numbers = list(_numbers(coordinates))
    if not numbers:
        return EMPTY
    if kind == "LineString":
        return LINE
    if not all(map(_is_finite, numbers)):
        return NOT_FINITE
    return None if all(abs(number) < _MOST_PX for number in numbers) else FAR


def _numbers(coordinates: Any) -> Iterator[Any]:
    """Everything in nested lists that is not a list; one flat pass, because files may nest deeply."""
    stack = [] if coordinates is None else [coordinates]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        else:
            yield value


def _is_finite(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _shape(kind: str, coordinates: Any) -> Any:
    """A shapely Point or Polygon, not yet valid; None if the coordinates are not those of the kind."""
    try:
        if kind == "Point":
            x, y = map(float, coordinates[:2])
            return shapely.Point(x, y)
        if kind == "Polygon":
            shell, *holes = [_ring(ring) for ring in coordinates]
            return shapely.Polygon(shell, holes)
    except (TypeError, ValueError, IndexError):
        pass  # numbers that are nested in another way
    return None


def _ring(ring: Any) -> Any:
    """A ring with the four corners that shapely wants, which closes it."""
    corners = [corner[:2] for corner in ring]
    if any(len(corner) != 2 for corner in corners) or not corners:
        raise ValueError("a corner has two coordinates")
    return [*corners, *[corners[0]] * max(0, 4 - len(corners))]


def _area_or_place(part: Any) -> tuple[Any, float]:
    """A valid area or point, and the longer side of the part."""
    extent = _extent(part)
    if part.geom_type == "Point":
        return part, extent
    pieces = shapely.get_parts(shapely.make_valid(part))
    areas = pieces[(shapely.get_dimensions(pieces) == _SURFACE) & (shapely.area(pieces) > 0)]
    if len(areas):
        return shapely.union_all(areas), extent
    left, top, right, bottom = part.bounds
    return shapely.Point((left + right) / 2, (top + bottom) / 2), extent


def _extent(shape: Any) -> float:
    left, top, right, bottom = shape.bounds
    return float(max(right - left, bottom - top))


def _ellipse(left: float, top: float, right: float, bottom: float) -> Any:
    circle = shapely.buffer(shapely.points(0, 0), 1, quad_segs=_SEGMENTS)
    half, middle = ((right - left) / 2, (bottom - top) / 2), ((left + right) / 2, (top + bottom) / 2)
    return shapely.transform(circle, lambda xy: xy * half + middle)
