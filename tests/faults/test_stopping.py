"""A run is told to end: once, twice, at any moment, and while it writes its last files."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.folders import (
    assert_finished_are_those_of,
    assert_no_partial_file,
    assert_whole,
    finished,
    unfinished,
)
from tests.faults.runs import LONG, Night, alive, end_of, in_hand, night, send_and_see_taken, wait_until
from tests.runs import Silent, candidates_csv, slides_in, spec, summary
from wsi_mitosis.cli.signals import termination_interrupts
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.workers.slides import classify_batch

SEED = 23
PLACES = {"here": ["--workers", "0"], "ray": ["--workers", "1"]}
LONGER = pytest.mark.faults


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Night:
    return night(tmp_path_factory.mktemp("night"), small_bundle)


@pytest.fixture(scope="module")
def undisturbed(inputs: Night) -> Path:
    out, begun = inputs.folder / "undisturbed", time.monotonic()
    status, printed = inputs.run(out, *PLACES["here"])
    assert status == 0, printed
    (inputs.folder / "seconds").write_text(str(time.monotonic() - begun))
    return out


@pytest.fixture
def sessions() -> Iterator[Path]:
    """A folder for the sessions of Ray, whose path is short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("place", ["here", pytest.param("ray", marks=LONGER)])
def test_a_signal_ends_a_run_in_good_order(
    place: str, inputs: Night, undisturbed: Path, sessions: Path, tmp_path: Path
) -> None:
    """The slide in hand is abandoned, what is finished is written, and another run goes on."""
    out = tmp_path / "out"
    process = inputs.start(out, *PLACES[place], env={"RAY_TMPDIR": str(sessions)})
    wait_until(lambda: LONG in in_hand(out), process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    begun = time.monotonic()
    status, printed = end_of(process)
    print(f"{place}: {time.monotonic() - begun:.1f} s from SIGTERM to the end")
    assert status == 130, printed
    assert "Interrupted. Run the same command again to continue." in printed
    assert {row["status"] for row in summary(out).values()} == {"pending"}
    run = json.loads((out / "run.json").read_text())
    assert (run["exit_status"], run["ended"] is not None) == (130, True)
    assert not (out / "report.html").exists()
    assert unfinished(out) == []
    assert alive(children) == []
    assert list(sessions.iterdir()) == []
    assert inputs.run(out, *PLACES["here"])[0] == 0
    assert_whole(out, undisturbed)


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=LONGER if number >= 1 else ()) for number in range(12)]
)
def test_a_signal_at_any_moment(number: int, inputs: Night, undisturbed: Path, tmp_path: Path) -> None:
    """The moments are spread over the whole run by a seed. A third of the runs get a second signal."""
    seconds = float((inputs.folder / "seconds").read_text())
    chance, out = random.Random(SEED + number), tmp_path / "out"
    process = inputs.start(out, *PLACES["here"])
    time.sleep(chance.random() * seconds)
    process.terminate()
    if number % 3 == 1:
        time.sleep(chance.random() * 2)
        process.terminate()
    status, printed = end_of(process)
    if not out.exists():
        # nothing was begun; while Python itself starts, the system ends it
        assert status in {130, -signal.SIGTERM}, printed
    else:
        assert status in {0, 130}, printed
        assert_finished_are_those_of(out, finished(undisturbed))
        assert_no_partial_file(out)
    status, printed = inputs.run(out, *PLACES["here"])
    assert status == 0, printed
    assert_whole(out, undisturbed)


@pytest.mark.parametrize("place", ["here", pytest.param("ray", marks=LONGER)])
def test_a_second_signal_ends_at_once(
    place: str, inputs: Night, undisturbed: Path, sessions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = inputs.start(out, *PLACES[place], env={"RAY_TMPDIR": str(sessions)})
    wait_until(lambda: LONG in in_hand(out), process)
    children = psutil.Process(process.pid).children(recursive=True)
    send_and_see_taken(process)
    process.terminate()
    status, printed = end_of(process)
    assert status == 130
    assert "ended at once by a signal" in printed
    assert_no_partial_file(out)
    until = time.monotonic() + 60
    while (alive(children) or list(sessions.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(children) == []
    assert list(sessions.iterdir()) == []
    status, printed = inputs.run(out, *PLACES["here"])
    assert status == 0, printed
    assert_whole(out, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(6))
def test_a_signal_while_ray_starts_or_works_leaves_nothing(
    number: int, inputs: Night, undisturbed: Path, sessions: Path, tmp_path: Path
) -> None:
    """The moments are spread over the start of Ray and the work on it.

    While Ray connects, its core has a handler of SIGTERM of its own, which aborts the process
    (absl's failure signal handler). This is as a kill: the next run completes the folder.
    """
    out, chance = tmp_path / "out", random.Random(SEED + number)
    process = inputs.start(out, *PLACES["ray"], env={"RAY_TMPDIR": str(sessions)})
    wait_until(lambda: bool(list(sessions.iterdir())), process)
    time.sleep(chance.random() * 12)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    status, printed = end_of(process)
    assert status in {0, 130, -signal.SIGABRT}, printed
    until = time.monotonic() + 60
    while (alive(children) or list(sessions.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(children) == []
    assert list(sessions.iterdir()) == []
    assert_finished_are_those_of(out, finished(undisturbed))
    assert_no_partial_file(out)
    if status >= 0:
        assert unfinished(out) == []
        assert {"summary.csv", "run.json"} <= {path.name for path in out.iterdir()}
    status, printed = inputs.run(out, *PLACES["here"])
    assert status == 0, printed
    assert_whole(out, undisturbed)


def test_a_signal_while_the_last_files_are_written_costs_only_the_report(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    write = ResultFolder.write_summary

    def interrupted(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ResultFolder, "write_summary", interrupted)
    out = tmp_path / "out"
    with termination_interrupts():
        result = classify_batch(spec(slides, detections, out, small_bundle), Silent())
    assert result.exit_status == 130
    assert summary(out)["a.tiff"]["status"] == "done"
    assert json.loads((out / "run.json").read_text())["exit_status"] == 130
    assert not (out / "report.html").exists()
    assert (out / "review.csv").exists()
    assert unfinished(out) == []
