"""Names of slides that a file system allows: whole runs, with outputs that are checked by content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from tests.runs import CANDIDATES, candidates_csv, slides_in, summary
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.cli import main
from wsi_mitosis.core.naming import NAME_BYTES
from wsi_mitosis.io.csv_files import read_rows
from wsi_mitosis.io.results.figures import read_figures, read_record

LONG = "x" * 251 + ".svs"
WIDE = "\u00e4" * 125 + ".svs"
"""254 bytes of UTF-8, of 129 characters."""
NAMES = {
    "umlauts": "S\u00fcd-\u00c4rzte 1.svs",
    "decomposed umlauts": "Su\u0308d.svs",
    "Greek, Hebrew, Chinese": "\u03b1\u03b2 \u05d0\u05d1 \u4e2d\u6587.svs",
    "outside the BMP": "\U0001f9ec.svs",
    "right-to-left override": "gpj\u202e.svs",
    "zero-width": "a\u200bb.svs",
    "spaces": "two  spaces .svs",
    "a line feed": "line\nfeed.svs",
    "a tab and a carriage return": "a\tb\rc.svs",
    "an escape sequence": "\x1b[31mred\x1b[0m.svs",
    "quotation marks": "\"double\" and 'single'.svs",
    "separators": "a,b;c.svs",
    "a backslash": "C:\\slides\\a.svs",
    "magic characters": "[a-z]*?.svs",
    "a percent sign and a hash": "100%25#1.svs",
    "a dollar sign and a backquote": "$HOME `id`.svs",
    "markup": "<b>&amp;.svs",
    "a dash": "-rf.svs",
    "a formula": "=1+1.svs",
    "a tilde": "~.svs",
    "several dots": "a..b...svs",
    "only digits": "007.svs",
    "a number": "1e5.svs",
    "a word that is a value": "NaN.svs",
    "255 bytes": LONG,
    "254 bytes of two each": WIDE,
    "a device of Windows": "CON.svs",
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def classify(folder: Path, slides: object, bundle: Path, *more: object) -> Result:
    given = ["--detections", folder / "dets.csv", "--out", folder / "out", "--model", bundle]
    return call("classify", slides, *given, "--workers", 0, "--device", "cpu", *more)


def detections(path: Path, names: list[str]) -> Path:
    """A table of CANDIDATES for each slide. Parquet, detected by its content, holds names of any kind."""
    rows = [(name, x, y) for name in names for x, y in CANDIDATES]
    pd.DataFrame(rows, columns=["slide", "x", "y"]).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    """Two runs over slides of all these names, in one folder."""
    folder = tmp_path_factory.mktemp("names")
    slides_in(folder / "slides", list(NAMES.values()))
    detections(folder / "dets.csv", list(NAMES.values()))
    first = classify(folder, folder / "slides", small_bundle, "--qupath-project")
    assert first.exit_code == 0, first.output
    (folder / "first.txt").write_text(first.output)
    before = {path: path.read_bytes() for path in (folder / "out" / "geojson").iterdir()}
    second = classify(folder, folder / "slides", small_bundle, "--qupath-project", "--json")
    assert second.exit_code == 0, second.output
    assert {path: path.read_bytes() for path in (folder / "out" / "geojson").iterdir()} == before
    (folder / "second.json").write_text(second.stdout)
    return folder


@pytest.mark.parametrize("case", NAMES)
def test_a_slide_of_this_name_is_classified_once(folder: Path, case: str) -> None:
    name = NAMES[case]
    told = json.loads((folder / "second.json").read_text())
    records = {record.slide.path: record for record in map(read_record, tables(folder)) if record is not None}
    record = records[str(folder / "slides" / name)]
    assert told["statuses"][record.name] == "done"
    assert record.counts.classified == len(CANDIDATES)
    assert len(record.name.encode()) <= NAME_BYTES
    assert record.name == name or len(name.encode()) > NAME_BYTES
    figures = read_figures(folder / "out" / "figures" / f"{record.name}.parquet")
    assert sorted(zip(figures["x_px0"], figures["y_px0"], strict=True)) == sorted(CANDIDATES)
    assert set(figures["slide"]) == {record.name}
    objects = json.loads((folder / "out" / "geojson" / f"{record.name}.geojson").read_text())["features"]
    assert sum(item["properties"]["objectType"] == "detection" for item in objects) == len(CANDIDATES)


def test_the_tables_name_each_slide_as_it_is_called(folder: Path) -> None:
    rows = read_rows(folder / "out" / "summary.csv")
    assert len(rows) == len(NAMES)
    short = {name for name in NAMES.values() if len(name.encode()) <= NAME_BYTES}
    assert short <= {row["slide"] for row in rows}
    assert {row["classified"] for row in rows} == {str(len(CANDIDATES))}


def test_the_project_leads_to_each_slide(folder: Path) -> None:
    project = json.loads((folder / "out" / "qupath" / "project.qpproj").read_text())
    found = {item["serverBuilder"]["uri"] for item in project["images"]}
    assert found == {(folder / "slides" / name).as_uri() for name in NAMES.values()}


def test_the_report_and_the_terminal_show_names_and_do_not_obey_them(folder: Path) -> None:
    page = (folder / "out" / "report.html").read_text()
    assert "<b>&amp;amp;.svs" not in page
    assert "&lt;b&gt;&amp;amp;.svs" in page
    shown = (folder / "first.txt").read_text()
    assert "\x1b[31mred" not in shown
    assert "\u202e" not in shown


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "figures").rglob("*.parquet"))


def test_blanks_around_a_name_are_refused_by_name(tmp_path: Path, small_bundle: Path) -> None:
    """Blanks around a cell are not read, so that the row could mean another slide."""
    slides_in(tmp_path / "slides", [" a.svs", "b.svs"])
    detections(tmp_path / "dets.csv", [" a.svs", "b.svs"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code == 1
    assert "failed:  a.svs: matching detections to slides" in told.output
    assert {name: row["status"] for name, row in summary(tmp_path / "out").items()} == {
        " a.svs": "failed",
        "b.svs": "done",
    }


def test_names_that_differ_in_case_only_are_two_slides(tmp_path: Path, small_bundle: Path) -> None:
    names = ["Slide.svs", "slide.svs", "SLIDE.SVS"]
    slides_in(tmp_path / "slides", names)
    detections(tmp_path / "dets.csv", names)
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code == 0, told.output
    assert sorted(summary(tmp_path / "out")) == sorted(names)
    assert sorted(path.name for path in tables(tmp_path)) == sorted(f"{name}.parquet" for name in names)
    identities = {record.slide.digest for record in map(read_record, tables(tmp_path)) if record is not None}
    assert len(identities) == len(names)


def test_a_name_in_another_case_that_fits_two_slides_is_refused(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["Slide.svs", "slide.svs"])
    detections(tmp_path / "dets.csv", ["SLIDE.SVS"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code in {1, 2}
    assert "Slide.svs" in told.output
    assert "slide.svs" in told.output
    assert not (tmp_path / "out" / "figures").exists()


def test_one_stem_with_several_endings_is_several_slides(tmp_path: Path, small_bundle: Path) -> None:
    names = ["a.svs", "a.tif", "a.tiff", "a.ome.tif", "a.b.svs"]
    slides_in(tmp_path / "slides", names)
    detections(tmp_path / "dets.csv", names)
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code == 0, told.output
    assert {name: row["classified"] for name, row in summary(tmp_path / "out").items()} == dict.fromkeys(
        sorted(names), "5"
    )


def test_a_stem_that_fits_several_endings_is_refused(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["a.svs", "a.tif"])
    detections(tmp_path / "dets.csv", ["a"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code in {1, 2}
    assert "a.svs" in told.output
    assert "a.tif" in told.output
    assert not (tmp_path / "out" / "figures").exists()


def test_links_that_lead_in_a_circle_end(tmp_path: Path, small_bundle: Path) -> None:
    """A folder that contains a link to itself, and links to each other in place of slides."""
    slides = tmp_path / "slides"
    slides_in(slides, ["a.svs"])
    (slides / "again").symlink_to(slides)
    (slides / "one.svs").symlink_to("two.svs")
    (slides / "two.svs").symlink_to("one.svs")
    candidates_csv(tmp_path / "dets.csv", ["a.svs", "one.svs"])
    told = classify(tmp_path, slides, small_bundle, "--recursive")
    assert told.exit_code == 1
    assert "one.svs" in told.output
    assert "a link that leads back to itself" in told.output
    rows = summary(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.svs": "done",
        "one.svs": "failed",
        "two.svs": "failed",
    }


def test_a_slide_and_links_to_it_are_one_slide(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["a.svs"])
    (tmp_path / "slides" / "b.svs").symlink_to("a.svs")
    os.link(tmp_path / "slides" / "a.svs", tmp_path / "slides" / "c.svs")
    detections(tmp_path / "dets.csv", ["a.svs"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code == 0, told.output
    assert list(summary(tmp_path / "out")) == ["a.svs"]


def test_a_deep_path_is_classified(tmp_path: Path, small_bundle: Path) -> None:
    """Of 3,000 bytes, with the same file name in another folder, so that results keep the folders."""
    deep = tmp_path / "slides"
    for letter in "abcdefghijkl":
        deep /= letter * 200
    deep.mkdir(parents=True)
    tiff_slide(deep / "a.svs", textured(600, 500))
    slides_in(tmp_path / "slides", ["a.svs"])
    detections(tmp_path / "dets.csv", ["a.svs"])
    relative = (deep / "a.svs").relative_to(tmp_path / "slides").as_posix()
    detections(tmp_path / "dets.csv", [relative, "a.svs"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle, "--recursive")
    assert told.exit_code == 0, told.output
    assert sorted(row["classified"] for row in summary(tmp_path / "out").values()) == ["5", "5"]


def test_a_name_that_is_not_utf8_fails_alone(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["a.svs"])
    odd = os.fsencode(tmp_path / "slides") + b"/s\xfcd.svs"
    with open(odd, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write((tmp_path / "slides" / "a.svs").read_bytes())
    detections(tmp_path / "dets.csv", ["a.svs"])
    told = classify(tmp_path, tmp_path / "slides", small_bundle)
    assert told.exit_code == 1
    assert "its path is not UTF-8" in told.output
    assert summary(tmp_path / "out")["a.svs"]["status"] == "done"
