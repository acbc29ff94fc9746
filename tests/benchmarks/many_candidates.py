"""Peak memory of a worker with 100,000 candidates on one slide, and with a tenth of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.big_slide import big_slide, candidates

SIDE = 20_000


def main(folder: Path) -> None:
    slide = big_slide(folder / "big.tiff", SIDE)
    for number in (10_000, 100_000):
        candidates(number, SIDE).to_csv(folder / "dets.csv", index=False)
        out = folder / f"out-{number}"
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
            *("--out", str(out), "--workers", "1", "--tta", "none", "--vote", "early", "-q"),
        ]
        subprocess.run(command, check=True)
        events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        done = next(event for event in events if event["event"] == "done")
        rate = done["classified"] / done["stages"]["total"]
        print(f"{number:7d} candidates: worker's peak {done['peak_rss_mb']:6.0f} MB, {rate:6.0f} patches/s")
