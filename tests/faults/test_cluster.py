"""Clusters: nodes that differ from this machine, nodes that are killed, and clusters that shrink."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.folders import assert_same, finished
from tests.faults.runs import LONG, ROOT, Night, end_of, in_hand, night, wait_until
from tests.runs import summary
from wsi_mitosis.specs import PlacementOptions
from wsi_mitosis.version import __version__
from wsi_mitosis.workers import crews
from wsi_mitosis.workers.losses import Loss
from wsi_mitosis.workers.pool import Hooks, Work, run_tasks


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster on this machine whose head does no work."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def inputs(tmp_path: Path, small_bundle: Path) -> Night:
    return night(tmp_path / "night", small_bundle)


def undisturbed(inputs: Night) -> Path:
    out = inputs.folder / "undisturbed"
    status, printed = inputs.run(out, "--workers", "0")
    assert status == 0, printed
    return out


class OtherNode:
    """A node of a cluster with an environment or a file system of its own.

    Args:
        address: The cluster's.
        shell: What is done before the node is started; the file system is changed for it alone.
        variables: Changes of its environment.
    """

    def __init__(self, address: str, shell: str = "true", **variables: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        start = f"exec {sys.executable} {ray} start --address={address} --num-cpus=1 --block"
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{shell} && {start} --disable-usage-stats"],
            env=given | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"} | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> OtherNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def wait_for_nodes(cluster: Any, number: int) -> None:
    """Wait until so many nodes are alive, by asking the cluster as another process would."""
    code = "import json, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='error');"
    code += "print(json.dumps(sum(node['Alive'] for node in ray.nodes())))"
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            asked = subprocess.run(
                [sys.executable, "-c", code, cluster.address],
                capture_output=True,
                text=True,
                check=False,
                timeout=40,
            )
        except subprocess.TimeoutExpired:
            continue  # Ray waits without end for a node that has just gone
        if asked.returncode == 0 and json.loads(asked.stdout.splitlines()[-1]) == number:
            return
    raise AssertionError(f"there are not {number} nodes")


def can_unshare() -> bool:
    """Whether a process may have a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


own_mounts = pytest.mark.skipif(not can_unshare(), reason="`unshare --mount` needs root or user namespaces")


def refused(inputs: Night, cluster: Any, tmp_path: Path) -> str:
    """Run on a cluster that is refused; return the error."""
    out = tmp_path / "out"
    # from another folder, for Ray puts the working directory on the path of its workers
    status, printed = inputs.run(out, "--workers", "1", "--address", cluster.address, cwd=tmp_path)
    assert status == 2, printed
    assert not (out / "figures").exists() or not list((out / "figures").iterdir())
    (error,) = (line for line in printed.splitlines() if line.startswith("error: "))
    assert error.startswith("error: node ")
    assert ": checking the nodes of the cluster: " in error
    return error


@pytest.mark.faults
@own_mounts
def test_a_node_that_does_not_see_the_slides_is_refused_by_name(
    cluster: Any, inputs: Night, tmp_path: Path
) -> None:
    slides, other = inputs.folder / "slides", tmp_path / "other"
    other.mkdir()
    shutil.copy(slides / "a.tiff", other)
    (other / "b.tiff").write_bytes(b"shorter")
    cluster.add_node(num_cpus=1)
    with OtherNode(cluster.address, f"mount --bind {other} {slides}"):
        wait_for_nodes(cluster, 3)
        error = refused(inputs, cluster, tmp_path)
    assert "3 of 4 slides differ there: " in error
    size = (slides / "b.tiff").stat().st_size
    assert f"'{slides / 'b.tiff'}' (7 bytes, {size} here)" in error
    assert f"'{slides / 'c.tiff'}' (No such file or directory)" in error
    assert error.endswith("Mount the slides on the node under the same paths as here")


@own_mounts
@pytest.mark.faults
def test_a_node_with_another_bundle_is_refused_by_name(cluster: Any, inputs: Night, tmp_path: Path) -> None:
    from wsi_mitosis.jobs.bundles import write_untrained

    other = tmp_path / "other"
    write_untrained(other, name="small", patch_px=64, width=4, members=3, tta="none")
    with OtherNode(cluster.address, f"mount --bind {other} {inputs.bundle}"):
        wait_for_nodes(cluster, 2)
        error = refused(inputs, cluster, tmp_path)
    assert f"the bundle {inputs.bundle} has the digest " in error
    assert error.endswith("Copy it from this machine to the node")


@own_mounts
@pytest.mark.faults
def test_a_node_with_another_version_is_refused_by_name(cluster: Any, inputs: Night, tmp_path: Path) -> None:
    package = tmp_path / "site/wsi_mitosis"
    shutil.copytree(ROOT / "wsi_mitosis", package, ignore=shutil.ignore_patterns("__pycache__"))
    version = package / "version.py"
    version.write_text(version.read_text().replace(__version__, "0.0.1"))
    with OtherNode(cluster.address, PYTHONPATH=str(package.parent)):
        wait_for_nodes(cluster, 2)
        error = refused(inputs, cluster, tmp_path)
    assert f"it has wsi-mitosis 0.0.1, and this machine has {__version__}" in error
    assert error.endswith(f"Install wsi-mitosis {__version__} on the node")


@pytest.mark.faults
def test_a_node_that_is_killed_costs_no_slide(cluster: Any, inputs: Night, tmp_path: Path) -> None:
    """Its raylet is killed while one of its workers has a slide in hand."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    out = tmp_path / "out"
    process = inputs.start(out, "--workers", "2", "--address", cluster.address)
    wait_until(lambda: LONG in in_hand(out), process)
    time.sleep(3)
    cluster.remove_node(nodes[0], allow_graceful=False)
    status, printed = end_of(process)
    assert status == 0, printed
    expected, found = finished(undisturbed(inputs)), finished(out)
    assert found.keys() == expected.keys()
    for slide, content in expected.items():
        assert_same(slide, found[slide], content)
    assert {row["status"] for row in summary(out).values()} == {"done"}


def wait_without_end(task: str, _state: int, emit: Callable[[Any], None]) -> str:
    emit(task)
    time.sleep(600)
    return task


@pytest.mark.faults
def test_a_cluster_without_a_node_for_a_worker_is_not_waited_for_without_end(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "NODE_SECONDS", 4.0)
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    warnings: list[str] = []

    def shrink(_task: str, _event: object) -> None:
        cluster.remove_node(node, allow_graceful=False)

    work: Work[str, int, str, Any] = Work(
        int, wait_without_end, lambda _, loss: loss, str, "Finished tasks are kept."
    )
    hooks: Hooks[str, str, Any] = Hooks(lambda _: None, shrink, warnings.append, lambda _: None)
    options = PlacementOptions(workers=1, address=cluster.address)
    lost = list(run_tasks(["a", "b"], work, options, hooks))
    assert sorted(loss.cause for loss in lost if isinstance(loss, Loss)) == ["node", "node"]
    assert warnings[0].startswith("a: ")
    assert all(". It is tried again (attempt 2 of 3)." in warning for warning in warnings)
    for loss in lost:
        assert ": no node of the cluster has been able to take a worker for 4 s: a worker needs 1 CPUs" in (
            loss.reason
        )
        assert loss.reason.endswith(
            "Check the nodes of the cluster with `ray status`, and run again. Finished tasks are kept."
        )
