"""Slides that OpenSlide reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import openslide
from PIL import Image

from wsi_mitosis.io.slides.slide import Level, PixelRegion, blended, cache_bytes, check_overview, undecodable
from wsi_mitosis.units import Bounds, Mpp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

NM_PER_UM = 1000.0
ASSUMED_TILE_PX = (256, 256)
"""Size of tiles in formats that do not report it. It only affects the order of reading."""


class OpenSlideBackend:
    """A slide that OpenSlide reads; its handle may be used by several threads.

    Attributes:
        properties: OpenSlide's properties of the slide.

    Raises:
        openslide.OpenSlideError: if OpenSlide refuses the file.
    """

    name = "openslide"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide = openslide.OpenSlide(path)
        self.properties = properties = self._slide.properties
        background = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self._background = tuple(bytes.fromhex(background))
        self.levels = tuple(
            Level(width, height, downsample, _tile_px(properties, index))
            for index, ((width, height), downsample) in enumerate(
                zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
            )
        )
        largest = max((level.tile_px for level in self.levels), key=math.prod)
        self._slide.set_cache(openslide.OpenSlideCache(cache_bytes(largest)))
        self.stated_mpp = _mpp(properties)
        self.objective_power = _objective_power(properties)
        self.bounds = _bounds(properties)
        self.vendor_hash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> PixelRegion:
        """Read a rectangle inside the level. Missing pixels show the slide's background colour.

        OpenSlide takes a level-0 corner in whole px and divides it by the level's downsample. The origin of
        the region is the corner that it uses, which differs from (x, y) by less than one level-0 px.

        Raises:
            UnreadableSlideError: if the pixels cannot be decoded.
        """
        downsample = self.levels[level].downsample
        corner = (math.floor(x * downsample), math.floor(y * downsample))
        try:
            region = self._slide.read_region(corner, level, (width, height))
        except openslide.OpenSlideError as error:
            what = f"OpenSlide cannot decode level {level} at ({corner[0]}, {corner[1]})"
            raise undecodable(self._path.name, f"{what}: {error}") from error
        pixels = np.asarray(region)  # (height, width, 4) uint8 RGBA
        origin = (corner[0] / downsample, corner[1] / downsample)
        return blended(pixels[..., :3], pixels[..., 3], self._background, origin)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide, (height, width, 3) uint8 RGB, its longer side at most `max_px`.

        Raises:
            UnreadableSlideError: If it cannot be decoded, or only from more than MOST_OVERVIEW_PX.
        """
        nearest = self._slide.get_best_level_for_downsample(max(self._slide.dimensions) / max_px)
        size = self._slide.level_dimensions[nearest]
        check_overview(self._path.name, *size)
        try:
            region = self._slide.read_region((0, 0), nearest, size)
        except openslide.OpenSlideError as error:
            cause = f"OpenSlide cannot decode the overview: {error}"
            raise undecodable(self._path.name, cause) from error
        whole = Image.new("RGB", size, self._background)
        whole.paste(region, None, region)
        whole.thumbnail((max_px, max_px), Image.Resampling.HAMMING)
        return np.asarray(whole)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()


def _tile_px(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    width = properties.get(f"openslide.level[{level}].tile-width")
    height = properties.get(f"openslide.level[{level}].tile-height")
    return (int(width), int(height)) if width and height else ASSUMED_TILE_PX


def _mpp(properties: Mapping[str, str]) -> Mpp | None:
    x, y = properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)
    return Mpp(float(x), float(y)) if x and y else None


def centre_offset(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Return where the middle of level 0 lies from the middle of the glass slide, (x, y) um.

    Hamamatsu's files state it in nm: https://openslide.org/formats/hamamatsu.

    Args:
        properties: OpenSlide's properties of the slide.

    Returns:
        None if a property is missing or not a number.
    """
    try:
        x_nm, y_nm = (float(properties[f"hamamatsu.{axis}OffsetFromSlideCentre"]) for axis in "XY")
    except (KeyError, ValueError):
        return None
    return (x_nm / NM_PER_UM, y_nm / NM_PER_UM) if math.isfinite(x_nm + y_nm) else None


def _objective_power(properties: Mapping[str, str]) -> float | None:
    """The objective's power, if it is a positive number. OpenSlide copies what the scanner wrote."""
    try:
        power = float(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER, ""))
    except ValueError:
        return None
    return power if 0 < power < math.inf else None


def _bounds(properties: Mapping[str, str]) -> Bounds | None:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    values = [properties.get(name) for name in names]
    if any(value is None for value in values):
        return None
    return Bounds(*(int(value) for value in values if value is not None))
