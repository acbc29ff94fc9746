"""Slides that TIAToolbox reads and OpenSlide refuses, such as OME-TIFF. Importing it takes seconds."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides.slide import Level, PixelRegion, check_overview, undecodable
from wsi_mitosis.units import Bounds, Mpp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TILE_PX = (256, 256)
"""Size of tiles for the order of reading, because TIAToolbox's readers do not report theirs."""
GUESSED_MPP = "inferred from Objective power"
"""Part of the message that TIAToolbox logs when it estimates a pixel size. Source:
`_estimate_mpp_objective_power` in tiatoolbox/wsicore/wsireader/base.py."""


class TiatoolboxBackend:
    """A slide that TIAToolbox reads. Only its level 0 is used, because TIAToolbox resizes the others."""

    name = "tiatoolbox"
    bounds: Bounds | None = None
    objective_power: float | None = None
    """Not read, because TIAToolbox estimates it from the pixel size where the file states none."""
    vendor_hash: str | None = None

    def __init__(self, path: Path) -> None:
        self._name = path.name
        with Listener() as heard:
            from tiatoolbox.wsicore.wsireader import WSIReader

            self._reader = WSIReader.open(path)
            info = self._reader.info
        width, height = (int(v) for v in info.slide_dimensions)
        self.levels = (Level(width, height, 1.0, TILE_PX),)
        guessed = any(GUESSED_MPP in message for message in heard.messages)
        self.stated_mpp = None if info.mpp is None or guessed else Mpp(float(info.mpp[0]), float(info.mpp[1]))
        self._lock = threading.Lock()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> PixelRegion:
        """Read a rectangle inside level 0."""
        with self._decoding():
            pixels = self._reader.read_rect((x, y), (width, height), resolution=level, units="level")
        return PixelRegion(_rgb8(self._name, np.asarray(pixels)), (float(x), float(y)))

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide, (height, width, 3) uint8 RGB, its longer side at most `max_px`."""
        longest = max(self.levels[0].width, self.levels[0].height)
        fine_enough = (
            size for size in self._reader.info.level_dimensions if max(size) >= min(max_px, longest)
        )
        check_overview(self._name, *(int(side) for side in min(fine_enough, key=max)))
        with self._decoding():
            pixels = self._reader.slide_thumbnail(resolution=min(1.0, max_px / longest), units="baseline")
        return _rgb8(self._name, np.asarray(pixels))

    def close(self) -> None:
        """Close the files of TIAToolbox's TIFF reader, because its readers cannot be closed."""
        for held in ("tiff", "_zarr_store"):
            if (file := getattr(self._reader, held, None)) is not None:
                file.close()

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        with self._lock:  # its zarr and tifffile stores may not be thread-safe
            try:
                yield
            except Exception as error:  # its readers raise whatever their libraries raise
                cause = f"TIAToolbox: {type(error).__name__}: {error}"
                raise undecodable(self._name, cause) from error


def _rgb8(name: str, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Refuse pixels that are not 8-bit RGB, because their conversion would be a guess."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UnreadableSlideError(
            f"its pixels are {pixels.dtype} of shape {pixels.shape}, not 8-bit RGB",
            subject=name,
            stage="reading pixels",
            remedy="Export the slide as 8-bit RGB",
        )
    return np.asarray(pixels, dtype=np.uint8)


class Listener(logging.Handler):
    """Keeps the messages that TIAToolbox logs in the block, instead of printing them.

    TIAToolbox logs to the root logger. If that has no handlers, TIAToolbox adds two when it is imported, one
    of which writes to stdout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._root = logging.getLogger()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())

    def __enter__(self) -> Listener:
        self._were = self._root.handlers[:]
        self._root.handlers[:] = [self]
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # its dependencies' deprecations are not the user's concern
        return self

    def __exit__(self, *exception: object) -> None:
        self._warnings.__exit__(None, None, None)
        self._root.handlers[:] = self._were
        logging.captureWarnings(capture=False)  # TIAToolbox turns it on for the whole process
