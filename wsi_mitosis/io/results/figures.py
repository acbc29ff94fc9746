"""Figures tables: GeoParquet with a row per candidate, and the record of the slide in its metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.tables import FIGURE_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

METADATA_KEY = b"wsi_mitosis"
FIGURE_TYPES = {
    "slide": pa.string(),
    "candidate_id": pa.string(),
    "figure_id": pa.string(),
    "x_px0": pa.float64(),
    "y_px0": pa.float64(),
    "detector_score": pa.float64(),
    "p_atypical": pa.float64(),
    "votes_atypical": pa.int16(),
    "votes_cast": pa.int16(),
    "label": pa.string(),
    "excluded_reason": pa.string(),
}


def write_figures(path: Path, record: SlideRecord, figures: pd.DataFrame) -> None:
    """Write a slide's figures table.

    Args:
        path: The file.
        record: The slide's record, which becomes the table's metadata.
        figures: FIGURE_COLUMNS without `geometry`, then the input's other columns.
    """
    with replacing(path) as temporary:
        pq.write_table(_figures_table(figures, record), temporary)


def read_figures(path: Path) -> pd.DataFrame:
    """Read a figures table without its geometry column, which only repeats the coordinates."""
    columns = [name for name in pq.read_schema(path).names if name != "geometry"]
    frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas(types_mapper=_nullable_integers)
    return frame


def read_record(path: Path) -> SlideRecord | None:
    """Read the record in a table's metadata; None if the file is not a whole table of this program."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return SlideRecord.from_json(metadata[METADATA_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None


def _figures_table(figures: pd.DataFrame, record: SlideRecord) -> pa.Table:
    """The table as GeoParquet 1.1 (geoparquet.org/releases/v1.1.0): points as WKB, no CRS: slide pixels."""
    placed = np.isfinite(figures["x_px0"]) & np.isfinite(figures["y_px0"])
    points = np.full(len(figures), None, dtype=object)
    points[placed] = shapely.to_wkb(
        shapely.points(figures.loc[placed, "x_px0"], figures.loc[placed, "y_px0"])
    )
    columns = {
        name: pa.array(figures[name], type=kind, from_pandas=True) for name, kind in FIGURE_TYPES.items()
    }
    columns["geometry"] = pa.array(points, type=pa.binary())
    columns |= {name: _carried(figures[name]) for name in figures.columns if name not in FIGURE_COLUMNS}
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": None}},
    }
    metadata = {
        b"geo": json.dumps(geo).encode(),
        METADATA_KEY: record.to_json().encode(),
    }
    return pa.table(columns).replace_schema_metadata(metadata)


def _carried(column: pd.Series[Any]) -> pa.Array:
    """An input's column as it is, or as text where its values are of several kinds."""
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        texts = [None if pd.isna(value) is True else str(value) for value in column]
        return pa.array(texts, type=pa.string())


def _nullable_integers(kind: pa.DataType) -> Any:
    return {pa.int16(): pd.Int16Dtype(), pa.int64(): pd.Int64Dtype()}.get(kind)
