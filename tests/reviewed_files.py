"""Results that reviewers have labelled: a real run on generated slides, and tables written by hand."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.runs import candidates_csv, run
from tests.slide_files import aperio_slide, textured
from wsi_mitosis.cli import main
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.tables import CONSENSUS_COLUMNS, VERDICT_COLUMNS

SIZE_PX = (400, 150)
SCANNER_ID, SCANNER = "SS77", "Aperio #072bad"
"""What the slides state as their scanner."""
NAMES = ("a.svs", "b.svs", "c.svs", "d.svs", "e.svs")
CENTRES = (*((20.0 + 32 * i, 75.0) for i in range(10)), (33.5, 30.49), (3.0, 4.0))
"""Of the figures of each slide, level-0 px: one between pixels, one at the corner."""
ADDED = ("0f0c2c1e-6f0b-4c1e-9a52-1d5f0f6f2a10", 200.25, 40.5)
"""Id and centre of a figure that a reviewer added on the first slide."""
REVIEWERS = ("Dr Ada", "Dr Bo", "Dr Cy")
Row = dict[str, Any]


def image_of(name: str) -> Any:
    """(height, width, 3) uint8: the pixels of a slide."""
    return textured(*SIZE_PX, seed=NAMES.index(name) + 500)


def reviewed_results(folder: Path, bundle: Path) -> Path:
    """Five slides in `folder`/slides with twelve figures each, classified into `folder`/out and reviewed."""
    slides = folder / "slides"
    slides.mkdir(parents=True)
    paths = [
        aperio_slide(slides / name, image_of(name), f"0.25|ScanScope ID = {SCANNER_ID}") for name in NAMES
    ]
    detections = candidates_csv(folder / "d.csv", NAMES, CENTRES)
    assert run(paths, detections, folder / "out", bundle).exit_status == 0
    recounted(folder / "out", folder / "reviews")
    write_verdicts(folder / "out", consensus_rows(folder / "out"))
    return folder / "out"


def recounted(results: Path, reviews: Path) -> None:
    """Recount results whose figures a reviewer left as they are."""
    shutil.copytree(results / "geojson", reviews, dirs_exist_ok=True)
    told = CliRunner().invoke(main, ["recount", str(results), "--reviewed", str(reviews)])
    assert told.exit_code == 0, told.output


def consensus_rows(results: Path) -> list[Row]:
    """Of each slide's figures five are atypical and five typical, one is none, and one is a tie or unsure."""
    rows = []
    for name in sorted(ResultFiles(results).records()):
        figures = ResultFiles(results).figures(name)
        for i, figure in enumerate(figures.to_dict("records")):
            rows.append({**_consensus(name, i), **_place(name, figure)})
    figure_id, x, y = ADDED
    place = {"slide": NAMES[0], "figure_id": figure_id, "x_px0": x, "y_px0": y, "label_machine": ""}
    return [*rows, {**votes("typical", typical=3), "blind": True, **place}]


def _consensus(slide: str, i: int) -> Row:
    if i == 10:
        return {**votes("none", typical=1, none=2), "blind": True}
    if i == 11 and slide == NAMES[0]:
        return {**votes("tie", atypical=1, typical=1, unsure=1), "blind": True}
    if i == 11:
        return {**votes("unsure", unsure=3), "blind": False}
    if i % 2:
        return {**votes("typical", typical=2, unsure=1), "blind": i < 6}
    return {**votes("atypical", atypical=2, typical=1), "blind": i < 6}


def votes(consensus: str, atypical: int = 0, typical: int = 0, none: int = 0, unsure: int = 0) -> Row:
    return {
        "consensus": consensus,
        "atypical": atypical,
        "typical": typical,
        "none": none,
        "unsure": unsure,
    }


def _place(slide: str, figure: Mapping[str, Any]) -> Row:
    names = ("figure_id", "x_px0", "y_px0")
    return {
        "slide": slide,
        "label_machine": figure["label"],
        **{name: figure[name] for name in names},
    }


def write_verdicts(results: Path, rows: Sequence[Row]) -> None:
    """Write both tables of a recount, and their digests into `agreement.json`."""
    labels = ("atypical", "typical", "none", "unsure")
    verdicts = [
        {**row, "reviewer": reviewer, "label": label, "note": f"note of {reviewer}", "seconds": 2.5}
        for row in rows
        for reviewer, label in zip(
            REVIEWERS, [label for label in labels for _ in range(row[label])], strict=False
        )
    ]
    _write(results / "reviewed/consensus.csv", CONSENSUS_COLUMNS, rows)
    _write(results / "reviewed/verdicts.csv", VERDICT_COLUMNS, verdicts)
    change_agreement(
        results,
        **{
            f"{name}_sha256": hashlib.sha256((results / f"reviewed/{name}.csv").read_bytes()).hexdigest()
            for name in ("consensus", "verdicts")
        },
    )


def change_agreement(results: Path, **members: Any) -> None:
    path = results / "reviewed/agreement.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            flag = str(row["blind"]).lower()
            writer.writerow({**row, "blind": flag})
