"""A slide large enough for timings, made of a real H&E image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from wsi_mitosis.io.slides.demo import TILE_PX, UM_PER_CM, he_image


def big_slide(path: Path, side: int = 20_000, mpp: float = 0.25) -> Path:
    """A JPEG-compressed TIFF of side x side px: the image, mirrored again and again."""
    image = he_image()
    unit = np.block([[[image], [image[:, ::-1]]], [[image[::-1]], [image[::-1, ::-1]]]])
    tiles_across = -(-side // TILE_PX)

    def tiles():  # type: ignore[no-untyped-def]
        for row in range(tiles_across):
            rows = np.arange(row * TILE_PX, (row + 1) * TILE_PX) % unit.shape[0]
            for column in range(tiles_across):
                columns = np.arange(column * TILE_PX, (column + 1) * TILE_PX) % unit.shape[1]
                yield unit[np.ix_(rows, columns)]

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), compression="jpeg",
        compressionargs={"level": 85}, photometric="rgb", resolution=(UM_PER_CM / mpp,) * 2,
        resolutionunit="CENTIMETER", metadata=None, bigtiff=True,
    )  # fmt: skip
    return path


def candidates(number: int, side: int, seed: int = 0) -> pd.DataFrame:
    """Candidates in the order of a detector that knows nothing of tiles."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(generator.uniform(0, side, (number, 2)).round(2), columns=["x", "y"])


def classify(folder: Path, slide: Path, *options: str) -> dict[str, Any]:
    """Classify `folder/dets.csv` in a process of its own; what its log says of the slide."""
    detections, out = str(folder / "dets.csv"), folder / "out"
    command = [sys.executable, "-m", "wsi_mitosis", "classify", str(slide), "--detections", detections]
    subprocess.run([*command, "--out", str(out), "--overwrite", "-q", *options], check=True)
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    done: dict[str, Any] = [event for event in events if event["event"] == "done"][-1]
    return done
