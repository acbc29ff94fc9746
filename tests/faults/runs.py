"""The real program in a process of its own, on slides of which one takes long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.runs import CANDIDATES, SLIDE_PX, candidates_csv, slides_in

ROOT = Path(__file__).parents[2]
NAMES = ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]
LONG = "d.tiff"
"""It has by far the most candidates, so that it is begun first and is in hand for seconds."""
SECONDS = 240.0
"""For what another process does; a failure waits for it, a success does not."""


@dataclass(frozen=True)
class Night:
    """What a run gets.

    Attributes:
        folder: Has the slides and their candidates.
        bundle: The ensemble.
    """

    folder: Path
    bundle: Path

    def start(self, out: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
        """Start `classify`. One thread computes, so that equal work gives equal bytes."""
        command = ["classify", str(self.folder / "slides"), "--detections", str(self.folder / "d.csv")]
        command += ["--model", str(self.bundle), "--out", str(out), "--device", "cpu"]
        command += ["--cpus-per-worker", "1", *more]
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = given | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
        return subprocess.Popen(
            [sys.executable, "-m", "wsi_mitosis", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            **options,
        )

    def run(self, out: Path, *more: str, **options: Any) -> tuple[int, str]:
        """Run `classify` to its end; return the exit status and what was printed."""
        return end_of(self.start(out, *more, **options))


def night(folder: Path, bundle: Path, long: int = 4_000) -> Night:
    """Slides, one of them with so many candidates."""
    slides_in(folder / "slides", NAMES)
    table = candidates_csv(folder / "d.csv", NAMES, CANDIDATES)
    width, height = SLIDE_PX
    rows = [f"{LONG},{n % (width * 2) / 2},{n // (width * 2) % height},0.5\n" for n in range(5, long)]
    with table.open("a") as file:
        file.writelines(rows)
    return Night(folder, bundle)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a run; return the exit status and what was printed."""
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        raise AssertionError(f"the run does not end: {printed}") from None
    return process.returncode, printed


def in_hand(out: Path) -> list[str]:
    """The slides that a run works on."""
    try:
        progress = json.loads((out / "progress.json").read_text())
    except FileNotFoundError:
        return []
    return [slide["slide"] for slide in progress["running"]]


def attempts(out: Path, slide: str) -> int:
    """The attempt at a slide that a run works on; 0 if it does not."""
    try:
        progress = json.loads((out / "progress.json").read_text())
    except FileNotFoundError:
        return 0
    return next((entry["attempt"] for entry in progress["running"] if entry["slide"] == slide), 0)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a run does."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def send_and_see_taken(process: subprocess.Popen[Any], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait until the process took it.

    Of two equal signals that wait for a process, the system keeps one (signal(7)). On a busy machine, a
    process may not run for a while.
    """
    process.send_signal(number)
    until = time.monotonic() + SECONDS
    while process.poll() is None and _waits_for(process.pid, number):
        assert time.monotonic() < until
        time.sleep(0.001)


def _waits_for(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process (proc(5): ShdPnd is a mask of such signals, in base 16)."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("ShdPnd:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's processes that do the tasks of a run."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if (child.cmdline() or [""])[0].startswith("ray::RayWorker"):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [
        process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def events(out: Path) -> list[dict[str, Any]]:
    """The events in a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
