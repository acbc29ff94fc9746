"""All benchmarks: `make bench`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.benchmarks import end_to_end, hotspot, many_candidates, reading

BENCHMARKS = {
    "reading": reading.main,
    "end-to-end": end_to_end.main,
    "many-candidates": many_candidates.main,
    "hotspot": hotspot.main,
}


def main(names: list[str]) -> None:
    for name in names or BENCHMARKS:
        print(f"\n{name}\n{'-' * len(name)}")
        with tempfile.TemporaryDirectory() as folder:
            BENCHMARKS[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
