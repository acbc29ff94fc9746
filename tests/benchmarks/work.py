"""The work of the benchmarks: slides, candidates, bundles, and whole runs of `classify`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile

from wsi_mitosis.io.bundles import find_bundle
from wsi_mitosis.io.slides.demo import TILE_PX, UM_PER_CM, he_image
from wsi_mitosis.jobs.bundles import write_untrained

SIZE_PX = (100_000, 80_000)
"""Width and height of a large slide."""
MPP = 0.25
REACH_PX = 64
"""Half the side of the largest window around a candidate."""
NESTS, NEST_PX = 40, 3_000
"""Clustered candidates: nests of about 1.5 mm across, as tumours have them."""
JPEG_QUALITY = 85
LEVELS = (1, 4, 16, 64)
"""Downsamples of the pyramid."""
FULL_WIDTH = "untrained-full"
"""The network of `train/mtl.toml` with seeded weights."""
DATA = "WSI_MITOSIS_DATA"


@dataclass(frozen=True)
class Codec:
    """How the tiles of a slide are stored.

    Attributes:
        ending: Of the file.
        encode: Stores a (256, 256, 3) uint8 tile.
        tags: Arguments of tifffile for these tiles.
    """

    ending: str
    encode: Callable[[np.ndarray], bytes]
    tags: Mapping[str, Any]


CODECS = {
    "jpeg": Codec(
        ".tiff",
        lambda tile: imagecodecs.jpeg8_encode(
            tile, level=JPEG_QUALITY, colorspace="rgb", outcolorspace="ycbcr"
        ),
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
    ),
    "deflate": Codec(
        ".tiff", lambda tile: zlib.compress(tile.tobytes()), {"compression": "deflate", "photometric": "rgb"}
    ),
    "jpeg2000": Codec(
        ".svs",
        lambda tile: imagecodecs.jpeg2k_encode(tile, level=35, codecformat="j2k", mct=False),
        {
            "compression": 33005,  # Aperio's JPEG 2000 in RGB, which OpenSlide reads
            "photometric": "rgb",
            "description": f"Aperio Image Library|AppMag = 40|MPP = {MPP}",
        },
    ),
}  # fmt: skip


def candidates(
    number: int, *, clustered: bool, size_px: tuple[int, int] = SIZE_PX, seed: int = 0
) -> pd.DataFrame:
    """Return x, y in whole level-0 px, in the order of a detector that knows nothing of tiles.

    The first N of more candidates are those of a smaller number.
    """
    place, nest = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    inside = np.subtract(size_px, 2 * REACH_PX)
    drawn = int(number * 1.02) + 10  # some coincide
    if clustered:
        nests = nest.uniform(0.1, 0.9, (NESTS, 2)) * inside
        points = nests[nest.integers(0, NESTS, drawn)] + place.normal(
            0, min(NEST_PX, min(size_px) / 16), (drawn, 2)
        )
    else:
        points = place.uniform(0, 1, (drawn, 2)) * inside
    table = pd.DataFrame(points.clip(0, inside).astype(int) + REACH_PX, columns=["x", "y"])
    return table.drop_duplicates(ignore_index=True).head(number)


def needed_tiles(table: pd.DataFrame, reach_px: int = REACH_PX) -> set[tuple[int, int]]:
    """Return (row, column) of the level-0 tiles under windows of 2 * `reach_px` around the candidates."""
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    corners = [
        (y + down, x + across) for down in (-reach_px, reach_px - 1) for across in (-reach_px, reach_px - 1)
    ]
    return {
        pair for rows, columns in corners for pair in zip(rows // TILE_PX, columns // TILE_PX, strict=True)
    }


def write_slide(
    folder: Path, name: str, table: pd.DataFrame, *, codec: str = "jpeg", size_px: tuple[int, int] = SIZE_PX
) -> Path:
    """Write a pyramidal slide with a real H&E texture in the tiles under the candidates, and white elsewhere.

    A slide that exists is kept.

    Args:
        folder: Where it goes.
        name: Its stem.
        table: x, y of the candidates.
        codec: One of `CODECS`.
        size_px: Width and height of level 0.
    """
    how = CODECS[codec]
    path = folder / f"{name}{how.ending}"
    if path.exists():
        return path
    white = how.encode(np.full((TILE_PX, TILE_PX, 3), 255, np.uint8))
    textured, texture = needed_tiles(table), _texture(how)

    def tiles(downsample: int) -> Iterator[bytes]:
        rows, columns = (-(-length // downsample // TILE_PX) for length in size_px[::-1])
        for row in range(rows):
            for column in range(columns):
                inked = downsample == 1 and (row, column) in textured
                yield texture(row, column) if inked else white

    draft = path.with_suffix(".part")
    folder.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(draft, bigtiff=True) as tiff:
        for downsample in LEVELS:
            width, height = (-(-length // downsample) for length in size_px)
            tiff.write(
                tiles(downsample),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                subfiletype=int(downsample > 1 and codec != "jpeg2000"),
                resolution=(UM_PER_CM / (MPP * downsample),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **how.tags,
            )
    return draft.replace(path)


def _texture(how: Codec) -> Callable[[int, int], bytes]:
    """Return what gives the stored tile of H&E for a row and a column of tiles; neighbours fit together."""
    image = he_image()
    unit = np.block([[[image], [image[:, ::-1]]], [[image[::-1]], [image[::-1, ::-1]]]])
    side = min(unit.shape[:2]) // TILE_PX

    @cache
    def stored(row: int, column: int) -> bytes:
        top, left = row * TILE_PX, column * TILE_PX
        return how.encode(np.ascontiguousarray(unit[top : top + TILE_PX, left : left + TILE_PX]))

    return lambda row, column: stored(row % side, column % side)


def write_candidates(path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(path, index=False)
    return path


def bundle_folder(name: str, folder: Path) -> Path:
    """Return the folder of a shipped bundle, or write that of the full-width network where it is missing."""
    if name != FULL_WIDTH:
        return Path(find_bundle(name))
    made = folder / FULL_WIDTH
    if not made.exists():
        write_untrained(made, patch_px=128, width=64, members=5, name=FULL_WIDTH)
    return made


def data(*parts: str) -> Path | None:
    """Return a path among the real data; None if there are none on this machine."""
    folder = os.environ.get(DATA)
    path = None if folder is None else Path(folder, *parts)
    return path if path is not None and path.exists() else None


@dataclass(frozen=True)
class Ran:
    """A process that ended well.

    Attributes:
        seconds: From its start to its end.
        peak_mb: Its peak memory, without that of its children.
    """

    seconds: float
    peak_mb: float


def run(command: Sequence[str], **environment: str) -> Ran:
    """Run a process to its end.

    Raises:
        RuntimeError: If its exit status is not 0; with what it wrote.
    """
    started = perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {text.decode(errors='replace')[-2000:]}")
    return Ran(seconds, usage.ru_maxrss / 1024)


@dataclass(frozen=True)
class Classified(Ran):
    """A run of `classify`.

    Attributes:
        done: What the log says of each slide.
        labels: (N,) bool, whether each figure of the slides is atypical, ordered by slide, y and x.
    """

    done: list[dict[str, Any]]
    labels: np.ndarray


def classify(
    out: Path, slides: Sequence[Path], detections: Path, *options: str, cache: Path | None = None
) -> Classified:
    """Run `classify` in a process of its own, into a folder that did not exist before.

    Args:
        out: The output folder; removed if it exists.
        slides: The slides.
        detections: As for `--detections`.
        options: Further options.
        cache: The folder of the user's caches; the user's own if None.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "wsi_mitosis", "classify", *map(str, slides)]
    environment = {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    ran = run(
        [*command, "--detections", str(detections), "--out", str(out), "-q", *options], **environment
    )  # fmt: skip
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    tables = [pd.read_parquet(path) for path in sorted((out / "figures").glob("*.parquet"))]
    return Classified(
        ran.seconds,
        ran.peak_mb,
        [event for event in events if event["event"] == "done"],
        np.concatenate(
            [labels(table["x_px0"], table["y_px0"], table["label"] == "atypical") for table in tables]
        ),
    )


def labels(x: Any, y: Any, atypical: Any) -> np.ndarray:
    """Return labels in the order of y, then x, in which those of several programs can be compared."""
    return np.asarray(atypical, dtype=bool)[np.lexsort((np.asarray(x), np.asarray(y)))]
