"""Units and frames, as types.

Frames
    *slide*: x to the right, y down, in level-0 pixels from the slide's level-0 origin.
    *qupath*: the same axes from the corner of the slide's bounds (QuPath crops to them).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

LengthUnit = Literal["px", "um", "mm", "fraction"]
"""`fraction` is a fraction of the image's width or height, from 0 to 1."""
Frame = Literal["slide", "qupath"]

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
