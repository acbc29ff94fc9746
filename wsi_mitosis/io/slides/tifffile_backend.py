"""Slides that only tifffile reads correctly.

These are images whose colours lie in separate channels, slides in strips, and slides with an alpha channel or
missing tiles that OpenSlide does not open.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides.slide import CACHE_BYTES, Level, PixelRegion, blended, check_overview, undecodable
from wsi_mitosis.io.slides.tiff import quiet_tifffile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffFile

    from wsi_mitosis.io.slides.pixels import Composition
    from wsi_mitosis.units import Bounds, Mpp

WHITE = (255, 255, 255)
ASSOCIATED_ALPHA = 1
PALETTE = 3
RGB_SAMPLES = 3


class _Level(NamedTuple):
    """The pages of one level: one with all channels, or one for each of red, green and blue."""

    pages: tuple[Any, ...]
    samples: tuple[int, ...]


class TifffileBackend:
    """A TIFF that tifffile reads, tile by tile or strip by strip. Several threads may use it.

    Args:
        path: The file.
        size_px0: (width, height) of level 0, px.
        composition: How to compose an RGB image from its channels; None for an RGB slide.

    Raises:
        Exception: of many kinds, if tifffile cannot read the file.
        UnreadableSlideError: if a channel is not in the file.
    """

    name = "tifffile"
    stated_mpp: Mpp | None = None
    objective_power: float | None = None
    bounds: Bounds | None = None
    vendor_hash: str | None = None

    def __init__(self, path: Path, size_px0: tuple[int, int], composition: Composition | None) -> None:
        from tifffile import TiffFile

        self._name = path.name
        self._lock = threading.Lock()
        with quiet_tifffile():
            self._file = TiffFile(path)
        try:
            self._levels = self._find_levels(size_px0, composition)
        except BaseException:
            self._file.close()
            raise
        self.levels = tuple(self._level(found, size_px0) for found in self._levels)
        largest = max(_segment_bytes(found.pages[0]) for found in self._levels)
        self._segment = lru_cache(maxsize=max(4, CACHE_BYTES // largest))(self._decode)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> PixelRegion:
        """Read a rectangle inside the level. Missing pixels are white.

        Raises:
            UnreadableSlideError: if the pixels cannot be decoded.
        """
        found = self._levels[level]
        try:
            parts = [self._rectangle(level, n, x, y, width, height) for n in range(len(found.pages))]
        except Exception as error:  # tifffile and its codecs raise many kinds
            raise undecodable(self._name, f"tifffile: {type(error).__name__}: {error}") from error
        missing = np.logical_or.reduce([part[1] for part in parts])
        pixels = np.concatenate([part[0] for part in parts], axis=2)[..., list(found.samples)]
        return _region(pixels, missing, found.pages[0], (float(x), float(y)))

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide, (height, width, 3) uint8 RGB, its longer side at most `max_px`."""
        fine_enough = [n for n, of in enumerate(self.levels) if max(of.width, of.height) >= max_px]
        level = max(fine_enough, default=0)
        width, height = self.levels[level].width, self.levels[level].height
        check_overview(self._name, width, height)
        image = Image.fromarray(self.read(level, 0, 0, width, height).pixels)
        image.thumbnail((max_px, max_px))
        return np.asarray(image)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _find_levels(self, size: tuple[int, int], composition: Composition | None) -> tuple[_Level, ...]:
        if composition is None:
            page = next(_pages_of(self._file, size))
            return (_Level((page,), tuple(range(min(page.samplesperpixel, 4)))),)
        series = self._series(size)
        levels = [_Level(tuple(level.pages), composition.order) for level in series.levels]
        if any(page is None or page.parent is not self._file for of in levels for page in of.pages):
            raise self._channels_missing()
        channels = sum(_samples(page) for page in levels[0].pages)
        if channels != RGB_SAMPLES or any(len(of.pages) != len(levels[0].pages) for of in levels):
            raise self._channels_missing()
        return tuple(levels)

    def _series(self, size: tuple[int, int]) -> Any:
        """The OME image of the slide."""
        with quiet_tifffile():
            for series in self._file.series:
                first = next((page for page in series.pages if page is not None), None)
                keyframe = None if first is None else first.keyframe
                if keyframe is not None and (keyframe.imagewidth, keyframe.imagelength) == size:
                    return series
        raise self._channels_missing()

    def _channels_missing(self) -> UnreadableSlideError:
        return UnreadableSlideError(
            "its OME-XML describes three channels that are not all in this file",
            subject=self._name,
            stage="opening",
            remedy="Export the slide as one 8-bit RGB file, for example with QuPath",
        )

    def _level(self, found: _Level, size_px0: tuple[int, int]) -> Level:
        page = found.pages[0].keyframe
        width, height = page.imagewidth, page.imagelength
        downsample = (size_px0[0] / width + size_px0[1] / height) / 2
        return Level(width, height, downsample, _segment_px(page))

    def _rectangle(
        self, level: int, number: int, left: int, top: int, width: int, height: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(height, width, samples) pixels of a page, and (height, width) which of them are missing."""
        page = self._levels[level].pages[number].keyframe
        seg_width, seg_height = _segment_px(page)
        across, down = math.ceil(page.imagewidth / seg_width), math.ceil(page.imagelength / seg_height)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1  # TIFF 6.0: 2 is separate
        pixels = np.zeros((height, width, page.samplesperpixel), np.uint8)
        missing = np.zeros((height, width), np.bool_)
        for plane in range(planes):
            channels = slice(plane, plane + 1) if planes > 1 else slice(None)
            for row in range(top // seg_height, (top + height - 1) // seg_height + 1):
                for column in range(left // seg_width, (left + width - 1) // seg_width + 1):
                    segment = self._segment(level, number, (plane * down + row) * across + column)
                    x, y = column * seg_width - left, row * seg_height - top
                    x1, y1 = min(x + seg_width, width), min(y + seg_height, height)
                    here = np.s_[max(y, 0) : y1, max(x, 0) : x1]
                    if segment is None:
                        missing[here] = True
                    else:
                        pixels[here][..., channels] = segment[max(-y, 0) : y1 - y, max(-x, 0) : x1 - x]
        return pixels, missing

    def _decode(self, level: int, number: int, index: int) -> NDArray[np.uint8] | None:
        """(height, width, samples) of one tile or strip; None if the file does not have it."""
        page = self._levels[level].pages[number]
        offset, length = page.dataoffsets[index], page.databytecounts[index]
        if not offset or not length:
            return None
        with self._lock:
            self._file.filehandle.seek(offset)
            data = self._file.filehandle.read(length)
        if len(data) != length:
            raise EOFError(f"segment {index} ends after {len(data)} of {length} bytes")
        keyframe = page.keyframe
        tables = {"jpegtables": page.jpegtables} if keyframe.compression in {6, 7} else {}
        segment, _, _ = keyframe.decode(data, index, **tables)
        return np.asarray(segment[0], dtype=np.uint8)


def has_gaps(path: Path, size_px0: tuple[int, int]) -> bool:
    """Return whether the page of level 0 lacks some of its tiles or strips."""
    from tifffile import TiffFile

    with quiet_tifffile(), TiffFile(path) as file:
        page = next(_pages_of(file, size_px0), None)
        return page is not None and (0 in page.databytecounts or 0 in page.dataoffsets)


def _pages_of(file: TiffFile, size: tuple[int, int]) -> Iterator[Any]:
    """The pages of (width, height) px, in the file's order."""
    for page in file.pages:
        keyframe: Any = page.keyframe
        if (keyframe.imagewidth, keyframe.imagelength) == size:
            yield page


def _samples(page: Any) -> int:
    return int(page.keyframe.samplesperpixel)


def _segment_px(page: Any) -> tuple[int, int]:
    """(width, height) of a page's tiles or strips, px."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _segment_bytes(page: Any) -> int:
    width, height = _segment_px(page.keyframe)
    return int(width * height * page.keyframe.samplesperpixel)


def _region(
    pixels: NDArray[np.uint8], missing: NDArray[np.bool_], page: Any, origin: tuple[float, float]
) -> PixelRegion:
    """The region in RGB on white."""
    keyframe = page.keyframe
    if keyframe.photometric == PALETTE:
        colours = (keyframe.colormap >> 8).astype(np.uint8)  # libtiff: 16-bit entries, the upper byte
        pixels = np.moveaxis(colours[:, pixels[..., 0]], 0, 2)
    alpha = np.where(missing, 0, pixels[..., 3] if pixels.shape[2] > RGB_SAMPLES else 255).astype(np.uint8)
    premultiplied = bool(keyframe.extrasamples) and int(keyframe.extrasamples[0]) == ASSOCIATED_ALPHA
    return blended(pixels[..., :3], alpha, WHITE, origin, premultiplied=premultiplied)
