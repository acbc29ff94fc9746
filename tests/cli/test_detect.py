"""`detect` as scripts meet it, and `classify` on what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.detector_files import MODEL, spotted_slide, stub_network
from tests.runs import summary
from wsi_mitosis.cli import main
from wsi_mitosis.nets import detector

HERE = ["--workers", "0", "--device", "cpu"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slides of one file name, one of another without a figure, in the current folder."""
    monkeypatch.chdir(tmp_path)
    spotted_slide(Path("s/one/x.tiff"), (100, 80), [(30, 30, 0.5), (70, 40, 0.9)])
    spotted_slide(Path("s/two/x.tiff"), (110, 80), [(50, 30, 0.8)])
    spotted_slide(Path("s/two/y.tiff"), (90, 80), [(40, 40, 0.2)])


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)


@pytest.mark.usefixtures("slides", "stub")
def test_what_detect_writes_classify_takes_as_it_is(small_bundle: Path) -> None:
    told = call("detect", "s", "--recursive", "--out", "dets.csv", *HERE)
    assert told.exit_code == 0, told.output
    assert "3 slides: 3 done" in told.stdout
    assert "3 candidates in dets.csv" in told.stdout
    assert "two/x.tiff: 1 candidate (" in told.stderr

    classify = ["classify", "s", "--recursive", "--model", small_bundle, *HERE]
    assert call(*classify, "--detections", "dets.csv", "--out", "by-file").exit_code == 0
    rows = summary(Path("by-file"))
    assert {name: (row["status"], row["classified"]) for name, row in rows.items()} == {
        "one/x.tiff": ("done", "2"),
        "two/x.tiff": ("done", "1"),
        "y.tiff": ("no_detections", ""),
    }
    assert call(*classify, "--detections", "dets.csv.parts", "--out", "by-folder").exit_code == 0
    assert summary(Path("by-folder"))["y.tiff"]["status"] == "done"
    assert summary(Path("by-folder"))["y.tiff"]["classified"] == "0"
    assert summary(Path("by-folder"))["one/x.tiff"]["classified"] == "2"


@pytest.mark.usefixtures("slides", "stub")
def test_json_is_one_object_on_stdout_and_quiet_is_quiet() -> None:
    told = call("detect", "s/two", "--json", *HERE)
    assert told.exit_code == 0
    assert json.loads(told.stdout) == {
        "out": "dets.csv",
        "exit_status": 0,
        "model": "stub",
        "weights_sha256": MODEL.sha256,
        "statuses": {"x.tiff": "done", "y.tiff": "done"},
        "candidates": {"x.tiff": 1, "y.tiff": 0},
        "kept": [],
        "errors": {},
        "reasons": {},
        "warnings": [],
        "interrupted": False,
    }
    again = call("detect", "s/two", "-q", *HERE)
    assert (again.exit_code, again.output) == (0, "")
    Path("s/two/y.tiff").write_bytes(b"broken")
    failed = call("detect", "s/two", "--json", *HERE)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["kept"] == ["x.tiff"]
    assert "y.tiff" in failed.stderr


@pytest.mark.usefixtures("slides")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "no such file or folder"),
        (["s/two", "--weights", "none.pth"], "--weights hub"),
        (["s/two", "--model", "nobody"], "KongNet_Det_MIDOG_1"),
        (["s/two", "--min-score", "1.5"], "'--min-score'"),
    ],
)
def test_unusable_input_is_exit_status_2(arguments: list[str], told: str) -> None:
    result = call("detect", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not Path("dets.csv.parts").exists()
