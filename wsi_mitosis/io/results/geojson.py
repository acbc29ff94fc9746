"""GeoJSON for QuPath: a slide's figures and hotspots, with ids that are the same in every run.

The files follow the rules of the importer in QuPath 0.4 to 0.7, which `tests/check_geojson.py` checks.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core import qupath
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.limits import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.assessments import Assessment
    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.units import Frame, Mpp

MOST_PLAIN_OBJECTS = 20_000
"""A file with more figures is compressed with gzip."""
COLUMNS = (
    *("figure_id", "x_px0", "y_px0", "label"),
    *("p_atypical", "votes_atypical", "votes_cast", "detector_score"),
)
"""The columns of a figures table that are written."""
SEAL = f'\n],"{qupath.PROVENANCE_MEMBER}_sha256":"'.encode()
"""What follows the features, before the SHA-256 of everything up to here, by which an edit is noticed."""


@dataclass(frozen=True)
class GeojsonStyle:
    """How a slide's figures are written.

    Attributes:
        object_type: The type of the figures' objects in QuPath.
        origin_px0: (x, y) of the target frame's origin, level-0 px, slide frame.
        trained: Whether the bundle is trained; the classes of an untrained one begin with `Untrained`.
        provenance: A description of the result, written beside the features.
        result_number: Which result of its slide each figure is of, as `qupath.result_number` gives it.
        votes_cast: Whether figures say how many members voted; without it, all members did.
        review_ranks: Ranks of the figures in the review list, by figure id.
    """

    object_type: qupath.ObjectType
    origin_px0: tuple[int, int]
    trained: bool
    provenance: dict[str, Any]
    result_number: int
    votes_cast: bool = True
    review_ranks: Mapping[str, int] = field(default_factory=dict)


def write_geojson(
    stem: Path,
    figures: pd.DataFrame,
    mpp: Mpp,
    style: GeojsonStyle,
    hotspots: Sequence[tuple[str, Hotspot]] = (),
) -> Path:
    """Write the classified figures of one slide, and its hotspots as locked annotations.

    The features are written one after another, and the document is never in memory as a whole.

    Args:
        stem: Path without ending; `.geojson` or `.geojson.gz` is added, and a file with the other ending is
            removed.
        figures: FIGURE_COLUMNS, coordinates in level-0 px, slide frame. Excluded rows are not written.
        mpp: um per level-0 px.
        style: How the figures are written.
        hotspots: Ids and windows, the best first.

    Returns:
        The file that was written.
    """
    classified = figures[figures["label"].notna()]
    plain, compressed = geojson_paths(stem)
    path, other = (compressed, plain) if len(classified) > MOST_PLAIN_OBJECTS else (plain, compressed)
    with replacing(path) as temporary, temporary.open("wb") as file:
        lines = _sealed(_document(classified, mpp, style, hotspots))
        if path is compressed:
            # Without a name and a time in the header, equal results give equal files.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
                zipped.writelines(lines)
        else:
            file.writelines(lines)
    other.unlink(missing_ok=True)
    return path


def write_slide_geojson(
    stem: Path,
    figures: pd.DataFrame,
    assessment: Assessment,
    record: SlideRecord,
    *,
    objects: qupath.ObjectType,
    frame: Frame,
    assessment_key: str | None = None,
) -> Path:
    """Write the figures and the hotspots of a slide, with their provenance.

    Args:
        stem: As for `write_geojson`.
        figures: Likewise.
        assessment: The slide's assessment.
        record: The slide's record.
        objects: What figures are in QuPath.
        frame: Frame of the coordinates.
        assessment_key: Key of the assessment, if it has one.

    Returns:
        The file written.
    """
    scale = record.scale
    provenance = provenance_of(record, objects=objects, frame=frame, assessment_key=assessment_key)
    number = qupath.result_number(record.key)
    style = GeojsonStyle(
        objects,
        scale.origin_px0(frame),
        record.model.trained,
        provenance,
        number,
        votes_cast=record.origin is None or record.origin.options.get("vote") != "all",
        review_ranks={item.figure_id: item.rank for item in assessment.review},
    )
    spots = enumerate(assessment.hotspots, start=1)
    named = [(qupath.hotspot_id(record.slide.digest, rank), spot) for rank, spot in spots]
    return write_geojson(stem, figures, scale.mpp, style, named)


def provenance_of(
    record: SlideRecord, *, objects: qupath.ObjectType, frame: Frame, assessment_key: str | None
) -> dict[str, Any]:
    """Return what a slide's GeoJSON states about itself. Arguments are as for `write_slide_geojson`."""
    return {
        "bundle": record.model.name,
        "bundle_digest": record.model.digest,
        "trained": record.model.trained,
        "program": record.program,
        "origin": None if record.origin is None else record.origin.model_dump(mode="json"),
        "result_key": record.key,
        "assessment_key": assessment_key,
        "objects": objects,
        "frame": frame,
        qupath.IMAGE_SIZE_KEY: list(record.scale.image_px(frame)),
        "use": record.model.use,
    }


def geojson_paths(stem: Path) -> tuple[Path, Path]:
    """Return the paths of a slide's plain and compressed GeoJSON; at most one of the files exists."""
    plain, compressed = (stem.with_name(f"{stem.name}{ending}") for ending in qupath.GEOJSON_ENDINGS)
    return plain, compressed


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Read the provenance in a GeoJSON file's first line; None if this program did not write the file."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            document = parse_json(file.readline() + b"]}")
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    provenance = document.get(qupath.PROVENANCE_MEMBER) if isinstance(document, dict) else None
    return provenance if isinstance(provenance, dict) else None


def read_sealed_provenance(path: Path) -> dict[str, Any] | None:
    """As `read_provenance`, but None also for a file that was edited or damaged after it was written."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content, seal, digest = file.read().rpartition(SEAL)
    except (OSError, EOFError, zlib.error):
        return None
    if not seal or digest != hashlib.sha256(content).hexdigest().encode() + b'"}\n':
        return None
    return read_provenance(path)


def _sealed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, then the end of the document with their SHA-256."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    yield SEAL + digest.hexdigest().encode() + b'"}\n'


def _document(
    figures: pd.DataFrame, mpp: Mpp, style: GeojsonStyle, hotspots: Sequence[tuple[str, Hotspot]]
) -> Iterator[bytes]:
    header = {"type": "FeatureCollection", qupath.PROVENANCE_MEMBER: style.provenance}
    yield _json(header).removesuffix(b"}") + b',"features":[\n'
    for number, feature in enumerate(_features(figures, mpp, style, hotspots)):
        yield (b",\n" if number else b"") + _json(feature)


def _features(
    figures: pd.DataFrame, mpp: Mpp, style: GeojsonStyle, hotspots: Sequence[tuple[str, Hotspot]]
) -> Iterator[dict[str, Any]]:
    for figure in figures[list(COLUMNS)].itertuples(index=False):
        yield _figure_feature(figure, mpp, style)
    for rank, (identity, hotspot) in enumerate(hotspots, start=1):
        yield _hotspot_feature(identity, rank, hotspot, style.origin_px0)


def _figure_feature(figure: Any, mpp: Mpp, style: GeojsonStyle) -> dict[str, Any]:
    centre = figure.x_px0 - style.origin_px0[0], figure.y_px0 - style.origin_px0[1]
    return {
        "type": "Feature",
        "id": figure.figure_id,
        "geometry": {"type": "Polygon", "isEllipse": True, "coordinates": [_box(centre, mpp)]},
        "properties": {
            "objectType": style.object_type,
            "classification": {
                "name": qupath.figure_class(figure.label, trained=style.trained),
                "color": qupath.FIGURE_COLOURS[figure.label],
            },
            "measurements": _measurements(figure, style),
        },
    }


def _measurements(figure: Any, style: GeojsonStyle) -> dict[str, float]:
    """Return a figure's measurements; QuPath refuses a file in which one of them is not a finite number."""
    larger_side = max(figure.votes_atypical, figure.votes_cast - figure.votes_atypical)
    measurements = {
        qupath.PROBABILITY: round(float(figure.p_atypical), 6),
        qupath.ATYPICAL_VOTES: int(figure.votes_atypical),
    }
    if style.votes_cast:
        measurements[qupath.VOTES_CAST] = int(figure.votes_cast)
    measurements[qupath.AGREEMENT] = round(larger_side / figure.votes_cast, 6)
    if math.isfinite(figure.detector_score):
        measurements[qupath.DETECTOR_SCORE] = float(figure.detector_score)
    if (rank := style.review_ranks.get(figure.figure_id)) is not None:
        measurements[qupath.REVIEW_RANK] = rank
    measurements[qupath.RESULT_NUMBER] = style.result_number
    return measurements


def _hotspot_feature(
    identity: str, rank: int, hotspot: Hotspot, origin_px0: tuple[int, int]
) -> dict[str, Any]:
    left, top = hotspot.x_px0 - origin_px0[0], hotspot.y_px0 - origin_px0[1]
    ring = _ring(left, top, left + hotspot.width_px0, top + hotspot.height_px0)
    return {
        "type": "Feature",
        "id": identity,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": f"{qupath.HOTSPOT_CLASS} {rank}",
            "isLocked": True,
            "classification": {"name": qupath.HOTSPOT_CLASS, "color": qupath.HOTSPOT_COLOUR},
            "measurements": {
                qupath.MACHINE_COUNT: hotspot.mitoses,
                qupath.MACHINE_ATYPICAL: hotspot.atypical,
                qupath.HOTSPOT_AREA: hotspot.area_mm2,
                qupath.MACHINE_DENSITY: round(hotspot.mitoses_per_mm2, 6),
            },
        },
    }


def _box(centre: tuple[float, float], mpp: Mpp) -> list[list[float]]:
    """Return the ring around a figure."""
    half = qupath.FIGURE_UM / 2 / mpp.x, qupath.FIGURE_UM / 2 / mpp.y
    return _ring(centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])


def _ring(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Return a closed ring, rounded as QuPath rounds it."""
    sides = (left, top, right, bottom)
    left, top, right, bottom = (round(side, qupath.COORDINATE_DECIMALS) for side in sides)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
