"""No process of a run outlives it, on a local Ray and on a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.workers.test_pool import ROOT, SECONDS, processes, wait_for
from wsi_mitosis.workers import watchdog as watchdog_module

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


@pytest.fixture
def sessions() -> Iterator[Path]:
    """A folder for the sessions of Ray, whose path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        pytest.param(
            number,
            where,
            marks=() if number == signal.SIGKILL else pytest.mark.faults,
            id=f"{number.name}-{where}",
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        for where in ("local", "cluster")
    ],
)
def test_no_process_and_no_folder_outlives_a_driver(
    request: pytest.FixtureRequest, sessions: Path, tmp_path: Path, where: str, number: signal.Signals
) -> None:
    address = "" if where == "local" else request.getfixturevalue("cluster")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address, tmp_path],
        cwd=ROOT,
        env=environment() | {"RAY_TMPDIR": str(sessions)},
        stderr=subprocess.DEVNULL,
        # a job that a shell has put in the background ignores SIGINT, and so would its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert wait_for(lambda: bool(processes(tmp_path, "a")))
        children = psutil.Process(driver.pid).children(recursive=True)
        assert len(list(sessions.iterdir())) == (where == "local")
        driver.send_signal(number)
        assert driver.wait(SECONDS) != 0
    finally:
        driver.kill()
        driver.wait()
    own = {*processes(tmp_path, "a"), *(child.pid for child in children)}
    assert wait_for(lambda: not remaining(own)), remaining(own)
    assert wait_for(lambda: not list(sessions.iterdir()))


def remaining(own: set[int]) -> list[str]:
    """The command lines of the processes that still run."""
    found = [process.info for process in psutil.process_iter(["pid", "status", "cmdline"])]
    return [
        " ".join(process["cmdline"] or [])
        for process in found
        if process["pid"] in own and process["status"] != psutil.STATUS_ZOMBIE
    ]


def test_a_killed_session_costs_no_other_process(sessions: Path, tmp_path: Path) -> None:
    """Neither another run's session, nor a process that has a file of the session open."""
    session = sessions / "wsi-one"
    session.mkdir()
    (session / "log").write_text("")
    watchdog = Path(watchdog_module.__file__)
    sleeping = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]

    def started(**variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(sleeping, env=environment() | variables, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        return process

    mine, other = started(MARK="1"), started(MARK="11")
    with (session / "log").open() as log, subprocess.Popen(["sleep", "600"], stdin=log) as reader:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", watchdog, session, "MARK=1"], input=b"", timeout=SECONDS, check=False
        )
        assert ended.returncode == 0
        assert mine.wait(SECONDS) == -signal.SIGKILL
        assert (other.poll(), reader.poll()) == (None, None)
        other.kill()
        reader.kill()
    other.communicate()
    mine.communicate()
    assert not session.exists()
