"""Cost and memory against candidates, slides and workers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import mean

import pandas as pd

from tests.benchmarks import work
from tests.benchmarks.bench import Bench
from tests.benchmarks.pairs import Curve, Facts, VoidError
from tests.benchmarks.work import classify, write_candidates, write_slide

QUICK_MODEL = ("--model", "untrained-tiny", "--tta", "none", "--vote", "early")
"""A model that hides little of what reading and bookkeeping cost."""
SLIDE_PX = (10_000, 8_000)
"""Size of each of many slides."""
PER_SLIDE = 50


def candidates(bench: Bench) -> None:
    sizes = (10, 40) if bench.quick else (10, 100, 1_000, 10_000, 100_000)
    slide, detections = bench.slide(max(sizes))
    table = pd.read_csv(detections)
    seconds: dict[str, dict[int, float]] = {}
    memory: dict[str, dict[int, float]] = {}
    models = {"untrained-tiny, one view": (QUICK_MODEL, max(sizes))}
    if not bench.quick:
        models["amibr-lite2"] = (("--model", "amibr-lite2"), 1_000)
    for name, (options, most) in models.items():
        bench.warm(options[1])
        for number in (size for size in sizes if size <= most):
            few = write_candidates(bench.folder / "few.csv", table.head(number))
            ran = classify(bench.folder / "out", [slide], few, "--workers", "0", *options)
            seconds.setdefault(name, {})[number] = ran.seconds
            memory.setdefault(name, {})[number] = ran.peak_mb
    bench.write(Curve("A whole run in one process", "candidates", "s", seconds), "candidates-seconds")
    bench.write(Curve("Peak memory of that process", "candidates", "MB", memory), "candidates-memory")


def slides(bench: Bench) -> None:
    """Many slides on two workers, beside half of the sum of what each costs one worker of one CPU alone.

    What one costs is measured before and after, because the speed of a shared machine changes with the hour.
    """
    sizes = (1, 2) if bench.quick else (1, 10, 50, 200)
    paths, detections = many_slides(bench, max(sizes))
    model = "untrained-tiny" if bench.quick else "amibr-lite0"
    bench.warm(model)
    before = _alone(bench, paths[:10], detections, model)
    whole = {}
    for number in sizes:
        ran = classify(
            bench.folder / "out", paths[:number], detections, "--workers", "2", "--cpus-per-worker", "1",
            "--model", model,
        )  # fmt: skip
        whole[number] = ran.seconds
    after = _alone(bench, paths[:10], detections, model)
    alone = mean((before, after))
    ideal = {number: alone * number / 2 for number in sizes}
    curves = {"whole run, 2 workers": whole, "half the sum of single costs": ideal}
    bench.write(Curve(f"Slides of {PER_SLIDE} candidates, {model}", "slides", "s", curves), "slides")
    last = max(sizes)
    without_start = whole[last] - whole[1] + alone
    facts = {
        "one slide alone on one CPU, before and after": f"{before:.2f} and {after:.2f} s",
        f"{last} slides on 2 workers, over half the sum": f"{whole[last] / ideal[last]:.2f}",
        "the same without the time of a run of one slide": f"{without_start / ideal[last]:.2f}",
    }
    bench.write(Facts("Slides on two workers", facts), "slides-ratio")


def workers(bench: Bench) -> None:
    number = bench.size(24, 2)
    paths, detections = many_slides(bench, number)
    model = "untrained-tiny" if bench.quick else "amibr-lite0"
    bench.warm(model)
    seconds = {}
    for count in (1, 2) if bench.quick else (1, 2, 4):
        options = ("--workers", str(count), "--model", model)
        seconds[count] = classify(bench.folder / "out", paths, detections, *options).seconds
    title = f"{number} slides of {PER_SLIDE} candidates, {model}, on the CPUs of this machine"
    bench.write(Curve(title, "workers", "s", {"whole run": seconds}), "workers")


def parts(bench: Bench) -> None:
    """One slide of many candidates, which two workers of one CPU each share, beside one such worker."""
    most, number = bench.size(100_000, 20), bench.size(20_000, 20)
    slide, detections = bench.slide(most)
    few = write_candidates(bench.folder / "few.csv", pd.read_csv(detections).head(number))
    bench.warm(QUICK_MODEL[1])
    figures: list[pd.DataFrame] = []

    def way(count: str) -> float:
        options = ("--workers", count, "--cpus-per-worker", "1", *QUICK_MODEL)
        ran = classify(bench.folder / "out", [slide], few, *options)
        figures.append(pd.concat(map(pd.read_parquet, (bench.folder / "out/figures").glob("*.parquet"))))
        if not figures[-1].equals(figures[0]):
            raise VoidError("the tables of figures differ")
        return ran.seconds

    ways = {f"{count} workers of one CPU": partial(way, count) for count in ("2", "1")}
    result = bench.compare("One large slide in parts", ways, work=(number, "candidate"), rounds=(2, 1))
    bench.write(result, "parts")


def _alone(bench: Bench, paths: list[Path], detections: Path, model: str) -> float:
    """Return the mean seconds of a slide on one worker of one CPU, by the log, once the model is loaded."""
    options = ("--workers", "1", "--cpus-per-worker", "1", "--model", model)
    done = classify(bench.folder / "out", paths, detections, *options).done
    return mean(one["seconds"] - one["stages"]["loading"] for one in done)


def many_slides(bench: Bench, number: int) -> tuple[list[Path], Path]:
    """Return slides that differ in their candidates, and one table of all candidates."""
    folder, tables, paths = bench.folder / "many", [], []
    for seed in range(number):
        table = work.candidates(PER_SLIDE, clustered=True, size_px=SLIDE_PX, seed=seed)
        paths.append(write_slide(folder, f"slide-{seed:03d}", table, size_px=SLIDE_PX))
        tables.append(table.assign(slide=paths[-1].name))
    return paths, write_candidates(bench.folder / "many.csv", pd.concat(tables))
