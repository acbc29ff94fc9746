"""GeoJSON that QuPath exports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.io.detections.formats.format import Document, Fit, Format, ReadOptions
from wsi_mitosis.io.detections.geojson import is_geojson, is_tiatoolbox, perhaps_features, read_geojson

if TYPE_CHECKING:
    from wsi_mitosis.tables import Detections


def _fits(document: Document) -> Fit:
    if not is_geojson(document.data):
        return Fit.NO
    return Fit.POSSIBLE if is_tiatoolbox(perhaps_features(document.data)) else Fit.LIKELY


def _read(document: Document, _options: ReadOptions) -> Detections:
    by_tiatoolbox = is_tiatoolbox(perhaps_features(document.data))
    return read_geojson(document.data, document.path, tiatoolbox=by_tiatoolbox)


FORMAT = Format(
    name="geojson",
    about="GeoJSON of QuPath: points and areas, whose centroids are the candidates.",
    kinds=("json",),
    fits=_fits,
    read=_read,
    endings=(".geojson", ".json", ".geojson.gz", ".json.gz"),
)
