"""The output folder: one file per slide and kind, each whole or absent, and one writer at a time.

A slide's figures table is written after its GeoJSON and carries the key of its result in its metadata: where
it stands, the slide is done. Everything else in the folder is derived from these tables.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_mitosis.core import qupath
from wsi_mitosis.core.reading import Reading, read_slide
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.results.dicom import is_of, write_dicom
from wsi_mitosis.io.results.geojson import (
    GeojsonStyle,
    geojson_paths,
    read_provenance,
    write_geojson,
)
from wsi_mitosis.io.results.held import HeldFolder
from wsi_mitosis.tables import FIGURE_COLUMNS, REGION_COLUMNS, REVIEW_COLUMNS, SUMMARY_COLUMNS
from wsi_mitosis.units import Frame, Mpp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.core.hotspots import HotspotShape
    from wsi_mitosis.io.detections.regions import RegionFile

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


@dataclass(frozen=True)
class SlideRecord:
    """What a figures table says about itself, in its metadata.

    Attributes:
        slide: Name in the output folder.
        source: Absolute path of the slide.
        key: Digest of everything that the result depends on.
        identity: Digest of the slide's content.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_source: Who says so: `slide`, `given` or `list`.
        bounds: The slide's bounds, level-0 px, slide frame, or None.
        bundle, bundle_digest, trained: The ensemble, and whether its labels mean anything.
        program: Version of wsi-mitosis.
        counts: The slide's numbers, by SUMMARY_COLUMNS names.
        seconds: Time the slide took.
        warnings: What the user should know about this slide's result.
    """

    slide: str
    source: str
    key: str
    identity: str
    size_px0: tuple[int, int]
    mpp: tuple[float, float]
    mpp_source: str
    bounds: tuple[int, int, int, int] | None
    bundle: str
    bundle_digest: str
    trained: bool
    program: str
    counts: dict[str, float | int | None]
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The numbers in a few words."""
        return ", ".join(f"{self.counts[name]} {name}" for name in ("atypical", "typical", "excluded"))

    def summary_row(self) -> dict[str, Any]:
        """The slide's row of `summary.csv`."""
        return {
            "slide": self.slide,
            "status": "done",
            **self.counts,
            "mpp_um": sum(self.mpp) / 2,
            "mpp_source": self.mpp_source,
            "bundle": self.bundle,
            "bundle_digest": self.bundle_digest,
            "trained": str(self.trained).lower(),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Drawing:
    """How a slide is drawn and read; no part of it changes a result.

    Attributes:
        hotspot: Shape of the hotspots; None for none.
        hotspots: How many at most.
        regions: The slide's regions; None for the whole slide.
        dicom: A file of the DICOM slide that annotations are to be written for; None for none.
    """

    objects: qupath.ObjectType
    frame: Frame
    hotspot: HotspotShape | None = None
    hotspots: int = 1
    regions: RegionFile | None = None
    dicom: Path | None = None


class ResultFolder(HeldFolder):
    """An output folder that this process holds. Use it as a context manager."""

    def figures_path(self, slide: str) -> Path:
        """The figures table of a slide, whether it exists or not."""
        return self.folder / "figures" / f"{slide}.parquet"

    def dicom_path(self, slide: str) -> Path:
        """The DICOM annotations of a slide, whether they exist or not."""
        return self.folder / "dicom" / f"{slide}.dcm"

    def records(self) -> dict[str, SlideRecord]:
        """What stands in the folder, by slide name; read from the tables' metadata alone."""
        tables = sorted((self.folder / "figures").rglob("*.parquet"))
        found = (read_record(path) for path in tables if not path.name.startswith("."))
        return {record.slide: record for record in found if record is not None}

    def is_drawn(self, record: SlideRecord, drawing: Drawing) -> bool:
        """Whether the slide's GeoJSON stands, of this very result and drawn this way; DICOM where wanted."""
        found = self._geojson(record.slide)
        if len(found) != 1 or (stated := read_provenance(found[0])) is None or "reading" not in stated:
            return False
        if self._unannotated(record, drawing) is not None:
            return False
        return {**stated, "reading": None} == {**_provenance(record, drawing), "reading": None}

    def reading(self, slide: str) -> Reading | None:
        """What was read off a slide when it was drawn, from its GeoJSON; None where there is none."""
        found = self._geojson(slide)
        stated = read_provenance(found[0]) if found else None
        return Reading.from_json(stated["reading"]) if stated and stated.get("reading") else None

    def write_slide(self, record: SlideRecord, figures: pd.DataFrame, drawing: Drawing) -> None:
        """Write the slide's GeoJSON, then its figures table, then DICOM annotations where wanted.

        Args:
            record: The slide's result.
            figures: FIGURE_COLUMNS without `geometry`, then the input's other columns.
            drawing: How the GeoJSON is drawn.
        """
        self._draw(record, figures, drawing)
        self.dicom_path(record.slide).unlink(missing_ok=True)  # of an earlier result
        with replacing(self.figures_path(record.slide)) as temporary:
            pq.write_table(_figures_table(figures, record), temporary)
        self._annotate(record, figures, drawing)  # a header that does not serve must not cost the result

    def redraw(self, record: SlideRecord, drawing: Drawing) -> None:
        """Write a done slide's GeoJSON again, drawn another way, and what it lacks; nothing is computed."""
        figures = read_figures(self.figures_path(record.slide))
        self._draw(record, figures, drawing)
        self._annotate(record, figures, drawing)

    def earlier_rows(self) -> dict[str, dict[str, str]]:
        """The rows of the summary that stands in the folder, by slide."""
        path = self.folder / "summary.csv"
        if not path.exists():
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            return {row["slide"]: row for row in csv.DictReader(file)}

    def write_summary(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write `summary.csv`, sorted by slide; a column that a row lacks is an empty cell."""
        self._write_csv("summary.csv", SUMMARY_COLUMNS, sorted(rows, key=lambda row: str(row["slide"])))

    def write_readings(self, readings: Mapping[str, Reading]) -> None:
        """Write `review.csv` and, where a slide has regions, `regions.csv`; of all slides of the folder."""
        reviews = (
            {"slide": name, **row, "in_hotspot": str(row["in_hotspot"]).lower()}
            for name in sorted(readings)
            for row in readings[name].review
        )
        regions = [{"slide": name, **row} for name in sorted(readings) for row in readings[name].regions]
        self._write_csv("review.csv", REVIEW_COLUMNS, reviews)
        if regions:
            self._write_csv("regions.csv", REGION_COLUMNS, regions)
        else:
            (self.folder / "regions.csv").unlink(missing_ok=True)

    def _write_csv(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / name, text.getvalue())

    def _draw(self, record: SlideRecord, figures: pd.DataFrame, drawing: Drawing) -> None:
        mpp, origin = Mpp(*record.mpp), qupath.frame_origin(drawing.frame, record.bounds)
        reading = read_slide(
            figures,
            size_px0=record.size_px0,
            mpp=mpp,
            shape=drawing.hotspot,
            hotspots=drawing.hotspots,
            regions=None if drawing.regions is None else drawing.regions.placed(origin),
        )
        style = GeojsonStyle(
            object_type=drawing.objects,
            origin_px0=origin,
            trained=record.trained,
            provenance={**_provenance(record, drawing), "reading": reading.as_json()},
        )
        named = [
            (qupath.hotspot_id(record.identity, n), spot) for n, spot in enumerate(reading.hotspots, start=1)
        ]
        write_geojson(self._geojson_stem(record.slide), figures, mpp, style, named)

    def _annotate(self, record: SlideRecord, figures: pd.DataFrame, drawing: Drawing) -> None:
        if (slide := self._unannotated(record, drawing)) is not None:
            write_dicom(self.dicom_path(record.slide), slide, figures, record)

    def _unannotated(self, record: SlideRecord, drawing: Drawing) -> Path | None:
        """The slide that DICOM annotations are still to be written for; of no figures there can be none."""
        if drawing.dicom is None or not record.counts["classified"]:
            return None
        return None if is_of(self.dicom_path(record.slide), record) else drawing.dicom

    def _geojson(self, slide: str) -> list[Path]:
        return [path for path in geojson_paths(self._geojson_stem(slide)) if path.exists()]

    def _geojson_stem(self, slide: str) -> Path:
        return self.folder / qupath.GEOJSON_FOLDER / slide


def read_figures(path: Path) -> pd.DataFrame:
    """Read a figures table without its geometry column (the coordinates say the same)."""
    columns = [name for name in pq.read_schema(path).names if name != "geometry"]
    frame: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas(types_mapper=_nullable_integers)
    return frame


def read_record(path: Path) -> SlideRecord | None:
    """What a figures table says about itself; None where the file is no whole table of ours."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    if METADATA_KEY not in metadata:
        return None
    try:
        fields = json.loads(metadata[METADATA_KEY])
        known = {name: fields[name] for name in SlideRecord.__dataclass_fields__ if name in fields}
        tuples = {
            n: tuple(known[n]) for n in ("mpp", "bounds", "size_px0", "warnings") if known.get(n) is not None
        }
        return SlideRecord(**known | tuples)
    except (TypeError, ValueError):  # of a version that recorded less: the slide is not done
        return None


def _provenance(record: SlideRecord, drawing: Drawing) -> dict[str, Any]:
    return {
        "bundle": record.bundle,
        "bundle_digest": record.bundle_digest,
        "trained": record.trained,
        "program": record.program,
        "result_key": record.key,
        "objects": drawing.objects,
        "frame": drawing.frame,
        qupath.IMAGE_SIZE_KEY: list(qupath.frame_size(drawing.frame, record.size_px0, record.bounds)),
        "hotspot_area_mm2": drawing.hotspot.area_mm2 if drawing.hotspot else 0,
        "hotspot_aspect": list(drawing.hotspot.aspect) if drawing.hotspot else None,
        "hotspots": drawing.hotspots if drawing.hotspot else 0,
        "regions_sha256": drawing.regions.sha256 if drawing.regions else None,
        "use": "research use only" if record.trained else "untrained: the labels mean nothing",
    }


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
        METADATA_KEY: json.dumps(asdict(record), ensure_ascii=False).encode(),
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
