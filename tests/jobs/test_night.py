"""Unattended runs: what waits, what is set aside, what is left by the clock, and what a plan says."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.detector_files import MODEL, spotted_slide, stub_network
from tests.runs import Silent, candidates_csv, run, slides_in, spec, summary
from wsi_mitosis.core.events import parse_event
from wsi_mitosis.core.histories import KILLED, SlideHistory
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.pipelines import read_pipeline
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.io.results.held import RunFolder, write_history
from wsi_mitosis.jobs import admission, run_progress
from wsi_mitosis.jobs.batch import BatchResult
from wsi_mitosis.jobs.inputs import Searched
from wsi_mitosis.jobs.pipeline import plan_run, search_spec
from wsi_mitosis.jobs.run_progress import ProgressFile
from wsi_mitosis.jobs.status import folder_status
from wsi_mitosis.nets import detector
from wsi_mitosis.workers.slides import classify_batch, detect_batch

QUICK = {"hotspot_area": 0, "report": False}


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder of three slides, and a folder with the detections of two of them."""
    slides_in(tmp_path / "slides", ["a.tiff", "b.tiff", "c.tiff"])
    (tmp_path / "dets").mkdir()
    for name in ("a", "b"):
        candidates_csv(tmp_path / "dets" / f"{name}.csv", [f"{name}.tiff"])
    return tmp_path


def classified(night: Path, bundle: Path, **sections: Any) -> BatchResult:
    sections["output"] = QUICK | sections.get("output", {})
    pattern = night / "dets/{stem}.csv"
    return run([night / "slides"], pattern, night / "out", bundle, **sections)


def histories(night: Path) -> dict[str, SlideHistory]:
    return RunFolder(night / "out").histories()


def damaged(slide: Path) -> None:
    slide.write_bytes(slide.read_bytes()[:5000])


def events(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        parse_event(line)
    return lines


# --- slides that are not complete


def test_a_slide_waits_for_its_detections_and_a_later_run_takes_it(night: Path, small_bundle: Path) -> None:
    first = classified(night, small_bundle)
    assert first.statuses == {"a.tiff": "done", "b.tiff": "done", "c.tiff": "waiting"}
    assert first.exit_status == 0
    row = summary(night / "out")["c.tiff"]
    assert row["status"] == "waiting"
    assert "c.tiff: waits for its detections: there is no" in row["error"]
    waits = [event["slide"] for event in events(night / "out") if event["event"] == "waiting"]
    assert waits == ["c.tiff"]
    candidates_csv(night / "dets/c.csv", ["c.tiff"])
    second = classified(night, small_bundle)
    assert second.statuses["c.tiff"] == "done"
    assert second.kept == {"a.tiff", "b.tiff"}
    assert summary(night / "out")["c.tiff"]["error"] == ""


def test_a_folder_of_detections_that_does_not_exist_is_refused(night: Path, small_bundle: Path) -> None:
    shutil.rmtree(night / "dets")
    with pytest.raises(InputError, match="dets: reading detections: no such folder of detections"):
        classified(night, small_bundle)
    assert not (night / "out").exists()


def test_a_finished_slide_whose_detections_are_gone_keeps_its_result(night: Path, small_bundle: Path) -> None:
    classified(night, small_bundle)
    before = summary(night / "out")["a.tiff"]
    (night / "dets/a.csv").unlink()
    result = classified(night, small_bundle)
    assert result.exit_status == 0
    assert result.statuses["a.tiff"] == "no_detections"
    assert "a.tiff: its candidates are gone; its result is kept" in result.warnings
    assert summary(night / "out")["a.tiff"] == before
    found = {slide.slide: slide.status for slide in folder_status(night / "out").slides}
    assert found["a.tiff"] == "done"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("dets/{stem}.csv", {"a": "dets/a.csv"}),
        ("dets/{name}.csv", {"a": "dets/a.tiff.csv"}),
        ("{folder}/{stem}_found.csv", {"a": "slides/a_found.csv"}),
        ("dets/{stem}/{stem}.csv", {"a": "dets/a/a.csv"}),
    ],
)
def test_what_a_pattern_names(
    tmp_path: Path, small_bundle: Path, pattern: str, names: dict[str, str]
) -> None:
    slides_in(tmp_path / "slides", ["a.tiff"])
    for stem, place in names.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        candidates_csv(tmp_path / place, [f"{stem}.tiff"])
    (tmp_path / "night.toml").write_text(
        f'model = "{small_bundle}"\n[input]\nslides = ["slides"]\ndetections = "{pattern}"\n'
        '[output]\nfolder = "out"\nreport = false\n[placement]\nworkers = 0\ndevice = "cpu"\n'
    )
    result = classify_batch(read_pipeline(str(tmp_path / "night.toml")), Silent())
    assert result.statuses == {"a.tiff": "done"}
    assert summary(tmp_path / "out")["a.tiff"]["classified"] == "5"


def test_a_file_that_a_pattern_gives_to_two_slides_is_neither_ones(night: Path, small_bundle: Path) -> None:
    shutil.copy(night / "slides/b.tiff", night / "slides/a.tif")
    result = classified(night, small_bundle)
    assert result.statuses["b.tiff"] == "done"
    for name in ("a.tif", "a.tiff"):
        assert (
            f"{name}: reading detections: the pattern gives a.csv for other slides too" in result.errors[name]
        )


def test_a_slide_that_is_still_copied_waits(night: Path, small_bundle: Path) -> None:
    candidates_csv(night / "dets/c.csv", ["c.tiff"])
    result = classified(night, small_bundle, schedule={"settle_seconds": 3600})
    assert set(result.statuses.values()) == {"waiting"}
    assert "a.tiff: waits, because its file changed" in result.reasons["a.tiff"]
    assert "it is complete after 3600 s" in result.reasons["a.tiff"]
    assert result.exit_status == 0
    again = classified(night, small_bundle, schedule={"settle_seconds": 3600})
    assert set(again.statuses.values()) == {"waiting"}, "it was seen before, but not long ago"
    time.sleep(1.1)
    with (night / "slides/a.tiff").open("ab") as file:
        file.write(b"\0")
    candidates_csv(night / "dets/b.csv", ["b.tiff"])
    second = classified(night, small_bundle, schedule={"settle_seconds": 1})
    assert second.statuses == {"a.tiff": "waiting", "b.tiff": "waiting", "c.tiff": "done"}
    assert "its detections file changed" in second.reasons["b.tiff"]


def test_an_empty_or_half_written_file_waits_and_does_not_fail(night: Path, small_bundle: Path) -> None:
    (night / "slides/a.tiff").write_bytes(b"")
    (night / "dets/b.csv").write_text("slide,x\n")
    assert classified(night, small_bundle).exit_status == 1
    result = classified(night, small_bundle, schedule={"settle_seconds": 3600})
    assert result.statuses["a.tiff"] == result.statuses["b.tiff"] == "waiting"
    assert result.exit_status == 0


def test_a_set_without_a_part_waits(tmp_path: Path, small_bundle: Path) -> None:
    slides = tmp_path / "slides"
    (slides / "s").mkdir(parents=True)
    (slides / "s.mrxs").write_bytes(b"jpeg")
    (slides / "s/Slidedat.ini").write_text("[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n")
    candidates_csv(tmp_path / "s.csv", ["s.mrxs"])
    time.sleep(0.05)
    result = run(
        [slides], tmp_path / "s.csv", tmp_path / "out", small_bundle, schedule={"settle_seconds": 0.01}
    )
    assert result.statuses == {"s.mrxs": "waiting"}
    assert result.reasons["s.mrxs"] == "s.mrxs: waits for parts of the slide: 's/Data0000.dat'"


def test_a_clock_that_was_set_back_delays_a_slide_by_one_run(night: Path, small_bundle: Path) -> None:
    future = time.time() + 7200
    os.utime(night / "slides/a.tiff", (future, future))
    schedule = {"settle_seconds": 0.3}
    time.sleep(0.4)
    first = classified(night, small_bundle, schedule=schedule)
    assert first.statuses["b.tiff"] == "done"
    assert "changed in the future, by this machine's clock" in first.reasons["a.tiff"]
    time.sleep(1.1)  # states are written to the second
    assert classified(night, small_bundle, schedule=schedule).statuses["a.tiff"] == "done"
    time.sleep(1.1)
    third = classified(night, small_bundle, schedule=schedule)
    assert third.statuses["a.tiff"] == "done", "a finished slide does not wait every second night"
    assert summary(night / "out")["a.tiff"]["classified"] == "5"


def test_a_failing_slide_with_a_time_in_the_future_is_set_aside(night: Path, small_bundle: Path) -> None:
    damaged(night / "slides/a.tiff")
    future = time.time() + 7200
    os.utime(night / "slides/a.tiff", (future, future))
    found = []
    for _ in range(4):
        result = classified(
            night, small_bundle, schedule={"settle_seconds": 0.3}, retries={"max_failures": 2}
        )
        found.append(result.statuses["a.tiff"])
        time.sleep(1.1)
    assert found == ["waiting", "failed", "failed", "set_aside"]


def test_waiting_does_not_forget_the_failures_of_a_slide(night: Path, small_bundle: Path) -> None:
    damaged(night / "slides/a.tiff")
    retries = {"max_failures": 1}
    classified(night, small_bundle, retries=retries)
    detections = (night / "dets/a.csv").read_bytes()
    (night / "dets/a.csv").unlink()
    assert classified(night, small_bundle, retries=retries).statuses["a.tiff"] == "waiting"
    (night / "dets/a.csv").write_bytes(detections)
    assert classified(night, small_bundle, retries=retries).statuses["a.tiff"] == "set_aside"


@pytest.mark.parametrize("since", ["yesterday", "2026-11-27T01:00:00", ""])
def test_a_state_without_a_valid_time_is_as_good_as_none(night: Path, small_bundle: Path, since: str) -> None:
    schedule = {"settle_seconds": 3600}
    classified(night, small_bundle, schedule=schedule)
    path = night / "out/states/a.tiff.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"since": since}))
    assert "a.tiff" not in histories(night)
    assert classified(night, small_bundle, schedule=schedule).statuses["a.tiff"] == "waiting"


@pytest.mark.parametrize("ended", ["yesterday", 5, None])
def test_an_edited_time_in_run_json_ends_no_night(night: Path, small_bundle: Path, ended: object) -> None:
    output = {"metrics": str(night / "a.prom")}
    classified(night, small_bundle, output=output)
    path = night / "out/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ended": ended, "exit_status": 0}))
    result = classified(night, small_bundle, output=output)
    assert (result.exit_status, result.last_success) == (0, None)


@pytest.mark.parametrize("command", ["", " "])
def test_an_empty_command_to_notify_is_said(night: Path, small_bundle: Path, command: str) -> None:
    result = classified(night, small_bundle, output={"notify": command})
    assert result.exit_status == 0
    assert any("--notify: the command is empty" in warning for warning in result.warnings)


# --- slides that fail night after night


def test_a_slide_is_set_aside_after_some_runs_and_tried_again_when_it_changes(
    night: Path, small_bundle: Path
) -> None:
    whole = (night / "slides/a.tiff").read_bytes()
    damaged(night / "slides/a.tiff")
    retries = {"max_failures": 2}
    for attempts in (1, 2):
        result = classified(night, small_bundle, retries=retries)
        assert result.statuses["a.tiff"] == "failed"
        assert histories(night)["a.tiff"].attempts == attempts
    left = classified(night, small_bundle, retries=retries)
    assert left.statuses["a.tiff"] == "set_aside"
    assert left.exit_status == 1
    assert "failed in 2 runs, so it is left until it changes or --retry is passed" in left.reasons["a.tiff"]
    assert summary(night / "out")["a.tiff"]["status"] == "set_aside"
    assert [event["slide"] for event in events(night / "out") if event["event"] == "set_aside"] == ["a.tiff"]
    (night / "slides/a.tiff").write_bytes(whole)
    mended = classified(night, small_bundle, retries=retries)
    assert mended.statuses["a.tiff"] == "done"
    state = histories(night)["a.tiff"]
    assert (state.status, state.attempts, state.reason) == ("done", 0, "")
    assert state.key == ResultFolder(night / "out").records()["a.tiff"].key


@pytest.mark.parametrize("change", ["retry", "candidates", "options"])
def test_what_else_ends_the_setting_aside(night: Path, small_bundle: Path, change: str) -> None:
    damaged(night / "slides/a.tiff")
    retries: dict[str, Any] = {"max_failures": 1}
    classified(night, small_bundle, retries=retries)
    assert classified(night, small_bundle, retries=retries).statuses["a.tiff"] == "set_aside"
    sections: dict[str, Any] = {"retries": retries}
    if change == "retry":
        retries["retry"] = True
    elif change == "candidates":
        candidates_csv(night / "dets/a.csv", ["a.tiff"], [(10.0, 10.0)])
    else:
        sections["result"] = {"min_score": 0.1}
    assert classified(night, small_bundle, **sections).statuses["a.tiff"] == "failed"
    assert histories(night)["a.tiff"].attempts == (2 if change == "retry" else 1)


def test_a_slide_whose_run_was_killed_counts_as_failed(night: Path, small_bundle: Path) -> None:
    classified(night, small_bundle)
    path = night / "slides/a.tiff"
    left = SlideHistory(
        slide="a.tiff", path=str(path), status="running", attempts=1, since="2026-01-01T00:00Z"
    )
    write_history(RunFolder(night / "out"), left)
    (night / "out/figures/a.tiff.parquet").unlink()
    state = folder_status(night / "out")
    found = next(slide for slide in state.slides if slide.slide == "a.tiff")
    assert (found.status, found.attempts, found.reason) == ("failed", 2, f"a.tiff: {KILLED}")
    assert classified(night, small_bundle).statuses["a.tiff"] == "done"


@pytest.mark.parametrize("kind", ["detections", "regions"])
def test_a_file_beside_the_slide_that_fails_does_not_set_it_aside(
    night: Path, small_bundle: Path, kind: str
) -> None:
    """The slide was not tried. When the file is as it was before, its result is kept."""
    square = [[[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square}, "properties": {}}
    (night / "regions").mkdir()
    (night / "regions/a.tiff.geojson").write_text(json.dumps(region))
    sections = {"output": {"regions": str(night / "regions")}, "retries": {"max_failures": 1}}
    assert classified(night, small_bundle, **sections).statuses["a.tiff"] == "done"
    path = night / ("dets/a.csv" if kind == "detections" else "regions/a.tiff.geojson")
    content = path.read_bytes()
    path.write_bytes(b"{")
    for _ in range(2):
        assert classified(night, small_bundle, **sections).statuses["a.tiff"] == "failed"
    assert histories(night)["a.tiff"].attempts == 0
    path.write_bytes(content)
    again = classified(night, small_bundle, **sections)
    assert (again.statuses["a.tiff"], "a.tiff" in again.kept) == ("done", True)


def test_one_file_of_regions_is_no_slides_while_another_waits(night: Path, small_bundle: Path) -> None:
    """Otherwise it would be the other's in every night in which that one is not complete."""
    (night / "dets/b.csv").unlink()
    (night / "r.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match="one file of regions, and 3 slides"):
        classified(night, small_bundle, output={"regions": str(night / "r.geojson")})


def test_a_full_disk_sets_no_slide_aside(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LEAST_BYTES", 2**60)
    for _ in range(3):
        result = classified(night, small_bundle, retries={"max_failures": 1})
        assert result.statuses["a.tiff"] == "failed"
        assert "MB free and this slide needs" in result.errors["a.tiff"]
        assert "Make room and run again" in result.errors["a.tiff"]
    monkeypatch.undo()
    assert classified(night, small_bundle, retries={"max_failures": 1}).statuses["a.tiff"] == "done"


def test_a_slide_whose_files_cannot_be_written_is_not_set_aside(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "a.tiff.parquet":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    for _ in range(2):
        result = classified(night, small_bundle, retries={"max_failures": 1})
        assert result.statuses == {"a.tiff": "failed", "b.tiff": "done", "c.tiff": "waiting"}
    monkeypatch.undo()
    assert classified(night, small_bundle, retries={"max_failures": 1}).statuses["a.tiff"] == "done"


def test_a_slide_that_is_done_after_failures_has_none(night: Path, small_bundle: Path) -> None:
    """Its inputs are as before: what failed was around it."""
    classified(night, small_bundle)
    (night / "out/figures/a.tiff.parquet").unlink()
    state = histories(night)["a.tiff"]
    write_history(RunFolder(night / "out"), state.model_copy(update={"status": "failed", "attempts": 2}))
    assert classified(night, small_bundle).statuses["a.tiff"] == "done"
    assert histories(night)["a.tiff"].attempts == 0


def test_states_that_cannot_be_written_end_no_run(night: Path, small_bundle: Path) -> None:
    (night / "out").mkdir()
    (night / "out/states").write_text("a file in the place of the folder")
    result = classified(night, small_bundle)
    assert result.statuses["a.tiff"] == "done"
    assert any("the states of slides cannot be written" in warning for warning in result.warnings)


def test_a_run_that_cannot_begin_says_so_in_its_folder(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise InputError("no Ray cluster answers", subject="--address x:1")

    monkeypatch.setattr("wsi_mitosis.workers.slides._classify", refuse)
    with pytest.raises(InputError, match="no Ray cluster answers"):
        classified(night, small_bundle)
    assert json.loads((night / "out/run.json").read_text())["exit_status"] == 2
    assert events(night / "out")[-1]["exit_status"] == 2
    assert "no Ray cluster answers" in json.loads((night / "out/run.json").read_text())["warnings"][-1]
    assert summary(night / "out")["a.tiff"]["status"] == "pending"


def test_a_bug_is_written_down_before_it_ends_the_program(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("wsi_mitosis.workers.slides._classify", fail)
    with pytest.raises(ZeroDivisionError):
        classified(night, small_bundle)
    assert json.loads((night / "out/run.json").read_text())["exit_status"] == 1
    failed = next(event for event in events(night / "out") if event["event"] == "failed")
    assert failed["error"] == "unexpected ZeroDivisionError: a bug; log.jsonl has the traceback"
    assert "in fail" in failed["details"]


# --- the clock


def test_no_slide_is_begun_after_the_deadline(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        """The deadline passes when the first slide has begun."""

        calls = 0

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override] # noqa: ARG003
            cls.calls += 1
            return datetime(2026, 11, 27, 20, tzinfo=UTC) + timedelta(hours=6 * (cls.calls - 1))

    monkeypatch.setattr(admission, "datetime", Clock)
    schedule = {"until": "06:30", "timezone": "UTC"}
    result = classified(night, small_bundle, schedule=schedule)
    assert sorted(result.statuses.values()) == ["done", "pending", "waiting"]
    assert result.exit_status == 1
    note = "not begun after 06:30 UTC (2026-11-28 06:30 UTC)"
    assert result.warnings.count(note) == 1
    pending = next(name for name, status in result.statuses.items() if status == "pending")
    assert summary(night / "out")[pending]["error"] == note
    monkeypatch.undo()
    assert classified(night, small_bundle).exit_status == 0


# --- the state of a folder


def test_the_progress_is_shown_while_a_run_is_at_work(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_progress, "SECONDS", 0.0)
    seen: list[dict[str, Any]] = []

    class Watching(Silent):
        def patches(self, number: int) -> None:  # noqa: ARG002
            seen.append(folder_status(night / "out").as_data())

    task = spec([night / "slides"], night / "dets/{stem}.csv", night / "out", small_bundle, output=QUICK)
    classify_batch(task, Watching())
    first = seen[0]
    assert first["counts"] == {"pending": 1, "running": 1, "waiting": 1}
    run_state = first["run"]
    assert (run_state["pid"], run_state["alive"]) == (os.getpid(), True)
    assert (run_state["slides"], run_state["finished"], run_state["patches"]) == (2, 0, 5)
    assert run_state["remaining"] == 5
    running = next(slide for slide in first["slides"] if slide["status"] == "running")
    assert (running["patches"], running["candidates"]) == (5, 5)
    assert seen[-1]["counts"] == {"done": 1, "running": 1, "waiting": 1}
    after = folder_status(night / "out").as_data()
    assert after["run"] is None
    assert after["counts"] == {"done": 2, "waiting": 1}
    assert after["last_run"]["exit_status"] == 0
    assert not (night / "out/progress.json").exists()


def test_patches_of_an_earlier_attempt_do_not_count(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "out") as folder:
        progress = ProgressFile(folder)
        progress.open([])
        assert progress.begin("a.tiff") == 0
        progress.patches("a.tiff", 3)
        assert progress.begin("a.tiff") == 3
        found = folder.progress()
    assert found is not None
    assert (found.patches, found.running[0].patches, found.running[0].attempt) == (0, 0, 2)


def test_the_state_of_no_folder_of_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run has written here"):
        folder_status(tmp_path)


def test_damaged_states_are_as_good_as_none(night: Path, small_bundle: Path) -> None:
    classified(night, small_bundle)
    (night / "out/states/a.tiff.json").write_text("{")
    (night / "out/states/b.tiff.json").write_text("[]")
    assert folder_status(night / "out").counts == {"done": 2, "waiting": 1}
    assert classified(night, small_bundle).kept == {"a.tiff", "b.tiff"}


def test_a_summary_that_a_spreadsheet_has_spoilt_ends_no_night(night: Path, small_bundle: Path) -> None:
    damaged(night / "slides/b.tiff")
    classified(night, small_bundle)
    (night / "out/summary.csv").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    shutil.rmtree(night / "dets")
    (night / "dets").mkdir()
    candidates_csv(night / "dets/a.csv", ["a.tiff"])
    result = run([night / "slides/a.tiff"], night / "dets/a.csv", night / "out", small_bundle, output=QUICK)
    assert result.exit_status == 0
    assert any("summary.csv.unreadable" in warning for warning in result.warnings)
    assert (night / "out/summary.csv.unreadable").read_bytes().startswith(b"PK")
    rows = summary(night / "out")
    assert {slide: row["status"] for slide, row in rows.items()} == {
        "a.tiff": "done",
        "b.tiff": "failed",
        "c.tiff": "waiting",
    }


# --- plans


def test_a_plan_says_what_would_be_done_and_changes_nothing(night: Path, small_bundle: Path) -> None:
    damaged(night / "slides/b.tiff")
    retries = {"max_failures": 1}
    classified(night, small_bundle, retries=retries)
    slides_in(night / "slides", ["d.tiff", "e.tiff"])
    candidates_csv(night / "dets/d.csv", ["d.tiff"])
    (night / "dets/e.csv").write_text("nothing")
    before = {path: path.stat().st_mtime_ns for path in night.rglob("*")}
    task = spec(
        *([night / "slides"], night / "dets/{stem}.csv", night / "out", small_bundle), retries=retries
    )
    plan = plan_run(task)
    found = {slide.slide: (slide.action, slide.candidates) for slide in plan.slides}
    assert found == {
        "a.tiff": ("keep", 5),
        "b.tiff": ("set aside", None),
        "c.tiff": ("wait", None),
        "d.tiff": ("classify", 5),
        "e.tiff": ("fail", None),
    }
    assert plan.holder is None
    assert {path: path.stat().st_mtime_ns for path in night.rglob("*")} == before
    candidates_csv(night / "dets/a.csv", ["a.tiff"], [(10.0, 10.0)])
    again = {slide.slide: slide for slide in plan_run(task).slides}
    assert (again["a.tiff"].action, again["a.tiff"].candidates) == ("classify", 1)
    assert again["a.tiff"].reason == "its slide, its candidates, the bundle or an option has changed"


def test_a_plan_into_no_folder_makes_none_and_names_who_holds_one(night: Path, small_bundle: Path) -> None:
    task = spec([night / "slides"], night / "dets/{stem}.csv", night / "out", small_bundle)
    plan_run(task)
    assert not (night / "out").exists()
    with ResultFolder(night / "out"):
        assert f"process {os.getpid()} on" in str(plan_run(task).holder)


# --- files of the whole run that cannot be written


@pytest.mark.parametrize("name", ["summary.csv", "review.csv", "run.json", "report.html", "digests.json"])
def test_a_file_that_cannot_be_written_costs_no_other(
    night: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    result = classified(night, small_bundle, output={"report": True})
    assert result.exit_status == 1
    assert "No space left on device" in result.errors[name]
    whole = {"summary.csv", "review.csv", "run.json", "report.html", "digests.json"}
    assert {path.name for path in (night / "out").iterdir()} & whole == whole - {name}
    assert not list((night / "out").rglob(".*"))
    monkeypatch.undo()
    again = classified(night, small_bundle, output={"report": True})
    assert again.exit_status == 0
    assert again.kept == {"a.tiff", "b.tiff"}


def test_a_log_that_cannot_be_written_ends_no_run(night: Path, small_bundle: Path) -> None:
    (night / "out/log.jsonl").mkdir(parents=True)
    result = classified(night, small_bundle)
    assert result.statuses["a.tiff"] == "done"
    assert sum("Events are missing from it" in warning for warning in result.warnings) == 1


def test_a_folder_that_is_removed_stops_the_run(night: Path, small_bundle: Path) -> None:
    class Removing(Silent):
        def patches(self, number: int) -> None:  # noqa: ARG002
            shutil.rmtree(night / "out", ignore_errors=True)

    task = spec([night / "slides"], night / "dets/{stem}.csv", night / "out", small_bundle, output=QUICK)
    result = classify_batch(task, Removing())
    assert result.exit_status == 1
    failed = [name for name, status in result.statuses.items() if status == "failed"]
    assert len(failed) == 1
    assert "the folder's lock is gone" in result.errors[failed[0]]
    assert "the folder's lock is gone" in result.errors["summary.csv"]
    assert not (night / "out").exists()


def test_a_folder_that_is_taken_over_stops_the_run(night: Path, small_bundle: Path) -> None:
    class Robbed(Silent):
        def patches(self, number: int) -> None:  # noqa: ARG002
            lock = night / "out/.wsi-mitosis.lock.json"
            lock.write_text(lock.read_text().replace('"token":"', '"token":"f'))

    task = spec([night / "slides"], night / "dets/{stem}.csv", night / "out", small_bundle, output=QUICK)
    result = classify_batch(task, Robbed())
    assert "was taken over by process" in result.errors["summary.csv"]
    assert not (night / "out/summary.csv").exists()
    assert not (night / "out/figures").exists()
    assert {history.status for history in histories(night).values()} == {"running", "waiting"}, "not its own"


# --- metrics and notification


def test_others_are_told_after_everything_is_written(night: Path, small_bundle: Path) -> None:
    script = night / "told.sh"
    script.write_text(f"#!/bin/sh\ncat > {night}/told.json; ls {night}/out > {night}/files\n")
    script.chmod(0o755)
    output = {"metrics": str(night / "night.prom"), "notify": str(script), "report": True}
    result = classified(night, small_bundle, output=output)
    told = json.loads((night / "told.json").read_text())
    assert told["exit_status"] == 0
    assert told["statuses"] == result.statuses
    assert told["summary"][0]["slide"] == "a.tiff"
    assert {"summary.csv", "run.json", "report.html"} <= set((night / "files").read_text().split())
    text = (night / "night.prom").read_text()
    assert 'wsi_mitosis_slides{pipeline="night",status="done"} 2.0' in text
    assert "a.tiff" not in text
    assert "last_success" in text


def test_the_arguments_of_a_notification_are_no_ones_business(night: Path, small_bundle: Path) -> None:
    classified(night, small_bundle, output={"notify": "true --password sesame"})
    assert "sesame" not in (night / "out/run.json").read_text()
    assert json.loads((night / "out/run.json").read_text())["parameters"]["output"]["notify"] == "true"


def test_a_failure_to_tell_is_said_and_changes_no_status(night: Path, small_bundle: Path) -> None:
    result = classified(night, small_bundle, output={"notify": "false"})
    assert result.exit_status == 0
    assert any("--notify: the command 'false' ended with exit status 1" in w for w in result.warnings)
    stated = json.loads((night / "out/run.json").read_text())["warnings"]
    assert stated == result.warnings
    metrics = {"metrics": str(night / "no/such/folder.prom")}
    assert "writing metrics" in classified(night, small_bundle, output=metrics).errors["folder.prom"]


def test_the_last_success_is_remembered_over_failures(night: Path, small_bundle: Path) -> None:
    output = {"metrics": str(night / "m.prom")}
    classified(night, small_bundle, output=output)
    ended = json.loads((night / "out/run.json").read_text())["ended"]
    damaged(night / "slides/a.tiff")
    for _ in range(2):
        assert classified(night, small_bundle, output=output).last_success == ended
        stamp = datetime.fromisoformat(ended).timestamp()
        lines = (night / "m.prom").read_text().splitlines()
        value = next(line.split()[-1] for line in lines if line.startswith("wsi_mitosis_last_success"))
        assert float(value) == stamp


def test_a_slide_that_has_failed_since_it_was_done_stays_failed_when_it_is_not_given(
    night: Path, small_bundle: Path
) -> None:
    classified(night, small_bundle)
    damaged(night / "slides/a.tiff")
    classified(night, small_bundle)
    (night / "slides/a.tiff").unlink()
    classified(night, small_bundle)
    row = summary(night / "out")["a.tiff"]
    assert (row["status"], row["classified"]) == ("failed", ""), "the old result is of another slide"
    status = {slide.slide: slide.status for slide in folder_status(night / "out").slides}
    assert status["a.tiff"] == "failed"


@pytest.mark.parametrize("states", [True, False])
def test_a_slide_whose_table_is_lost_is_not_done(night: Path, small_bundle: Path, states: bool) -> None:
    classified(night, small_bundle)
    (night / "out/figures/a.tiff.parquet").unlink()
    if not states:
        shutil.rmtree(night / "out/states")
    found = {slide.slide: slide for slide in folder_status(night / "out").slides}
    assert (found["a.tiff"].status, found["b.tiff"].status) == ("failed", "done")
    assert "its table is missing, damaged or edited" in found["a.tiff"].reason


# --- a pipeline that searches first


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)


def test_a_pipeline_searches_and_classifies(tmp_path: Path, small_bundle: Path, stub: None) -> None:
    (tmp_path / "slides").mkdir()
    spots = [(60.0, 60.0, 0.9), (100.0, 80.0, 0.9)]
    spotted_slide(tmp_path / "slides/a.tiff", (200, 150), spots)
    spotted_slide(tmp_path / "slides/empty.tiff", (200, 150), [])
    (tmp_path / "slides/broken.tiff").write_bytes(b"II*\0" + bytes(100))
    pipeline = tmp_path / "night.toml"
    pipeline.write_text(
        f'model = "{small_bundle}"\n[input]\nslides = ["slides"]\n[detect]\n'
        '[output]\nfolder = "out"\nreport = false\n[placement]\nworkers = 0\ndevice = "cpu"\n'
    )
    night = read_pipeline(str(pipeline))
    planned = {slide.slide: slide.action for slide in plan_run(night).slides}
    assert planned == dict.fromkeys(("a.tiff", "broken.tiff", "empty.tiff"), "search")
    search = search_spec(night)
    assert search is not None
    found = detect_batch(search, Silent())
    result = classify_batch(night, Silent(), found.searched)
    assert result.statuses == {"a.tiff": "done", "empty.tiff": "done", "broken.tiff": "failed"}
    rows = summary(tmp_path / "out")
    assert (rows["a.tiff"]["classified"], rows["empty.tiff"]["candidates"]) == ("2", "0")
    assert result.errors["broken.tiff"] == found.errors["broken.tiff"]
    planned = {slide.slide: slide.action for slide in plan_run(night).slides}
    assert planned == {"a.tiff": "keep", "empty.tiff": "keep", "broken.tiff": "search"}
    spotted_slide(tmp_path / "slides/a.tiff", (200, 150), spots[:1])
    planned = {slide.slide: slide.action for slide in plan_run(night).slides}
    assert planned["a.tiff"] == "search", "another slide of the same name has candidates of its own"
    for _ in range(2):
        detect_batch(search, Silent())
    planned = {slide.slide: slide.action for slide in plan_run(night).slides}
    assert planned["broken.tiff"] == "set aside"


def test_the_state_during_a_search_is_that_of_the_search(tmp_path: Path, stub: None) -> None:
    slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    pipeline = tmp_path / "night.toml"
    pipeline.write_text(
        '[input]\nslides = ["slides"]\n[detect]\n[output]\nfolder = "out"\n'
        '[placement]\nworkers = 0\ndevice = "cpu"\n'
    )
    search = search_spec(read_pipeline(str(pipeline)))
    assert search is not None
    seen = []

    class Interrupting(Silent):
        def finished(self, *_: Any) -> None:
            seen.append(folder_status(tmp_path / "out"))
            raise KeyboardInterrupt

    assert detect_batch(search, Interrupting()).interrupted
    assert seen[0].is_at_work
    assert sorted(slide.status for slide in seen[0].slides) == ["done", "running"]
    after = folder_status(tmp_path / "out")
    assert (after.is_at_work, after.last_run["exit_status"]) == (False, 130)
    assert after.counts == {"done": 1, "pending": 1}


def test_what_a_search_has_taken_longer_than_until_is_not_classified(night: Path, small_bundle: Path) -> None:
    begun = datetime.now(UTC) - timedelta(hours=2)
    until = f"{begun + timedelta(hours=1):%H:%M}"
    path = night / "slides/a.tiff"
    searched = Searched(files={path: night / "dets/a.csv"}, begun=begun)
    schedule = {"until": until, "timezone": "UTC"}
    asked = spec([path], night / "dets/a.csv", night / "out", small_bundle, schedule=schedule, output=QUICK)
    result = classify_batch(asked, Silent(), searched)
    assert result.statuses == {"a.tiff": "pending"}
    assert "not begun after" in result.reasons["a.tiff"]


def test_a_pipeline_has_one_source_of_candidates(tmp_path: Path) -> None:
    pipeline = tmp_path / "night.toml"
    pipeline.write_text('[input]\nslides = ["s"]\ndetections = "d.csv"\n[detect]\n')
    with pytest.raises(InputError, match=r"\[detect\] finds the candidates; leave out 'detections'"):
        read_pipeline(str(pipeline))
    pipeline.write_text('[input]\nslides = ["s"]\n')
    with pytest.raises(InputError, match="missing key 'detections'"):
        read_pipeline(str(pipeline))


def test_a_folder_held_by_another_run_is_named(night: Path, small_bundle: Path) -> None:
    with ResultFolder(night / "out"), pytest.raises(OutputError, match=rf"process {os.getpid()} on"):
        classified(night, small_bundle)
