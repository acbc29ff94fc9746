"""Slides that are damaged, or that change, vanish or cannot be read while a run is at work."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.folders import assert_finished_are_those_of, finished, rows
from tests.runs import candidates_csv, run, slides_in
from tests.slide_files import damage
from wsi_mitosis.io.slides import Slide
from wsi_mitosis.io.slides.patches import Batch, stream_patches
from wsi_mitosis.jobs import classifier

NAMES = ["a.tiff", "b.tiff", "c.tiff"]
SEED = 5


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    slides_in(tmp_path / "slides", NAMES)
    candidates_csv(tmp_path / "d.csv", NAMES)
    return tmp_path


@pytest.fixture
def undisturbed(inputs: Path, small_bundle: Path) -> Path:
    out = inputs / "undisturbed"
    assert run([inputs / "slides"], inputs / "d.csv", out, small_bundle).exit_status == 0
    return out


def random_bytes(slide: Path) -> None:
    slide.write_bytes(random.Random(SEED).randbytes(slide.stat().st_size))


def corrupt_tiles(slide: Path) -> None:
    damage(slide, 0.5)


FAULTS = {"random bytes": random_bytes, "corrupt tiles": corrupt_tiles, "gone": Path.unlink}


@pytest.mark.parametrize("number", range(5))
def test_a_slide_that_is_cut_fails_or_its_figures_are_right(
    number: int, inputs: Path, small_bundle: Path, undisturbed: Path
) -> None:
    """A cut behind every tile that a patch needs leaves the labels as they are, and is said."""
    slide, out = inputs / "slides/b.tiff", inputs / "out"
    whole = slide.read_bytes()
    slide.write_bytes(whole[: random.Random(SEED + number).randrange(1, len(whole))])
    result = run([inputs / "slides"], inputs / "d.csv", out, small_bundle)
    assert (result.statuses["a.tiff"], result.statuses["c.tiff"]) == ("done", "done")
    if result.statuses["b.tiff"] == "failed":
        assert "unexpected" not in result.errors["b.tiff"]
    else:
        assert any(w.startswith("b.tiff: ") and "perhaps not whole" in w for w in result.warnings)
        labels = [finished(folder)["b.tiff"]["figures"] for folder in (out, undisturbed)]
        assert labels[0]["p_atypical"].tolist() == labels[1]["p_atypical"].tolist()
    slide.write_bytes(whole)
    assert run([inputs / "slides"], inputs / "d.csv", out, small_bundle).exit_status == 0
    assert assert_finished_are_those_of(out, finished(undisturbed)) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_slide_fails_alone_and_the_others_are_done(
    fault: str, inputs: Path, small_bundle: Path, undisturbed: Path
) -> None:
    whole = (inputs / "slides/b.tiff").read_bytes()
    paths, out = [inputs / "slides" / name for name in NAMES], inputs / "out"
    FAULTS[fault](paths[1])
    result = run(paths, inputs / "d.csv", out, small_bundle)
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    error = result.errors["b.tiff"]
    assert error.startswith("b.tiff: ")
    assert "unexpected" not in error
    assert assert_finished_are_those_of(out, finished(undisturbed)) == 2
    assert rows(out)["b.tiff"]["error"] == error
    paths[1].write_bytes(whole)
    assert run(paths, inputs / "d.csv", out, small_bundle).exit_status == 0
    assert assert_finished_are_those_of(out, finished(undisturbed)) == 3
    assert rows(out) == rows(undisturbed)


def grow(slide: Path) -> None:
    with slide.open("ab") as file:
        file.write(b"\0" * 1000)


@pytest.mark.parametrize("change", [grow, Path.unlink, random_bytes], ids=["growing", "deleted", "replaced"])
def test_a_slide_that_changes_while_it_is_read_has_no_result(
    change: Callable[[Path], None],
    inputs: Path,
    small_bundle: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slides, out = inputs / "slides", inputs / "out"

    def changing(slide: Slide, *arguments: Any, **options: Any) -> Iterator[Batch]:
        """The patches as they are; the slide changes after the first batch, while it is open."""
        for batch in stream_patches(slide, *arguments, **options):
            if slide.path.name == "b.tiff":
                change(slide.path)
            yield batch

    monkeypatch.setattr(classifier, "stream_patches", changing)
    result = run([slides], inputs / "d.csv", out, small_bundle)
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    assert "while they were read" in result.errors["b.tiff"]
    assert assert_finished_are_those_of(out, finished(undisturbed)) == 2


def test_a_slide_without_permission_to_read_it(inputs: Path, small_bundle: Path, undisturbed: Path) -> None:
    out = inputs / "out"
    (inputs / "slides/b.tiff").chmod(0)
    command = [
        "classify",
        inputs / "slides",
        "--detections",
        inputs / "d.csv",
        "--out",
        out,
        "--workers",
        "0",
    ]
    process = subprocess.run(
        [
            *as_an_ordinary_user(),
            sys.executable,
            "-m",
            "wsi_mitosis",
            *map(str, [*command, "--model", small_bundle]),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    assert {slide: row["status"] for slide, row in rows(out).items()} == {
        "a.tiff": "done",
        "b.tiff": "failed",
        "c.tiff": "done",
    }
    assert "no permission to read the file" in rows(out)["b.tiff"]["error"]
    assert assert_finished_are_those_of(out, finished(undisturbed)) == 2


def as_an_ordinary_user() -> list[str]:
    """The start of a command that takes away root's right to read everything."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv(1)")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
