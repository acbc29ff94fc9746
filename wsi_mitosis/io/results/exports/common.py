"""What all exports share: a slide's figures and hotspots, and where they come from."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.qupath import figure_class
from wsi_mitosis.errors import MppError, SpecError
from wsi_mitosis.io.installing import install

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.units import Mpp

STAGE = "exporting"
USE = "research use only"
PROVENANCE = "wsi_mitosis"
"""Name of the member that says where an export comes from, as in the GeoJSON files."""


@dataclass(frozen=True)
class Export:
    """A finished slide, as exports need it.

    Attributes:
        record: The slide's record.
        figures: The rows of its figures table that have a label; level-0 px, slide frame.
        hotspots: Its hotspots, the best first.
    """

    record: SlideRecord
    figures: pd.DataFrame
    hotspots: tuple[Hotspot, ...] = ()

    @property
    def xy_px0(self) -> NDArray[np.float64]:
        """(N, 2) centres of the figures (x, y), level-0 px, slide frame."""
        return self.figures[["x_px0", "y_px0"]].to_numpy(np.float64)

    @property
    def classes(self) -> list[str]:
        """The class of each figure, such as `Mitosis: Atypical`, as it is in QuPath."""
        return [figure_class(label, trained=self.record.model.trained) for label in self.figures["label"]]

    @property
    def mpp(self) -> Mpp:
        """The slide's pixel size, um per level-0 px.

        Raises:
            MppError: if the record has none.
        """
        mpp = self.record.scale.mpp
        if not all(math.isfinite(axis) and axis > 0 for axis in mpp):
            raise MppError(
                f"the pixel size in its record is {mpp.x:g} x {mpp.y:g} um",
                subject=self.record.name,
                stage=STAGE,
                remedy="Classify the slide again with --mpp",
            )
        return mpp

    @property
    def statement(self) -> str:
        """What a reader has to know before using the labels."""
        return USE if self.record.model.trained else f"{USE}; {self.record.model.use}"

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the slide's figures come from, as plain data."""
        record = self.record
        return {
            "slide": record.name,
            "use": self.statement,
            "bundle": record.model.name,
            "bundle_digest": record.model.digest,
            "trained": record.model.trained,
            "program": f"wsi-mitosis {record.program}",
            "result_key": record.key,
        }


def check_installed(name: str, needs: Sequence[str]) -> None:
    """Check that the libraries of a format are installed.

    Args:
        name: Of the format.
        needs: The libraries.

    Raises:
        SpecError: if one of them is not installed.
    """
    missing = [library for library in needs if importlib.util.find_spec(library) is None]
    if missing:
        raise SpecError(
            f"{name} files are written with libraries that are not installed: {', '.join(missing)}",
            subject=f"--to {name}",
            remedy=install(*missing),
        )


def plain_numbers(figure: Any) -> dict[str, float | int]:
    """Return the numbers of a figure, a row of a figures table, by column; the detector's if it has one."""
    numbers: dict[str, float | int] = {
        "p_atypical": round(float(figure.p_atypical), 6),
        "votes_atypical": int(figure.votes_atypical),
        "votes_cast": int(figure.votes_cast),
    }
    if math.isfinite(figure.detector_score):
        numbers["detector_score"] = float(figure.detector_score)
    return numbers
