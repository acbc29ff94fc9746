"""The exact hotspot of many figures, for a small window and for one that covers most of the slide."""

from __future__ import annotations

from time import process_time

import numpy as np

from tests.benchmarks.bench import Bench
from tests.benchmarks.pairs import Facts
from wsi_mitosis.core.hotspots import HotspotShape, find_hotspots
from wsi_mitosis.units import Mpp

SIZE_PX0 = (100_000, 80_000)
MPP = Mpp(0.25, 0.25)
NESTS = 50


def figures(number: int, *, clustered: bool) -> np.ndarray:
    """(number, 2) x, y: all over the slide, or in nests of about 1 mm."""
    draw = np.random.default_rng(0)
    if not clustered:
        return draw.uniform(0, 1, (number, 2)) * SIZE_PX0
    nests = draw.uniform(0, 1, (NESTS, 2)) * SIZE_PX0
    spread = draw.normal(0, 1000 / MPP.x, (number, 2))
    return (nests[draw.integers(0, NESTS, number)] + spread).clip(0, np.subtract(SIZE_PX0, 1))


def main(bench: Bench) -> None:
    found: dict[str, str] = {}
    for number in (1_000,) if bench.quick else (1_000, 10_000, 100_000):
        for area_mm2 in (2.0, 300.0):
            for clustered in (False, True):
                x, y = figures(number, clustered=clustered).T.copy()
                atypical = np.random.default_rng(1).random(number) < 0.2
                started = process_time()
                find_hotspots(x, y, atypical, HotspotShape(area_mm2), size_px0=SIZE_PX0, mpp=MPP)
                kind = "in nests" if clustered else "all over"
                found[f"{number:,} figures {kind}, {area_mm2:.0f} mm^2"] = f"{process_time() - started:.2f} s"
    bench.write(Facts("The exact hotspot, processor time of one core", found), "hotspot")
