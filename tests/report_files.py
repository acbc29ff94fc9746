"""Folders of results as `classify` leaves them, written without a model: quick, and with labels that vary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.records import NO_HOTSPOTS, assessed_slide, slide_record
from tests.slide_files import tiff_slide
from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import count
from wsi_mitosis.core.voting import tally
from wsi_mitosis.io.detections.regions import RegionFile
from wsi_mitosis.io.results.folder import Drawing, ResultFolder
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.specs import AssessmentOptions

MEMBERS = 5


@dataclass(frozen=True)
class Done:
    """A slide to put into the folder: its file, its figures' centres, and how it is told."""

    path: Path
    xy: Sequence[tuple[float, float]]
    trained: bool = True
    excluded: int = 0
    mpp: tuple[float, float] = (0.25, 0.25)
    warnings: tuple[str, ...] = ()


def figures_of(identity: str, done: Done, seed: int = 0) -> pd.DataFrame:
    """Figures with the votes of MEMBERS that often disagree, then candidates excluded by their score."""
    generator = np.random.default_rng(seed)
    x, y = np.array(done.xy, dtype=np.float64).reshape(-1, 2).T
    base = generator.beta(0.5, 1.2, (len(x), 1))
    votes = tally(np.clip(base + generator.normal(0, 0.16, (len(x), MEMBERS)), 0.001, 0.999), 0.5)
    figures = pd.DataFrame(
        {
            "slide": done.path.name,
            "candidate_id": [f"c{n}" for n in range(len(x))],
            "figure_id": figure_ids(identity, x, y),
            "x_px0": x,
            "y_px0": y,
            "detector_score": generator.uniform(0.5, 1, len(x)),
            "p_atypical": votes.p_atypical,
            "votes_atypical": pd.array(votes.votes_atypical, dtype="Int16"),
            "votes_cast": pd.array(votes.votes_cast, dtype="Int16"),
            "label": np.where(votes.is_atypical, "atypical", "typical"),
            "excluded_reason": None,
        }
    )
    weak = pd.DataFrame(
        {"slide": done.path.name, "candidate_id": "weak", "excluded_reason": ["score"] * done.excluded}
    )
    weak[["x_px0", "y_px0", "detector_score"]] = 5.0, 5.0, 0.1
    return (
        pd.concat([figures, weak.astype({"x_px0": float})], ignore_index=True) if done.excluded else figures
    )


def random_figures(number: int, seed: int = 0) -> pd.DataFrame:
    """Figures at random places of a slide `a.svs`."""
    xy = np.random.default_rng(seed).uniform(0, 5000, (number, 2))
    return figures_of("i" * 64, Done(Path("a.svs"), [tuple(place) for place in xy]), seed)


def voted_figures(*votes: tuple[int, int, float]) -> pd.DataFrame:
    """Figures by votes for atypical, votes cast and P(atypical); their ids are f0, f1, ..."""
    table = pd.DataFrame(votes, columns=["votes_atypical", "votes_cast", "p_atypical"])
    table["label"] = np.where(2 * table["votes_atypical"] > table["votes_cast"], "atypical", "typical")
    table["figure_id"] = [f"f{n}" for n in range(len(table))]
    return table.assign(x_px0=0.0, y_px0=np.arange(len(table), dtype=float))


def results_folder(
    folder: Path,
    slides: Sequence[Done],
    others: Sequence[dict[str, str]] = (),
    *,
    shape: HotspotShape | None = None,
    frame: str = "qupath",
    regions: RegionFile | None = None,
    mine: Sequence[str] | None = None,
    **run: Any,
) -> Path:
    """Write a folder of results.

    Args:
        folder: Where.
        slides: Those that are done.
        others: Rows of `summary.csv` of those that are not.
        shape: Of their hotspots.
        frame: In which they are drawn.
        regions: Of each slide.
        mine: The slides of the last run; all of them where None.
        run: Changes of `run.json`.
    """
    drawing = Drawing("detection", frame)  # type: ignore[arg-type]
    options = NO_HOTSPOTS
    if shape is not None:
        options = AssessmentOptions(
            hotspot_area=shape.area_mm2, hotspot_aspect=f"{shape.aspect[0]:g}:{shape.aspect[1]:g}"
        )
    with ResultFolder(folder) as held:
        states = [SlideState(row["slide"], row["status"], error=row.get("error", "")) for row in others]  # type: ignore[arg-type]
        for number, done in enumerate(slides):
            record, figures = _record(done, number)
            placed = None if regions is None else regions.placed(record.scale.origin_px0(frame))  # type: ignore[arg-type]
            assessed = assessed_slide(record, figures, options, placed)
            held.write_slide(figures, assessed, drawing)
            states.append(SlideState(record.name, "done", record, assessed))
        held.write_summary(states)
        held.write_reviews({s.name: s.assessment for s in states if s.assessment is not None})
        names = sorted(state.name for state in states) if mine is None else mine
        held.write_run(
            {
                "version": "0.1.0",
                "started": "2026-01-02T03:04:05+00:00",
                "ended": "2026-01-02T03:14:05+00:00",
                "exit_status": 0,
                "warnings": [],
                "parameters": {
                    "input": {"slides": ["/secret/slides"], "detections": "/secret/dets.csv"},
                    "result": {"min_score": None, "tta": None},
                    "output": {"folder": str(folder), "hotspot_area": 2.0},
                },
                "slides": [{"slide": name} for name in names],
            }
            | run
        )
    return folder


def fifty_slides_of_noise(folder: Path) -> Path:
    """Results of 60 figures on each of 50 slides of noise, which is the worst that a JPEG can meet."""
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    path = tiff_slide(folder / "a.tiff", noise)
    figures = [tuple(place) for place in np.random.default_rng(1).uniform(0, 600, (60, 2))]
    names = [folder / f"slide-{number}.tiff" for number in range(50)]
    for name in names:
        name.symlink_to(path)
    return results_folder(folder / "out", [Done(name, figures) for name in names])


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def run_json(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return told


def _record(done: Done, seed: int) -> tuple[SlideRecord, pd.DataFrame]:
    with open_native(done.path) as slide:
        identity, size, bounds = slide.identity, slide.size_px0, slide.bounds
    figures = figures_of(identity, done, seed)
    record = slide_record(
        done.path.name,
        path=str(done.path.absolute()),
        identity=identity,
        size_px0=size,
        mpp=done.mpp,
        bounds=bounds,
        bundle="nano µ" if done.trained else "untrained-tiny",
        bundle_digest=("a" if done.trained else "b") * 64,
        trained=done.trained,
        counts=count(figures),
        warnings=done.warnings,
    )
    return record, figures
