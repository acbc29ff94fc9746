"""Where the time of a `classify` goes: shares of one run, in one process."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from tests.benchmarks.big_slide import big_slide, candidates, classify
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE

SIDE, NUMBER = 8_000, 2_000


def main(folder: Path) -> None:
    slide = big_slide(folder / "big.tiff", SIDE)
    candidates(NUMBER, SIDE).to_csv(folder / "dets.csv", index=False)
    for model in ("untrained-tiny", DEFAULT_BUNDLE):
        _shares(folder, slide, model)


def _shares(folder: Path, slide: Path, model: str) -> None:
    started = perf_counter()
    stages = classify(folder, slide, "--workers", "0", "--model", model)["stages"]
    total = perf_counter() - started
    shares = {
        "opening the slide": stages["opening"],
        "candidates and key": stages["candidates"],
        "loading the model": stages["loading"],
        "waiting for patches": stages["waiting"],
        "model": stages["model"],
        "writing": stages["writing"],
    }
    shares["start-up, detections, the rest"] = total - sum(shares.values())
    print(f"{NUMBER} candidates, {model}, {total:.1f} s in all")
    for name, seconds in shares.items():
        print(f"{name:32s} {seconds:7.2f} s  {seconds / total:6.1%}")
    print(f"(reading, summed over threads, beside the model: {stages['reading']:.2f} s)")
