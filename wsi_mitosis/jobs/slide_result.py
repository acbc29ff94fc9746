"""The result of one slide, as a caller from Python gets it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from wsi_mitosis.core.assessments import Assessment, assess
from wsi_mitosis.core.qupath import ObjectType
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.results.geojson import write_slide_geojson
from wsi_mitosis.specs import HOTSPOT_AREA, HOTSPOT_ASPECT, AssessmentOptions
from wsi_mitosis.tables import FIGURE_COLUMNS
from wsi_mitosis.units import Frame

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import geopandas
    import pandas as pd

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.core.summary import Counts


@dataclass(frozen=True, repr=False)
class SlideResult:
    """One slide, classified.

    Attributes:
        record: Identity, scale, model, counts and cost of the result.
        table: A row per candidate in input order: FIGURE_COLUMNS without `geometry`, then the input's other
            columns. Coordinates are level-0 px in the slide frame.
    """

    record: SlideRecord
    table: pd.DataFrame

    @property
    def counts(self) -> Counts:
        """What was counted."""
        return self.record.counts

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about this result."""
        return self.record.warnings

    @cached_property
    def figures(self) -> geopandas.GeoDataFrame:
        """The table with a point per candidate: level-0 px, slide frame, no CRS; None without coordinates."""
        import geopandas

        x, y = self.table["x_px0"], self.table["y_px0"]
        points = geopandas.GeoSeries.from_xy(x, y).where(x.notna() & y.notna())
        table = self.table.copy()
        table.insert(FIGURE_COLUMNS.index("geometry"), "geometry", points)
        return geopandas.GeoDataFrame(table, geometry="geometry")

    @cached_property
    def assessment(self) -> Assessment:
        """Hotspot of 2 mm^2 and review list; `assess` looks for other hotspots, or inside regions."""
        return self.assess()

    def assess(
        self,
        *,
        hotspot_area: float = HOTSPOT_AREA,
        hotspot_aspect: str = HOTSPOT_ASPECT,
        hotspots: int = 1,
        regions: Sequence[Region] | None = None,
    ) -> Assessment:
        """Look for hotspots and list the figures to review first.

        Args:
            hotspot_area: Area of a hotspot, mm^2; 0 for no hotspots.
            hotspot_aspect: Width to height, such as `4:3`; the turned window is tried as well.
            hotspots: How many hotspots at most.
            regions: Level-0 px, slide frame; hotspots then count only the figures inside.

        Raises:
            SpecError: if an option is impossible.
        """
        options = AssessmentOptions.parse(
            {"hotspot_area": hotspot_area, "hotspot_aspect": hotspot_aspect, "hotspots": hotspots}, "assess"
        )
        return assess(self.table, self.record.scale, options, regions)

    def to_geojson(
        self,
        path: str | os.PathLike[str],
        *,
        objects: ObjectType = "detection",
        frame: Frame = "qupath",
        assessment: Assessment | None = None,
    ) -> Path:
        """Write the figures and hotspots as GeoJSON that QuPath loads.

        Args:
            path: The file, ending in `.geojson`; `.gz` is added to it above 20,000 figures.
            objects: What figures are in QuPath: `detection` is fast, `annotation` can be edited.
            frame: Frame of the coordinates: `qupath` starts at the corner of the slide's bounds.
            assessment: Whose hotspots are drawn; `self.assessment` if it is None.

        Returns:
            The file written.

        Raises:
            InputError: if `objects` or `frame` is another word.
        """
        _check("objects", objects, get_args(ObjectType))
        _check("frame", frame, get_args(Frame))
        stem = Path(path).with_name(Path(path).name.removesuffix(".gz").removesuffix(".geojson"))
        assessment = self.assessment if assessment is None else assessment
        return write_slide_geojson(stem, self.table, assessment, self.record, objects=objects, frame=frame)

    def __repr__(self) -> str:
        model = self.record.model
        untrained = "" if model.trained else ", UNTRAINED"
        return f"<SlideResult {self.record.name}: {self.record.text}; bundle {model.name}{untrained}>"


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{option} is {value!r}", subject="to_geojson", remedy=f"Use {' or '.join(known)}")
