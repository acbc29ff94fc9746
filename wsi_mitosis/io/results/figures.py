"""Figures tables: GeoParquet with a row per candidate, and the record of the slide in its metadata.

`geopandas.read_parquet` opens a table without this program, as a `GeoDataFrame` of points in level-0 px of
the slide frame, without a CRS. An excluded candidate is a row without a label.

A table also states the SHA-256 of its record and its rows. A table that was edited or damaged counts as
missing: its slide is classified again, and none of its numbers is used.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.errors import SlideError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.tables import FIGURE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

METADATA_KEY = b"wsi_mitosis"
SEAL_KEY = "wsi_mitosis_sha256"
"""Metadata `<bytes> <digest>`: the SHA-256 of the record, the columns' names and types, and the rows, which
are so many first bytes of the file."""
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
    write_sealed(path, record, _figures_table(figures))


def write_sealed(path: Path, record: SlideRecord, table: pa.Table) -> None:
    """Write a slide's table with its record, and a digest by which an edit of either is noticed."""
    text = record.to_json().encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: text})
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, table.schema) as writer,
    ):
        writer.write_table(table)
        file.flush()
        size = temporary.stat().st_size
        digest = _digest(temporary, size, text, table.schema)
        writer.add_key_value_metadata({SEAL_KEY: f"{size} {digest}"})


def read_figures(path: Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a figures table without its geometry column, which only repeats the coordinates.

    Args:
        path: The table.
        names: The columns to read; all others than `geometry` if None.

    Raises:
        SlideError: if the table is missing or damaged in a way that its digest does not show.
    """
    try:
        known = [name for name in pq.read_schema(path).names if name != "geometry"]
        columns = known if names is None else list(names)
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise SlideError(
            f"its figures table cannot be read: {error}",
            subject=path,
            stage="reading results",
            remedy="Delete the table, and run `classify` again",
        ) from error
    frame: pd.DataFrame = table.to_pandas(types_mapper=_nullable_integers)
    return frame


def read_record(path: Path) -> SlideRecord | None:
    """Read the record in a table's metadata; None if the file is no intact table of this program."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        record = SlideRecord.from_json(metadata[METADATA_KEY])
        return record if _is_intact(path, metadata) else None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _is_intact(path: Path, metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether the record and the rows are as written. Tables with records of schema 1 have no seal."""
    if (seal := metadata.get(SEAL_KEY.encode())) is None:
        return "schema" not in json.loads(metadata[METADATA_KEY])
    size, digest = seal.decode().split()
    return _digest(path, int(size), metadata[METADATA_KEY], pq.read_schema(path)) == digest


def _digest(path: Path, size: int, record: bytes, schema: pa.Schema) -> str:
    columns = str(schema.remove_metadata()).encode()
    with path.open("rb") as file:
        return hashlib.sha256(record + columns + file.read(size)).hexdigest()


def _figures_table(figures: pd.DataFrame) -> pa.Table:
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
    return pa.table(columns).replace_schema_metadata({b"geo": json.dumps(geo).encode()})


def _carried(column: pd.Series[Any]) -> pa.Array:
    """An input's column as it is, or as text where its values are of several kinds."""
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        texts = [None if pd.isna(value) is True else str(value) for value in column]
        return pa.array(texts, type=pa.string())


def _nullable_integers(kind: pa.DataType) -> Any:
    return {pa.int16(): pd.Int16Dtype(), pa.int64(): pd.Int64Dtype()}.get(kind)
