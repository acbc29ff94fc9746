"""The program itself is killed, started twice, or finds what a dead one left."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.folders import assert_finished_are_those_of, assert_no_partial_file, assert_whole, finished
from tests.runs import candidates_csv, slides_in
from wsi_mitosis.io.results.lock import FILE as LOCK
from wsi_mitosis.io.results.lock import read_holder

NAMES = [f"{letter}.tiff" for letter in "abcdefgh"]
SEED = 17
KILLS = [pytest.param(number, marks=pytest.mark.faults if number else ()) for number in range(20)]
"""The first one is tried in every run of the suite, all of them by `make faults`."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    slides_in(folder / "slides", NAMES)
    candidates_csv(folder / "d.csv", NAMES)
    return folder


@pytest.fixture(scope="module")
def start(inputs: Path, small_bundle: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the program in a process of its own."""

    def started(out: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
        command = ["classify", str(inputs / "slides"), "--detections", str(inputs / "d.csv")]
        command += [
            "--model",
            str(small_bundle),
            "--out",
            str(out),
            "--device",
            "cpu",
            "--workers",
            "0",
            *more,
        ]
        return subprocess.Popen(
            [*options.pop("before", ()), sys.executable, "-m", "wsi_mitosis", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return started


@pytest.fixture(scope="module")
def undisturbed(
    start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    begun = time.monotonic()
    process = start(out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (out.parent / "seconds").write_text(str(time.monotonic() - begun))
    return out


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("number", KILLS)
def test_a_kill_at_any_moment_costs_no_finished_slide(
    number: int, start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    """The moments are spread over the whole run by a seed, from the first lock to the last file."""
    seconds = float((undisturbed.parent / "seconds").read_text())
    moment = random.Random(SEED + number).random() * seconds
    out, expected = tmp_path / "out", finished(undisturbed)
    process = start(out)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if out.exists():
        assert_finished_are_those_of(out, expected)
        assert_no_partial_file(out)
    second = start(out)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert_whole(out, undisturbed)


def test_two_runs_into_one_folder(
    start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = start(out)
    wait_until(lambda: read_holder(out) is not None, first)
    second = start(out)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 2, said
    assert f"another run holds this folder: process {first.pid} on" in said
    first.communicate(timeout=300)
    assert first.returncode == 0
    assert_whole(out, undisturbed)


def test_a_stale_lock_is_taken_over_and_said(
    start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = start(out)
    wait_until(lambda: (out / "states/a.tiff.json").exists(), first)
    first.kill()
    first.communicate()
    assert (out / LOCK).exists()
    second = start(out)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert f"the folder is taken over from process {first.pid} on" in said
    assert_whole(out, undisturbed)


def test_a_clock_that_is_set_back(
    start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    import shutil

    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    out = tmp_path / "out"
    first = start(out)
    wait_until(lambda: (out / "figures/a.tiff.parquet").exists(), first)
    first.kill()
    first.communicate()
    second = start(out, before=("faketime", "-f", "-3d"))
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert_whole(out, undisturbed)
    third = start(out)
    third.communicate(timeout=300)
    assert third.returncode == 0
    assert_whole(out, undisturbed)
