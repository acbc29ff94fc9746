"""Grand Challenge's "Multiple points", as track 1 of MIDOG 2025 expects them: one JSON file per slide.

Places are (x, y, 0) in mm from the corner of level 0. Each point is called `mitotic figure`, which the track
demands, and its probability is the detector's score. The format has no place for a label: see
`grand_challenge_labels`. Sources: the JSON schema of grand-challenge.org's answers (`MULTIPLE_POINTS` and
`point-object`, which allow no other members) and the README of
github.com/DeepMicroscopy/MIDOG25_T1_reference_docker.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from wsi_mitosis.io.results.exports.common import Export

NAME = "mitotic figure"
UM_PER_MM = 1000


def write(path: Path, exports: Sequence[Export]) -> None:
    """Write one slide.

    A detector's score outside 0 to 1 is no probability, and is left out.

    Raises:
        MppError: if the slide's record has no pixel size.
        OSError: if the file cannot be written.
    """
    (export,) = exports
    scores = export.figures["detector_score"]
    write_points(path, export, [NAME] * len(scores), scores.where(scores.between(0, 1)))


def write_points(path: Path, export: Export, names: Iterable[str], probabilities: Iterable[float]) -> None:
    """Write the figures of one slide as points.

    Args:
        path: The file.
        export: The slide.
        names: The name of each figure.
        probabilities: The probability of each figure; NaN for none.

    Raises:
        MppError: if the slide's record has no pixel size.
        OSError: if the file cannot be written.
    """
    mm = export.xy_px0 * export.mpp / UM_PER_MM
    points = [_point(*each) for each in zip(mm.tolist(), names, probabilities, strict=True)]
    model = export.record.model
    document = {
        "name": f"wsi-mitosis {export.record.program}, {model.name} {model.digest}: {export.statement}",
        "type": "Multiple points",
        "points": points,
        "version": {"major": 1, "minor": 0},
    }
    write_text(path, json.dumps(document, allow_nan=False) + "\n")


def _point(mm: list[float], name: str, probability: float) -> dict[str, Any]:
    point: dict[str, Any] = {"name": name, "point": [*mm, 0]}
    is_known = probability == probability  # it is not NaN
    return {**point, "probability": float(probability)} if is_known else point
