"""Readers of slides, each run in a process of its own, perhaps of another environment.

It imports nothing of the project, apart from what the reader `wsi-mitosis` needs.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

TILE_PX = 256
MOST_DIFFERENT = 6
"""Of 255. Decoders of JPEG differ by a few grey levels in how they enlarge and convert the colours."""
Points = np.ndarray
"""(N, 2) int, the top left corners of the crops, level-0 px."""


def in_tile_order(points: Points) -> np.ndarray:
    return np.lexsort((points[:, 0], points[:, 0] // TILE_PX, points[:, 1] // TILE_PX))


def wsi_mitosis(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    from pathlib import Path

    from wsi_mitosis.io.slides import open_slide
    from wsi_mitosis.io.slides.patches import plan_patches, stream_patches
    from wsi_mitosis.specs import InputSpec

    started = perf_counter()
    pixels = np.empty((len(points), side, side, 3), np.uint8)
    x, y = (points + side // 2).astype(np.float64).T
    with open_slide(Path(path)) as slide:
        spec = InputSpec(patch_px=side, mpp=slide.mpp.mean, mpp_tolerance=0.1, pad_value=0, scale=255)
        plan = plan_patches("slide", slide.levels, slide.mpp, spec, side)
        for batch in stream_patches(slide, plan, x, y, batch_size=32, threads=threads):
            pixels[batch.rows] = batch.pixels
    return _timed(started, pixels)


def floor(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    """Decode each needed tile once, and do nothing else; tifffile finds the tiles."""
    decode, tile_px, across = _tiles(path)
    started = perf_counter()
    rows, columns = set(), points // tile_px
    lasts = (points + side - 1) // tile_px
    for first, final in zip(columns, lasts, strict=True):
        rows |= {(y, x) for y in range(first[1], final[1] + 1) for x in range(first[0], final[0] + 1)}
    numbers = [y * across + x for y, x in sorted(rows)]
    if threads == 1:
        for number in numbers:
            decode(number)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda number: decode(number).shape, numbers, chunksize=16))
    return _timed(started, np.empty(0))


def tifffile_and_imagecodecs(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    """Decode tiles and cut crops from the last few hundred of them."""
    started = perf_counter()
    decode, tile_px, across = _tiles(path)
    kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def tile(number: int) -> np.ndarray:
        if number not in kept:
            kept[number] = decode(number)
            if len(kept) > 1_000:
                kept.popitem(last=False)
        return kept[number]

    pixels = np.empty((len(points), side, side, 3), np.uint8)
    for row in in_tile_order(points):
        left, top = points[row]
        for y in range(top // tile_px, (top + side - 1) // tile_px + 1):
            for x in range(left // tile_px, (left + side - 1) // tile_px + 1):
                decoded = tile(y * across + x)
                x0, y0 = max(left, x * tile_px), max(top, y * tile_px)
                x1, y1 = min(left + side, (x + 1) * tile_px), min(top + side, (y + 1) * tile_px)
                pixels[row, y0 - top : y1 - top, x0 - left : x1 - left] = decoded[
                    y0 - y * tile_px : y1 - y * tile_px, x0 - x * tile_px : x1 - x * tile_px
                ]
    return _timed(started, pixels)


def _tiles(path: str) -> tuple[Callable[[int], np.ndarray], int, int]:
    """Return what decodes a tile of level 0 by its number, the side of tiles, and the tiles in a row."""
    import os
    import zlib

    import imagecodecs
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        offsets, counts, side = page.dataoffsets, page.databytecounts, page.tilewidth
        compression, tables = int(page.compression), page.jpegtables
        colour, across = int(page.photometric), -(-page.imagewidth // side)
    handle = os.open(path, os.O_RDONLY)

    def decode(number: int) -> np.ndarray:
        stored = os.pread(handle, counts[number], offsets[number])
        if compression == 7:
            space = "rgb" if colour == 2 else "ycbcr"
            return np.asarray(
                imagecodecs.jpeg8_decode(stored, tables=tables, colorspace=space, outcolorspace="rgb")
            )
        if compression in (33003, 33005):
            return np.asarray(imagecodecs.jpeg2k_decode(stored))
        return np.frombuffer(zlib.decompress(stored), np.uint8).reshape(side, side, 3)

    return decode, side, across


def openslide(path: str, points: Points, side: int, threads: int, *, sort: bool = True) -> np.ndarray:
    from openslide import OpenSlide

    started = perf_counter()
    slide = OpenSlide(path)
    return _loop(
        started, points, side, sort, lambda x, y: slide.read_region((x, y), 0, (side, side)).convert("RGB")
    )


def openslide_in_file_order(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    return openslide(path, points, side, threads, sort=False)


def tiffslide(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    from tiffslide import TiffSlide

    started = perf_counter()
    slide = TiffSlide(path)
    return _loop(
        started, points, side, True, lambda x, y: slide.read_region((x, y), 0, (side, side), as_array=True)
    )


def fastslide(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    from fastslide import FastSlide

    started = perf_counter()
    slide = FastSlide.from_file_path(path)
    return _loop(
        started,
        points,
        side,
        True,
        lambda x, y: slide.read_region(location=(x, y), level=0, size=(side, side)).numpy(),
    )


def cucim(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    """The CPU reader of cuCIM."""
    from cucim import CuImage

    started = perf_counter()
    CuImage.cache("per_process", memory_capacity=192)
    slide = CuImage(path)
    return _loop(
        started,
        points,
        side,
        True,
        lambda x, y: slide.read_region(location=(x, y), level=0, size=(side, side)),
    )


def libvips(path: str, points: Points, side: int, threads: int) -> np.ndarray:
    import pyvips

    started = perf_counter()
    region = pyvips.Region.new(pyvips.Image.new_from_file(path, access="random"))
    return _loop(
        started,
        points,
        side,
        True,
        lambda x, y: np.frombuffer(region.fetch(x, y, side, side), np.uint8).reshape(side, side, -1),
    )


def _loop(
    started: float, points: Points, side: int, sort: bool, read: Callable[[int, int], Any]
) -> np.ndarray:
    pixels = np.empty((len(points), side, side, 3), np.uint8)
    for row in in_tile_order(points) if sort else range(len(points)):
        x, y = points[row]
        pixels[row] = np.asarray(read(int(x), int(y)))[..., :3]
    return _timed(started, pixels)


SECONDS: list[float] = []


def _timed(started: float, pixels: np.ndarray) -> np.ndarray:
    SECONDS.append(perf_counter() - started)
    return pixels


READERS: dict[str, Callable[[str, Points, int, int], np.ndarray]] = {
    "floor": floor,
    "wsi-mitosis": wsi_mitosis,
    "openslide, in file order": openslide_in_file_order,
    "openslide": openslide,
    "tifffile and imagecodecs": tifffile_and_imagecodecs,
    "tiffslide": tiffslide,
    "fastslide": fastslide,
    "cuCIM": cucim,
    "libvips": libvips,
}


def main(reader: str, slide: str, detections: str, side: str, threads: str, out: str, pixels: str) -> None:
    with open(detections) as file:  # noqa: PTH123
        points = np.array([(int(row["x"]), int(row["y"])) for row in csv.DictReader(file)]) - int(side) // 2
    found = READERS[reader](slide, points, int(side), int(threads))
    if pixels != "-":
        np.save(pixels, found)
    with open(out, "w") as file:  # noqa: PTH123
        json.dump({"seconds": SECONDS[0]}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
