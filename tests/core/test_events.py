from __future__ import annotations

from typing import Any

import pytest

from wsi_mitosis.core.events import EVENTS, Done, Failed, name_of, parse_event
from wsi_mitosis.errors import SpecError

TIME = "2026-01-01T02:00:00.000+00:00"
DONE = {
    "time": TIME,
    "event": "done",
    "slide": "a.svs",
    "kept": False,
    "seconds": 1.5,
    "stages": {"net": 1.0},
    "peak_rss_mb": 512.0,
    "candidates": 3,
    "classified": 2,
    "atypical": 1,
    "typical": 1,
    "excluded": 1,
    "mean_agreement": 0.9,
}


def test_a_line_becomes_an_event_of_its_kind() -> None:
    done = parse_event(DONE)
    assert isinstance(done, Done)
    assert (done.slide, done.stages, done.time.isoformat()) == (
        "a.svs",
        {"net": 1.0},
        "2026-01-01T02:00:00+00:00",
    )
    failed = parse_event({"time": TIME, "event": "failed", "file": "report.html", "error": "no room"})
    assert isinstance(failed, Failed)
    assert (failed.slide, failed.file, failed.error_) == (None, "report.html", "no room")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"seconds": -1}, "'seconds' should be greater than or equal to 0"),
        ({"time": "2026-01-01T02:00:00"}, "'time' should have timezone info"),
        ({"event": "finished"}, "unknown event 'finished' .known: start, warning, "),
    ],
)
def test_a_line_that_does_not_fit_is_an_error_that_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_event(DONE | changes)


@pytest.mark.parametrize("about", [{}, {"slide": "a.svs", "file": "report.html"}])
def test_a_failure_concerns_a_slide_or_a_file(about: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="either that of a slide or that of a file"):
        parse_event({"time": TIME, "event": "failed", "error": "no room", **about})


def test_each_kind_has_its_own_name_and_describes_itself_and_its_keys() -> None:
    assert len({name_of(kind) for kind in EVENTS}) == len(EVENTS)
    for kind in EVENTS:
        assert kind.__doc__ is not None
        assert kind.__doc__.endswith(".")
