"""Results without a model, and what several reviewers make of them: on pages, and in QuPath."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tests.records import NO_HOTSPOTS, assessed_slide, slide_record
from tests.report_files import Done, figures_of
from wsi_mitosis.core.review_files import (
    Design,
    PageSlide,
    ReviewedFigure,
    ReviewFile,
    Selection,
    Verdict,
    run_digest,
)
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import count
from wsi_mitosis.io.results.folder import Drawing, ResultFiles, ResultFolder
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.version import __version__

LABELS: dict[str, Verdict | None] = {
    "a": "atypical",
    "t": "typical",
    "n": "none",
    "u": "unsure",
    "-": None,
}
"""Verdicts by letter; "-" is a figure of the page without one, and "." one that is not on the page."""
AT = "2026-03-04T05:06:07+00:00"
Places = Sequence[tuple[float, float]]


def places(number: int) -> Places:
    """Places of figures, px, 100 px (25 um) apart in a row."""
    return [(100.0 * (n + 1), 200.0) for n in range(number)]


def classify(
    folder: Path,
    slides: Mapping[str, str],
    *,
    at: Mapping[str, Places] | None = None,
    key: str = "k" * 64,
    digest: str = "i" * 62,
    bundle: str = "nano",
    options: AssessmentOptions = NO_HOTSPOTS,
) -> Path:
    """Write results of slides at 0.25 um/px.

    Args:
        folder: The output folder.
        slides: The labels of each slide's figures, by letter: "aat" are two atypical ones and a typical one.
        at: Their places; `places` by default.
        key: Key of the results.
        digest: First 62 letters of the slides' digests.
        bundle: Name of the bundle.
        options: Options of the assessments.
    """
    with ResultFolder(folder) as held:
        states = []
        for number, (name, letters) in enumerate(slides.items()):
            identity = f"{digest}{number:02d}"
            xy = places(len(letters)) if at is None else at[name]
            figures = figures_of(identity, Done(Path(name), xy))
            figures["label"] = pd.Series([LABELS[letter] for letter in letters], dtype=object)
            record = slide_record(
                name, identity=identity, counts=count(figures), key=key, bundle=bundle, bundle_digest=key
            )
            assessed = assessed_slide(record, figures, options)
            held.write_slide(figures, assessed, Drawing("detection", "slide"))
            states.append(SlideState(name, "done", record, assessed))
        held.write_summary(states)
    return folder


def page(
    results: Path,
    reviewer: str,
    said: Mapping[str, str],
    *,
    at: str | None = AT,
    blind: bool = False,
    part: tuple[int, int] = (1, 1),
    note: str = "",
    selection: Selection = "all",
) -> ReviewFile:
    """What a reviewer saves from a page of results.

    Args:
        results: The output folder.
        reviewer: The name.
        said: The verdicts on each slide's figures, by letter.
        at: When they were given.
        blind: Whether labels were hidden.
        part: The part of the pages.
        note: Written on each figure with a verdict.
        selection: Which figures the page shows.
    """
    folder = ResultFiles(results)
    records = folder.records()
    slides = tuple(PageSlide.of(record) for record in records.values())
    figures = []
    for slide, letters in said.items():
        table = folder.figures(slide)
        for row, letter in zip(table.to_dict("records"), letters, strict=True):
            if letter != ".":
                label = LABELS[letter]
                figures.append(
                    ReviewedFigure(
                        slide=slide,
                        figure_id=row["figure_id"],
                        x_px0=row["x_px0"],
                        y_px0=row["y_px0"],
                        label=label,
                        note=note if label else "",
                        seconds=1.5 if label else None,
                        at=at if label else None,
                    )
                )
    return ReviewFile(
        program=__version__,
        run=run_digest(slides),
        reviewer=reviewer,
        design=Design(blind=blind, order="random", selection=selection),
        part=part,
        slides=slides,
        figures=tuple(figures),
    )


def save(folder: Path, file: ReviewFile, name: str | None = None) -> Path:
    """Write a review file, as the page does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"review-{file.reviewer}.json")
    path.write_text(json.dumps(file.as_data(), indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def export(folder: Path, results: Path, slide: str, letters: str, *added: tuple[float, float, str]) -> Path:
    """Write what a reviewer exports from QuPath.

    Args:
        folder: The folder of exports.
        results: The output folder.
        slide: The slide.
        letters: What became of each figure: "a" or "t", "n" if it was deleted; "-" leaves an object as it is.
        added: Place and letter of figures that were added.
    """
    features = json.loads((results / f"geojson/{slide}.geojson").read_text())["features"]
    kept = []
    for feature, letter in zip(features, letters, strict=True):
        if letter == "-":
            kept.append(feature)
        elif letter != "n":
            name = f"Mitosis: {str(LABELS[letter]).capitalize()}"
            feature["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}
            kept.append(feature)
    kept += [_point(x, y, str(LABELS[letter])) for x, y, letter in added]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": kept}))
    return path


def _point(x: float, y: float, name: str) -> dict[str, Any]:
    """A point that somebody drew; it has no id, so that it is called by its place."""
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [x, y]},
        "properties": {"objectType": "annotation", "classification": {"name": name.capitalize()}},
    }
