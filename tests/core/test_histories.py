"""What is kept of a slide from run to run."""

from __future__ import annotations

from typing import Any

import pytest

from wsi_mitosis.core.histories import KILLED, RunProgress, SlideHistory


def history(**changes: Any) -> SlideHistory:
    data = {"slide": "a.svs", "path": "/x/a.svs", "status": "failed", "since": "2026-11-27T01:00:00+00:00"}
    return SlideHistory.model_validate(data | changes)


@pytest.mark.parametrize(("attempts", "is_left"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_slide_is_set_aside_after_so_many_attempts(attempts: int, is_left: bool) -> None:
    found = history(attempts=attempts, inputs="x", reason="a.svs: opening: broken. Scan it again")
    reason = found.set_aside("x", 3)
    assert (reason is not None) == is_left
    if reason is not None:
        runs = f"{attempts} runs"
        left = "so it is left until it changes or --retry is passed"
        assert reason == f"a.svs: failed in {runs}, {left}: opening: broken. Scan it again"


def test_attempts_at_other_inputs_do_not_count() -> None:
    assert history(attempts=9, inputs="x").set_aside("y", 3) is None


def test_a_slide_that_its_run_did_not_end_has_failed() -> None:
    left = history(status="running", attempts=1).after_its_run
    assert (left.status, left.attempts, left.reason) == ("failed", 2, f"a.svs: {KILLED}")
    for status in ("done", "failed", "waiting", "set_aside", "pending"):
        assert history(status=status).after_its_run == history(status=status)


def progress(**changes: Any) -> RunProgress:
    data: dict[str, Any] = {"started": "", "updated": "", "slides": 2, "finished": 0, "patches": 0}
    return RunProgress.model_validate(data | {"seconds": 0.0, "remaining": 10} | changes)


def test_the_end_of_a_run_is_expected_from_its_rate() -> None:
    assert progress(patches=20, seconds=4.0).patches_per_second == 5.0
    assert progress(patches=20, seconds=4.0).remaining_seconds == 2.0
    assert progress(patches=0, seconds=4.0).remaining_seconds is None
    assert progress(patches=0, seconds=0.0).remaining_seconds is None
    assert progress(patches=20, seconds=4.0, remaining=None).remaining_seconds is None
