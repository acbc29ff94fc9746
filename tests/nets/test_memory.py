"""What an ensemble's memory costs on a CPU, counted in page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets.memory import keep_freed_memory

SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.nets.members import Ensemble
bundle = open_bundle(Path(sys.argv[1]))
ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
crops = np.zeros((32, 64, 64, 3), dtype=np.uint8)
for number in range(4):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ensemble.predict(crops)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_c_library_takes_it() -> None:
    assert keep_freed_memory()


def test_layers_take_the_memory_of_those_before(tmp_path: Path) -> None:
    """A layer's result is of 8 MiB, 2,048 pages, and there are some fifty; new ones would be 100,000s."""
    write_untrained(tmp_path / "b", patch_px=64, width=16, members=1)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "b"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert int(done.stdout) < 5000
