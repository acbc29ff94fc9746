"""The drawing on a slide's overview: its extent, and where figures, hotspots, regions and scale bar are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_mitosis.core.qupath import MICRO_SIGN

if TYPE_CHECKING:
    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.units import Mpp

Places = TypeVar("Places", float, NDArray[np.float64])

VIEW_UNITS = 1000
"""Longer side of the drawing, units."""


@dataclass(frozen=True)
class View:
    """The part of a slide that is shown, drawn in units: VIEW_UNITS along its longer physical side.

    Attributes:
        left, top, width, height: The part, level-0 px, slide frame.
        mpp: um per level-0 px.
    """

    left: int
    top: int
    width: int
    height: int
    mpp: Mpp

    @classmethod
    def of(cls, size_px0: tuple[int, int], bounds: tuple[int, int, int, int] | None, mpp: Mpp) -> View:
        """Show the slide within its bounds, as QuPath does, or the whole slide if it has no usable bounds.

        Args:
            size_px0: (width, height) of level 0, px.
            bounds: (left, top, width, height), level-0 px, slide frame.
            mpp: um per level-0 px.
        """
        left, top, width, height = bounds or (0, 0, *size_px0)
        left, top = max(left, 0), max(top, 0)
        width, height = min(width, size_px0[0] - left), min(height, size_px0[1] - top)
        if width <= 0 or height <= 0:
            left, top, (width, height) = 0, 0, size_px0
        return cls(left, top, width, height, mpp)

    @property
    def um_per_unit(self) -> float:
        """Length of a unit along both axes, um."""
        return max(self.width * self.mpp.x, self.height * self.mpp.y) / VIEW_UNITS

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) in units."""
        return self.across(self.left + self.width), self.down(self.top + self.height)

    def across(self, x_px0: Places) -> Places:
        """Convert x from level-0 px, slide frame, to units."""
        return (x_px0 - self.left) * self.mpp.x / self.um_per_unit

    def down(self, y_px0: Places) -> Places:
        """Convert y from level-0 px, slide frame, to units."""
        return (y_px0 - self.top) * self.mpp.y / self.um_per_unit

    def box(self, hotspot: Hotspot) -> tuple[float, float, float, float]:
        """Return (left, top, width, height) of a hotspot in units."""
        left, top = self.across(hotspot.x_px0), self.down(hotspot.y_px0)
        right = self.across(hotspot.x_px0 + hotspot.width_px0)
        return left, top, right - left, self.down(hotspot.y_px0 + hotspot.height_px0) - top

    def outline(self, region: Region) -> str:
        """Return a region's rings as SVG path data in units, without corners that are too small to see."""
        import shapely

        drawn = shapely.transform(
            region.geometry, lambda xy: np.column_stack([self.across(xy[:, 0]), self.down(xy[:, 1])])
        )
        rings = shapely.get_rings(shapely.get_parts(shapely.simplify(drawn, 1.0)))
        return "".join(f"M{_corners(ring)}Z" for ring in rings)

    @property
    def scale_bar(self) -> tuple[float, str]:
        """The length of the scale bar in units, about a fifth of the width, and its text."""
        um = round_length(self.size[0] / 5 * self.um_per_unit)
        text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} {MICRO_SIGN}m"
        return um / self.um_per_unit, text


def marks(view: View, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the places of figures in whole units, each place once, in the order of the figures.

    Args:
        view: The drawing.
        x_px0: (N,) centres, level-0 px, slide frame.
        y_px0: (N,) likewise.
    """
    placed = zip(np.rint(view.across(x_px0)), np.rint(view.down(y_px0)), strict=True)
    return list(dict.fromkeys((int(x), int(y)) for x, y in placed))


def round_length(most: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, ... (and their tenths) that is not longer than `most`, > 0."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))


def _corners(ring: Any) -> str:
    """Return the corners of a closed ring, without the last, which repeats the first."""
    return "L".join(f"{x:.0f} {y:.0f}" for x, y in ring.coords[:-1])
