"""Grand Challenge's "Multiple points" with the labels as names: one JSON file per slide, for its viewer.

The points are called as in QuPath, such as `Mitosis: Atypical`, and the probability is that of the named
class, the mean over the members. A majority of votes can decide against it, so that it may be below 0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.io.results.exports.grand_challenge import write_points

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_mitosis.io.results.exports.common import Export


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write one slide.

    Raises:
        MppError: if the slide's record has no pixel size.
        OSError: if the file cannot be written.
    """
    (export,) = exports
    p_atypical = export.figures["p_atypical"].to_numpy(np.float64)
    own = np.where(export.figures["label"] == "atypical", p_atypical, 1 - p_atypical)
    write_points(path, export, export.classes, own.round(6).tolist())
