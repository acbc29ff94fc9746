"""Whole runs, imports and start-up included: ours beside the peers', with the same weights and labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.bench import PYTHON, Bench
from tests.benchmarks.pairs import Facts, VoidError, Way
from tests.benchmarks.work import FULL_WIDTH, bundle_folder, classify, data, labels, run, write_candidates

PEERS: dict[str, tuple[str, list[list[str]]]] = {
    "TIAToolbox": ("tiatoolbox", [["--batch", batch] for batch in ("1", "8", "32")]),
    "plain loop": ("plain", [["--batch", batch] for batch in ("1", "32")]),
    "WSInfer's way": ("wsinfer", [["--batch", "32", "--loaders", loaders] for loaders in ("0", "1", "2")]),
}
"""Module and settings of each peer. The setting that is fastest in a trial is taken."""
ROUNDS = 3


def default(bench: Bench) -> None:
    _compare(bench, "amibr-lite2", number=bench.candidates or bench.size(300, 4), trial=bench.size(16, 4))


def fast(bench: Bench) -> None:
    _compare(bench, "amibr-lite0", number=bench.candidates or bench.size(300, 4), trial=bench.size(16, 4))


def nano(bench: Bench) -> None:
    _compare(bench, "amibr-nano", number=bench.candidates or bench.size(300, 4), trial=bench.size(16, 4))


def full_width(bench: Bench) -> None:
    """The network of the paper's recipe; a quick run takes a tiny one, which costs seconds, in its place."""
    _compare(
        bench,
        "untrained-tiny" if bench.quick else FULL_WIDTH,
        number=bench.candidates or bench.size(40, 4),
        trial=4,
    )


def small_region(bench: Bench) -> None:
    """A real slide, its level-0 pixels as they are, so that no ways of resampling are compared."""
    slide = data("slides", "CMU-1-Small-Region.svs")
    if slide is None:
        print("CMU-1-Small-Region.svs: not measured, because WSI_MITOSIS_DATA is not set or lacks it")
        return
    draw, number = np.random.default_rng(0), bench.size(200, 4)
    points = pd.DataFrame(draw.uniform(64, (2156, 2903), (number, 2)).astype(int), columns=["x", "y"])
    listed = bench.folder / "small-region.csv"
    listed.write_text(f"slide,mpp\n{slide},0.25\n")
    detections = write_candidates(bench.folder / "small-region-candidates.csv", points.drop_duplicates())
    _run(
        bench, "CMU-1-Small-Region", "amibr-lite2", slide, detections, ours=[listed], trial=bench.size(16, 4)
    )


def earlier_default(bench: Bench) -> None:
    """The default and the fast bundle beside the default of before: `amibr-nano`, computed by torch."""
    slide, detections = bench.slide(number := bench.candidates or bench.size(300, 4))
    bench.warm("amibr-lite2", "amibr-lite0")

    def way(*options: str) -> float:
        return classify(bench.folder / "out", [slide], detections, *options).seconds

    ways = {
        "amibr-nano --backend torch": partial(way, "--model", "amibr-nano", "--backend", "torch"),
        "the default": way,
        "--model fast": partial(way, "--model", "fast"),
    }
    result = bench.compare("Whole runs", ways, work=(number, "candidate"), rounds=(2, 1))
    bench.write(result, "earlier-default")


def cold(bench: Bench) -> None:
    """What the first run on a machine costs, which compiles the networks."""
    slide, detections = bench.slide(number := 10)
    for model in ("amibr-lite2", "amibr-lite0"):
        bench.warm(model)
        fresh = iter(range(100))

        def way(cache: Path | None, model: str = model) -> float:
            options = ("--workers", "0", "--model", model)
            return classify(bench.folder / "out", [slide], detections, *options, cache=cache).seconds

        ways = {
            "compiled before": partial(way, None),
            "first run": lambda: way(bench.results / f"cache-{model}-{next(fresh)}"),  # noqa: B023
        }
        result = bench.compare(
            f"{model}: compiling the networks", ways, work=(number, "candidate"), rounds=(2, 1)
        )
        bench.write(result, f"cold-{model}")


def _compare(bench: Bench, model: str, *, number: int, trial: int) -> None:
    slide, detections = bench.slide(number)
    _run(bench, model, model, slide, detections, ours=[slide], trial=trial)


def _run(
    bench: Bench, name: str, model: str, slide: Path, detections: Path, *, ours: Sequence[Path], trial: int
) -> None:
    bundle = bundle_folder(model, bench.folder)
    bench.warm(str(bundle))
    number = len(pd.read_csv(detections))
    truth = classify(
        bench.folder / "truth", ours, detections, "--workers", "0", "--model", str(bundle)
    ).labels
    few = write_candidates(bench.folder / "few.csv", pd.read_csv(detections).head(trial))
    settings = {peer: _fastest(bench, peer, slide, few, bundle) for peer in PEERS}

    def own(*options: str) -> float:
        ran = classify(bench.folder / "out", ours, detections, "--model", str(bundle), *options)
        _check(ran.labels, truth)
        return ran.seconds

    ways: dict[str, Way] = {"wsi-mitosis": own, "wsi-mitosis --workers 0": partial(own, "--workers", "0")}
    for peer, options in settings.items():
        ways[f"{peer} {' '.join(options)}"] = partial(
            _peer, bench, peer, slide, detections, bundle, options, truth
        )
    rounds = (ROUNDS, 1)
    bench.write(
        bench.compare(f"{name}, whole runs", ways, work=(number, "candidate"), rounds=rounds), f"whole-{name}"
    )


def _peer(
    bench: Bench,
    peer: str,
    slide: Path,
    detections: Path,
    bundle: Path,
    options: list[str],
    truth: np.ndarray | None,
) -> float:
    """Run a peer; `truth` are our labels, which its own must equal."""
    out = bench.folder / "peer.csv"
    module = f"tests.benchmarks.peers.{PEERS[peer][0]}"
    paths = ("--slide", slide, "--detections", detections, "--bundle", bundle, "--out", out)
    seconds = run([PYTHON, "-m", module, *map(str, paths), *options]).seconds
    found = pd.read_csv(out)
    if truth is not None:
        _check(labels(found["x"], found["y"], found["atypical"]), truth)
    return seconds


def _fastest(bench: Bench, peer: str, slide: Path, detections: Path, bundle: Path) -> list[str]:
    """Return the setting of a peer that is fastest on a few candidates."""
    tried = {
        " ".join(options): _peer(bench, peer, slide, detections, bundle, options, None)
        for options in PEERS[peer][1]
    }
    bench.write(
        Facts(
            f"{peer}: a trial of its settings", {name: f"{seconds:.1f} s" for name, seconds in tried.items()}
        ),
        f"trial-{bundle.name}-{peer.split()[0].lower()}",
    )
    return min(tried, key=lambda name: tried[name]).split()


def _check(found: np.ndarray, truth: np.ndarray) -> None:
    if len(found) != len(truth) or (differ := int((found != truth).sum())):
        raise VoidError(
            "other candidates" if len(found) != len(truth) else f"{differ} of {len(truth)} labels differ"
        )
