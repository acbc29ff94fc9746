"""`report` as scripts meet it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.report_files import Done, page_of, results_folder
from tests.runs import CANDIDATES, slides_in
from tests.trend_files import laboratory, write_nights
from wsi_mitosis.cli import main
from wsi_mitosis.jobs.batch import BatchResult
from wsi_mitosis.specs import ClassifySpec


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    return results_folder(tmp_path / "out", [Done(path, CANDIDATES) for path in slides], mine=["a.tiff"])


def test_it_tells_what_it_wrote(out: Path) -> None:
    told = call(out)
    assert told.exit_code == 0, told.output
    assert f"2 slides, 1 with images: {out / 'report.html'}" in told.stdout
    assert "Research use only" in told.stdout
    assert "1 of 2 slides are shown with pictures" in told.stderr
    assert page_of(out).count("<section") == 1


def test_other_slides_can_be_asked_for(out: Path) -> None:
    assert call(out, "--slides", "b*", "--slides", "a.tiff", "-q").output == ""
    assert page_of(out).count("<section") == 2
    told = call(out, "--slides", "z*")
    assert told.exit_code == 2
    assert "none of the 2 classified slides is named z*" in told.stderr
    assert page_of(out).count("<section") == 2


def test_json_is_one_object_on_stdout_and_a_slide_that_is_gone_no_failure(out: Path, tmp_path: Path) -> None:
    (tmp_path / "slides/a.tiff").unlink()
    done = call(out, "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["report"] == str(out / "report.html")
    assert (told["slides"], told["pictured"]) == (2, ["a.tiff"])
    assert "no longer where" in told["without_picture"]["a.tiff"]
    assert told["size_bytes"] == (out / "report.html").stat().st_size
    assert "no longer where" in done.stderr


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], []])
def test_unusable_input_is_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    """21 slides, and in the last one each figure is atypical."""
    slides = laboratory(21)
    slides[-1] = replace(slides[-1], atypical=slides[-1].figures)
    return write_nights(tmp_path / "nights", slides)


def test_control_charts_are_drawn_and_points_outside_printed(nights: Path) -> None:
    told = call(nights, "--trend", "--timezone", "UTC")
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert (
        "2026-01-21  Aperio SS1, s0020.svs: Atypical fraction 100.0 %, above the upper limit (" in told.stdout
    )
    assert f"21 slides, 1 group, {len(lines) - 1} outside: {nights / 'trend.html'}" in lines[-1]
    assert call(nights, "--trend", "-q").output == ""


def test_control_charts_as_json(nights: Path, tmp_path: Path) -> None:
    told = json.loads(call(nights, nights, "--trend", "--json", "--out", tmp_path / "t.html").stdout)
    assert (told["report"], told["table"]) == (str(tmp_path / "t.html"), str(tmp_path / "t.csv"))
    assert (told["slides"], told["groups"]) == (21, {"Aperio SS1": 21})
    (outside,) = [one for one in told["outside"] if one["quantity"] == "atypical_fraction"]
    assert (outside["slides"], outside["value"], outside["text"]) == (
        ["s0020.svs"],
        1.0,
        "above the upper limit",
    )
    assert outside["high"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{out}", "{out}"], "Several go with --trend"),
        (["{out}", "--by", "folder"], "--by goes with --trend"),
        (["{out}", "--reference", "2026-01-01..2026-01-02"], "--reference goes with --trend"),
        (["{out}", "--out", "x.html"], "--out goes with --trend"),
        (["{out}", "--trend", "--slides", "a*"], "do not go with --trend"),
        (["{out}", "--trend", "--reference", "January"], "not of the form FROM..TO"),
        (["{out}", "--trend", "--reference", "2026-01-02..2026-01-01"], "2026-01-01 is before 2026-01-02"),
        (["{out}", "--trend", "--timezone", ""], "the value is empty"),
        (["nowhere", "--trend"], "no results of `classify`"),
        (["--trend"], "Missing argument"),
    ],
)
def test_what_does_not_go_together_is_refused(
    nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    told = call(*(argument.format(out=nights) for argument in arguments))
    assert told.exit_code == 2
    assert message in " ".join(told.stderr.split())
    assert not (nights / "trend.html").exists()
    assert list(tmp_path.iterdir()) == [nights]


def test_classify_tells_of_a_report_that_failed_even_if_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = BatchResult(folder=tmp_path, bundle="b", bundle_digest="d", trained=True)
    result.statuses["a.tiff"] = "done"
    result.errors["report.html"] = "report.html: OSError: no space left"
    monkeypatch.setattr("wsi_mitosis.workers.slides.classify_batch", lambda *_: result)
    arguments = ["classify", "a.tiff", "--detections", "d.csv", "-q"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 1
    assert "failed: report.html: OSError: no space left" in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(("arguments", "wanted"), [([], True), (["--no-report"], False)])
def test_no_report_reaches_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], wanted: bool
) -> None:
    asked: list[ClassifySpec] = []

    def seen(spec: ClassifySpec, *_: object) -> BatchResult:
        asked.append(spec)
        return BatchResult(folder=tmp_path, bundle="b", bundle_digest="d", trained=True)

    monkeypatch.setattr("wsi_mitosis.workers.slides.classify_batch", seen)
    CliRunner().invoke(main, ["classify", "a.tiff", "--detections", "d.csv", *arguments])
    assert asked[0].output.report is wanted
