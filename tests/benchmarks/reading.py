"""Reading crops: ours beside other readers, and above the time to decode each needed tile once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.bench import PYTHON, Bench
from tests.benchmarks.pairs import VoidError, Way
from tests.benchmarks.peers import readers
from tests.benchmarks.work import data, run, write_candidates

SIDE = 80
"""Side of the crops, px: those of the default bundle."""
ROUNDS = 3
FLOOR = "each needed tile decoded once"


def main(bench: Bench) -> None:
    number = bench.size(1_000, 20)
    for clustered in (True, False):
        layout = "clustered" if clustered else "scattered"
        _compare(bench, f"jpeg, {layout}", *bench.slide(number, clustered=clustered))
    for codec in ("deflate", "jpeg2000"):
        _compare(bench, f"{codec}, clustered", *bench.slide(bench.size(500, 20), codec=codec))
    small = data("slides", "CMU-1-Small-Region.svs")
    if small is None:
        print("CMU-1-Small-Region.svs: not measured, because WSI_MITOSIS_DATA is not set or lacks it")
        return
    points = np.random.default_rng(0).uniform(SIDE, (2220 - SIDE, 2967 - SIDE), (bench.size(500, 20), 2))
    table = pd.DataFrame(points.astype(int), columns=["x", "y"])
    _compare(bench, "CMU-1-Small-Region", small, write_candidates(bench.folder / "region.csv", table))


def _compare(bench: Bench, name: str, slide: Path, detections: Path) -> None:
    truth = bench.folder / "truth.npy"
    _seconds(bench, "openslide, in file order", slide, detections, 1, truth)
    ways: dict[str, Way] = {
        f"{FLOOR}, 1 thread": partial(_seconds, bench, "floor", slide, detections, 1),
        f"{FLOOR}, 2 threads": partial(_seconds, bench, "floor", slide, detections, 2),
        "wsi-mitosis, 1 thread": partial(_checked, bench, "wsi-mitosis", slide, detections, 1),
        "wsi-mitosis, 2 threads": partial(_checked, bench, "wsi-mitosis", slide, detections, 2),
    }
    for reader in readers.READERS:
        if reader not in ("floor", "wsi-mitosis"):
            ways[reader] = partial(_checked, bench, reader, slide, detections, 1)
    number = len(pd.read_csv(detections))
    result = bench.compare(f"Reading, {name}", ways, work=(number, "crop"), rounds=(ROUNDS, 1))
    bench.write(result, f"reading-{name.replace(', ', '-')}")


def _checked(bench: Bench, reader: str, slide: Path, detections: Path, threads: int) -> float:
    """Read the crops, and compare them with those that OpenSlide gave."""
    pixels = bench.folder / "pixels.npy"
    seconds = _seconds(bench, reader, slide, detections, threads, pixels)
    found, truth = np.load(pixels, mmap_mode="r"), np.load(bench.folder / "truth.npy", mmap_mode="r")
    differ = np.abs(found.astype(np.int16) - truth)
    if differ.max() > readers.MOST_DIFFERENT:
        share = (differ.max(axis=(1, 2, 3)) > readers.MOST_DIFFERENT).mean()
        raise VoidError(f"{share:.0%} of the crops differ, by {differ.max()} of 255 at most")
    return seconds


def _seconds(
    bench: Bench, reader: str, slide: Path, detections: Path, threads: int, pixels: Path | None = None
) -> float:
    """Run a reader in a process of its own.

    Returns:
        The seconds of opening and reading, without the imports.

    Raises:
        VoidError: If the reader cannot read the slide.
    """
    own = reader in (
        "wsi-mitosis",
        "openslide, in file order",
        "openslide",
        "floor",
        "tifffile and imagecodecs",
    )
    out = bench.folder / "reader.json"
    python = PYTHON if own else str(bench.readers_python)
    if not Path(python).exists():
        raise VoidError("not installed: see tests/benchmarks/peers/install.sh")
    command = [python, readers.__file__, reader, slide, detections, SIDE, threads, out, pixels or "-"]
    try:
        run([str(part) for part in command])
    except RuntimeError as error:
        raise VoidError(str(error).strip().splitlines()[-1][:150]) from error
    return float(json.loads(out.read_text())["seconds"])
