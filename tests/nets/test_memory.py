"""The cost of an ensemble's memory on a CPU, counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from wsi_mitosis.cli import main
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.memory import LARGE_BLOCKS_ENVIRONMENT, keep_freed_memory
from wsi_mitosis.workers.worker import RayWorker, Worker

SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.memory import keep_freed_memory
keep_freed_memory()
bundle = open_bundle(Path(sys.argv[1]))
ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
crops = np.zeros((32, 64, 64, 3), dtype=np.uint8)
for number in range(4):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ensemble.predict(crops)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_c_library_accepts_it() -> None:
    assert keep_freed_memory()


def test_the_command_line_keeps_freed_memory() -> None:
    keep_freed_memory.cache_clear()
    assert CliRunner().invoke(main, ["models", "list"]).exit_code == 0
    assert keep_freed_memory.cache_info().currsize == 1


@pytest.mark.parametrize(("kind", "changes"), [(RayWorker, 1), (Worker, 0)])
def test_only_a_worker_in_a_process_of_its_own_keeps_freed_memory(kind: type[Worker], changes: int) -> None:
    keep_freed_memory.cache_clear()
    worker = kind(lambda _: None, lambda *_: None, 1)
    worker.begin("a task", 0.0)
    while worker.follow()[1] is None:
        pass
    worker.abandon()
    assert keep_freed_memory.cache_info().currsize == changes


def faults(bundle: Path) -> int:
    command = [sys.executable, "-c", SCRIPT, bundle]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


def test_layers_reuse_the_memory_of_those_before_if_it_is_kept(tmp_path: Path) -> None:
    """A layer's result is of 8 MiB, 2,048 pages, and there are some fifty; new ones would be 100,000s.

    Whether they are new without the setting depends on what lies after them on the heap, so that it is not
    tested.
    """
    write_untrained(tmp_path / "b", patch_px=64, width=16, members=1)
    assert faults(tmp_path / "b") < 20_000


def test_an_ensemble_by_itself_does_not_change_the_process(tmp_path: Path) -> None:
    keep_freed_memory.cache_clear()
    write_untrained(tmp_path / "b", patch_px=64, width=4, members=1)
    bundle = open_bundle(tmp_path / "b")
    Ensemble(bundle.manifest, bundle.read_members(), device="cpu").predict(np.zeros((2, 64, 64, 3), np.uint8))
    assert keep_freed_memory.cache_info().currsize == 0


LARGE_BLOCKS = """
import resource, sys, threading
from wsi_mitosis.nets.memory import keep_freed_memory, keep_large_blocks
keep_freed_memory()
if sys.argv[1] == "by itself":
    assert keep_large_blocks()
import torch
def count():
    for number in range(20):
        if number == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)  # 64 MiB, 16,384 pages
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("setting", ["by itself", "by its environment"])
def test_a_training_keeps_large_blocks_in_its_threads(setting: str) -> None:
    """Ten tensors that are not kept take 163,840 new pages."""
    environment = LARGE_BLOCKS_ENVIRONMENT if setting == "by its environment" else {}
    command = [sys.executable, "-c", LARGE_BLOCKS, setting]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert int(done.stdout) < 16_384
