"""Slides an hour on many GPUs: a simulation, fed with measured costs and checked against Ray workers."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import simpy
import tifffile

from tests.benchmarks.bench import Bench
from tests.benchmarks.pairs import Curve, Facts
from tests.benchmarks.scaling import PER_SLIDE, many_slides
from tests.benchmarks.work import needed_tiles
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.slides.demo import TILE_PX
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.slide_files import SlideFiles
from wsi_mitosis.specs import ClassifySpec
from wsi_mitosis.workers.slides import classify_batch

Wait = Generator[simpy.Event, Any, None]

AHEAD = 2
"""Batches for each reading thread that exist at a time, as in `patches.stream_patches`."""


@dataclass(frozen=True)
class Costs:
    """What a slide costs.

    Attributes:
        opening: Seconds of a worker before the first patch of a slide.
        reading: Seconds of a reading thread for a candidate.
        stored_bytes: Bytes that are read from the storage for a candidate.
        model: Seconds of a GPU, or of a worker's CPUs, for a candidate.
        writing: Seconds of the program that hands out slides and writes all results, for a slide.
    """

    opening: float
    reading: float
    stored_bytes: float
    model: float
    writing: float


@dataclass(frozen=True)
class Night:
    """What is to be done, and by what.

    Attributes:
        candidates: Candidates of each slide.
        gpus: Number of GPUs.
        threads: Reading threads beside each GPU, which its workers share.
        storage: Bytes per second that all workers together read from the storage.
        costs: What a slide costs.
        batch: Candidates per batch.
        sharing: Number of workers that share each GPU.
    """

    candidates: Sequence[int]
    gpus: int
    threads: int
    storage: float
    costs: Costs
    batch: int = 256
    sharing: int = 1


@dataclass(frozen=True)
class Simulated:
    """How a night went.

    Attributes:
        ends: When the files of each slide were written, s from the start.
        busy: Share of this time in which the GPUs, the reading threads, the storage, and the program that
            writes the results were busy, by name.
    """

    ends: list[float]
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        """What was busy for the largest share of the time."""
        return max(self.busy, key=lambda name: self.busy[name])


def simulate(night: Night) -> Simulated:
    """Simulate a night whose workers are ready.

    Each worker takes the next slide, opens it, and reads its batches by its threads ahead of its GPU. The
    storage serves one batch after the other. A worker gets its next slide when the writing program looks at
    what it has sent, which it does between two slides that it writes.
    """
    world = simpy.Environment()
    storage, done = simpy.Resource(world), simpy.Store(world)
    slides, costs = iter(night.candidates), night.costs

    def read(number: int, thread: simpy.Resource) -> Wait:
        with thread.request() as own:
            yield own
            with storage.request() as served:
                yield served
                yield world.timeout(number * costs.stored_bytes / night.storage)
            yield world.timeout(number * costs.reading)

    def classify_slides(gpu: simpy.Resource, threads: simpy.Resource) -> Wait:
        for candidates in slides:
            yield world.timeout(costs.opening)
            numbers = _batches(candidates, night.batch)
            ahead = [world.process(read(number, threads)) for number in numbers[: AHEAD * night.threads]]
            for index, number in enumerate(numbers):
                yield ahead[index]
                if (following := index + AHEAD * night.threads) < len(numbers):
                    ahead.append(world.process(read(numbers[following], threads)))
                with gpu.request() as own:
                    yield own
                    yield world.timeout(number * costs.model)
            noticed = world.event()
            yield done.put(noticed)
            yield noticed

    def write_results() -> Wait:
        for _ in night.candidates:
            first = yield done.get()
            for noticed in (
                first,
                *done.items,
            ):  # all that wait get their next slide before this one is written
                if not noticed.triggered:
                    noticed.succeed()
            yield world.timeout(costs.writing)
            ends.append(world.now)

    ends: list[float] = []
    for _ in range(night.gpus):
        gpu, threads = simpy.Resource(world), simpy.Resource(world, night.threads)
        for _ in range(night.sharing):
            world.process(classify_slides(gpu, threads))
    world.run(world.process(write_results()))
    total, gpus = sum(night.candidates), night.gpus
    return Simulated(
        ends,
        {
            "GPUs": total * costs.model / (gpus * world.now),
            "reading threads": total * costs.reading / (gpus * night.threads * world.now),
            "storage": total * costs.stored_bytes / night.storage / world.now,
            "writing": len(night.candidates) * costs.writing / world.now,
        },
    )


def _batches(candidates: int, batch: int) -> list[int]:
    return [min(batch, candidates - first) for first in range(0, candidates, batch)]


BATCH = 32
STAND_IN_SECONDS = 0.02
"""What the model that stands in for an ensemble takes for a candidate, without using a CPU."""
LOCAL_STORAGE = 1e9
"""Bytes per second of this machine's storage; the slides are in the page cache."""
H200 = {"fp32": 1 / 824, "fp16": 1 / 1898}
"""Seconds of an NVIDIA H200 for a candidate, all members and views of six members (BENCHMARKS.md)."""
SLIDES, CANDIDATES = 1_000, 500
"""A night, and the mean number of candidates of its slides."""
SHARES = ((4, 1), (4, 2))
"""Reading threads beside a GPU, and workers that share it."""
STORAGES = {"200 MB/s": 2e8, "2 GB/s": 2e9}


class StandIn:
    """A model that takes a set time, and finds every figure typical."""

    def __init__(self, members: int) -> None:
        self._members = members

    def predict(self, crops: np.ndarray) -> np.ndarray:
        time.sleep(len(crops) * STAND_IN_SECONDS)
        return np.full((len(crops), self._members), 0.1)


class StandInClassifier(Classifier):
    """Reads slides as always, and hands the patches to a `StandIn`."""

    def _ready(self, on_member: Any) -> Any:  # noqa: ARG002
        return StandIn(len(self.bundle.manifest.member))


def stand_in_classifier(bundle: Any, spec: ClassifySpec, threads: int) -> StandInClassifier:
    """Make what a worker keeps."""
    placement = spec.placement
    return StandInClassifier(
        bundle, spec.result, device="cpu", batch_size=placement.batch_size, threads=threads
    )


@dataclass
class Watch:
    """A reporter that keeps what slides cost, and when they were written, as by `perf_counter`."""

    stages: list[Mapping[str, float]] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def finished(self, _outcome: object, record: SlideRecord | None) -> None:
        assert record is not None
        self.ends.append(perf_counter())
        self.stages.append(record.cost.stages)

    def warn(self, message: str) -> None: ...
    def info(self, message: str) -> None: ...
    def patches(self, number: int) -> None: ...
    def left(self, status: str, reason: str) -> None: ...
    def start(self, slides: int, candidates: int | None) -> None: ...


def main(bench: Bench) -> None:
    """The simulation beside Ray workers of this machine, and then for nights on GPUs."""
    paths, detections = many_slides(bench, bench.size(60, 6))
    stored = _stored_bytes(paths[0], detections)
    costs, real, simulated = None, {}, {}
    for workers in (1, 2) if bench.quick else (1, 2, 4):
        watch = _with_stand_in(bench, paths, detections, workers)
        costs = costs or _measured(watch, stored)
        night = Night([PER_SLIDE] * len(paths), workers, 1, LOCAL_STORAGE, costs, BATCH)
        expected = simulate(night).ends
        # The start of the workers is not simulated.
        real[workers] = watch.ends[-1] - watch.ends[workers - 1]
        simulated[workers] = expected[-1] - expected[workers - 1]
    assert costs is not None
    values = {name: f"{value:.3g}" for name, value in asdict(costs).items()}
    bench.write(
        Facts("Costs by the run with one worker: seconds, and bytes of a candidate", values), "night-costs"
    )
    title = f"{len(paths)} slides of {PER_SLIDE} candidates, from each worker's first result to the last"
    bench.write(Curve(title, "workers", "s", {"Ray": real, "simulated": simulated}), "night-check")
    _nights(bench, costs)


def _nights(bench: Bench, measured: Costs) -> None:
    """A night of 1,000 slides on 1, 8 and 64 GPUs: how many slides an hour, and what limits them."""
    draw = np.random.default_rng(0)
    slides = sorted(draw.lognormal(np.log(CANDIDATES) - 0.5, 1, SLIDES).astype(int).tolist(), reverse=True)
    an_hour: dict[str, dict[int, float]] = {}
    limits: dict[str, str] = {}
    for (precision, model), (storage, rate) in itertools.product(H200.items(), STORAGES.items()):
        costs = replace(measured, model=model)
        for threads, sharing in SHARES:
            name = f"{precision}, {storage}, {threads} reading threads and {sharing} workers a GPU"
            for gpus in (1, 8, 64):
                done = simulate(Night(slides, gpus, threads, rate, costs, sharing=sharing))
                an_hour.setdefault(name, {})[gpus] = 3600 * SLIDES / done.ends[-1]
                limits[f"{name}, {gpus} GPUs"] = f"{done.limit}, {done.busy[done.limit]:.0%} busy"
    title = f"Slides an hour, {SLIDES:,} slides of {CANDIDATES} candidates in the mean (simulated)"
    bench.write(Curve(title, "GPUs", "slides an hour", an_hour), "night-slides")
    bench.write(Facts("What limits a night", limits), "night-limits")


def _with_stand_in(bench: Bench, paths: Sequence[Path], detections: Path, workers: int) -> Watch:
    """Classify with a `StandIn` on Ray, as many workers as wanted on however few CPUs."""
    shutil.rmtree(out := bench.folder / "out", ignore_errors=True)
    spec = ClassifySpec.parse(
        {
            "model": "untrained-tiny",
            "input": {"slides": [str(path) for path in paths], "detections": str(detections)},
            "output": {"folder": str(out), "report": False},
            "placement": {"workers": workers, "cpus_per_worker": 1, "device": "cpu", "batch_size": BATCH},
        },
        "the benchmark",
    )
    watch, write = Watch(), SlideFiles.write

    def watched(files: SlideFiles, outcome: Any) -> Any:
        watch.begins.append(perf_counter())
        return write(files, outcome)

    with (
        patch.object(SlideFiles, "write", watched),
        patch("wsi_mitosis.workers.slides._classifier", stand_in_classifier),
        patch("wsi_mitosis.workers.runtime.granted_cpus", lambda: max(workers, granted_cpus())),
    ):
        classify_batch(spec, watch)
    return watch


def _measured(watch: Watch, stored: float) -> Costs:
    """Return the costs of the slides after the first."""
    stages, writing = watch.stages[1:], np.subtract(watch.ends, watch.begins)[1:]
    return Costs(
        opening=median(one["opening"] + one["candidates"] for one in stages),
        reading=median(one["reading"] for one in stages) / PER_SLIDE,
        stored_bytes=stored,
        model=median(one["model"] for one in stages) / PER_SLIDE,
        writing=float(np.median(writing)),
    )


def _stored_bytes(slide: Path, detections: Path) -> float:
    """Return the bytes of the tiles that a candidate needs, the mean of a slide."""
    table = pd.read_csv(detections)
    table = table[table["slide"] == slide.name]
    with tifffile.TiffFile(slide) as file:
        page: Any = file.pages[0]
        sizes, across = page.databytecounts, -(-page.imagewidth // TILE_PX)
    return sum(sizes[row * across + column] for row, column in needed_tiles(table)) / len(table)
