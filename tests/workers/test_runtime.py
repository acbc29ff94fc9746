"""A Ray to work on: private, given back whole, and an error with a way out if it does not start."""

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

import pytest

from wsi_mitosis.cli.signals import termination_interrupts
from wsi_mitosis.errors import InputError
from wsi_mitosis.workers import runtime
from wsi_mitosis.workers.runtime import ray_runtime

WHAT_A_LOCAL_RAY_IS = """
import os, psutil, stat, sys
from pathlib import Path
from wsi_mitosis.workers.runtime import ray_runtime
os.umask(0)
with ray_runtime(None) as ray:
    ray.get(ray.remote(num_cpus=1)(lambda: 1).remote())
    me = psutil.Process()
    sockets = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections(kind="inet")]
    print(*{c.laddr.ip.removeprefix("::ffff:") for c in sockets if c.status == "LISTEN"})
    session = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    print(oct(stat.S_IMODE(session.stat().st_mode)))
    commands = [" ".join(p.cmdline()) for p in me.children(recursive=True)]
    print(any("gcs_server" in command for command in commands))
    unasked = ("dashboard/dashboard.py", "/monitor.py", "/log_monitor.py")
    print(sum(name in command for name in unasked for command in commands))
    print(ray._private.node.Node.start_monitor.__name__)
print(session.exists())
"""


def test_a_local_ray_is_private_whatever_surrounds_it(tmp_path: Path) -> None:
    """Loopback only, in a folder that others cannot enter and that does not stay, without Ray's dashboard.

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
    ended = subprocess.run(code, capture_output=True, text=True, check=False, cwd=here, env=environment)
    told = ["127.0.0.1", "0o700", "True", "0", "start_monitor", "False"]
    assert ended.stdout.split() == told, ended.stderr
    assert ended.stderr == ""
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
    with pytest.raises(InputError) as raised, ray_runtime(None):
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
    with pytest.raises(KeyboardInterrupt), ray_runtime(None):
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
    monkeypatch.setattr("ray.wait", lambda answers, **_: (answers, []))
    monkeypatch.setattr("ray.get", lambda *_, **__: None)
    monkeypatch.setattr("ray.shutdown", shut_down)
    with pytest.raises(KeyboardInterrupt), termination_interrupts(), ray_runtime(None):
        events.append("work")
    assert events == ["work", "ended"]
    assert list(sessions.iterdir()) == []


def test_a_worker_process_that_does_not_start_is_an_error(
    sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.remote", lambda **_: lambda _: SimpleNamespace(remote=lambda: None))
    monkeypatch.setattr("ray.wait", lambda answers, **_: ([], answers))
    monkeypatch.setattr(runtime, "START_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"no worker process.*--workers 0"), ray_runtime(None):
        pass


def test_a_cluster_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(InputError, match="no Ray cluster answers"), ray_runtime("127.0.0.1:1"):
        pass


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.faults) for mode in (None, "disabled")] + ["nonsense"]
)
def test_the_environment_is_given_back(
    sessions: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """Also what Ray changes itself."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    before = dict(os.environ)
    tokens = []
    for _ in range(2):
        with ray_runtime(None) as ray:
            assert os.environ["RAY_AUTH_MODE"] == (mode if mode == "disabled" else "token")
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
            assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
            assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote()) == 7
        assert dict(os.environ) == before
    assert tokens[0] != tokens[1]


def test_an_environment_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    with pytest.raises(InputError), ray_runtime("127.0.0.1:1"):
        pass
    assert dict(os.environ) == before
    assert runtime.NO_CLUSTER not in os.environ
