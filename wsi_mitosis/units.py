"""Units and frames, as types.

Frames
    *slide*: x to the right, y down, in level-0 pixels from the slide's level-0 origin.
    *qupath*: the same axes from the corner of the slide's bounds (QuPath crops to them).
    *slide-centre*: the same axes from the middle of the glass slide, as NDP.view2 of Hamamatsu counts. The
    slide says where its image is on the glass.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

LengthUnit = Literal["px", "um", "mm", "nm", "fraction"]
"""`fraction` is a fraction of the image's width or height, from 0 to 1."""
UM_PER_UNIT: dict[LengthUnit, float] = {"um": 1.0, "mm": 1000.0, "nm": 0.001}
"""The units of length on the glass, which become pixels by the pixel size."""
Frame = Literal["slide", "qupath"]
InputFrame = Literal["slide", "qupath", "slide-centre"]
"""The frames of candidates. Regions, reviews and results are in a `Frame`."""

MPP_RANGE = (0.05, 20.0)
"""Pixel sizes in um/px outside this range are considered mistakes, such as 352.8 from a tag of 72 dpi."""


class Mpp(NamedTuple):
    """Microns per level-0 pixel along x and y."""

    x: float
    y: float

    @property
    def mean(self) -> float:
        """The mean of both axes, which reports show, um/px."""
        return (self.x + self.y) / 2

    @property
    def anisotropic(self) -> bool:
        """Whether the axes differ by more than 1 %: below that they are rounding noise of one scanner."""
        return abs(self.x - self.y) > 0.01 * abs(self.y)  # a product: a slide may state 0


class Bounds(NamedTuple):
    """The non-empty part of a slide, level-0 px in the slide frame; QuPath's origin is its corner."""

    x: int
    y: int
    width: int
    height: int
