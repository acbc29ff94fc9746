"""Files with verdicts: which are read, which are refused, and that none is taken for GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reviewers import classify, page, save
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections.review_files import MOST_BYTES, read_verdicts_of, verdict_files_in
from wsi_mitosis.io.digests import file_sha256

SLIDE = "a.svs"
Document = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    results = classify(tmp_path / "out", {SLIDE: "aat"})
    return save(tmp_path / "reviews", page(results, "anna", {SLIDE: "at-"}))


def test_a_file_is_read_with_its_digest(saved: Path) -> None:
    found = read_verdicts_of(saved)
    assert (found.path, found.sha256, found.content.reviewer) == (saved, file_sha256(saved), "anna")
    assert [one.label for one in found.content.figures] == ["atypical", "typical", None]
    saved.write_bytes(b"\xef\xbb\xbf" + saved.read_bytes())  # as some editors save it
    assert read_verdicts_of(saved).content == found.content
    turned = dict(reversed(json.loads(saved.read_text("utf-8-sig")).items()))
    saved.write_text(json.dumps(turned))  # the order of members means nothing
    assert read_verdicts_of(saved).content == found.content


def _without(name: str) -> Callable[[Document], object]:
    return lambda document: document.pop(name)


def _in_figure(name: str, value: Any) -> Callable[[Document], object]:
    return lambda document: document["figures"][0].update({name: value})


EDITS: dict[str, tuple[Callable[[Document], object], str]] = {
    "another kind": (lambda d: d.update({"is": "something"}), "it is no review file of wsi-mitosis"),
    "no kind": (_without("is"), "it is no review file of wsi-mitosis"),
    "newer": (
        lambda d: d.update(schema=2),
        r"a newer version .* wrote it \(schema 2; this version reads 1\)",
    ),
    "older": (lambda d: d.update(schema=0), "its schema is missing or unknown"),
    "no schema": (_without("schema"), "its schema is missing or unknown"),
    "an unknown key": (lambda d: d.update(machine=1), "it was edited: unknown key 'machine'"),
    "an unknown label": (_in_figure("label", "bizarre"), "it was edited: 'label' in .*'bizarre'"),
    "no reviewer": (_without("reviewer"), "it was edited: missing key 'reviewer'"),
    "a path for a name": (lambda d: d.update(reviewer="../anna"), "it was edited: 'reviewer'"),
    "a figure twice": (lambda d: d["figures"].append(d["figures"][0]), "a figure is listed twice"),
    "a slide twice": (lambda d: d["slides"].append(d["slides"][0]), "a slide is listed twice"),
    "another slide": (_in_figure("slide", "b.svs"), "figures of a slide that is not listed: b.svs"),
    "another digest": (lambda d: d["slides"][0].update(digest="0"), "the digest of the run is not that"),
    "no place": (_in_figure("x_px0", float("nan")), "a number is not finite"),
    "for ever": (_in_figure("seconds", float("inf")), "a number is not finite"),
    "a huge number": (_in_figure("x_px0", 10**400), "it was edited: 'x_px0'"),
    "no zone": (_in_figure("at", "2026-01-02T03:04:05"), "a time without a zone"),
    "many": (
        lambda d: [figure.update(odd=1) for figure in d["figures"]] + [d.update(a=1, b=2)],
        r"it was edited: (.*; ){3}and 2 more",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused(saved: Path, name: str) -> None:
    change, cause = EDITS[name]
    document = json.loads(saved.read_text())
    change(document)
    saved.write_text(json.dumps(document))
    with pytest.raises(DetectionsError, match=f"{saved.name}: reading the review: .*{cause}"):
        read_verdicts_of(saved)
    with pytest.raises(DetectionsError, match=cause):
        verdict_files_in(saved.parent)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not valid JSON"),
        (b'{"is": "wsi-mitosis review", ', "not valid JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"type": "FeatureCollection", "features": []}', "it is no review file"),
        (b"[]", "it is no review file"),
    ],
)
def test_other_files_are_refused(saved: Path, content: bytes, cause: str) -> None:
    saved.write_bytes(content)
    with pytest.raises(DetectionsError, match=cause):
        read_verdicts_of(saved)


def test_a_file_that_is_too_large_or_missing_is_refused(saved: Path) -> None:
    with saved.open("r+b") as file:
        file.truncate(MOST_BYTES + 1)  # a hole, which needs no room on the disk
    with pytest.raises(DetectionsError, match="the file has more than 128 MiB"):
        read_verdicts_of(saved)
    with pytest.raises(DetectionsError, match="No such file"):
        read_verdicts_of(saved.with_name("nothing.json"))


def test_the_files_of_a_folder_are_known_by_their_content(saved: Path) -> None:
    saved.rename(saved.with_name("b.JSON"))
    saved.with_name("a.json").write_bytes(saved.with_name("b.JSON").read_bytes())
    saved.with_name("notes.txt").write_text("not read")
    saved.with_name(".review-hidden.json").write_text("not read")
    saved.with_name("review.html").write_text("not read")
    assert [file.path.name for file in verdict_files_in(saved.parent)] == ["a.json", "b.JSON"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.svs.geojson", '{"type": "FeatureCollection", "features": []}'),
        ("a.json", "[]"),
        ("review-1.json", '{"type": "FeatureCollection", "features": []}'),  # a slide of this name
    ],
)
def test_exports_are_no_review_files_and_not_beside_them(saved: Path, name: str, content: str) -> None:
    exported = saved.parent.with_name("exported")
    exported.mkdir()
    (exported / name).write_text(content)
    assert verdict_files_in(exported) == ()
    saved.with_name(name).write_text(content)
    with pytest.raises(DetectionsError, match=f"'review-anna.json', and other JSON or GeoJSON: '{name}'"):
        verdict_files_in(saved.parent)


def test_a_file_that_was_damaged_is_refused_by_name(saved: Path) -> None:
    saved.with_name("review-ben.json").write_bytes(saved.read_bytes()[:-50])
    with pytest.raises(DetectionsError, match=r"review-ben\.json: reading the review: not valid JSON"):
        verdict_files_in(saved.parent)
