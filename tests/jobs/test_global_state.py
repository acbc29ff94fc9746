"""A program that calls the library keeps its own settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.runs import candidates_csv, slides_in

SCRIPT = """
import logging, os, sys, warnings
import numpy, scipy.sparse, scipy.special, torch  # their own imports add filters of warnings

def state():
    return {
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "TF32": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.backends.cudnn.deterministic,
        "seed": torch.initial_seed(),
        "random numbers": (torch.get_rng_state().sum().item(), numpy.random.get_state()[2]),
        "warnings": [str(one) for one in warnings.filters],
        "log handlers": list(logging.getLogger().handlers),
        "environment": dict(os.environ),
        "streams": (sys.stdout, sys.stderr),
    }

torch.set_num_threads(3)
before = state()
from wsi_mitosis import classify_slide
from wsi_mitosis.nets.memory import keep_freed_memory
slide, candidates, bundle = sys.argv[1:]
result = classify_slide(slide, candidates, bundle=bundle, device="cpu")
assert result.counts.classified
after = state()
print({name: (before[name], after[name]) for name in before if before[name] != after[name]})
print(keep_freed_memory.cache_info().currsize)
"""


def test_classifying_a_slide_changes_no_global_state(small_bundle: Path, tmp_path: Path) -> None:
    (slide,) = slides_in(tmp_path, ["a.tiff"])
    candidates = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, slide, candidates, small_bundle],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == ["{}", "0"]
