"""All benchmarks: `make bench`. Names after it run some: `python -m tests.benchmarks reading`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from time import perf_counter

from tests.benchmarks import arithmetic, hotspot, night, reading, scaling, startup, voting, whole
from tests.benchmarks.bench import Bench

BENCHMARKS = {
    "reading": reading.main,
    "arithmetic": arithmetic.main,
    "voting": voting.main,
    "start-up": startup.main,
    "stages": startup.stages,
    "cold": whole.cold,
    "default": whole.default,
    "fast": whole.fast,
    "nano": whole.nano,
    "full-width": whole.full_width,
    "small-region": whole.small_region,
    "earlier-default": whole.earlier_default,
    "candidates": scaling.candidates,
    "slides": scaling.slides,
    "workers": scaling.workers,
    "parts": scaling.parts,
    "night": night.main,
    "hotspot": hotspot.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"benchmarks to run: {', '.join(BENCHMARKS)}; all if none")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/bench"), help="slides, bundles and results"
    )
    parser.add_argument("--rounds", type=int, help="rounds of paired runs")
    parser.add_argument("--candidates", type=int, help="candidates of whole runs beside peers")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    folder = options.folder.resolve()
    python = Path(os.environ.get("WSI_MITOSIS_READERS", folder / "readers/bin/python"))
    bench = Bench(
        folder / "work",
        folder / ("quick" if options.quick else "results"),
        options.quick,
        python,
        options.rounds,
        options.candidates,
    )
    for name in options.names or BENCHMARKS:
        print(f"\n{name}\n{'-' * len(name)}", flush=True)
        started = perf_counter()
        BENCHMARKS[name](bench)
        print(f"({name} took {perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
