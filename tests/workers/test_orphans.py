"""No process of a run outlives it, on a local Ray and on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.workers.test_pool import ROOT, SECONDS, processes, wait_for

DRIVER = """
import sys
from functools import partial
from tests.workers.test_pool import *
options = PlacementOptions(workers=1, cpus_per_worker=1, address=sys.argv[1] or None)
from wsi_mitosis.cli.signals import termination_interrupts
with termination_interrupts():
    list(run_tasks(["a"], work(partial(wait_and_note, Path(sys.argv[2]))), options, Notes().hooks))
"""


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def environment() -> dict[str, str]:
    """The environment of processes that know nothing of this one's Ray and can import this module."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster on this machine that another process runs."""
    command = [sys.executable, "-c", CLUSTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@pytest.mark.parametrize("where", ["local", "cluster"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_no_worker_outlives_its_driver(
    request: pytest.FixtureRequest, tmp_path: Path, where: str, number: signal.Signals
) -> None:
    address = "" if where == "local" else request.getfixturevalue("cluster")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address, tmp_path],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
        # a job that a shell has put in the background ignores SIGINT, and so would its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert wait_for(lambda: bool(processes(tmp_path, "a")))
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(number)
        assert driver.wait(SECONDS) != 0
    finally:
        driver.kill()
        driver.wait()
    own = set(processes(tmp_path, "a"))
    if number != signal.SIGKILL:  # Ray's daemons take a minute to notice that a driver was killed
        own |= {child.pid for child in children}
    assert wait_for(lambda: not remaining(own)), remaining(own)


def remaining(own: set[int]) -> list[str]:
    """The command lines of the processes that still run."""
    found = [process.info for process in psutil.process_iter(["pid", "status", "cmdline"])]
    return [
        " ".join(process["cmdline"] or [])
        for process in found
        if process["pid"] in own and process["status"] != psutil.STATUS_ZOMBIE
    ]
