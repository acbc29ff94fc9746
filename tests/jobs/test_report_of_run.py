"""The report at the end of a run: what it costs the run if it fails, and when there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report_files import page_of
from tests.runs import Silent, candidates_csv, files_in, run, slides_in, spec, summary
from wsi_mitosis.jobs import batch
from wsi_mitosis.jobs.batch import BatchResult, SlideOutcome
from wsi_mitosis.jobs.report import report


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def without_inference(*arguments: Any, **sections: Any) -> BatchResult:
    """A run in which nothing is to be computed: what stands is kept."""

    def kept(tasks, bundle, options, reporter) -> Iterator[SlideOutcome]:  # type: ignore[no-untyped-def]
        yield from (SlideOutcome(task.name, "done") for task in tasks)

    return batch.run_batch(spec(*arguments, **sections), kept, Silent())


def test_a_run_ends_with_its_report_and_a_failing_one_costs_nothing_else(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step goes on from the one before: a run that computes takes long."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff", "c.tiff"])
    slides[2].write_bytes(b"no slide")
    detections, out = candidates_csv(tmp_path / "d.csv", ["a.tiff", "c.tiff"]), tmp_path / "out"
    result = run(slides, detections, out, small_bundle)
    assert (result.exit_status, result.report) == (1, out / "report.html")
    page = page_of(out)
    for name in ("a.tiff", "b.tiff", "c.tiff"):
        assert f'data-value="{name}"' in page
    assert page.count("<section") == 1
    assert "UNTRAINED" in page
    assert [event["event"] for event in events(out)][-2:] == ["report", "end"]
    report(out)
    assert page_of(out) == page

    # a failing report: removed, told, exit status 1; all else stands
    arguments = (slides[:2], detections, out, small_bundle)
    whole, rows = files_in(out), summary(out)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("wsi_mitosis.jobs.report.write_report", full)
        result = without_inference(*arguments)
    assert (result.exit_status, result.report) == (1, None)
    assert list(result.errors) == ["report.html"]
    assert "no space left on device" in result.errors["report.html"]
    assert f"`wsi-mitosis report {out}` makes it" in result.errors["report.html"]
    assert result.statuses == {"a.tiff": "done", "b.tiff": "no_detections"}
    assert not (out / "report.html").exists()
    assert files_in(out) == whole
    assert {name: row["status"] for name, row in summary(out).items()} == {
        name: row["status"] for name, row in rows.items()
    }
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["exit_status"] == 1
    failed = next(event for event in events(out)[::-1] if event["event"] == "failed")
    assert "Traceback" in failed["details"]
    assert events(out)[-1] == events(out)[-1] | {"event": "end", "exit_status": 1}

    # a second run shows its own slides, and the table all of them
    result = without_inference(*arguments)
    assert result.exit_status == 0
    assert page_of(out).count("<section") == 1
    assert 'data-value="c.tiff"' in page_of(out)

    # an interrupt while it is made
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsi_mitosis.jobs.report.write_report", interrupted)
        assert without_inference(*arguments).exit_status == 130
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["exit_status"] == 130
    assert files_in(out) == whole

    # without one, an old one is removed: it would tell other numbers
    without_inference(*arguments)
    assert (out / "report.html").exists()
    assert without_inference(*arguments, output={"report": False}).exit_status == 0
    assert not (out / "report.html").exists()
