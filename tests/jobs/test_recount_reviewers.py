"""A recount of several reviewers: pages and exports, parts, other results, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reviewers import classify, export, page, save
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.errors import DetectionsError, InputError, OutputError
from wsi_mitosis.io.csv_files import read_rows
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.io.results.recounts import disagreements, read_consensus, read_recount, read_verdicts
from wsi_mitosis.jobs.recount import BLIND, NOT_BLIND, recount
from wsi_mitosis.jobs.reviewers import Reviewed
from wsi_mitosis.jobs.verify import Finding, verify
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.tables import CONSENSUS_COLUMNS, VERDICT_COLUMNS

A, B = "a.svs", "b.svs"
SAID = {"anna": "attnu-", "ben": "atanu-", "cleo": "tnunu-"}
"""Of the slide a.svs, whose figures are a a t t a t by the ensemble."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return classify(tmp_path / "out", {A: "aattat", B: "ta"})


@pytest.fixture
def three(results: Path, tmp_path: Path) -> list[Path]:
    """The review files of three reviewers, of whom one was blind."""
    return [
        save(tmp_path / "reviews", page(results, name, {A: letters}, blind=name == "ben"))
        for name, letters in SAID.items()
    ]


def ids(results: Path, slide: str = A) -> list[str]:
    found: list[str] = ResultFiles(results).figures(slide)["figure_id"].tolist()
    return found


def given(*paths: Path) -> list[Reviewed]:
    return [Reviewed(path) for path in paths]


def row(results: Path, slide: str = A) -> dict[str, str]:
    rows = read_rows(results / "reviewed/summary.csv")
    return next(one for one in rows if one["slide"] == slide)


def numbers(results: Path, slide: str = A) -> str:
    """What a slide's row says: atypical, typical; relabelled, removed, added; unseen, undecided."""
    found, names = row(results, slide), ("relabelled", "removed", "added", "unseen", "undecided")
    return f"{found['atypical']} {found['typical']}; {' '.join(found[name] for name in names)}"


def written(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "reviewed").iterdir()}


# One reviewer


def test_one_reviewer_of_a_page_is_counted_beside_the_machines_numbers(results: Path, tmp_path: Path) -> None:
    path = save(tmp_path, page(results, "anna", {A: "at-nut"}, blind=True, note="=late"))
    result = recount(results, path)
    assert result.exit_status == 0, result.errors
    assert numbers(results) == "2 3; 1 1 0 1 1"
    assert (row(results)["reviewed"], row(results, B)["reviewed"]) == ("true", "false")
    assert (row(results)["machine_atypical"], row(results)["machine_typical"]) == ("3", "3")
    assert [(one["figure_id"], one["change"]) for one in result.changes] == [
        (ids(results)[1], "relabelled"),
        (ids(results)[3], "removed"),
    ]
    one = result.agreement["slides"][A]
    assert (one["file"], one["frame"], one["sha256"]) == (path.name, "slide", file_sha256(path))
    assert (one["kept"], one["undecided"], one["unseen"], one["by_id"]) == (2, 1, 1, 3)
    assert result.agreement["notes"] == [BLIND]
    assert [file.reviewer for file in result.files] == ["anna"]
    assert read_recount(results)[A].row["undecided"] == "1"


def test_the_tables_of_one_reviewer_are_read_as_they_were_written(results: Path, tmp_path: Path) -> None:
    recount(results, save(tmp_path, page(results, "anna", {A: "at-nu."}, blind=True, note="=late")))
    verdicts, consensus = read_verdicts(results), read_consensus(results)
    assert (tuple(verdicts), tuple(consensus)) == (VERDICT_COLUMNS, CONSENSUS_COLUMNS)
    assert verdicts["label"].tolist() == ["atypical", "typical", "none", "unsure"]
    assert verdicts["figure_id"].tolist() == [
        name for n, name in enumerate(ids(results)) if n in (0, 1, 3, 4)
    ]
    assert set(verdicts["note"]) == {"=late"}
    assert (verdicts["seconds"].tolist(), verdicts["blind"].tolist()) == ([1.5] * 4, [True] * 4)
    assert consensus["consensus"].tolist() == ["atypical", "typical", "none", "unsure"]
    assert consensus["label_machine"].tolist() == ["atypical", "atypical", "typical", "atypical"]
    assert consensus["none"].tolist() == [0, 0, 1, 0]
    assert consensus["x_px0"].tolist() == [100, 200, 400, 500]
    kinds = {name: str(kind) for name, kind in [*verdicts.dtypes.items(), *consensus.dtypes.items()]}
    assert {name for name, kind in kinds.items() if kind == "float64"} == {"x_px0", "y_px0", "seconds"}
    assert {name for name, kind in kinds.items() if kind == "int64"} == {
        "atypical",
        "typical",
        "none",
        "unsure",
    }
    assert {name for name, kind in kinds.items() if kind == "bool"} == {"blind"}
    assert all(isinstance(text, str) for text in verdicts[["slide", "reviewer", "note"]].to_numpy().ravel())


def test_one_reviewer_in_qupath_has_the_same_tables(results: Path, tmp_path: Path) -> None:
    export(tmp_path / "exported", results, A, "atnttt", (300, 900, "a"))
    result = recount(results, tmp_path / "exported")
    (new,) = figure_ids(ResultFiles(results).records()[A].slide.digest, [300], [900])
    assert numbers(results) == "2 4; 2 1 1 0 0"
    verdicts, consensus = read_verdicts(results), read_consensus(results)
    assert set(verdicts["reviewer"]) == {"exported"}
    assert verdicts["label"].tolist() == [
        *("atypical", "typical", "none", "typical", "typical"),
        "typical",
        "atypical",
    ]
    assert verdicts["figure_id"].tolist() == consensus["figure_id"].tolist() == [*ids(results), new]
    assert np.isnan(verdicts["seconds"]).all()
    assert consensus["label_machine"].tolist()[-1] is None
    assert consensus["consensus"].tolist() == verdicts["label"].tolist()
    assert result.agreement["notes"] == [NOT_BLIND]
    assert result.agreement["slides"][A]["file"] == "a.svs.geojson"
    assert result.files == ()
    assert disagreements(results).empty


def test_several_files_of_one_reviewer_are_one_review(results: Path, tmp_path: Path) -> None:
    """Two parts of a page, and a later version of the first one."""
    first = page(results, "anna", {A: "aat..."}, part=(1, 2))
    second = page(results, "anna", {A: "...na-", B: "-a"}, part=(2, 2))
    later = page(results, "anna", {A: "ant..."}, part=(1, 2), at="2026-03-05T00:00:00+00:00")
    paths = [save(tmp_path / str(n), file) for n, file in enumerate([first, second, later])]
    result = recount(results, given(*paths))
    assert (result.exit_status, numbers(results), numbers(results, B)) == (
        0,
        "2 2; 0 2 0 1 0",
        "1 1; 0 0 0 1 0",
    )
    assert result.warnings == ["a.svs: verdicts that a later file changes, and of which the latest count: 1"]
    (anna,) = result.agreement["reviewers"]
    assert [file["sha256"] for file in anna["files"]] == sorted(file_sha256(path) for path in paths)
    assert anna["verdicts"] == {"atypical": 3, "typical": 1, "none": 2, "unsure": 0}
    before = written(results)
    recount(results, given(*reversed(paths), paths[0]))  # in another order, and one of them twice
    assert written(results) == before


# Several reviewers


def test_three_reviewers_counted_by_hand(results: Path, three: list[Path]) -> None:
    result = recount(results, given(*three))
    assert result.exit_status == 0, result.errors
    assert numbers(results) == "2 3; 1 1 0 1 2"
    names = ids(results)
    assert [(one["figure_id"], one["change"]) for one in result.changes] == [
        (names[1], "relabelled"),
        (names[3], "removed"),
    ]
    consensus = read_consensus(results)
    assert consensus["consensus"].tolist() == ["atypical", "typical", "tie", "none", "unsure"]
    assert not consensus["blind"].any()
    assert read_verdicts(results)["blind"].tolist() == [False, True, False] * 5
    assert disagreements(results)["figure_id"].tolist() == names[:3]

    told = json.loads((results / "reviewed/agreement.json").read_text())
    assert told["summary_sha256"] == file_sha256(results / "reviewed/summary.csv")
    assert [(one["name"], one["blind"]) for one in told["reviewers"]] == [
        ("anna", False),
        ("ben", True),
        ("cleo", False),
    ]
    pairs = {(one["first"], one["second"]): one["kappa"]["value"] for one in told["pairs"]}
    assert pairs == {
        ("anna", "ben"): pytest.approx(7 / 11),
        ("anna", "cleo"): pytest.approx(0),
        ("ben", "cleo"): pytest.approx(0),
    }
    assert told["fleiss"]["kappa"]["value"] == pytest.approx(4 / 13)
    assert told["reviewers"][0]["ensemble"]["kappa"]["value"] == pytest.approx(1 / 5)
    (tie,) = told["ties"]
    assert (tie["slide"], tie["figure_id"], tie["label_machine"]) == (A, names[2], "typical")
    note = "figures without a majority, which keep the ensemble's label: 1"
    assert f"a.svs: {note} ('{names[2]}')" in told["warnings"]
    assert told["confusion_is"].startswith("label of the ensemble, then label of the consensus")
    assert told["notes"] == [
        "Reviewers who saw the ensemble's labels: 'anna', 'cleo'. Their agreement with it is not that of two "
        "who decided independently.",
        "Reviewers who did not see the ensemble's labels, and decided independently of them: 'ben'.",
    ]
    one = told["slides"][A]
    assert [(file["reviewer"], file["file"]) for file in one["files"]] == [
        (name, f"review-{name}.json") for name in SAID
    ]
    assert "file" not in one


def test_the_hotspot_is_that_of_the_consensus(tmp_path: Path) -> None:
    """All figures lie in the window. Two reviewers remove three of six, and the third one adds two."""
    options = AssessmentOptions(hotspot_area=0.04, hotspots=1)
    out = classify(tmp_path / "out", {A: "aattat"}, options=options)
    paths = [save(tmp_path, page(out, name, {A: "nnnaat"})) for name in "ab"]
    export(tmp_path / "c", out, A, "aattat-", (300, 260, "a"), (400, 260, "t"))
    recount(out, given(*paths, tmp_path / "c"))
    found = row(out)
    assert (found["hotspot_mitoses"], found["hotspot_atypical"]) == ("5", "3")
    assert (found["machine_hotspot_mitoses"], found["machine_hotspot_atypical"]) == ("6", "3")
    assert (found["atypical"], found["typical"]) == ("3", "2")


def test_a_folder_of_review_files_is_their_reviewers(results: Path, three: list[Path]) -> None:
    recount(results, given(*three))
    before = written(results)
    result = recount(results, three[0].parent)
    assert written(results) == before
    assert [file.reviewer for file in result.files] == list(SAID)


def test_exports_and_pages_are_counted_together(results: Path, tmp_path: Path, three: list[Path]) -> None:
    """Cleo says t n u n u - on a page; Dora a a n t a t, and Emil t t a t t n, in QuPath."""
    export(tmp_path / "dora", results, A, "aantat", (300, 900, "a"), (600, 900, "t"))
    export(tmp_path / "emil", results, A, "ttattn", (308, 902, "a"))
    export(tmp_path / "emil", results, B, "aa")
    reviewed = [Reviewed(three[2]), Reviewed(tmp_path / "dora"), Reviewed(tmp_path / "emil")]
    result = recount(results, reviewed)
    assert result.exit_status == 0, result.errors
    consensus = read_consensus(results)
    on_a = consensus[consensus["slide"] == A]
    assert on_a["consensus"].tolist() == [
        *("typical", "tie", "tie", "typical", "tie", "tie"),
        "atypical",
        "tie",
    ]
    assert on_a[["x_px0", "y_px0"]].to_numpy()[6:].tolist() == [[300, 900], [600, 900]]
    assert on_a[["atypical", "typical", "none"]].to_numpy()[6:].tolist() == [[2, 0, 0], [0, 1, 1]]
    assert numbers(results) == "3 4; 1 0 1 0 4"
    assert numbers(results, B) == "2 0; 1 0 0 0 0"
    assert [one["name"] for one in result.agreement["reviewers"]] == ["cleo", "dora", "emil"]
    assert any(
        ": added figures without a majority, which are not counted: 1" in note for note in result.warnings
    )
    (cleo, dora, _) = result.agreement["reviewers"]
    assert dora["files"] == [
        {"file": "a.svs.geojson", "sha256": file_sha256(tmp_path / "dora/a.svs.geojson")}
    ]
    assert dora["verdicts"] == {"atypical": 4, "typical": 3, "none": 1, "unsure": 0}
    assert (cleo["ensemble"]["figures"], dora["ensemble"]["figures"]) == (3, 6)


def test_the_order_of_reviewers_changes_no_file(results: Path, tmp_path: Path, three: list[Path]) -> None:
    export(tmp_path / "dora", results, A, "aantat", (300, 900, "a"))
    export(tmp_path / "emil", results, A, "ttattn", (308, 902, "t"))
    reviewed = given(*three[:2], tmp_path / "dora", tmp_path / "emil")
    found = []
    for order in (reviewed, reviewed[::-1], [reviewed[n] for n in (2, 0, 3, 1)]):
        recount(results, order)
        found.append(written(results))
    assert all(one == found[0] for one in found)


def test_notes_name_the_reviewer(results: Path, tmp_path: Path, three: list[Path]) -> None:
    path = export(tmp_path / "dora", results, A, "aattat")
    features = json.loads(path.read_text())["features"]
    path.write_text(json.dumps([*features, features[0]]))
    note = "copies of other objects of the review, which are counted once: 1"
    assert f"a.svs: {note}" in recount(results, tmp_path / "dora").warnings
    result = recount(results, [*given(*three), Reviewed(tmp_path / "dora", "Dora D.")])
    assert f"a.svs: Dora D.: {note}" in result.warnings
    assert [one["name"] for one in result.agreement["reviewers"]] == ["Dora D.", *SAID]


# Other results, and other slides


def test_a_file_of_another_bundle_is_matched_by_place(results: Path, tmp_path: Path) -> None:
    beside = [(108.0, 200.0), (192.0, 204.0), (1300.0, 900.0)]
    other = classify(tmp_path / "wide", {A: "taa"}, at={A: beside}, key="o" * 64, bundle="wide")
    path = save(tmp_path, page(other, "anna", {A: "tnt"}))
    result = recount(results, path)
    assert (result.exit_status, numbers(results)) == (0, "1 4; 1 1 0 4 0")
    assert result.agreement["by_distance"] == 1
    (note,) = result.warnings
    assert note.startswith("a.svs: review-anna.json shows another result, of the bundle wide.")
    assert f"not counted: 1 ('{ids(other)[2]}')" in note
    assert read_verdicts(results)["figure_id"].tolist() == ids(results)[:2]


def test_a_file_that_fits_no_figure_leaves_the_slide_without_a_review(results: Path, tmp_path: Path) -> None:
    other = classify(tmp_path / "wide", {A: "t"}, at={A: [(1300.0, 900.0)]}, key="o" * 64)
    result = recount(results, save(tmp_path, page(other, "anna", {A: "a"})))
    assert (result.exit_status, row(results)["reviewed"]) == (0, "false")
    assert result.agreement["not_reviewed"] == [A, B]
    assert "not counted: 1" in result.warnings[0]
    assert read_verdicts(results).empty
    assert read_consensus(results).empty


def test_another_slide_is_refused_and_the_others_count(
    results: Path, tmp_path: Path, three: list[Path]
) -> None:
    """The file shows a.svs of another scan, b.svs as it is, and a slide that the folder does not have."""
    other = classify(tmp_path / "other", {"x.svs": "a", B: "ta", A: "aattat", "c.svs": "a"})
    alien = save(tmp_path, page(other, "dora", {A: "nnnnnn", B: "at", "x.svs": "-", "c.svs": "t"}))
    result = recount(results, alien)
    assert result.exit_status == 1
    assert sorted(result.errors) == [A, "c.svs"]
    assert "a.svs: reading the review: review-dora.json shows another slide of this name" in result.errors[A]
    assert "c.svs: reading the review: dora has verdicts on this slide" in result.errors["c.svs"]
    assert (row(results)["status"], row(results)["atypical"]) == ("failed", "")
    assert numbers(results, B) == "1 1; 2 0 0 0 0"

    result = recount(results, given(alien, *three))
    assert result.exit_status == 1
    assert sorted(result.errors) == ["a.svs (dora)", "c.svs"]
    assert "a.svs: dora: reading the review: review-dora.json shows" in result.errors["a.svs (dora)"]
    assert (row(results)["status"], numbers(results)) == ("done", "2 3; 1 1 0 1 2")
    assert result.agreement["failed"].keys() == result.errors.keys()


def test_a_slide_whose_reviews_all_fail_fails(results: Path, tmp_path: Path) -> None:
    other = classify(tmp_path / "other", {A: "aattat"}, digest="j" * 62)
    paths = [save(tmp_path, page(other, name, {A: "nnnnnn"})) for name in ("anna", "ben")]
    result = recount(results, given(*paths))
    assert sorted(result.errors) == ["a.svs (anna)", "a.svs (ben)"]
    assert row(results)["status"] == "failed"
    assert row(results)["error"].count("shows another slide of this name") == 2
    assert result.agreement["not_reviewed"] == [B]


def test_an_unexpected_error_is_one_reviewers_alone(
    results: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_mitosis.jobs import reviewing

    def broken(reviewer: str, *arguments: Any) -> Any:
        if reviewer == "ben":
            raise RuntimeError("a bug")
        return review(reviewer, *arguments)

    review = reviewing.review_on_page
    monkeypatch.setattr(reviewing, "review_on_page", broken)
    result = recount(results, given(*three))
    error = "a.svs: ben: recounting: unexpected RuntimeError: a bug. -v shows where"
    assert result.errors == {"a.svs (ben)": error}
    assert "a bug" in result.details["a.svs (ben)"]
    assert read_verdicts(results)["reviewer"].unique().tolist() == ["anna", "cleo"]


# What is refused before anything is started


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda document: document.update(schema=2), "a newer version of wsi-mitosis wrote it"),
        (lambda document: document["figures"][0].update(label="odd"), "it was edited"),
        (lambda document: document.update({"is": "odd"}), "it is no review file of wsi-mitosis"),
    ],
)
def test_an_edited_file_starts_nothing(
    results: Path, three: list[Path], change: Callable[[Any], object], cause: str
) -> None:
    document = json.loads(three[1].read_text())
    change(document)
    three[1].write_text(json.dumps(document))
    for reviewed in (given(*three), three[1].parent):
        with pytest.raises(DetectionsError, match=f"review-ben.json: .*{cause}"):
            recount(results, reviewed)
    assert not (results / "reviewed").exists()


def test_an_edited_figure_of_the_present_result_is_refused(results: Path, three: list[Path]) -> None:
    document = json.loads(three[1].read_text())
    document["figures"][0]["x_px0"] += 50
    three[1].write_text(json.dumps(document))
    error = recount(results, given(*three)).errors["a.svs (ben)"]
    assert "review-ben.json says that it shows the present result, which has no such figures" in error


def test_two_reviewers_of_one_name_are_refused(results: Path, tmp_path: Path, three: list[Path]) -> None:
    first, second = tmp_path / "one/ben", tmp_path / "two/ben"
    for folder in (first, second):
        export(folder, results, A, "aattat")
    with pytest.raises(DetectionsError, match=r"the reviewer 'ben', and .*one/ben is a folder .*NAME=FOLDER"):
        recount(results, given(first, second))
    with pytest.raises(DetectionsError, match=r"'ben', and .*review-ben\.json is a review file of"):
        recount(results, given(first, three[1]))
    named = [Reviewed(first, "ben 1"), Reviewed(second), Reviewed(three[0])]
    assert recount(results, named).exit_status == 0
    assert read_verdicts(results)["reviewer"].unique().tolist() == ["anna", "ben", "ben 1"]
    with pytest.raises(DetectionsError, match=r"review files state the names of their reviewers\. Give"):
        recount(results, [Reviewed(three[0], "ben")])


def test_regions_of_several_reviewers_are_refused(results: Path, tmp_path: Path, three: list[Path]) -> None:
    folders = [tmp_path / "dora", tmp_path / "emil"]
    for folder in folders:
        export(folder, results, A, "aattat")
    with pytest.raises(InputError, match=r"--regions-from-review: .*Give one folder of exports"):
        recount(results, given(*folders), regions_from_review=True)
    assert recount(results, given(folders[0], *three), regions_from_review=True).exit_status == 0


# The tables


@pytest.mark.parametrize(
    ("name", "read"), [("verdicts.csv", read_verdicts), ("consensus.csv", read_consensus)]
)
def test_an_edited_table_is_refused(
    results: Path, three: list[Path], name: str, read: Callable[[Path], object]
) -> None:
    with pytest.raises(OutputError, match=r"this folder has no recount.*Run `wsi-mitosis recount` first"):
        read(results)
    recount(results, given(*three))
    assert Finding(f"reviewed/{name}", "intact") in verify(results).findings
    path = results / "reviewed" / name
    path.write_text(path.read_text().replace("typical", "atypical", 1))
    with pytest.raises(OutputError, match=f"{name}: reading the recount: .* was edited or damaged"):
        read(results)
    assert Finding(f"reviewed/{name}", "changed") in verify(results).findings
    path.unlink()
    with pytest.raises(OutputError, match="was edited or damaged"):
        read(results)
    (results / "reviewed/agreement.json").write_text("[]")
    with pytest.raises(OutputError, match="was edited or damaged"):
        read(results)


def test_a_recount_without_verdicts_has_empty_tables(results: Path, tmp_path: Path) -> None:
    result = recount(results, save(tmp_path, page(results, "anna", {A: "------"})))
    assert (result.exit_status, result.agreement["not_reviewed"]) == (0, [A, B])
    assert tuple(read_consensus(results)) == CONSENSUS_COLUMNS
    assert disagreements(results).empty


# The consensus round


def test_a_round_decides_what_its_reviewers_disagreed_about(
    results: Path, three: list[Path], tmp_path: Path
) -> None:
    """One against two, a tie, and three who agree, about which the round cannot tell."""
    recount(results, given(*three))
    before = read_consensus(results)["consensus"].tolist()
    assert before == ["atypical", "typical", "tie", "none", "unsure"]
    decided = page(results, "all three", {A: "tntu.."}, selection="disagreements")
    result = recount(results, given(*three, save(tmp_path, decided)))
    assert read_consensus(results)["consensus"].tolist() == ["typical", "none", "typical", "none", "unsure"]
    assert [one["name"] for one in result.agreement["reviewers"]] == ["anna", "ben", "cleo"]
    assert len(result.agreement["pairs"]) == 3
    assert set(read_verdicts(results)["reviewer"]) == {*SAID, "all three"}


def test_a_round_alone_is_counted(results: Path, tmp_path: Path) -> None:
    decided = page(results, "all three", {A: "t....."}, selection="disagreements")
    result = recount(results, save(tmp_path, decided))
    assert numbers(results) == "2 4; 1 0 0 5 0"
    assert result.agreement["reviewers"] == []
