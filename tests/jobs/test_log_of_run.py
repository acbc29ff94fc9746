"""Every line that a run writes into its log fits the documented schema."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.detector_files import MODEL, spotted_slide, stub_network
from tests.reference import FOLDER
from tests.runs import CANDIDATES, Silent, candidates_csv, run, slides_in
from tests.test_shipped import ROOT
from wsi_mitosis.core.events import (
    EVENTS,
    Done,
    End,
    Event,
    Failed,
    SetAside,
    Start,
    Waiting,
    Warned,
    name_of,
    parse_event,
)
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.nets import detector
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.workers.slides import detect_batch


def events(folder: Path) -> list[Event]:
    """Parse every line; one that does not fit its schema is an error."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [parse_event(json.loads(line), f"line {number}") for number, line in enumerate(lines, 1)]


def counted(found: list[Event]) -> Counter[str]:
    return Counter(event.event for event in found)


def test_the_lines_of_classify_fit_with_failures_warnings_and_kept_slides(
    tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.tiff", "broken.tiff", "odd.tiff"]
    slides, out = slides_in(tmp_path / "slides", names), tmp_path / "out"
    slides[1].write_bytes(b"no slide")
    detections = candidates_csv(tmp_path / "d.csv", names)
    predict = Classifier._predict

    def with_a_bug(self: Classifier, slide, *arguments):  # type: ignore[no-untyped-def]
        if slide.path.name == "odd.tiff":
            raise ZeroDivisionError("a bug")
        return predict(self, slide, *arguments)

    monkeypatch.setattr(Classifier, "_predict", with_a_bug)
    for _ in range(2):
        run(slides, detections, out, small_bundle)
    found = events(out)
    assert isinstance(found[0], Start)
    assert (found[0].slides, found[0].bundle, found[0].model) == (3, "small", None)
    done = [event for event in found if isinstance(event, Done)]
    assert [(event.slide, event.kept, event.candidates) for event in done] == [
        ("a.tiff", False, len(CANDIDATES)),
        ("a.tiff", True, len(CANDIDATES)),
    ]
    failed = {event.slide: event for event in found if isinstance(event, Failed)}
    assert failed["broken.tiff"].details is None
    assert "ZeroDivisionError: a bug" in (failed["odd.tiff"].details or "")
    assert any("untrained" in event.message for event in found if isinstance(event, Warned))
    assert isinstance(found[-1], End)
    assert found[-1].exit_status == 1
    assert counted(found)["report"] == 2


def test_the_lines_of_detect_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)
    slides = [tmp_path / "a.tiff", tmp_path / "broken.tiff"]
    spotted_slide(slides[0], (100.0, 100.0), [(50.0, 50.0, 0.9)], (0.5, 0.5))
    slides[1].write_bytes(b"no slide")
    spec = {"slides": list(map(str, slides)), "out": str(tmp_path / "dets.csv")}
    detect_batch(DetectSpec.parse({**spec, "placement": {"workers": 0, "device": "cpu"}}, "test"), Silent())
    found = events(tmp_path / "dets.csv.parts")
    assert isinstance(found[0], Start)
    assert (found[0].bundle, found[0].model) == (None, MODEL.name)
    assert {"start", "done", "failed", "end"} <= set(counted(found))
    assert [event.candidates for event in found if isinstance(event, Done)] == [1]


def test_the_lines_of_slides_that_are_left_fit(tmp_path: Path, small_bundle: Path) -> None:
    names = ["a.tiff", "broken.tiff"]
    slides, out = slides_in(tmp_path / "slides", names), tmp_path / "out"
    slides[1].write_bytes(b"no slide")
    arguments = slides, candidates_csv(tmp_path / "d.csv", names), out, small_bundle
    retries = {"max_failures": 1}
    run(*arguments, retries=retries)
    run(*arguments, retries=retries)
    run(*arguments, retries=retries | {"retry": True}, schedule={"settle_seconds": 3600})
    found = events(out)
    aside = [event for event in found if isinstance(event, SetAside)]
    assert [event.slide for event in aside] == ["broken.tiff"]
    assert "--retry" in aside[0].error_
    waiting = [event for event in found if isinstance(event, Waiting)]
    assert {event.slide for event in waiting} == set(names)
    assert all("changed" in event.reason for event in waiting)


def test_every_kind_of_event_is_one_that_the_program_writes() -> None:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "wsi_mitosis").rglob("*.py"))
    written = set(re.findall(r"\.log\(\s*\"(\w+)\"", "\n".join(sources)))
    assert written == {name_of(kind) for kind in EVENTS}


def test_the_page_describes_every_event_and_every_key() -> None:
    text = (FOLDER / "log.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == [name_of(kind) for kind in EVENTS]
    for kind in EVENTS:
        keys = set(re.findall(r"^\| `(\w+)` \|", sections[name_of(kind)], re.MULTILINE))
        assert keys == {name.rstrip("_") for name in kind.model_fields} - set(Event.model_fields)
