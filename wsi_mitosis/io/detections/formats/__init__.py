"""The formats of detections, one in each module."""

from __future__ import annotations

from wsi_mitosis.io.detections.formats import (
    asap,
    cellvit,
    coco,
    csv,
    exact,
    geojson,
    grand_challenge,
    halo,
    hovernet,
    imagescope,
    midog,
    midog_guide,
    ndpa,
    parquet,
    sliderunner,
    tiatoolbox,
    yolo,
)
from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, Kind, ReadOptions

__all__ = ["ENDINGS", "FORMATS", "REGISTRY", "Document", "Fit", "Format", "Kind", "ReadOptions"]

REGISTRY: tuple[Format, ...] = (
    csv.FORMAT,
    parquet.FORMAT,
    geojson.FORMAT,
    tiatoolbox.FORMAT,
    midog.FORMAT,
    midog_guide.FORMAT,
    sliderunner.FORMAT,
    grand_challenge.FORMAT,
    coco.FORMAT,
    hovernet.FORMAT,
    cellvit.FORMAT,
    exact.FORMAT,
    asap.FORMAT,
    imagescope.FORMAT,
    halo.FORMAT,
    ndpa.FORMAT,
    yolo.FORMAT,
)
"""All formats, in the order in which help and messages list them."""

FORMATS = tuple(item.name for item in REGISTRY)
"""The names of `--format` besides `auto`."""

ENDINGS = tuple(
    sorted(
        dict.fromkeys(ending for item in REGISTRY for ending in item.endings),
        key=lambda ending: -ending.count("."),
    )
)
"""The endings of the files that a folder is searched for. One with two parts, such as `.json.gz`, precedes
those with one part, because the first that fits is cut off."""
