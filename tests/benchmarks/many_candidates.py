"""Peak memory of a worker with 100,000 candidates on one slide, and with a tenth of them."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.big_slide import big_slide, candidates, classify

SIDE = 20_000
QUICK = ("--model", "untrained-tiny", "--tta", "none", "--vote", "early")
"""A model that does not hide what reading and bookkeeping cost."""


def main(folder: Path) -> None:
    slide = big_slide(folder / "big.tiff", SIDE)
    for number in (10_000, 100_000):
        candidates(number, SIDE).to_csv(folder / "dets.csv", index=False)
        done = classify(folder, slide, "--workers", "1", *QUICK)
        rate = done["classified"] / done["stages"]["total"]
        print(f"{number:7d} candidates: worker's peak {done['peak_rss_mb']:6.0f} MB, {rate:6.0f} patches/s")
