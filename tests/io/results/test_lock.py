"""One run at a time holds a folder; what a dead run left is taken over, another machine's only on request."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results import lock
from wsi_mitosis.io.results.held import HeldFolder
from wsi_mitosis.io.results.lock import FILE, FolderLock, Holder, read_holder

HOLD = """
import sys, time
from pathlib import Path
from wsi_mitosis.io.results.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""
RACE = """
import sys, time
from pathlib import Path
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.lock import FolderLock
folder = Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    FolderLock(folder).acquire()
    (folder / f"won-{sys.argv[2]}").touch()
    time.sleep(3)
except OutputError:
    pass
"""


def other(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def left_by(folder: Path, **changes: Any) -> Holder:
    """The lock of a process that has ended, with changes."""
    process = other(folder)
    process.kill()
    process.communicate()
    holder = read_holder(folder)
    assert holder is not None
    changed = holder.model_copy(update=changes)
    (folder / FILE).write_text(changed.model_dump_json(by_alias=True))
    return changed


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_says_who_holds_it_and_leaves_nothing(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    assert held.acquire() is None
    holder = read_holder(tmp_path)
    assert holder is not None
    assert holder.pid == os.getpid()
    assert leftovers(tmp_path) == [FILE]
    held.check()
    held.release()
    assert leftovers(tmp_path) == []


def test_a_living_process_keeps_its_folder_and_is_named(tmp_path: Path) -> None:
    process = other(tmp_path)
    try:
        for steal in (False, True):
            with pytest.raises(
                OutputError, match=rf"process {process.pid} on .+, since \d{{4}}-.+Wait for it"
            ):
                FolderLock(tmp_path).acquire(steal=steal)
        assert leftovers(tmp_path) == [FILE]
    finally:
        process.kill()
        process.communicate()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    dead = left_by(tmp_path)
    held = FolderLock(tmp_path)
    assert held.acquire() == dead
    held.check()
    assert leftovers(tmp_path) == [FILE]


def test_a_process_that_was_killed_and_not_waited_for_is_dead(tmp_path: Path) -> None:
    process = other(tmp_path)
    process.kill()
    while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.01)
    assert FolderLock(tmp_path).acquire() is not None
    process.communicate()


def test_a_living_process_that_is_hidden_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with hidepid, under which /proc has no entry of another user's process."""
    process, read = other(tmp_path), Path.read_text

    def hidden(self: Path, *arguments: Any, **more: Any) -> str:
        if self == Path(f"/proc/{process.pid}/stat"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return read(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", hidden)
    with pytest.raises(OutputError, match="another run holds"):
        FolderLock(tmp_path).acquire()
    process.kill()
    process.communicate()
    assert FolderLock(tmp_path).acquire() is not None


@pytest.mark.parametrize(
    "changes",
    [{"pid": os.getpid(), "ticks": 1}, {"kernel": "an earlier one", "pid": os.getpid()}],
    ids=["number given to another process", "machine started again"],
)
def test_a_process_of_the_same_number_is_not_the_holder(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "kernel" in changes and not lock.MACHINE.exists():
        pytest.skip("this machine has no /etc/machine-id")
    dead = left_by(tmp_path, **changes)
    assert FolderLock(tmp_path).acquire() == dead


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "another-machine"},
        {"machine": "f" * 32},
        {"processes": "pid:[1]"},
        {"kernel": "another", "machine": ""},
    ],
    ids=["another host", "another machine of the name", "another container", "machine without a number"],
)
def test_what_cannot_be_known_to_be_dead_is_only_taken_on_request(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if changes.get("machine") == "":
        monkeypatch.setattr(lock, "MACHINE", tmp_path / "none")
    foreign = left_by(tmp_path, **changes)
    with pytest.raises(OutputError, match=r"another run holds this folder.+pass --steal-lock"):
        FolderLock(tmp_path).acquire()
    assert read_holder(tmp_path) == foreign
    assert FolderLock(tmp_path).acquire(steal=True) == foreign


def test_the_run_that_was_robbed_notices(tmp_path: Path) -> None:
    with HeldFolder(tmp_path / "out") as mine:
        thief = Holder.this()
        (tmp_path / "out" / FILE).write_text(thief.model_dump_json(by_alias=True))
        with pytest.raises(OutputError, match="was taken over by process"):
            mine.check_held()
    assert read_holder(tmp_path / "out") == thief


@pytest.mark.parametrize("content", ["", "{", '{"schema": 2}', "[]"])
def test_a_damaged_lock_is_only_taken_on_request(tmp_path: Path, content: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(lock, "READING_SECONDS", 0.1)
    (tmp_path / FILE).write_text(content)
    with pytest.raises(OutputError, match=r"does not say who holds it.+--steal-lock"):
        FolderLock(tmp_path).acquire()
    FolderLock(tmp_path).acquire(steal=True)


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    held = FolderLock(tmp_path)
    assert held.acquire() is None
    with pytest.raises(OutputError, match="another run holds"):
        FolderLock(tmp_path).acquire()
    held.release()
    dead = left_by(tmp_path)
    assert FolderLock(tmp_path).acquire() == dead
    assert leftovers(tmp_path) == [FILE]


def test_a_link_that_was_made_and_reported_as_failed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Callable[[Path, Path], None] = Path.hardlink_to

    def make_twice(self: Path, target: Path) -> None:  # as an NFS client does whose first answer was lost
        make(self, target)
        make(self, target)

    monkeypatch.setattr(Path, "hardlink_to", make_twice)
    assert FolderLock(tmp_path).acquire() is None


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_processes_one_gets_it(tmp_path: Path, stale: bool) -> None:
    if stale:
        left_by(tmp_path)
    racers = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), str(n)]) for n in range(6)]
    time.sleep(1.5)
    (tmp_path / "go").touch()
    assert [racer.wait() for racer in racers] == [0] * 6
    assert len(list(tmp_path.glob("won-*"))) == 1


def test_only_the_lock_that_was_judged_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the dead one's lock over between the judgement and the removal."""
    left_by(tmp_path)
    judged, others = FolderLock._judged, []

    def overtaken(self: FolderLock, *, steal: bool) -> Holder | None:
        found = judged(self, steal=steal)
        if not others:
            (tmp_path / FILE).unlink()
            others.append(other(tmp_path))
        return found

    monkeypatch.setattr(FolderLock, "_judged", overtaken)
    try:
        with pytest.raises(OutputError, match="another run holds this folder"):
            FolderLock(tmp_path).acquire()
        holder = read_holder(tmp_path)
        assert holder is not None
        assert holder.pid == others[0].pid
    finally:
        others[0].kill()
        others[0].communicate()


def test_the_file_of_a_takeover_that_was_killed_does_not_stay(tmp_path: Path) -> None:
    dead = left_by(tmp_path)
    takeover = tmp_path / f"{FILE}.takeover"
    takeover.touch()
    os.utime(takeover, (time.time() - 3600,) * 2)
    assert FolderLock(tmp_path).acquire() == dead
    assert leftovers(tmp_path) == [FILE]


def test_unfinished_files_of_a_killed_run_are_removed_and_no_others(tmp_path: Path) -> None:
    left_by(tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("figures/.123-a.svs.parquet", ".99-summary.csv", ".hidden", "figures/.keep", "1-a.csv"):
        (tmp_path / name).write_text("x")
    with HeldFolder(tmp_path):
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {FILE, ".hidden", "figures/.keep", "1-a.csv"}


def test_the_lock_has_a_closed_schema(tmp_path: Path) -> None:
    FolderLock(tmp_path).acquire()
    data = json.loads((tmp_path / FILE).read_text())
    assert data["schema"] == 1
    (tmp_path / FILE).write_text(json.dumps(data | {"more": 1}))
    assert read_holder(tmp_path) is None
