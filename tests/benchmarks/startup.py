"""What a run costs beside reading and the model, and where the time of a run goes."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import PYTHON, Bench
from tests.benchmarks.pairs import Facts
from tests.benchmarks.work import classify, run

WORK = ("loading", "waiting", "model")
"""Stages of reading and of the model."""
EMPTY_RAY = (
    "import ray; ray.init(num_cpus=1, include_dashboard=False, logging_level='ERROR'); "
    "ray.get(ray.remote(lambda: None).remote()); ray.shutdown()"
)
IMPORTS = "import torch, timm, openvino, openslide, pandas"
ROUNDS = 3


def main(bench: Bench) -> None:
    """One slide with ten candidates, so that hardly anything is left but the start."""
    slide, detections = bench.slide(10)
    bench.warm("amibr-lite0")

    def overhead(workers: str) -> float:
        ran = classify(
            bench.folder / "out", [slide], detections, "--workers", workers, "--model", "amibr-lite0"
        )
        return ran.seconds - sum(ran.done[-1]["stages"][stage] for stage in WORK)

    ways = {
        "an empty `ray.init` with one task": lambda: (
            run([PYTHON, "-c", EMPTY_RAY], RAY_USAGE_STATS_ENABLED="0").seconds
        ),
        "--workers 0, without reading and model": partial(overhead, "0"),
        "--workers 1, without reading and model": partial(overhead, "1"),
        "importing the libraries alone": lambda: run([PYTHON, "-c", IMPORTS]).seconds,
        "--version": lambda: run([PYTHON, "-m", "wsi_mitosis", "--version"]).seconds,
    }
    result = bench.compare("Start-up", ways, work=(1, "run"), rounds=(ROUNDS, 1))
    bench.write(result, "start-up")


def stages(bench: Bench) -> None:
    """Where the time of one run in one process goes, by its log."""
    slide, detections = bench.slide(number := bench.size(300, 4))
    for model in ("untrained-tiny",) if bench.quick else ("amibr-lite2", "amibr-lite0"):
        bench.warm(model)
        ran = classify(bench.folder / "out", [slide], detections, "--workers", "0", "--model", model)
        spent = dict(ran.done[-1]["stages"])
        beside = spent.pop("reading")
        spent["start-up, detections, report, the rest"] = ran.seconds - sum(spent.values())
        shares = {name: f"{seconds:.2f} s, {seconds / ran.seconds:.1%}" for name, seconds in spent.items()}
        shares["reading, beside the model, summed over threads"] = f"{beside:.2f} s"
        title = f"{model}: {number:,} candidates in one process, {ran.seconds:.1f} s"
        bench.write(Facts(title, shares), f"stages-{model}")
