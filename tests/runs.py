"""Small runs that several test files need."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.slide_files import textured, tiff_slide
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.jobs.batch import BatchResult
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.specs import ClassifySpec
from wsi_mitosis.workers.slides import classify_batch

SLIDE_PX = (600, 500)
CANDIDATES = ((100.0, 100.0), (250.5, 300.25), (599.0, 10.0), (3.0, 490.0), (400.0, 222.0))


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.classified = 0

    def warn(self, message: str) -> None:
        self.messages.append(message)

    def info(self, message: str) -> None:
        pass

    def start(self, slides: int, candidates: int | None) -> None:
        self.planned = slides, candidates

    def patches(self, number: int) -> None:
        self.classified += number

    def left(self, status: str, reason: str) -> None:
        self.messages.append(f"{status}: {reason}")

    def finished(self, outcome: SlideOutcome[Any], record: SlideRecord | None) -> None:
        pass


def slides_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """Different slides of SLIDE_PX at 0.25 um/px."""
    folder.mkdir(parents=True, exist_ok=True)
    return [tiff_slide(folder / name, textured(*SLIDE_PX, seed=number)) for number, name in enumerate(names)]


def candidates_csv(path: Path, names: Sequence[str], xy: Sequence[tuple[float, float]] = CANDIDATES) -> Path:
    rows = [f"{name},{x},{y},{0.5 + 0.01 * i}" for name in names for i, (x, y) in enumerate(xy)]
    path.write_text("\n".join(["slide,x,y,score", *rows]) + "\n")
    return path


def spec(
    slides: Sequence[Path | str], detections: Path, out: Path, bundle: Path, **sections: Any
) -> ClassifySpec:
    """A run in this process on the CPU; `sections` are merged into the spec's own."""
    data: dict[str, Any] = {
        "model": str(bundle),
        "input": {"slides": [str(s) for s in slides], "detections": str(detections)},
        "result": {},
        "output": {"folder": str(out)},
        "placement": {"workers": 0, "device": "cpu"},
        "retries": {},
        "schedule": {},
        "staging": {},
    }
    for name, changes in sections.items():
        data[name] |= changes
    return ClassifySpec.parse(data, "test")


def run(*arguments: Any, **sections: Any) -> BatchResult:
    return classify_batch(spec(*arguments, **sections), Silent())


def summary(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


MADE = re.compile(rb'"made":"[^"]*"|"wsi_mitosis_sha256":"[0-9a-f]*"')
"""The time at which a GeoJSON file was made, and the digest that depends on it."""


def files_in(out: Path) -> dict[str, bytes]:
    """All result files but those that tell of the run itself, without the time at which they were made."""
    return {
        path.relative_to(out).as_posix(): MADE.sub(b"", path.read_bytes())
        for folder in ("geojson", "figures")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }
