"""`export` as scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.export_files import PLACES, results
from wsi_mitosis.cli import main
from wsi_mitosis.core.states import SlideState


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    failed = SlideState("broken.svs", "failed", error="broken.svs: opening: no reader opens it")
    return results(tmp_path / "out", {"a.svs": PLACES, "b.svs": PLACES[:1]}, [failed])


def test_it_tells_what_it_wrote(out: Path) -> None:
    result = call(out, "--to", "midog", "--slides", "[ab].svs")
    assert result.exit_code == 0, result.output
    assert "2 slides exported: 4 figures" in result.stdout
    assert f"1 file in {out / 'exports/midog'}. Research use only." in result.stdout
    assert call(out, "--to", "midog", "--slides", "a*", "-q").output == ""
    assert f"  {out / 'exports/midog/midog.json'}\n" in call(out, "--to", "midog", "-v").stdout


def test_a_failed_slide_is_exit_status_1(out: Path) -> None:
    result = call(out, "--to", "midog", "-q")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "failed: broken.svs: exporting: it has no result: failed" in result.stderr


def test_json_is_one_object_on_stdout(out: Path, tmp_path: Path) -> None:
    result = call(out, "--to", "grand-challenge", "--json", "--out", tmp_path / "g")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["out"] == str(tmp_path / "g")
    assert data["files"] == ["a.svs.json", "b.svs.json"]
    assert (data["exit_status"], data["slides"], data["figures"]) == (1, ["a.svs", "b.svs"], 4)
    assert list(data["errors"]) == ["broken.svs"]


def test_one_failure_of_a_shared_file_is_told_once(out: Path) -> None:
    (out / "exports/midog/midog.json").mkdir(parents=True)
    result = call(out, "--to", "midog", "--slides", "[ab].svs")
    assert result.exit_code == 2
    assert result.stderr.count("midog.json: exporting: cannot be written") == 1


@pytest.mark.parametrize("arguments", [["nowhere", "--to", "midog"], [".", "--to", "midog"], ["."], []])
def test_unusable_input_is_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused_with_the_known_ones(out: Path) -> None:
    result = call(out, "--to", "coco")
    assert result.exit_code == 2
    assert "'grand-challenge'" in result.stderr
