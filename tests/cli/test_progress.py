"""What a run prints: its counters, failures and notes, however many and in whatever order."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.records import slide_record
from wsi_mitosis.cli.notes import Notes
from wsi_mitosis.cli.progress import Reporter, ended
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.errors import several
from wsi_mitosis.jobs.ledger import RunResult
from wsi_mitosis.jobs.outcomes import SlideOutcome

RESULT = object()
Printed = Callable[[], str]


def done(name: str, *, kept: bool = False) -> SlideOutcome[Any]:
    return SlideOutcome(name, "done", result=None if kept else RESULT)


def failed(name: str, reason: str = "no reader opens it") -> SlideOutcome[Any]:
    return SlideOutcome(name, "failed", error=f"{name}: {reason}")


def record(candidates: int = 5, excluded: int = 0) -> SlideRecord:
    return slide_record(counts=Counts(candidates=candidates, excluded=excluded, atypical=1))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return lambda: capsys.readouterr().err


def test_slides_that_failed_before_the_start_are_in_both_numbers(printed: Printed) -> None:
    with Reporter() as reporter:
        reporter.finished(failed("a.svs"), None)
        reporter.finished(failed("b.svs"), None)
        reporter.start(1, 5)
        reporter.finished(done("c.svs"), record())
    assert "[3/3] c.svs" in printed()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(before=st.lists(st.booleans(), max_size=4), after=st.lists(st.booleans(), max_size=6))
def test_the_counter_never_passes_its_total_and_ends_at_it(
    before: list[bool], after: list[bool], printed: Printed
) -> None:
    """True is a slide that fails; those before the start always do."""
    with Reporter() as reporter:
        for number in range(len(before)):
            reporter.finished(failed(f"before{number}.svs"), None)
        reporter.start(len(after) + 1, None)
        for number, fails in enumerate(after):
            reporter.finished(failed(f"{number}.svs") if fails else done(f"{number}.svs"), record())
        reporter.finished(done("last.svs"), record())
    counters = [(int(n), int(total)) for n, total in re.findall(r"\[(\d+)/(\d+)\]", printed())]
    slides = len(before) + len(after) + 1
    assert all(n <= total == slides for n, total in counters)
    assert counters[-1] == (slides, slides)


def test_the_bar_ends_full_where_slides_fail_are_kept_or_have_excluded_candidates(
    monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    monkeypatch.setattr("wsi_mitosis.cli.progress._is_terminal", lambda: True)
    with Reporter() as reporter:
        reporter.start(4, 20)
        assert reporter._progress is not None
        bar = reporter._progress.tasks[0]
        reporter.patches(5)
        reporter.finished(done("a.svs"), record())
        reporter.patches(3)
        reporter.finished(done("b.svs"), record(excluded=2))
        assert bar.total == 18
        reporter.finished(done("c.svs", kept=True), record())
        assert bar.total == 13
        reporter.patches(1)
        reporter.finished(failed("d.svs"), None)
        assert (bar.completed, bar.total) == (9, 9)
    printed()


def test_a_failure_is_printed_once_and_the_end_names_three() -> None:
    names = [f"{number}.svs" for number in range(1200)]
    result = RunResult(
        statuses={**dict.fromkeys(names, "failed"), "good.svs": "done", "none.svs": "no_detections"},
        errors={name: f"{name}: no reader opens it" for name in names},
    )
    lines = ended(result, Path("out/run.json"))
    assert lines == [
        "1202 slides: 1 done, 1200 failed, 1 without detections",
        "Failed: '0.svs', '1.svs', '2.svs' and 1197 more. out/log.jsonl gives each reason.",
    ]


def test_one_slide_is_one_slide() -> None:
    assert [several(number, "slide") for number in (0, 1, 2)] == ["0 slides", "1 slide", "2 slides"]
    assert ended(RunResult(statuses={"a.svs": "done"}), Path("run.json")) == ["1 slide: 1 done"]


def test_a_note_of_1000_slides_is_printed_three_times_and_counted(printed: Printed) -> None:
    with Reporter() as reporter:
        for number in range(1000):
            reporter.warn(f"{number}.svs: states 0.2{number:03} um/px, which overrules --mpp 0.5")
        reporter.warn("d.csv: read as csv, px, frame slide")
    lines = printed().splitlines()
    assert len(lines) == 5
    assert "d.csv" in lines[3]
    assert lines[4].startswith("note: 997 more notes like '0.svs: states 0.2000 um/px")
    assert lines[4].endswith("log.jsonl lists all of them")


def test_every_note_is_printed_where_more_detail_is_wanted(printed: Printed) -> None:
    with Reporter(verbose=True) as reporter:
        for number in range(10):
            reporter.warn(f"{number}.svs: something")
    assert len(printed().splitlines()) == 10


def test_notes_of_other_kinds_are_not_counted_together() -> None:
    lines: list[str] = []
    notes = Notes(lines.append)
    for kind in ("is grey", "has no pixel size", "has 3 planes", "lacks a level"):
        notes.add(f"a.svs: {kind}")
    notes.end("run.json")
    assert len(lines) == 4


def test_a_name_is_printed_as_it_is_and_never_obeyed(printed: Printed) -> None:
    """Neither as rich's markup or emoji, nor as the terminal's escape sequences or lines."""
    name = "[red]:heart:\x1b[31m\n\u202e.svs"
    with Reporter() as reporter:
        reporter.start(3, None)
        reporter.warn(f"{name}: a note")
        reporter.finished(failed(name), None)
        reporter.finished(done(name), record())
    lines = printed().splitlines()
    assert len(lines) == 4
    assert all(r"[red]:heart:\x1b[31m\n\u202e.svs" in line for line in lines[1:])
