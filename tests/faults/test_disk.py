"""The disk is full, cannot be written, or loses the output folder."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.folders import assert_finished_are_those_of, assert_no_partial_file, assert_whole, finished
from tests.runs import Silent, candidates_csv, run, slides_in, spec
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.results.lock import FILE as LOCK
from wsi_mitosis.jobs import admission
from wsi_mitosis.workers.slides import classify_batch

NAMES = ["a.tiff", "b.tiff", "c.tiff"]
DISK = 8 * 2**20
FREE = [0, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
"""KB that are free; the whole run needs about 700."""
STEPS = [pytest.param(kb, marks=() if kb in {0, 24, 64, 256} else pytest.mark.faults) for kb in FREE]


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount(8)")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    slides_in(folder / "slides", NAMES)
    candidates_csv(folder / "d.csv", NAMES)
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, small_bundle: Path) -> Path:
    out = inputs / "undisturbed"
    assert run([inputs / "slides"], inputs / "d.csv", out, small_bundle, output=PROJECT).exit_status == 0
    return out


PROJECT = {"qupath_project": True}


@pytest.mark.parametrize("free_kb", STEPS)
def test_a_full_disk_costs_what_does_not_fit_and_nothing_else(
    free_kb: int,
    disk: Path,
    inputs: Path,
    small_bundle: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "LEAST_BYTES", 0)  # so that the files themselves meet the full disk
    monkeypatch.setattr(admission, "BYTES_PER_CANDIDATE", 0)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK - free_kb * 1024))
    out = disk / "out"
    if not free_kb:  # not even the lock fits
        with pytest.raises(OutputError, match=r"cannot be written: .*No space left on device"):
            run([inputs / "slides"], inputs / "d.csv", out, small_bundle, output=PROJECT)
    else:
        result = run([inputs / "slides"], inputs / "d.csv", out, small_bundle, output=PROJECT)
        done = [name for name, status in result.statuses.items() if status == "done"]
        assert assert_finished_are_those_of(out, finished(undisturbed)) >= len(done)
        assert_no_partial_file(out)
        assert result.exit_status == int(bool(result.errors))
        assert all("No space left" in error or "Make room" in error for error in result.errors.values())
    ballast.unlink()
    second = run([inputs / "slides"], inputs / "d.csv", out, small_bundle, output=PROJECT)
    assert second.exit_status == 0, second.errors
    assert_whole(out, undisturbed)


def test_a_disk_without_room_begins_no_slide(disk: Path, inputs: Path, small_bundle: Path) -> None:
    result = run([inputs / "slides"], inputs / "d.csv", disk / "out", small_bundle)
    assert set(result.statuses.values()) == {"failed"}
    assert all("MB free and this slide needs 64. Make room" in error for error in result.errors.values())


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_started(
    disk: Path, inputs: Path, small_bundle: Path
) -> None:
    mount("-o", "remount,ro", str(disk))
    command = ["classify", inputs / "slides", "--detections", inputs / "d.csv", "--out", disk / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "wsi_mitosis", *map(str, [*command, "--model", small_bundle])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "out: cannot be written:" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_becomes_read_only_fails_what_is_left(
    disk: Path, inputs: Path, small_bundle: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LEAST_BYTES", 0)

    class Protecting(Silent):
        def patches(self, number: int) -> None:
            super().patches(number)
            if self.classified == 10:  # the second slide
                mount("-o", "remount,ro", str(disk))

    task = spec([inputs / "slides"], inputs / "d.csv", disk / "out", small_bundle, output=PROJECT)
    result = classify_batch(task, Protecting())
    assert result.exit_status == 1
    assert list(result.statuses.values()).count("done") == 1
    assert {"summary.csv", "run.json"} <= result.errors.keys()
    assert assert_finished_are_those_of(disk / "out", finished(undisturbed)) == 1
    mount("-o", "remount,rw", str(disk))
    (disk / "out" / LOCK).unlink()  # it is left, and this process lives on
    again = run([inputs / "slides"], inputs / "d.csv", disk / "out", small_bundle, output=PROJECT)
    assert again.exit_status == 0
    assert len(again.kept) == 1
    assert_whole(disk / "out", undisturbed)


def test_a_file_system_without_flock(
    inputs: Path, small_bundle: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network file systems answer. A whole run in this process calls it nowhere."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, refuse)
    result = run([inputs / "slides"], inputs / "d.csv", tmp_path / "out", small_bundle, output=PROJECT)
    assert result.exit_status == 0
    assert_whole(tmp_path / "out", undisturbed)
