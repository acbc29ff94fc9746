"""Crops per second: a plain loop of `read_region`, file order, tile order, several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import openslide

from tests.benchmarks.big_slide import big_slide, candidates
from wsi_mitosis.io.slides import open_slide, patches
from wsi_mitosis.specs import InputSpec

SIDE, NUMBER, PATCH = 20_000, 20_000, 128
INPUT = InputSpec(patch_px=PATCH, mpp=0.25, mpp_tolerance=0.1, pad_value=0, scale=255)


def main(folder: Path) -> None:
    path = big_slide(folder / "big.tiff", SIDE)
    table = candidates(NUMBER, SIDE)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    cpus = len(os.sched_getaffinity(0))
    ways: dict[str, Callable[[], float]] = {
        "plain read_region loop, file order": lambda: plain(path, x, y),
        "file order, 1 thread": lambda: ours(path, x, y, threads=1, in_order=False),
        "tile order, 1 thread": lambda: ours(path, x, y, threads=1, in_order=True),
        f"tile order, {cpus} threads": lambda: ours(path, x, y, threads=cpus, in_order=True),
    }
    print(
        f"{NUMBER} crops of {PATCH} px from {SIDE} x {SIDE} px, JPEG tiles of 256 px, {cpus} CPUs; best of 2"
    )
    seconds = {name: min(way() for _ in range(2)) for name, way in ways.items()}
    first = next(iter(seconds.values()))
    for name, taken in seconds.items():
        print(f"{name:36s} {NUMBER / taken:8.0f} crops/s   {first / taken:5.2f} x the plain loop")


def plain(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    slide = openslide.OpenSlide(path)
    started = perf_counter()
    for left, top in zip(x.astype(int) - PATCH // 2, y.astype(int) - PATCH // 2, strict=True):
        np.asarray(slide.read_region((left, top), 0, (PATCH, PATCH)).convert("RGB"))
    return perf_counter() - started


def ours(path: Path, x: np.ndarray, y: np.ndarray, *, threads: int, in_order: bool) -> float:
    order = patches.reading_order
    if not in_order:
        patches.reading_order = lambda _plan, x, _y: np.arange(len(x))
    try:
        with open_slide(path) as slide:
            plan = patches.plan_patches("big", slide.levels, slide.mpp, INPUT, PATCH)
            started = perf_counter()
            for _ in patches.stream_patches(slide, plan, x, y, batch_size=32, threads=threads):
                pass
            return perf_counter() - started
    finally:
        patches.reading_order = order
