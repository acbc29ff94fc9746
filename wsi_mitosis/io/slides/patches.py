"""Patches: windows of a physical size around centres, read ahead of the model in the order of the tiles."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.geometry import native_origin, resample
from wsi_mitosis.errors import MppError
from wsi_mitosis.io.slides.slide import BYTES_PER_CACHED_PIXEL, cache_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.io.slides import Level, Slide
    from wsi_mitosis.specs import InputSpec
    from wsi_mitosis.units import Mpp

WARN_ENLARGING = 1.25
MOST_ENLARGING = 4.0
LEVEL_SLACK = 1e-3
"""A level may be coarser than wanted by this share, because downsamples are rounded (4.0008)."""
MPP_ROUNDING = 1e-6
"""Relative. Files store um/px as a ratio of integers; a difference that is stated as 10 % is within 10 %."""
BATCHES_PER_THREAD = 2
"""One batch that a thread reads, and one that waits for the model."""
MOST_MISSING = 0.1
"""Share of a patch that may be missing outside its centre, as at a seam between two scanned areas."""
MISSING_LEVEL = 5
"""A resampled pixel is missing if more than 2 % of it is: 5 of 255, as for `slide.LEAST_ALPHA`."""


@dataclass(frozen=True)
class PatchPlan:
    """How patches of one bundle are read from one slide.

    Attributes:
        size_px: Side of a patch as the network's views are cut from it, px at the bundle's um/px.
        pad_value: Grey level outside the slide.
        level: The level to read.
        native: Whether level-0 pixels are used as they are.
        step: (x, y) level px per patch px; (1, 1) if native.
        downsample: Level-0 px per level px.
        tile_px: (width, height) of the level's tiles, level px.
        enlarging: The larger of the two axes' enlargements; 1 or less if pixels are not enlarged.
    """

    size_px: int
    pad_value: int
    level: int
    native: bool
    step: tuple[float, float]
    downsample: float
    tile_px: tuple[int, int]
    enlarging: float


class Batch(NamedTuple):
    """The patches of some candidates.

    Attributes:
        rows: (B,) int, the candidates' indices.
        pixels: (B, size, size, 3) uint8 RGB.
        blank: (B,) bool, whether the slide lacks pixels in the centre of the patch, or more than MOST_MISSING
            of its pixels, so that the candidate cannot be classified.
        lacking: (B,) float64, share of the patch's pixels within the slide that the file does not have.
    """

    rows: NDArray[np.intp]
    pixels: NDArray[np.uint8]
    blank: NDArray[np.bool_]
    lacking: NDArray[np.float64]


class _Patch(NamedTuple):
    """One patch: (size, size, 3) uint8 RGB, and its `blank` and `lacking` as in `Batch`."""

    pixels: NDArray[np.uint8]
    blank: bool = False
    lacking: float = 0.0


@dataclass
class ReadingTimes:
    """Seconds spent on decoding, summed over threads, and seconds that the model waited for patches."""

    reading: float = 0.0
    waiting: float = 0.0


def plan_patches(name: str, levels: Sequence[Level], mpp: Mpp, spec: InputSpec, size_px: int) -> PatchPlan:
    """Choose the level and the scale for one slide.

    If the slide's um/px is within the bundle's relative tolerance on both axes, level-0 pixels are used as
    they are. Otherwise they are resampled from the coarsest level that is as fine as the bundle requires.

    Args:
        name: The slide, for messages.
        levels: The slide's pyramid.
        mpp: um per level-0 px.
        spec: The bundle's input.
        size_px: Side of a patch, px at the bundle's um/px.

    Raises:
        MppError: if the slide would have to be enlarged more than fourfold.
    """
    per_axis = (mpp.x, mpp.y) if mpp.anisotropic else (mpp.mean, mpp.mean)
    ratio = [spec.mpp / axis for axis in per_axis]  # level-0 px per patch px
    enlarging = max(1 / axis for axis in ratio)
    if all(abs(axis / spec.mpp - 1) <= spec.mpp_tolerance + MPP_ROUNDING for axis in per_axis):
        return PatchPlan(size_px, spec.pad_value, 0, True, (1.0, 1.0), 1.0, levels[0].tile_px, 1.0)
    if enlarging > MOST_ENLARGING * (1 + MPP_ROUNDING):
        raise MppError(
            f"{mpp.mean:g} um/px would be enlarged {enlarging:.1f} times to the model's {spec.mpp:g}",
            subject=name,
            stage="planning patches",
            remedy=f"Scan at {spec.mpp * MOST_ENLARGING:g} um/px or finer, or use a model of this scale",
        )
    fitting = [i for i, of in enumerate(levels) if of.downsample <= min(ratio) * (1 + LEVEL_SLACK)]
    level = max(fitting, key=lambda i: levels[i].downsample, default=0)
    downsample = levels[level].downsample
    step = (ratio[0] / downsample, ratio[1] / downsample)
    return PatchPlan(
        size_px, spec.pad_value, level, False, step, downsample, levels[level].tile_px, enlarging
    )


def read_patch(slide: Slide, plan: PatchPlan, x_px0: float, y_px0: float) -> NDArray[np.uint8]:
    """Read one patch.

    Args:
        slide: An open slide.
        plan: From `plan_patches`.
        x_px0: The centre along x, level-0 px, slide frame; pixel i covers [i, i + 1).
        y_px0: The centre along y.

    Returns:
        (size, size, 3) uint8 RGB, rows from top to bottom. What lies outside the slide is padded.

    Raises:
        UnreadableSlideError: if the slide's pixels cannot be decoded.
    """
    return _cut(slide, plan, x_px0, y_px0).pixels


def _cut(slide: Slide, plan: PatchPlan, x_px0: float, y_px0: float) -> _Patch:
    """Read one patch, and whether it is blank. Padding outside the slide is not missing."""
    return (_cut_native if plan.native else _cut_resampled)(slide, plan, x_px0, y_px0)


def _cut_native(slide: Slide, plan: PatchPlan, x_px0: float, y_px0: float) -> _Patch:
    size = plan.size_px
    window = (native_origin(x_px0, size), native_origin(y_px0, size), size, size)
    region = slide.window(0, *window, plan.pad_value)
    if region.missing is None:
        return _Patch(region.pixels)
    return _Patch(region.pixels, _is_blank(region.missing), _lacking(region.missing, slide.levels[0], window))


def _cut_resampled(slide: Slide, plan: PatchPlan, x_px0: float, y_px0: float) -> _Patch:
    size = plan.size_px
    start = [
        centre / plan.downsample - size * step / 2
        for centre, step in zip((x_px0, y_px0), plan.step, strict=True)
    ]
    corner = [math.floor(edge) - 1 for edge in start]  # one more pixel on each side, to interpolate
    extent = [
        math.ceil(edge + size * step) + 2 - first
        for edge, step, first in zip(start, plan.step, corner, strict=True)
    ]
    window = (corner[0], corner[1], extent[0], extent[1])
    region = slide.window(plan.level, *window, plan.pad_value)
    offset = (start[0] - region.origin[0], start[1] - region.origin[1])
    pixels = resample(region.pixels, offset, plan.step, (size, size))
    if region.missing is None:
        return _Patch(pixels)
    shares = np.repeat(region.missing[..., None].astype(np.uint8) * 255, 3, axis=2)
    missing = resample(shares, offset, plan.step, (size, size))[..., 0] > MISSING_LEVEL
    return _Patch(pixels, _is_blank(missing), _lacking(region.missing, slide.levels[plan.level], window))


def _is_blank(missing: NDArray[np.bool_]) -> bool:
    """Whether a patch lacks pixels in its central square of half the side, or more than MOST_MISSING."""
    size = len(missing)
    first, last = size // 4, size - size // 4
    return bool(missing[first:last, first:last].any() or missing.mean() > MOST_MISSING)


def _lacking(missing: NDArray[np.bool_], level: Level, window: tuple[int, int, int, int]) -> float:
    """Share that is missing of the part of a window (x, y, width, height; level px) within the level."""
    x, y, width, height = window
    on_level = missing[max(-y, 0) : min(level.height - y, height), max(-x, 0) : min(level.width - x, width)]
    return float(on_level.mean())


def reading_order(
    plan: PatchPlan, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the order in which to read patches, so that each tile of the slide is decoded once.

    The order is by rows of tiles, and from left to right within a row. The tiles under one row of windows
    and the next must stay in the cache of decoded tiles. A slide that is too wide for that is read in
    vertical stripes, and only the tiles on the border of two stripes are decoded twice.

    Args:
        plan: How patches are read.
        x_px0: (N,) centres along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.

    Returns:
        (N,) indices into the centres.
    """
    extent = [plan.size_px * step for step in plan.step]
    column, row = (
        np.floor((centre / plan.downsample - reach / 2) / tile).clip(0).astype(np.intp)
        for centre, reach, tile in zip((x_px0, y_px0), extent, plan.tile_px, strict=True)
    )
    rows_at_once = math.ceil(extent[1] / plan.tile_px[1]) + 2
    tile_bytes = plan.tile_px[0] * plan.tile_px[1] * BYTES_PER_CACHED_PIXEL
    stripe = max(1, cache_bytes(plan.tile_px) // (tile_bytes * rows_at_once))
    return np.lexsort((x_px0, column, row, column // stripe))


def stream_patches(
    slide: Slide,
    plan: PatchPlan,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    *,
    batch_size: int,
    threads: int,
    times: ReadingTimes | None = None,
) -> Iterator[Batch]:
    """Yield the patches of all centres, which threads read ahead of the caller into a bounded buffer.

    Args:
        slide: An open slide.
        plan: How to read.
        x_px0: (N,) centres along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
        batch_size: Patches per batch.
        threads: Reading threads. At most twice as many batches exist beside the one last yielded.
        times: The seconds are added to it.

    Yields:
        Batches in the order of `reading_order`. Every candidate is in exactly one.

    Raises:
        UnreadableSlideError: if the slide's pixels cannot be decoded.
    """
    order = reading_order(plan, x_px0, y_px0)
    chunks = iter([order[at : at + batch_size] for at in range(0, len(order), batch_size)])
    times = times or ReadingTimes()
    with ThreadPoolExecutor(threads, thread_name_prefix="patches") as pool:
        read = partial(_read_batch, slide, plan, x_px0, y_px0)
        ahead = deque(pool.submit(read, rows) for rows in islice(chunks, threads * BATCHES_PER_THREAD))
        try:
            while ahead:
                started = perf_counter()
                batch, seconds = ahead.popleft().result()
                times.waiting += perf_counter() - started
                times.reading += seconds
                ahead.extend(pool.submit(read, rows) for rows in islice(chunks, 1))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _read_batch(
    slide: Slide,
    plan: PatchPlan,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    rows: NDArray[np.intp],
) -> tuple[Batch, float]:
    """The patches of some rows, and the seconds that reading them took."""
    started = perf_counter()
    patches = [_cut(slide, plan, float(x_px0[i]), float(y_px0[i])) for i in rows]
    batch = Batch(
        rows,
        np.stack([patch.pixels for patch in patches]),
        blank=np.array([patch.blank for patch in patches]),
        lacking=np.array([patch.lacking for patch in patches]),
    )
    return batch, perf_counter() - started
