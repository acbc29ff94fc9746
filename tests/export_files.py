"""A slide's results whose places, labels and numbers are known, as exports get them and as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.records import assessed_slide, slide_record
from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import count
from wsi_mitosis.io.results.exports import Export
from wsi_mitosis.io.results.folder import Drawing, ResultFolder
from wsi_mitosis.specs import AssessmentOptions

PLACES = ((100.0, 100.0), (250.5, 300.25), (600.125, 10.0))
LABELS = ("atypical", "typical", "atypical")
P_ATYPICAL = (0.9, 0.25, 0.48)
"""The last figure is atypical by the votes, and its mean probability says otherwise."""
VOTES = (5, 1, 3)
SCORES = (0.75, np.nan, 1.5)
"""Of the detector: a probability, none, and one that is no probability."""
MPP = (0.25, 0.5)
DIGEST = "d" * 64
WINDOW = Hotspot(10.0, 20.0, 400.0, 300.0, 0.015, 2, 1)


def figures(
    places: Sequence[tuple[float, float]] = PLACES, name: str = "a.svs", identity: str = "i" * 64
) -> pd.DataFrame:
    """As many of PLACES, LABELS, ... as places are given, in turn, and a candidate that was excluded."""
    number = len(places)
    x, y = np.array([*places, (5.0, 5.0)], np.float64).T

    def turn(values: Sequence[Any], kind: Any, excluded: Any) -> Any:
        return pd.array([*(values[n % len(values)] for n in range(number)), excluded], dtype=kind)

    return pd.DataFrame(
        {
            "slide": name,
            "candidate_id": [*(f"c{n}" for n in range(number)), "low"],
            "figure_id": pd.array([*figure_ids(identity, x[:-1], y[:-1]), None], dtype="object"),
            "x_px0": x,
            "y_px0": y,
            "detector_score": turn(SCORES, "float64", 0.1),
            "p_atypical": turn(P_ATYPICAL, "float64", np.nan),
            "votes_atypical": turn(VOTES, "Int16", pd.NA),
            "votes_cast": turn([5], "Int16", pd.NA),
            "label": turn(LABELS, "object", None),
            "excluded_reason": turn([None], "object", "score"),
        }
    )


def record(name: str = "a.svs", **changes: Any) -> SlideRecord:
    given = {"mpp": MPP, "size_px0": (1400, 1000), "bundle": "nano", "program": "1.2.3"} | changes
    return slide_record(name, **given)


def exported(
    places: Sequence[tuple[float, float]] = PLACES,
    name: str = "a.svs",
    spots: Any = (WINDOW,),
    **changes: Any,
) -> Export:
    table = figures(places, name)
    return Export(record(name, **changes), table[table["label"].notna()].reset_index(drop=True), spots)


def results(
    folder: Path,
    slides: dict[str, Sequence[tuple[float, float]]],
    others: Sequence[SlideState] = (),
    **changes: Any,
) -> Path:
    """An output folder with these figures by slide, and slides that have no result."""
    states = list(others)
    with ResultFolder(folder) as held:
        for name, places in slides.items():
            identity = f"{name:i<64}"
            table = figures(places, name, identity)
            made = record(name, identity=identity, counts=count(table), **changes)
            options = AssessmentOptions(hotspot_area=0.01, hotspot_aspect="1:1")
            assessed = assessed_slide(made, table, options)
            held.write_slide(table, assessed, Drawing("detection", "qupath"))
            states.append(SlideState(name, "done", made, assessed))
        held.write_summary(states)
    return folder
