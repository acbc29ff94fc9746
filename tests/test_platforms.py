"""What the program does where Linux's own functions are missing: they are hidden, and the main job is run."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.runs import candidates_csv, slides_in, summary
from wsi_mitosis.cli import folders
from wsi_mitosis.errors import InputError
from wsi_mitosis.io import notify, processors, surroundings
from wsi_mitosis.io.compiled_files import CompiledFiles
from wsi_mitosis.io.results import lock
from wsi_mitosis.nets import memory
from wsi_mitosis.workers import watchdog

ROOT = Path(__file__).parents[1]
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
"""Modules that Python does not have on Windows (docs.python.org, "Availability")."""
OF_OS = (
    *("sched_getaffinity", "pidfd_open", "geteuid", "getuid", "killpg", "set_blocking"),
    *("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"),
)
"""What `os` does not have on Windows, and in part on macOS."""
TWICE = """
import contextlib, os, signal, sys, types
import psutil

def run(out):
    sys.argv = ["wsi-mitosis", *sys.argv[1:-1], out]
    from wsi_mitosis.cli import main
    with contextlib.suppress(SystemExit):
        main(prog_name="wsi-mitosis")

run("usual")  # loads all libraries, which may use whatever this system has
for name in [name for name in sys.modules if name.partition(".")[0] == "wsi_mitosis"]:
    del sys.modules[name]
for name in {modules!r}:
    sys.modules[name] = None
for name in {of_os!r}:
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP
psutil.Process.memory_info = lambda _: types.SimpleNamespace(rss=2**20, peak_wset=2**20)  # as on Windows
run("hidden")
"""


def test_the_main_job_needs_nothing_that_only_linux_has(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    code = TWICE.format(modules=MODULES, of_os=OF_OS)
    options = ["--detections", "d.csv", "--model", str(small_bundle), "--workers", "0", "--qupath-project"]
    done = subprocess.run(
        [sys.executable, "-c", code, "classify", "slides", *options, "--out", "usual"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "2 slides: 2 done" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "hidden/summary.csv").exists(), done.stdout + done.stderr
    usual, hidden = (summary(tmp_path / name) for name in ("usual", "hidden"))
    assert set(hidden) == {"a.tiff", "b.tiff"}
    for name, row in usual.items():
        assert hidden[name]["status"] == "done", done.stdout + done.stderr
        assert {key: value for key, value in hidden[name].items() if key != "seconds"} == {
            key: value for key, value in row.items() if key != "seconds"
        }
    for line in (tmp_path / "hidden" / "log.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line)


def test_without_an_affinity_mask_all_cpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors.granted_cpus(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.granted_cpus(tmp_path) == 1


@pytest.mark.parametrize(("system", "factor"), [("linux", 2**10), ("darwin", 2**20)])
def test_the_peak_of_memory_has_the_unit_of_its_system(
    system: str, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3 * factor))
    monkeypatch.setattr(sys, "platform", system)
    assert processors.peak_memory_mb() == 3


def test_the_peak_of_memory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert processors.peak_memory_mb() == 5


def test_ray_without_unix_sockets_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with (
        pytest.raises(InputError, match=r"no Unix sockets.*Pass --workers 0"),
        surroundings.session_folder(),
    ):
        pass


def test_without_locks_no_folder_counts_as_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = surroundings.OwnFolder(tmp_path, "wsi-")
    descriptor = kept._lock
    assert descriptor is not None
    os.close(descriptor)  # as a kill does
    monkeypatch.setattr(surroundings, "fcntl", None)
    surroundings.remove_abandoned(tmp_path)
    assert kept.path.is_dir()
    other = surroundings.OwnFolder(tmp_path, "wsi-")
    other.remove()
    assert not other.path.exists()
    monkeypatch.undo()
    surroundings.remove_abandoned(tmp_path)
    assert not kept.path.exists()


def test_a_user_without_name_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise ImportError("no module named pwd")  # getpass on Windows, before Python 3.13

    monkeypatch.setattr(surroundings.getpass, "getuser", unknown)
    monkeypatch.delattr(os, "getuid")
    monkeypatch.delenv("USER", raising=False)
    with surroundings.private_caches():
        assert os.environ["USER"] == "uid-0"


def test_compiled_networks_are_not_kept_where_their_owner_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CompiledFiles(tmp_path / "cache")
    monkeypatch.delattr(os, "geteuid")
    files.write("a", b"network")
    assert files.read("a") is None
    monkeypatch.undo()
    files.write("a", b"network")
    assert files.read("a") == b"network"


def test_a_late_command_is_ended_without_groups_of_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "killpg")
    command = f'"{sys.executable}" -c "import time; time.sleep(600)"'
    printed = notify.notify(command, {}, seconds=0.5)
    assert printed is not None
    assert "took longer than 0.5 s and was ended" in printed


def test_the_working_directory_is_left_where_proc_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(folders, "ELSEWHERE", (str(tmp_path / "proc"), str(tmp_path)))
    folders.leave_removed_folder()
    assert Path.cwd() == tmp_path


def test_mallopt_is_not_looked_for_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("a process cannot be opened as a library"))
    assert memory.keep_large_blocks() is False


def test_a_process_of_a_lock_is_never_signalled_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signal 0 is Ctrl-C there"))
    monkeypatch.setattr(psutil, "pid_exists", lambda number: number == 7)
    assert (lock._is_alive(7), lock._is_alive(8)) == (True, False)


def test_the_watchdog_removes_its_folder_where_processes_cannot_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tmp_path / "session"
    session.mkdir()
    nothing = os.open(os.devnull, os.O_RDONLY)
    read = os.read
    monkeypatch.setattr(watchdog, "HAS_HANDLES", False)
    monkeypatch.setattr(watchdog, "kill", lambda *_: pytest.fail("there is no /proc"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def end(number: int, size: int) -> bytes:
        return read(nothing if number == 0 else number, size)

    monkeypatch.setattr(os, "read", end)
    watchdog.main(str(session), "MARK=1")
    os.close(nothing)
    assert not session.exists()


def test_every_text_file_states_its_encoding() -> None:
    """Windows has another default than UTF-8 before Python 3.15 (PEP 686)."""
    ruff = Path(sys.executable).with_name("ruff")
    rule = [str(ruff), "check", "--isolated", "--no-cache", "--preview", "--select", "PLW1514"]
    done = subprocess.run([*rule, "wsi_mitosis"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
