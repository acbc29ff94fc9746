"""`recount` as scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.reviewers import classify, export, page, save
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


# Several reviewers


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results in `out`, the review files of three reviewers in `saved`, and exports of two in `a` and `b`."""
    monkeypatch.chdir(tmp_path)
    out = classify(Path("out"), {"a.svs": "aattat"})
    for name, letters in {"anna": "attnu-", "ben": "atanu-", "cleo": "tnunu-"}.items():
        save(Path("saved"), page(out, name, {"a.svs": letters}, blind=name == "ben"))
    for place in ("a/exported", "b/exported"):
        export(Path(place), out, "a.svs", "aattat")
    return tmp_path


def test_several_reviewers_are_told_apart(reviewed: Path) -> None:
    told = call("recount", "out", "--reviewed", "saved")
    assert told.exit_code == 0, told.output
    for line in (
        "1 kept, 1 relabelled, 1 removed, 0 added, 1 unseen, 2 undecided",
        "Cohen's kappa of ensemble and consensus: ",
        "3 reviewers: anna (5 verdicts), ben (5 verdicts, blind), cleo (5 verdicts)",
        "  kappa of ensemble and anna: 0.200 (95 % interval ",
        "  kappa of anna and ben: 0.636 (95 % interval ",
        "  kappa of anna and cleo: 0.000 (95 % interval ",
        "  Fleiss' kappa of all reviewers: 0.308 (95 % interval ",
        " on 3 figures",
        "Figures without a majority: 1; consensus.csv lists them",
        "decided independently of them: 'ben'.",
    ):
        assert line in told.stdout
    assert "figures without a majority, which keep the ensemble's label: 1" in told.stderr


def test_the_pairs_of_many_reviewers_are_printed_on_request(reviewed: Path) -> None:
    arguments = ("recount", "out", "--reviewed", "saved", "--reviewed", "a/exported")
    told = call(*arguments).stdout
    assert "  kappas of 6 pairs of reviewers: see -v, or agreement.json\n" in told
    assert "kappa of anna and ben" not in told
    assert "kappa of ensemble and ben" in told
    told = call(*arguments, "-v").stdout
    assert told.count("  kappa of ") == 10  # of 4 reviewers with the ensemble, and of 6 pairs


def test_json_has_the_agreement_of_reviewers(reviewed: Path) -> None:
    told = json.loads(call("recount", "out", "--reviewed", "saved", "--json").stdout)
    assert [one["name"] for one in told["agreement"]["reviewers"]] == ["anna", "ben", "cleo"]
    assert len(told["agreement"]["pairs"]) == 3
    assert len(told["agreement"]["ties"]) == 1


def test_a_kappa_that_is_undefined_says_why(reviewed: Path) -> None:
    out = classify(Path("same"), {"a.svs": "aa"})
    for name in ("dora", "emil"):
        save(Path("alike"), page(out, name, {"a.svs": "aa"}))
    told = call("recount", out, "--reviewed", "alike").stdout
    reason = "all of them gave all figures the same label"
    assert f"kappa of dora and emil: undefined on 2 figures: {reason}" in told


def test_reviewers_of_one_name_are_told_apart_by_the_user(reviewed: Path) -> None:
    twice = call("recount", "out", "--reviewed", "a/exported", "--reviewed", "b/exported")
    assert twice.exit_code == 2
    assert "the reviewer 'exported', and a/exported is a folder of a reviewer of" in twice.stderr
    named = call("recount", "out", "--reviewed", "Anna B.=a/exported", "--reviewed", "b/exported", "--json")
    assert named.exit_code == 0, named.stderr
    reviewers = json.loads(named.stdout)["agreement"]["reviewers"]
    assert [one["name"] for one in reviewers] == ["Anna B.", "exported"]


def test_an_equals_sign_in_a_path_is_no_name(reviewed: Path) -> None:
    Path("a/exported").rename("day=1")
    told = json.loads(call("recount", "out", "--reviewed", "day=1", "--json").stdout)
    assert [one["name"] for one in told["agreement"]["reviewers"]] == ["day=1"]
    messages = {"x/y=saved": "x/y=saved: reading the review: no such folder", "anna=": "and no folder"}
    for path, message in messages.items():
        nothing = call("recount", "out", "--reviewed", path)
        assert nothing.exit_code == 2
        assert message in " ".join(nothing.stderr.split())


def test_a_review_that_is_refused_is_exit_status_1(reviewed: Path) -> None:
    other = classify(Path("other"), {"a.svs": "aattat"}, digest="j" * 62)
    path = save(Path("alien"), page(other, "dora", {"a.svs": "nnnnnn"}))
    told = call("recount", "out", "--reviewed", "saved", "--reviewed", path, "-q")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "a.svs: dora: reading the review: review-dora.json shows another slide" in told.stderr
