"""Regions that a user drew on a slide: the figures in them, and their areas."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from wsi_mitosis.core.classes import is_cut_out, words
from wsi_mitosis.errors import EXAMPLES, DetectionsError, listed
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.units import Bounds, Frame, Mpp

ALL_REGIONS = "all regions"
"""Name of the row of all regions together, which no region has."""
LEAST_SHARE_OFF = 0.01
"""From this share of a region's area outside the slide on, a note states it."""

_UM2_PER_MM2 = 1e6


@dataclass(frozen=True)
class Region:
    """An area on a slide.

    Attributes:
        name: Its name, or `Region <n>` by its place in the file.
        class_name: Its class; "" if it has none.
        geometry: A valid shapely Polygon or MultiPolygon, level-0 px, slide frame.
    """

    name: str
    class_name: str
    geometry: Any

    @property
    def excludes(self) -> bool:
        """Whether it is cut out of the others, as `is_cut_out` says of its class."""
        return is_cut_out(self.class_name)

    def as_json(self) -> dict[str, Any]:
        """Return the region as plain data, with its geometry as GeoJSON. Nothing is rounded."""
        import shapely

        geometry = json.loads(shapely.to_geojson(self.geometry))
        return {"region": self.name, "class": self.class_name, "geometry": geometry}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Region:
        """Return the region that `as_json` was called on."""
        import shapely

        geometry = shapely.from_geojson(json.dumps(data["geometry"]))
        return cls(data["region"], data["class"], geometry)


def named_apart(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return the regions under names that tell the rows of `regions.csv` apart.

    The first region of a name keeps it, and others become `<name> (2)`, `<name> (3)`, ... One that is called
    ALL_REGIONS, in any spelling, becomes `<name> (drawn)`. A region that is cut out has no row and keeps its
    name.
    """
    taken = {region.name for region in regions}
    used: set[str] = set()
    named = []
    for region in regions:
        name = region.name
        if not region.excludes:
            if words(name) == ALL_REGIONS:
                name = f"{name} (drawn)"
            if name in used or (name != region.name and name in taken):
                name = _next_name(name, taken)
            used.add(name)
            taken.add(name)
        named.append(replace(region, name=name))
    return tuple(named)


def _next_name(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def check_on_slide(
    regions: Sequence[Region],
    *,
    size_px0: tuple[int, int],
    bounds: Bounds | None,
    frame: Frame,
    name: str,
) -> None:
    """Check that a part of every region lies on the slide.

    Args:
        regions: Level-0 px, slide frame.
        size_px0: (width, height) of level 0, px.
        bounds: What was scanned, level-0 px, slide frame; None if the slide does not state it.
        frame: The frame that the regions were read in.
        name: The slide, for the message.

    Raises:
        DetectionsError: if a region lies wholly outside the slide, or outside what was scanned of it.
    """
    import shapely

    left, top, width, height = (0, 0, *size_px0) if bounds is None else bounds
    scanned = shapely.box(left, top, left + width, top + height)
    off = [region for region in regions if region.geometry.intersection(scanned).area == 0]
    if off:
        raise _off_slide(off, size_px0, scanned if bounds is not None else None, frame, name)


def _off_slide(
    off: Sequence[Region], size_px0: tuple[int, int], scanned: Any, frame: Frame, name: str
) -> DetectionsError:
    width, height = size_px0
    part = f", of which {_spanned(scanned)} was scanned" if scanned is not None else ""
    others = f"; so do {listed(region.name for region in off[1:])}" if len(off) > 1 else ""
    return DetectionsError(
        f"region '{off[0].name}' ({_spanned(off[0].geometry)} at level 0, read in frame {frame}) lies wholly "
        f"outside the slide, which has {width} x {height} px{part}{others}",
        subject=name,
        stage="placing regions",
        remedy="Check that the regions are of this slide and in pixels at level 0, and their frame "
        "(--geojson-frame)",
    )


def _spanned(geometry: Any) -> str:
    left, top, right, bottom = geometry.bounds
    return f"x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} px"


def cut_off_note(regions: Sequence[Region], size_px0: tuple[int, int], name: str) -> str | None:
    """Return a note on regions of which LEAST_SHARE_OFF or more lies outside the slide; None without any.

    Args:
        regions: Level-0 px, slide frame.
        size_px0: (width, height) of level 0, px.
        name: The slide.
    """
    import shapely

    slide = shapely.box(0, 0, *size_px0)
    shares = [(r.name, 1 - r.geometry.intersection(slide).area / r.geometry.area) for r in regions]
    off = [(region, share) for region, share in shares if share >= LEAST_SHARE_OFF]
    if not off:
        return None
    shown = [f"{_percent(share)}% of region '{region}'" for region, share in off[:EXAMPLES]]
    more = f" and parts of {len(off) - EXAMPLES} more" if len(off) > EXAMPLES else ""
    return f"{name}: outside the slide, and cut off: {', '.join(shown)}{more}"


def _percent(share: float) -> int:
    """A share that is neither none nor all, in percent."""
    return max(1, min(99, round(100 * share)))


class RegionCount(Spec):
    """What was counted in a region, by REGION_COLUMNS.

    Attributes:
        region: Name of the region, or ALL_REGIONS.
        class_: Its class; empty without one.
        area_mm2: Its area on the slide, mm^2.
        mitoses: Figures in it.
        atypical: Atypical figures in it.
        typical: Typical figures in it.
        mitoses_per_mm2: Figures per mm^2; None without area.
    """

    region: str
    class_: str = Field(alias="class")
    area_mm2: float
    mitoses: int
    atypical: int
    typical: int
    mitoses_per_mm2: float | None


def count_regions(
    regions: Sequence[Region],
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    atypical: NDArray[np.bool_],
    *,
    size_px0: tuple[int, int],
    mpp: Mpp,
) -> tuple[RegionCount, ...]:
    """Count the figures of each region, and of all regions together.

    A figure on a region's edge is in it. A figure in two regions counts in both, and once in all regions; so
    does an area. If every region excludes, `all regions` is the rest of the slide.

    Args:
        regions: In any order, which is kept.
        x_px0: (N,) figures' centres, level-0 px, slide frame.
        y_px0: (N,) likewise.
        atypical: (N,) whether the figure is atypical.
        size_px0: (width, height) of level 0, px. Areas outside it are cut off.
        mpp: um per level-0 px.

    Returns:
        A row per region that includes, then one for all regions.
    """
    import geopandas
    import shapely

    kept, whole = _kept(regions, size_px0)
    areas = [geometry for _, geometry in kept]
    drawn = geopandas.GeoDataFrame(geometry=[*areas, whole])
    points = geopandas.GeoDataFrame({"atypical": atypical}, geometry=shapely.points(x_px0, y_px0))
    joined = geopandas.sjoin(points, drawn, predicate="intersects")
    counts = (
        joined.groupby("index_right")["atypical"]
        .agg(["size", "sum"])
        .reindex(range(len(drawn)), fill_value=0)
    )
    mm2_per_px = mpp.x * mpp.y / _UM2_PER_MM2
    named = [*((region.name, region.class_name) for region, _ in kept), (ALL_REGIONS, "")]
    return tuple(
        _row(name, class_name, float(area) * mm2_per_px, int(mitoses), int(atypical_ones))
        for (name, class_name), area, mitoses, atypical_ones in zip(
            named, drawn.geometry.area, counts["size"], counts["sum"], strict=True
        )
    )


def inside_regions(
    regions: Sequence[Region],
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    size_px0: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return which figures lie in or on the edge of a region, and not in one that excludes, (N,).

    Args:
        regions: As for `count_regions`.
        x_px0: Likewise.
        y_px0: Likewise.
        size_px0: Likewise.
    """
    import shapely

    _, whole = _kept(regions, size_px0)
    shapely.prepare(whole)
    return np.asarray(shapely.intersects_xy(whole, x_px0, y_px0), dtype=bool)


def _kept(regions: Sequence[Region], size_px0: tuple[int, int]) -> tuple[list[tuple[Region, Any]], Any]:
    """The regions that do not exclude, each with its remaining area, and the union of these areas."""
    import shapely

    slide = shapely.box(0, 0, *size_px0)
    excluded = shapely.union_all([region.geometry for region in regions if region.excludes])
    including = [region for region in regions if not region.excludes]
    kept = [(r, _areas(r.geometry.intersection(slide).difference(excluded))) for r in including]
    if not including:
        return [], _areas(slide.difference(excluded))
    return kept, shapely.union_all([geometry for _, geometry in kept])


def _areas(geometry: Any) -> Any:
    """The areas of a geometry, without the lines and points that remain where regions touch."""
    import shapely

    parts = shapely.get_parts(geometry)
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])  # of polygons


def _row(name: str, class_name: str, area_mm2: float, mitoses: int, atypical: int) -> RegionCount:
    return RegionCount(
        region=name,
        class_=class_name,
        area_mm2=round(area_mm2, 6),
        mitoses=mitoses,
        atypical=atypical,
        typical=mitoses - atypical,
        mitoses_per_mm2=mitoses / area_mm2 if area_mm2 > 0 else None,
    )
