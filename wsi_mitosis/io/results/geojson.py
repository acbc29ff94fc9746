"""GeoJSON that QuPath loads: every object whole, in QuPath's frame, with ids that stay.

The rules are those of QuPath 0.4 to 0.7's importer; `tests/check_geojson.py` checks them.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsi_mitosis.io.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.units import Mpp

ObjectType = Literal["detection", "annotation"]

FIGURE_UM = 12.5
"""Diameter of the circle drawn around a figure, um: MIDOG's boxes are 50 px at 0.25 um/px."""
MOST_PLAIN_OBJECTS = 20_000
"""Above this the file is gzipped; QuPath reads `.geojson.gz`."""
COLOURS = {"atypical": (220, 20, 60), "typical": (0, 114, 178)}
"""Told apart by the colour-blind: crimson, and the blue of Okabe and Ito's palette."""
HOTSPOT_CLASS = "Hotspot"
HOTSPOT_COLOUR = (255, 140, 0)


@dataclass(frozen=True)
class GeojsonStyle:
    """How figures are drawn.

    Attributes:
        object_type: `detection` is fast by the million, `annotation` can be edited.
        origin_px0: (x, y) of the target frame's origin, level-0 px, slide frame.
        trained: Whether the labels mean anything; if not, the classes say so.
        provenance: Written beside the features; QuPath ignores it.
    """

    object_type: ObjectType
    origin_px0: tuple[int, int]
    trained: bool
    provenance: dict[str, Any]


def write_geojson(
    stem: Path,
    figures: pd.DataFrame,
    mpp: Mpp,
    style: GeojsonStyle,
    hotspots: Sequence[tuple[str, Hotspot]] = (),
) -> Path:
    """Write the classified figures of one slide, as a stream, and its hotspots as locked annotations.

    Args:
        stem: Path without ending; `.geojson` or `.geojson.gz` is added, and the other of the two removed.
        figures: FIGURE_COLUMNS, coordinates in level-0 px, slide frame. Excluded rows are not drawn.
        mpp: um per level-0 px.
        style: How they are drawn.
        hotspots: Ids and windows, the best first.

    Returns:
        The file written.
    """
    drawn = figures[figures["label"].notna()]
    plain, packed = geojson_paths(stem)
    path, other = (packed, plain) if len(drawn) > MOST_PLAIN_OBJECTS else (plain, packed)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path is packed:
            # no name and no time in the header: equal results are equal files
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
                zipped.writelines(_document(drawn, mpp, style, hotspots))
        else:
            file.writelines(_document(drawn, mpp, style, hotspots))
    other.unlink(missing_ok=True)
    return path


def class_name(label: str, *, trained: bool) -> str:
    """The class of a figure in QuPath; one whose label means nothing says so."""
    return f"{'Mitosis' if trained else 'Untrained'}: {label.capitalize()}"


def geojson_paths(stem: Path) -> tuple[Path, Path]:
    """The plain and the gzipped file that a slide's figures may stand in."""
    return stem.with_name(f"{stem.name}.geojson"), stem.with_name(f"{stem.name}.geojson.gz")


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What a GeoJSON file of ours says about itself, from its first line; None for any other file."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            document = json.loads(file.readline() + b"]}")
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    provenance = document.get("wsi_mitosis") if isinstance(document, dict) else None
    return provenance if isinstance(provenance, dict) else None


def _document(
    figures: pd.DataFrame, mpp: Mpp, style: GeojsonStyle, hotspots: Sequence[tuple[str, Hotspot]]
) -> Iterator[bytes]:
    yield b'{"type":"FeatureCollection","wsi_mitosis":' + _json(style.provenance) + b',"features":[\n'
    columns = [
        "figure_id",
        "x_px0",
        "y_px0",
        "label",
        "p_atypical",
        "votes_atypical",
        "votes_cast",
        "detector_score",
    ]
    for number, row in enumerate(figures[columns].itertuples(index=False)):
        yield (b",\n" if number else b"") + _json(_feature(row, mpp, style))
    for number, (identity, hotspot) in enumerate(hotspots, start=1):
        feature = _hotspot_feature(identity, f"Hotspot {number}", hotspot, style.origin_px0)
        yield (b",\n" if number > 1 or len(figures) else b"") + _json(feature)
    yield b"\n]}\n"


def _feature(figure: Any, mpp: Mpp, style: GeojsonStyle) -> dict[str, Any]:
    measurements = {
        "Atypical probability": round(float(figure.p_atypical), 6),
        "Atypical votes": int(figure.votes_atypical),
        "Votes cast": int(figure.votes_cast),
        "Agreement": round(
            max(figure.votes_atypical, figure.votes_cast - figure.votes_atypical) / figure.votes_cast, 6
        ),
    }
    if math.isfinite(figure.detector_score):
        measurements["Detector score"] = float(figure.detector_score)
    centre = figure.x_px0 - style.origin_px0[0], figure.y_px0 - style.origin_px0[1]
    return {
        "type": "Feature",
        "id": figure.figure_id,
        "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [_box(centre, mpp)]},
        "properties": {
            "objectType": style.object_type,
            "classification": {
                "name": class_name(figure.label, trained=style.trained),
                "color": COLOURS[figure.label],
            },
            "measurements": measurements,
        },
    }


def _hotspot_feature(
    identity: str, name: str, hotspot: Hotspot, origin_px0: tuple[int, int]
) -> dict[str, Any]:
    left, top = hotspot.x_px0 - origin_px0[0], hotspot.y_px0 - origin_px0[1]
    ring = _ring(left, top, left + hotspot.width_px0, top + hotspot.height_px0)
    return {
        "type": "Feature",
        "id": identity,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "isLocked": True,
            "classification": {"name": HOTSPOT_CLASS, "color": HOTSPOT_COLOUR},
            "measurements": {
                "Mitosis count": hotspot.mitoses,
                "Atypical count": hotspot.atypical,
                "Hotspot area mm^2": hotspot.area_mm2,
                "Mitoses per mm^2": round(hotspot.mitoses_per_mm2, 6),
            },
        },
    }


def _box(centre: tuple[float, float], mpp: Mpp) -> list[list[float]]:
    """The ring around a figure."""
    half = FIGURE_UM / 2 / mpp.x, FIGURE_UM / 2 / mpp.y
    return _ring(centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])


def _ring(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """A closed ring, to 0.01 px: QuPath 0.6 and later round to that on reading."""
    left, top, right, bottom = (round(value, 2) for value in (left, top, right, bottom))
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
