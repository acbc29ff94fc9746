"""Temporary folders, shared memory, loopback and homes as machines really have them."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsi_mitosis.errors import InputError
from wsi_mitosis.io import surroundings
from wsi_mitosis.io.surroundings import (
    ObjectStore,
    check_loopback,
    object_store,
    private_caches,
    session_folder,
    temporary_folders,
    writable_home,
)

MB = 2**20
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Two short folders for temporary files; the second is there if the first is not suitable."""
    root = Path(f"/tmp/t{os.getpid()}")  # noqa: S108 - pytest's own folders have too long a path
    folders = [root / "a", root / "b"]
    for folder in folders:
        folder.mkdir(parents=True)
    monkeypatch.setattr(surroundings, "temporary_folders", lambda: tuple(folders))
    yield folders
    shutil.rmtree(root)


def test_what_the_environment_names_comes_first() -> None:
    named = temporary_folders({"TMPDIR": "/scratch", "RAY_TMPDIR": "/ray", "XDG_RUNTIME_DIR": "/run/user/1"})
    assert [str(folder) for folder in named[:2]] == ["/ray", "/scratch"]
    assert Path("/run/user/1") in named
    assert temporary_folders({"TMPDIR": ""}) == temporary_folders({})
    assert temporary_folders({"TMPDIR": "here"})[0] == Path.cwd() / "here"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_session_is_private_and_does_not_stay(places: list[Path], umask: int) -> None:
    before = os.umask(umask)
    try:
        with session_folder() as folder:
            assert folder.parent == places[0]
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert [path.name for path in folder.iterdir()] == ["owner"]
            (folder / "r").mkdir()
            (folder / "r/log").write_text("log")
    finally:
        os.umask(before)
    assert list(places[0].iterdir()) == []


def test_a_session_does_not_stay_after_an_error(places: list[Path]) -> None:
    with pytest.raises(KeyboardInterrupt), session_folder():
        raise KeyboardInterrupt
    assert list(places[0].iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from wsi_mitosis.io import surroundings
surroundings.temporary_folders = lambda: (Path(sys.argv[1]),)
with surroundings.session_folder() as folder:
    (folder / "r/session/logs").mkdir(parents=True)
    (folder / "r/session/logs/raylet.out").write_text("log")
    print(folder, flush=True)
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


@contextmanager
def session_of_another_process(parent: Path, fate: str) -> Iterator[Path]:
    """The session folder of a process that "lives" as long as the block, or "dies" at once."""
    code = [sys.executable, "-c", KILLED, str(parent), fate]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        if fate == "dies":
            process.wait()
        assert folder.is_dir()
        yield folder


def test_the_session_of_a_killed_process_is_removed_at_the_next_start(places: list[Path]) -> None:
    with session_of_another_process(places[0], "dies") as left, session_folder() as folder:
        assert [*places[0].iterdir()] == [folder]
        assert folder != left


def test_the_session_of_a_living_process_stays(places: list[Path]) -> None:
    with session_of_another_process(places[0], "lives") as other:
        with session_folder() as mine, session_folder() as mine_too:
            assert {*places[0].iterdir()} == {other, mine, mine_too}
        assert (other / "r/session/logs/raylet.out").read_text() == "log"
    assert list(places[0].iterdir()) == []


def kept_of(change: str, left: Path) -> Path:
    """Change one thing about an abandoned session; the path that must stay."""
    owner = left / "owner"
    if change == "no owner file":
        owner.unlink()
    if change == "owner is a link":
        owner.rename(left / "elsewhere")
        owner.symlink_to(left / "elsewhere")
    if change == "owner is a pipe":
        owner.unlink()
        os.mkfifo(owner)
    if change == "another machine's lock":
        owner.write_text("00000000-0000-0000-0000-000000000000\n")
    if change == "another name":
        return left.rename(left.with_name("mine"))
    if change == "a link to it":
        outside = left.parent.parent / "outside"
        left.rename(outside)
        left.symlink_to(outside)
        return outside
    return left


@pytest.mark.parametrize(
    "change",
    [
        "no owner file",
        "owner is a link",
        "owner is a pipe",
        "another machine's lock",
        "another name",
        "a link to it",
    ],
)
def test_what_is_not_certainly_an_abandoned_session_stays(places: list[Path], change: str) -> None:
    with session_of_another_process(places[0], "dies") as left:
        kept = kept_of(change, left)
        with session_folder():
            assert (kept / "r/session/logs/raylet.out").read_text() == "log"


def test_the_folder_of_another_user_stays(places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with session_of_another_process(places[0], "dies") as left:
        monkeypatch.setattr(surroundings.os, "geteuid", lambda: left.stat().st_uid + 1)
        with session_folder():
            assert left.is_dir()


def test_a_removal_that_is_cut_off_is_taken_up_again(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second SIGTERM does it while the first is obeyed."""
    remove = shutil.rmtree

    def cut_off(folder: Path, **options: bool) -> None:
        remove(folder, **options)  # type: ignore[call-overload]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), session_folder() as left:  # noqa: PT012 - cut off at its end
        (left / "r").mkdir()
        monkeypatch.setattr(surroundings.shutil, "rmtree", cut_off)
    monkeypatch.undo()
    monkeypatch.setattr(surroundings, "temporary_folders", lambda: tuple(places))
    assert [path.name for path in left.iterdir()] == ["owner"]
    with session_folder() as folder:
        assert list(places[0].iterdir()) == [folder]


def test_ray_s_longest_socket_fits_into_the_session(places: list[Path]) -> None:
    with session_folder() as folder:
        path = folder / surroundings.LONGEST_SOCKET
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))


@pytest.mark.parametrize("length", range(20, 31))
def test_a_path_too_long_for_sockets_is_passed_over(places: list[Path], length: int) -> None:
    """A socket's path has at most 107 bytes, whatever they are."""
    long = Path(f"{places[0]}/".ljust(length, "x"))
    long.mkdir(exist_ok=True)
    places[0] = long
    with session_folder() as folder:
        fits = len(os.fsencode(folder / surroundings.LONGEST_SOCKET)) <= 107
        assert fits
        assert len(str(long)) > 20 or folder.parent == long
    assert list(long.iterdir()) == []


def test_a_folder_that_is_missing_is_passed_over(places: list[Path]) -> None:
    places[0] = places[0] / "missing"
    with session_folder() as folder:
        assert folder.parent == places[1]
    assert not places[0].exists()


def test_a_path_that_is_not_ascii_is_passed_over(places: list[Path]) -> None:
    """Ray 2.60 encodes it as ASCII (`_raylet.pyx`, `CoreWorker.__cinit__`)."""
    places[0] = places[0] / "ü"
    places[0].mkdir()
    with session_folder() as folder:
        assert folder.parent == places[1]


def test_a_full_folder_is_passed_over(places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        surroundings.shutil,
        "disk_usage",
        lambda path: Usage(9, 9, 31 * MB if places[0] in Path(path).parents else 33 * MB),
    )
    with session_folder() as folder:
        assert folder.parent == places[1]
    assert list(places[0].iterdir()) == []


def test_without_any_folder_the_error_names_each_and_a_way_out(places: list[Path]) -> None:
    places[0], places[1] = places[0] / "missing", places[1] / ("x" * 100)
    places[1].mkdir()
    with pytest.raises(InputError) as raised, session_folder():
        pass
    told = str(raised.value)
    assert f"{places[0]}: No such file or directory" in told
    assert f"{places[1]}: AF_UNIX path too long" in told
    assert "set TMPDIR" in told
    assert "--workers 0" in told


@pytest.mark.parametrize(
    ("shared_mb", "session_mb", "expected"),
    [
        (24_000, 24_000, ("shm", 512 * MB)),
        (300, 24_000, ("shm", 270 * MB)),
        (64, 24_000, ("session", 512 * MB)),
        (0, 100, ("session", 90 * MB)),
        (64, 64, None),
    ],
)
def test_the_object_store_goes_where_it_fits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_mb: int,
    session_mb: int,
    expected: tuple[str, int] | None,
) -> None:
    folders = {"shm": tmp_path / "shm", "session": tmp_path / "session"}
    for folder in folders.values():
        folder.mkdir()
    free = {folders["shm"]: shared_mb * MB, folders["session"]: session_mb * MB}
    monkeypatch.setattr(surroundings, "SHARED_MEMORY", folders["shm"])
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: Usage(0, 0, free[path]))
    if expected is None:
        with pytest.raises(InputError, match=r"less than 83 MB free.*--shm-size.*--workers 0"):
            object_store(folders["session"])
    else:
        assert object_store(folders["session"]) == ObjectStore(folders[expected[0]], expected[1])


def test_shared_memory_that_does_not_exist_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "SHARED_MEMORY", tmp_path / "missing")
    assert object_store(tmp_path).folder == tmp_path


def test_a_machine_without_loopback_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loopback()
    monkeypatch.setattr(surroundings, "LOOPBACK", "203.0.113.1")  # TEST-NET-3 (RFC 5737): nobody's
    with pytest.raises(InputError, match=r"cannot connect to itself on 203\.0\.113\.1: .*--workers 0"):
        check_loopback()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user without an entry in the password file."""

    def unknown(*_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(
        Path, "home", lambda: unknown() if "HOME" not in os.environ else Path(os.environ["HOME"])
    )
    for name in ("HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_caches_are_private_and_do_not_stay(homeless: None) -> None:
    assert writable_home() is None
    with private_caches():
        folder = Path(os.environ["HOME"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ["MPLCONFIGDIR"] == os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert not folder.exists()
    assert not {"HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"} & os.environ.keys()


def test_a_home_that_cannot_be_written_stays_the_home(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched into it before is still found."""
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    with private_caches():
        assert os.environ["HOME"] == str(tmp_path / "missing")
        assert os.environ["MPLCONFIGDIR"] == "mine"
        assert Path(os.environ["NUMBA_CACHE_DIR"]).is_dir()


def test_a_home_is_left_alone(homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with private_caches():
        assert "MPLCONFIGDIR" not in os.environ


def test_a_user_without_a_name_is_called_by_number(homeless: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with private_caches():
        assert getpass.getuser() == f"uid-{os.getuid()}"
    assert "USER" not in os.environ
