"""The picture in the architecture page of what calls what, compared with a run."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.runs import candidates_csv, run, slides_in

PICTURE = re.compile(r"^( *)(wsi_mitosis\.[\w.]+) ", re.MULTILINE)
INDENT = 4


class Step(NamedTuple):
    """A function of the picture and the function above it that calls it."""

    name: str
    caller: str | None


def picture() -> list[Step]:
    text = (Path(__file__).parents[1] / "docs/development/architecture.md").read_text(encoding="utf-8")
    above: list[str] = []
    steps = []
    for spaces, name in PICTURE.findall(text):
        depth = len(spaces) // INDENT
        above = [*above[:depth], name]
        steps.append(Step(name, above[depth - 1] if depth else None))
    return steps


def found(name: str) -> Any:
    """The function of a dotted name, which may be a method."""
    module, _, function = name.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        module, _, class_name = module.rpartition(".")
        owner = getattr(importlib.import_module(module), class_name)
    return getattr(owner, function)


@contextmanager
def profiling(profile: Callable[..., None]) -> Iterator[None]:
    """Call a function on every call in this thread, and in threads that it starts."""
    before = sys.getprofile()
    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(before)


def test_the_picture_has_at_most_ten_steps_and_begins_with_a_run() -> None:
    steps = picture()
    assert 5 <= len(steps) <= 10
    assert [step.name for step in steps if step.caller is None] == ["wsi_mitosis.jobs.batch.run_batch"]


def test_a_run_calls_the_functions_of_the_picture_in_its_order(tmp_path: Path, small_bundle: Path) -> None:
    steps = picture()
    codes = {inspect.unwrap(found(step.name)).__code__: step.name for step in steps}
    assert len(codes) == len(steps)
    calls: list[Step] = []

    def profile(frame: Any, event: str, _: object) -> None:
        if event != "call" or frame.f_code not in codes:
            return
        caller = frame.f_back
        while caller is not None and caller.f_code not in codes:
            caller = caller.f_back
        # a worker's thread was started by the run
        of_run = None if threading.current_thread() is threading.main_thread() else steps[0].name
        calls.append(Step(codes[frame.f_code], of_run if caller is None else codes[caller.f_code]))

    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    with profiling(profile):
        run(slides, detections, tmp_path / "out", small_bundle, output={"report": False})
    assert list(dict.fromkeys(calls)) == steps
