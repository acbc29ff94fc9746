"""AnnData: one `.h5ad` of all slides, for scanpy and squidpy.

`obs` has a row per figure, `obsm["spatial"]` its centre in level-0 px of the slide frame and
`obsm["spatial_um"]` the same in um. There is no `X`: a figure has no features. `uns["wsi_mitosis"]` says what
the labels are, and `uns["slides"]` has a row per slide, also for those without figures. Source:
anndata.readthedocs.io, and squidpy's convention for `spatial`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.results.exports.common import PROVENANCE, USE, Export
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write all slides to one file.

    Raises:
        MppError: if a slide's record has no pixel size.
        OSError: if the file cannot be written.
    """
    annotated = annotated_figures(exports)
    annotated.uns["slides"] = pd.DataFrame(
        [_slide(export) for export in exports], [export.record.name for export in exports]
    )
    with replacing(path) as temporary:
        annotated.write_h5ad(temporary, compression="gzip")


def annotated_figures(exports: Sequence[Export]) -> Any:
    """Return the figures of slides as `AnnData`.

    Raises:
        MppError: if a slide's record has no pixel size.
    """
    from anndata import AnnData

    obs = pd.concat([_obs(export) for export in exports])
    obs = obs.astype(dict.fromkeys(("slide", "label", "class", "bundle", "bundle_digest"), "category"))
    uns = {"use": _statements(exports), "program": f"wsi-mitosis {__version__}", "frame": "level-0 px, slide"}
    return AnnData(
        obs=obs,
        obsm={
            "spatial": np.concatenate([export.xy_px0 for export in exports]),
            "spatial_um": np.concatenate([export.xy_px0 * export.mpp for export in exports]),
        },
        uns={PROVENANCE: uns},
    )


def _statements(exports: Sequence[Export]) -> str:
    return "; ".join(dict.fromkeys([USE, *(part for e in exports for part in e.statement.split("; "))]))


def _obs(export: Export) -> pd.DataFrame:
    figures, model = export.figures, export.record.model
    return pd.DataFrame(
        {
            "slide": export.record.name,
            "figure_id": figures["figure_id"].to_numpy(object),
            "label": figures["label"].to_numpy(object),
            "class": export.classes,
            "p_atypical": figures["p_atypical"].to_numpy(np.float64),
            "votes_atypical": figures["votes_atypical"].to_numpy(np.int64),
            "votes_cast": figures["votes_cast"].to_numpy(np.int64),
            "detector_score": figures["detector_score"].to_numpy(np.float64),
            "bundle": model.name,
            "bundle_digest": model.digest,
            "trained": model.trained,
        },
        # a figure's id is that of its place on the slide's content, which may be there under two names
        index=[f"{export.record.name}:{figure_id}" for figure_id in figures["figure_id"]],
    )


def _slide(export: Export) -> dict[str, Any]:
    record, mpp = export.record, export.mpp
    width, height = record.scale.size_px0
    return {
        **{name: value for name, value in export.provenance.items() if name != "slide"},
        "width_px0": width,
        "height_px0": height,
        "mpp_x_um": mpp.x,
        "mpp_y_um": mpp.y,
        "candidates": record.counts.candidates,
        "atypical": record.counts.atypical,
        "typical": record.counts.typical,
    }
