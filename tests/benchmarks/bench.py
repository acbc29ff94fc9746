"""What every benchmark gets: its folders and its size."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.pairs import Comparison, Result, Way, paired, wait_for_quiet, write
from tests.benchmarks.work import candidates, classify, write_candidates, write_slide

SMALL_PX = (4_000, 3_000)
"""Width and height of the slide for a quick run."""


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks.

    Attributes:
        folder: Slides and bundles, which are kept for the next run.
        results: Tables, JSON files and plots.
        quick: Whether sizes are small, to see that everything works.
        readers_python: The Python of the environment of `peers/install.sh`.
        rounds: Number of rounds of paired runs; each benchmark's own if None.
        candidates: Number of candidates of whole runs beside peers; each benchmark's own if None.
    """

    folder: Path
    results: Path
    quick: bool
    readers_python: Path
    rounds: int | None = None
    candidates: int | None = None

    def size(self, full: int, quick: int) -> int:
        """Return a number by the size of the run."""
        return quick if self.quick else full

    def slide(self, number: int, *, clustered: bool = True, codec: str = "jpeg") -> tuple[Path, Path]:
        """Return a large slide and its candidates' file."""
        size_px = SMALL_PX if self.quick else None
        layout = "clustered" if clustered else "scattered"
        name = f"{'small' if self.quick else 'large'}-{layout}-{codec}-{number}"
        table = candidates(number, clustered=clustered, **({"size_px": size_px} if size_px else {}))
        slide = write_slide(
            self.folder, name, table, codec=codec, **({"size_px": size_px} if size_px else {})
        )
        return slide, write_candidates(self.folder / f"{name}.csv", table)

    def warm(self, *models: str) -> None:
        """Compile the networks of bundles into the user's cache, and read their files once."""
        slide, detections = self.slide(2)
        for model in models:
            classify(self.folder / "out", [slide], detections, "--workers", "0", "--model", model)

    def compare(
        self, title: str, ways: Mapping[str, Way], *, work: tuple[int, str], rounds: tuple[int, int]
    ) -> Comparison:
        """Run ways alternately, each when the machine is quiet; `rounds`: of a full and a quick run."""
        before = (lambda: None) if self.quick else wait_for_quiet
        return paired(title, ways, work=work, rounds=self.rounds or self.size(*rounds), before=before)

    def write(self, result: Result, name: str) -> None:
        """Print and keep a result."""
        write(result, self.results, name)


PYTHON = sys.executable
