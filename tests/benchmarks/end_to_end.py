"""Where the time of a `classify` goes: shares of one run, in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from tests.benchmarks.big_slide import big_slide, candidates

SIDE, NUMBER = 8_000, 2_000


def main(folder: Path) -> None:
    slide = big_slide(folder / "big.tiff", SIDE)
    candidates(NUMBER, SIDE).to_csv(folder / "dets.csv", index=False)
    command = [
        *(
            sys.executable,
            "-m",
            "wsi_mitosis",
            "classify",
            str(slide),
            "--detections",
            str(folder / "dets.csv"),
        ),
        *("--out", str(folder / "out"), "--workers", "0", "-q"),
    ]
    started = perf_counter()
    subprocess.run(command, check=True)
    total = perf_counter() - started
    events = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    stages = next(event["stages"] for event in events if event["event"] == "done")
    shares = {
        "opening the slide": stages["opening"],
        "candidates and key": stages["candidates"],
        "loading the model": stages["loading"],
        "waiting for patches": stages["waiting"],
        "model": stages["model"],
        "writing": stages["writing"],
    }
    shares["start-up, detections, the rest"] = total - sum(shares.values())
    print(f"{NUMBER} candidates, the shipped default bundle, {total:.1f} s in all")
    for name, seconds in shares.items():
        print(f"{name:32s} {seconds:7.2f} s  {seconds / total:6.1%}")
    print(f"(reading, summed over threads, beside the model: {stages['reading']:.2f} s)")
