"""SpatialData: one Zarr store per slide, which napari-spatialdata, squidpy and LazySlide's `wsidata` open.

The shapes `figures` are circles of 12.5 um, and `hotspots` are rectangles, both in level-0 px of the slide
frame. The coordinate system `global` has the same pixels, as in `wsidata`, and `micrometers` is scaled by the
slide's pixel size. The table `figures_table` annotates the figures by their ids. Where the slide has no
figures, the store has only its attributes. Source: spatialdata.scverse.org.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
from shapely import box

from wsi_mitosis.core.qupath import FIGURE_UM
from wsi_mitosis.errors import SlideError
from wsi_mitosis.io.atomic import replacing_folder
from wsi_mitosis.io.results.exports.anndata import annotated_figures
from wsi_mitosis.io.results.exports.common import PROVENANCE, STAGE, Export

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FIGURES, HOTSPOTS, TABLE = "figures", "hotspots", "figures_table"
REGION, INSTANCE = "region", "figure_id"
"""Columns of the table that say which shapes and which of them a row is about."""
ELEMENTS = {"shapes": {FIGURES, HOTSPOTS}, "tables": {TABLE}}


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write one slide.

    Raises:
        SlideError: if there is a store with other things in it, such as those of a later analysis.
        MppError: if the slide's record has no pixel size.
        OSError: if the store cannot be written.
    """
    (export,) = exports
    _refuse_others(path, export)
    data = _spatial_data(export)
    with replacing_folder(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own dependencies' ways
        data.write(temporary)


def _refuse_others(path: Path, export: Export) -> None:
    """Refuse to replace what this module does not write."""
    if not path.exists() and not path.is_symlink():
        return
    kinds = [kind for kind in path.iterdir() if kind.is_dir()] if path.is_dir() else []
    found = {f"{kind.name}/{e.name}" for kind in kinds for e in kind.iterdir() if e.is_dir()}
    others = sorted(found - {f"{kind}/{name}" for kind, names in ELEMENTS.items() for name in names})
    if others or path.is_symlink() or not (path / "zarr.json").is_file():
        what = f"it has {', '.join(others[:3])}" if others else "it is no SpatialData store"
        raise SlideError(
            f"{path.name} exists and was not written by this export alone: {what}",
            subject=export.record.name,
            stage=STAGE,
            remedy="Move it, or name another folder by --out",
        )


def _spatial_data(export: Export) -> Any:
    from spatialdata import SpatialData

    width, height = export.record.scale.size_px0
    attributes = {**export.provenance, "size_px0": [width, height], "mpp_um": list(export.mpp)}
    data = SpatialData(attrs={PROVENANCE: attributes})
    if len(export.figures):
        data.shapes[FIGURES] = _shapes(_circles(export), export)
        data.tables[TABLE] = _table(export)
    if export.hotspots:
        data.shapes[HOTSPOTS] = _shapes(_windows(export), export)
    return data


def _shapes(shapes: geopandas.GeoDataFrame, export: Export) -> Any:
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    to_um = Scale(list(export.mpp), axes=("x", "y"))
    return ShapesModel.parse(shapes, transformations={"global": Identity(), "micrometers": to_um})


def _circles(export: Export) -> geopandas.GeoDataFrame:
    """The figures, by id. A circle of the store is round in pixels, also where pixels are not square."""
    columns = {"radius": FIGURE_UM / 2 / export.mpp.mean, "class": export.classes}
    points = geopandas.points_from_xy(*export.xy_px0.T)
    return geopandas.GeoDataFrame(
        columns, index=export.figures["figure_id"].to_numpy(object), geometry=points
    )


def _windows(export: Export) -> geopandas.GeoDataFrame:
    spots = export.hotspots
    names = ("area_mm2", "mitoses", "atypical", "mitoses_per_mm2")
    columns = {name: [getattr(spot, name) for spot in spots] for name in names}
    corners = np.array([(s.x_px0, s.y_px0, s.x_px0 + s.width_px0, s.y_px0 + s.height_px0) for s in spots])
    return geopandas.GeoDataFrame(columns, geometry=box(*corners.T))


def _table(export: Export) -> Any:
    from spatialdata.models import TableModel

    table = annotated_figures([export])
    table.obs[REGION] = FIGURES
    table.obs[REGION] = table.obs[REGION].astype("category")
    return TableModel.parse(table, region=FIGURES, region_key=REGION, instance_key=INSTANCE)
