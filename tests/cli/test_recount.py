"""`recount` as scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.runs import candidates_csv, run, slides_in
from wsi_mitosis.cli import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def review(tmp_path: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Results in `out`, and the objects of the only slide; write them to `rev` to make a review of them."""
    monkeypatch.chdir(tmp_path)
    slides = slides_in(tmp_path / "slides", ["a.tiff"])
    run(slides, candidates_csv(tmp_path / "d.csv", ["a.tiff"]), tmp_path / "out", small_bundle)
    Path("rev").mkdir()
    features = json.loads(Path("out/geojson/a.tiff.geojson").read_text())["features"]
    Path("rev/a.geojson").write_text(json.dumps(features[1:]))
    return features


def test_it_tells_what_changed(review: list[dict]) -> None:
    told = call("recount", "out", "--reviewed", "rev")
    assert told.exit_code == 0, told.output
    assert "1 slide reviewed" in told.stdout
    assert "4 kept, 0 relabelled, 1 removed, 0 added" in told.stdout
    assert "Cohen's kappa" in told.stdout
    assert "UNTRAINED" in told.stdout
    assert "Research use only" in told.stdout


def test_json_is_one_object_on_stdout(review: list[dict]) -> None:
    told = json.loads(call("recount", "out", "--reviewed", "rev", "--json").stdout)
    assert told["exit_status"] == 0
    assert told["agreement"]["removed"] == 1
    assert [row["change"] for row in told["changes"]] == ["removed"]
    assert told["summary"][0]["classified"] == 4
    assert told["summary"][0]["machine_classified"] == 5


def test_quiet_says_nothing_of_a_good_recount(review: list[dict]) -> None:
    told = call("recount", "out", "--reviewed", "rev", "-q")
    assert (told.exit_code, told.output) == (0, "")


def test_a_class_of_ones_own_is_an_error_until_it_is_explained(review: list[dict]) -> None:
    review[0]["properties"]["classification"] = {"name": "Bizarre", "color": [1, 2, 3]}
    Path("rev/a.geojson").write_text(json.dumps(review))
    told = call("recount", "out", "--reviewed", "rev", "-q")
    assert told.exit_code == 1
    assert "unknown class 'Bizarre'" in told.stderr
    for meaning, removed in (("atypical", 0), ("none", 1)):
        told = call("recount", "out", "--reviewed", "rev", "--json", "--label", f"bizarre={meaning}")
        assert told.exit_code == 0, told.stderr
        assert json.loads(told.stdout)["agreement"]["removed"] == removed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--reviewed", "nowhere"], "no such folder"),
        (["--reviewed", "rev", "--label", "Bizarre=odd"], "is not of the form NAME="),
        (["--reviewed", "rev", "--label", "=none"], "is not of the form NAME="),
        (["--reviewed", "rev", "--distance-um", "-1"], "distance-um"),
        ([], "--reviewed"),
    ],
)
def test_unusable_input_is_exit_status_2(review: list[dict], arguments: list[str], told: str) -> None:
    result = call("recount", "out", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
