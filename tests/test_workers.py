"""Placement, a local Ray, a cluster of two nodes, a worker that dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.runs import Silent, candidates_csv, files_in, run, slides_in, spec, summary
from wsi_mitosis import workers
from wsi_mitosis.cli.signals import termination_interrupts
from wsi_mitosis.errors import InputError
from wsi_mitosis.jobs.detect import SlideDetector
from wsi_mitosis.nets import detector
from wsi_mitosis.nets.detector import DetectorModel
from wsi_mitosis.specs import DetectSpec, PlacementOptions
from wsi_mitosis.workers import Placement, classify_batch, granted_cpus, place, stays_here

ONE_CPU = {"cpus_per_worker": 1}
"""Another number of threads sums in another order: equal bytes need the same share."""
NAMES = ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]


def placed(slides: int, cpus: int, gpus: float, **options: object) -> Placement:
    return place(PlacementOptions.parse(options, "test"), slides, cpus, gpus)


def test_a_single_slide_needs_no_ray() -> None:
    assert stays_here(PlacementOptions(), 1)
    assert not stays_here(PlacementOptions(), 2)
    assert not stays_here(PlacementOptions(address="auto"), 1)
    assert not stays_here(PlacementOptions(workers=1), 1)
    assert stays_here(PlacementOptions(workers=0), 99)


@pytest.mark.parametrize("options", [{"address": "auto"}, {"gpus_per_worker": 1.0}])
def test_no_option_is_ignored_without_ray(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="0 workers is this process"):
        PlacementOptions.parse({"workers": 0, **options}, "test")


def test_one_worker_per_gpu() -> None:
    assert placed(10, 16, 2) == Placement(2, 8, 1.0)


def test_without_gpus_one_worker_per_four_cpus() -> None:
    assert placed(10, 16, 0) == Placement(4, 4, 0.0)
    assert placed(10, 2, 0) == Placement(1, 2, 0.0)


def test_never_more_workers_than_slides() -> None:
    assert placed(3, 64, 8).workers == 3
    assert placed(2, 64, 0, workers=9).workers == 2


def test_gpus_may_be_shared() -> None:
    assert placed(10, 16, 1, workers=4) == Placement(4, 4, 0.25)
    assert placed(10, 16, 1, gpus_per_worker=0.5).gpus == 0.5


def test_no_gpu_is_taken_where_the_cpu_was_asked_for() -> None:
    assert placed(10, 16, 2, device="cpu").gpus == 0.0


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(InputError, match="--cpus-per-worker"):
        placed(10, 4, 0, cpus_per_worker=8)
    with pytest.raises(InputError, match="--gpus-per-worker"):
        placed(10, 4, 1, gpus_per_worker=2.0)


def test_the_cgroup_and_slurm_limit_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))
    assert granted_cpus(tmp_path) == 32
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert granted_cpus(tmp_path) == 32
    (tmp_path / "cpu.max").write_text("650000 100000\n")
    assert granted_cpus(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert granted_cpus(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert granted_cpus(tmp_path) == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert granted_cpus(tmp_path) == 3


@pytest.fixture
def four(tmp_path: Path) -> tuple[list[Path], Path]:
    return slides_in(tmp_path / "slides", NAMES), candidates_csv(tmp_path / "d.csv", NAMES)


def geojson_in(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_in(out).items() if name.startswith("geojson")}


def test_ray_workers_give_what_one_process_gives(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections = four
    slides[2].write_bytes(b"no slide")
    here = run(slides, detections, tmp_path / "here", small_bundle, placement=ONE_CPU)
    reporter = Silent()
    there = classify_batch(
        spec(
            slides,
            detections,
            tmp_path / "there",
            small_bundle,
            placement={"workers": 2, "cpus_per_worker": 1},
        ),
        reporter,
    )
    assert there.statuses == here.statuses
    assert there.exit_status == here.exit_status == 1
    assert geojson_in(tmp_path / "there") == geojson_in(tmp_path / "here")
    assert reporter.classified == 15


def test_a_cluster_of_two_nodes_by_address(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    slides, detections = four
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        placement = {"workers": 2, "address": cluster.address}
        result = classify_batch(
            spec(slides, detections, tmp_path / "out", small_bundle, placement=placement), Silent()
        )
    finally:
        cluster.shutdown()
    assert result.exit_status == 0
    run(slides, detections, tmp_path / "here", small_bundle, placement=ONE_CPU)
    assert geojson_in(tmp_path / "out") == geojson_in(tmp_path / "here")


def test_a_cluster_that_does_not_answer_is_an_error(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections = four
    placement = {"workers": 1, "address": "127.0.0.1:1"}
    with pytest.raises(InputError, match="no Ray cluster answers"):
        classify_batch(
            spec(slides, detections, tmp_path / "out", small_bundle, placement=placement), Silent()
        )


class DyingWorker(workers.SlideWorker):
    """Its process ends under one of the slides, as it would when memory runs out."""

    def run(self, task):  # type: ignore[no-untyped-def]
        if task.name == "b.tiff":
            os._exit(1)
        return super().run(task)


def test_a_dead_worker_costs_its_slide_and_no_other(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, detections = four
    monkeypatch.setattr(workers, "SlideWorker", DyingWorker)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    out = tmp_path / "out"
    result = classify_batch(
        spec(slides, detections, out, small_bundle, placement={"workers": 1, "cpus_per_worker": 1}), Silent()
    )
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done", "d.tiff": "done"}
    assert "its worker died (" in summary(out)["b.tiff"]["error"]


def test_a_model_that_no_worker_can_build_is_an_error_as_in_this_process(
    four: tuple[list[Path], Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections = four
    errors = []
    for workers_asked in (0, 1):
        placement = {"workers": workers_asked, "device": "cuda:99"}
        with pytest.raises(InputError) as raised:
            run(slides, detections, tmp_path / f"{workers_asked}", small_bundle, placement=placement)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]
    assert "cuda:99" in errors[0]


class CertainDetector(SlideDetector):
    """Finds one figure on every slide, without a network."""

    def _search(self, _name, slide, _plan, on_tiles):  # type: ignore[no-untyped-def]
        on_tiles(1)
        return np.array([[slide.size_px0[0] / 2, 20.0, 0.9]]), ()


def certain_detector(model: DetectorModel, spec: DetectSpec, placement: Placement) -> CertainDetector:
    """By its own name in this module: what is patched here is not patched in a worker's process."""
    return CertainDetector(model, spec, threads=placement.cpus)


def test_detection_is_shared_out_like_classification(
    four: tuple[list[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DetectorModel("stub", tmp_path / "none.pth", "0" * 64, 512, 0.5, 21, 0.4)
    monkeypatch.setattr(detector, "find_detector", lambda *_: model)
    monkeypatch.setattr(workers, "_slide_detector", certain_detector)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    slides, out, reporter = [str(slide) for slide in four[0][:2]], tmp_path / "dets.csv", Silent()
    placement = {"workers": 2, "cpus_per_worker": 1, "device": "cpu"}
    asked = DetectSpec.parse({"slides": slides, "out": str(out), "placement": placement}, "test")
    result = workers.detect_batch(asked, reporter)
    assert result.errors == {}
    assert result.candidates == {"a.tiff": 1, "b.tiff": 1}
    assert [line.split(",")[:4] for line in out.read_text().splitlines()[1:]] == [
        ["a.tiff", "300.0", "20.0", "0.9"],
        ["b.tiff", "300.0", "20.0", "0.9"],
    ]
    assert reporter.classified == 2


WHAT_A_LOCAL_RAY_IS = """
import os, psutil, stat, sys
from pathlib import Path
from wsi_mitosis.workers import ray_runtime
os.umask(0)
with ray_runtime(None) as ray:
    ray.get(ray.remote(num_cpus=1)(lambda: 1).remote())
    me = psutil.Process()
    sockets = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections(kind="inet")]
    print(*{c.laddr.ip.removeprefix("::ffff:") for c in sockets if c.status == "LISTEN"})
    session = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    print(oct(stat.S_IMODE(session.stat().st_mode)))
print(session.exists())
"""


def test_a_local_ray_is_private_whatever_surrounds_it(tmp_path: Path) -> None:
    """Loopback only, in a folder that others cannot enter and that does not stay.

    In a process of its own: whether Ray is a cluster's is decided when it is imported. Its temporary folder
    has too long a path for sockets, its home and Ray's folder are missing, and RAY_ADDRESS names a cluster
    that is gone.
    """
    long, here, home = tmp_path / ("x" * 100), tmp_path / "here", tmp_path / "home"
    long.mkdir()
    here.mkdir()
    surroundings = {
        "TMPDIR": str(long),
        "HOME": str(home),
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_TMPDIR": str(tmp_path / "missing"),
        "RAY_AUTH_TOKEN": "",
    }
    code = [sys.executable, "-c", WHAT_A_LOCAL_RAY_IS]
    environment = os.environ | surroundings
    told = subprocess.run(code, capture_output=True, text=True, check=False, cwd=here, env=environment)
    assert told.stdout.split() == ["127.0.0.1", "0o700", "False"], told.stderr
    assert told.stderr == ""
    assert not home.exists()
    assert list(here.iterdir()) == list(long.iterdir()) == []


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of Ray's sessions."""
    root = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))  # short enough for sockets
    monkeypatch.setenv("RAY_TMPDIR", str(root))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "error",
    [
        OSError(98, "Address already in use"),
        ValueError("no room"),
        RuntimeError("Failed to start GCS.  Last 6 lines of error files:\n====\nno threads"),
        Exception("the node timed out"),
        ModuleNotFoundError("No module named 'hook'"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_ray_that_does_not_start_is_an_error_with_a_way_out(
    sessions: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        assert len(list(sessions.iterdir())) == 1
        raise error

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(InputError) as raised, workers.ray_runtime(None):
        pass
    reasons = [line for line in str(error).splitlines() if line] or ["no reason is given"]
    assert reasons[-1] in str(raised.value)
    assert "pass --workers 0" in str(raised.value)
    assert list(sessions.iterdir()) == []


def test_a_signal_while_ray_starts_is_an_interrupt(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler of SIGTERM exits; ours is in place again afterwards."""

    def terminated(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ray.init", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), workers.ray_runtime(None):
        pass
    assert signal.getsignal(signal.SIGTERM) == before
    assert list(sessions.iterdir()) == []


def test_a_signal_while_ray_ends_is_obeyed_after_that(
    sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the middle of it made Ray abort the process."""
    events = []

    def shut_down() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        events.append("ended")

    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.remote", lambda **_: lambda _: SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr("ray.get", lambda *_, **__: None)
    monkeypatch.setattr("ray.shutdown", shut_down)
    with pytest.raises(KeyboardInterrupt), termination_interrupts(), workers.ray_runtime(None):
        events.append("work")
    assert events == ["work", "ended"]
    assert list(sessions.iterdir()) == []


def test_a_worker_process_that_does_not_start_is_an_error(
    sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def never(*_: object, **__: object) -> None:
        raise ray.exceptions.GetTimeoutError("Get timed out: some object(s) not ready.")

    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.remote", lambda **_: lambda _: SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr("ray.get", never)
    with pytest.raises(InputError, match=r"GetTimeoutError.*--workers 0"), workers.ray_runtime(None):
        pass
