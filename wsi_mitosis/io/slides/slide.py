"""An open slide, whichever library reads its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from wsi_mitosis.errors import UnreadableSlideError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.units import Bounds, Mpp

MppSource = Literal["slide", "given", "list"]
"""Where the pixel size comes from: the slide itself, `--mpp`, or the mpp column of a slide list."""


class Level(NamedTuple):
    """One level of the pyramid.

    Attributes:
        width, height: Size in the level's own px.
        downsample: Level-0 px per px of this level, both axes.
        tile_px: (width, height) of the tiles it is stored in, own px.
    """

    width: int
    height: int
    downsample: float
    tile_px: tuple[int, int]


class PixelRegion(NamedTuple):
    """Pixels of a level, and their position.

    Attributes:
        pixels: (height, width, 3) uint8 RGB.
        origin: (x, y) of the top-left corner of the first pixel, level px; may be fractional.
        missing: (height, width) bool, the pixels that the slide does not have, which show the background;
            None if it has all of them. Pixels outside the slide are not missing.
    """

    pixels: NDArray[np.uint8]
    origin: tuple[float, float]
    missing: NDArray[np.bool_] | None = None


CACHE_BYTES = 192 * 2**20
"""Largest size of a slide's cache of decoded tiles."""
LEAST_CACHE_BYTES, CACHED_TILES = 64 * 2**20, 256
BYTES_PER_CACHED_PIXEL = 4
LEAST_ALPHA = 250
"""A pixel with less alpha (of 255) is missing, because more than 2 % of it would be background. Other pixels
change by at most 5 grey levels."""


def cache_bytes(tile_px: tuple[int, int]) -> int:
    """Return the size of a cache with which `patches.reading_order` decodes each tile once.

    A larger cache costs time as well: the kernel fills its pages with zeros. With tiles of 256 px, 1,000
    crops take an eighth less processor time with 64 MiB than with 192 MiB.

    Args:
        tile_px: (width, height) of the tiles.
    """
    wanted = CACHED_TILES * tile_px[0] * tile_px[1] * BYTES_PER_CACHED_PIXEL
    return min(CACHE_BYTES, max(LEAST_CACHE_BYTES, wanted))


def blended(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    background: tuple[int, ...],
    origin: tuple[float, float],
    *,
    premultiplied: bool = False,
) -> PixelRegion:
    """Draw pixels with alpha on a background.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        alpha: (height, width) uint8, 255 is opaque.
        background: RGB of transparent pixels.
        origin: Origin of the region.
        premultiplied: Whether the colours are already multiplied by alpha.

    Returns:
        The region, in which pixels with alpha below LEAST_ALPHA are missing.
    """
    least = alpha.min()
    if least == 255:
        return PixelRegion(pixels, origin)
    share = alpha[..., None].astype(np.float32) / 255
    shown = pixels if premultiplied else pixels * share
    shown = np.clip(np.rint(shown + (1 - share) * np.array(background, np.float32)), 0, 255)
    missing = alpha < LEAST_ALPHA if least < LEAST_ALPHA else None
    return PixelRegion(shown.astype(np.uint8), origin, missing)


MOST_OVERVIEW_PX = 64_000_000
"""Most pixels that are decoded at once for an overview, half a GB as RGBA and RGB. Slides without small
levels have more."""


def check_overview(name: str, width: int, height: int) -> None:
    """Refuse an overview whose level has too many pixels to be decoded at once.

    Raises:
        UnreadableSlideError: if it has more than MOST_OVERVIEW_PX.
    """
    if width * height > MOST_OVERVIEW_PX:
        raise UnreadableSlideError(
            f"for an overview all of a level of {width} x {height} px would have to be decoded",
            subject=name,
            stage="reading the overview",
            remedy="Save the slide with smaller levels too, a pyramid, to see one",
        )


def undecodable(name: str, cause: str) -> UnreadableSlideError:
    """Return the error for pixels that a library cannot decode."""
    return UnreadableSlideError(
        cause.replace("\n", " "),
        subject=name,
        stage="reading pixels",
        remedy="The file is damaged or incomplete; copy or scan it again",
    )


class Backend(Protocol):
    """A library that reads one open slide. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """Name of the library."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, level 0 first."""
        ...

    @property
    def stated_mpp(self) -> Mpp | None:
        """The pixel size that the library reports, plausible or not."""
        ...

    @property
    def bounds(self) -> Bounds | None:
        """The non-empty part of the slide, level-0 px."""
        ...

    @property
    def objective_power(self) -> float | None:
        """The magnification of level 0 that the file itself states; None if it states none."""
        ...

    @property
    def vendor_hash(self) -> str | None:
        """OpenSlide's quickhash-1."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> PixelRegion:
        """Read a rectangle that lies inside the level, in that level's px."""
        ...

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide, (height, width, 3) uint8 RGB, its longer side at most `max_px`.

        Raises:
            UnreadableSlideError: if it cannot be decoded, or only from more than MOST_OVERVIEW_PX.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@dataclass(frozen=True)
class Slide:
    """An open slide. Use it as a context manager.

    Attributes:
        path: The file that was opened.
        backend: "openslide", "tiatoolbox" or "tifffile", and its pixels.
        mpp: Microns per level-0 pixel, the size that is used.
        mpp_source: Where it comes from.
        stated_mpp: The pixel size that the slide itself states, if it is usable; None otherwise.
        bounds: The non-empty part, level-0 px, slide frame; None if the file reports none.
        identity: Digest of the content, which is the same for a copy and differs for other pixels.
        warnings: Notes for the user about this slide.
        scanned_in_areas: Whether its format usually has no pixels between the scanned areas.
        centre_offset_um: Where the middle of level 0 lies from the middle of the glass slide, (x, y) um; None
            if the file does not state it.
        scanner: The scanner that the file states, as it names it; None if it states none.
    """

    path: Path
    backend: Backend
    mpp: Mpp
    mpp_source: MppSource
    stated_mpp: Mpp | None
    bounds: Bounds | None
    identity: str
    warnings: tuple[str, ...] = ()
    scanned_in_areas: bool = False
    centre_offset_um: tuple[float, float] | None = None
    scanner: str | None = None

    @property
    def size_px0(self) -> tuple[int, int]:
        """(width, height) of level 0, px."""
        return self.backend.levels[0].width, self.backend.levels[0].height

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, level 0 first."""
        return self.backend.levels

    def window(self, level: int, x: int, y: int, width: int, height: int, pad_value: int) -> PixelRegion:
        """Read a rectangle that may extend beyond the slide's edges.

        Args:
            level: Index into `levels`.
            x: Left edge, px of that level; negative to the left of the slide.
            y: Top edge, px of that level; negative above the slide.
            width: Size along x, px of that level.
            height: Size along y, px of that level.
            pad_value: Grey level outside the slide.

        Returns:
            The region. Its origin is at most one level px left of and above (x, y), and exact at level 0.
        """
        of = self.backend.levels[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, of.width), min(y + height, of.height)
        canvas = np.full((height, width, 3), pad_value, dtype=np.uint8)
        if right <= left or bottom <= top:
            return PixelRegion(canvas, (float(x), float(y)))
        inside = self.backend.read(level, left, top, right - left, bottom - top)
        here = np.s_[top - y : bottom - y, left - x : right - x]
        canvas[here] = inside.pixels
        missing = None
        if inside.missing is not None:
            missing = np.zeros((height, width), np.bool_)
            missing[here] = inside.missing
        return PixelRegion(canvas, (inside.origin[0] - (left - x), inside.origin[1] - (top - y)), missing)

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide, (height, width, 3) uint8 RGB, its longer side at most `max_px`."""
        return self.backend.thumbnail(max_px)

    def close(self) -> None:
        """Release the file."""
        self.backend.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
