"""What a hostile input or a link in the output folder names: no file is written outside, whatever it is."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from tests.detection_files import ring, write_geojson, write_json
from tests.records import slide_record
from tests.report_files import random_figures
from tests.runs import CANDIDATES, candidates_csv, run, slides_in, summary
from wsi_mitosis.cli import main
from wsi_mitosis.core.folds import slugs
from wsi_mitosis.core.histories import SlideHistory
from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.csv_files import read_rows
from wsi_mitosis.io.results.candidates import CandidateFolder
from wsi_mitosis.io.results.figures import read_record, write_figures
from wsi_mitosis.io.results.folder import WRITTEN, ResultFolder
from wsi_mitosis.io.results.held import write_history

ROOT = Path(__file__).parents[2]
SLIDE = "a.svs"
HOSTILE = (
    *("../../outside", "/outside", "..", ".", "a/../../outside", "..\\..\\outside", "~/outside", "$HOME"),
    *("=cmd|' /C calc'!A0", "\x1b]0;title\x07", "\u202eexe.svs", "<script>alert(1)</script>", "a\nb", "-rf"),
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder; None for what is no file. Links are not followed."""
    found = (Path(place, name) for place, folders, files in os.walk(folder) for name in [*folders, *files])
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in found
    }


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    slides_in(tmp_path / "slides", [SLIDE])
    candidates_csv(tmp_path / "dets.csv", [SLIDE])
    return tmp_path


def classify(inputs: Path, bundle: Path, *more: object) -> Result:
    given = (
        inputs / "slides",
        "--detections",
        inputs / "dets.csv",
        "--out",
        inputs / "out",
        "--model",
        bundle,
    )
    return call("classify", *given, "--workers", 0, "--device", "cpu", *more)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_that_leads_out_of_the_output_folder_is_refused(
    inputs: Path, small_bundle: Path, name: str
) -> None:
    victim = inputs / "elsewhere"
    victim.mkdir()
    target = victim / "log" if name.endswith(".jsonl") else victim
    (inputs / "out").mkdir()
    (inputs / "out" / name).symlink_to(target)
    told = classify(inputs, small_bundle)
    assert told.exit_code == 2
    assert f"'{name}' is a link that leads out of the folder" in told.output
    assert contents(victim) == {}


def test_a_link_deep_in_the_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "figures" / "case-1").mkdir(parents=True)
    (tmp_path / "out" / "figures" / "case-1" / "block").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="'figures/case-1/block' is a link that leads out"):
        ResultFolder(tmp_path / "out")
    (tmp_path / "d.csv.parts").mkdir()
    (tmp_path / "d.csv.parts" / "case-1").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="'case-1' is a link that leads out"):
        CandidateFolder(tmp_path / "d.csv")


def test_the_folder_itself_and_links_inside_it_are_allowed(inputs: Path, small_bundle: Path) -> None:
    (inputs / "share" / "tables").mkdir(parents=True)
    (inputs / "share" / "figures").symlink_to("tables")
    (inputs / "out").symlink_to("share")
    assert classify(inputs, small_bundle).exit_code == 0
    assert read_record(inputs / "share" / "tables" / f"{SLIDE}.parquet") is not None


def test_the_log_may_be_switched_off_by_a_link(inputs: Path, small_bundle: Path) -> None:
    (inputs / "out").mkdir()
    (inputs / "out" / "log.jsonl").symlink_to("/dev/null")
    assert classify(inputs, small_bundle).exit_code == 0


FILES = ("summary.csv", "review.csv", "run.json", "report.html", "figures/{}.parquet", "geojson/{}.geojson")


@pytest.mark.parametrize("name", [*FILES, ".wsi-mitosis.lock"])
def test_a_link_in_place_of_a_file_is_not_written_through(
    inputs: Path, small_bundle: Path, name: str
) -> None:
    victim = inputs / "victim"
    victim.write_text("mine")
    link = inputs / "out" / name.format(SLIDE)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    told = classify(inputs, small_bundle)
    assert victim.read_text() == "mine"
    if name in {"summary.csv", ".wsi-mitosis.lock"}:  # read, or needed, before anything is written
        assert told.exit_code in {0, 2}
        assert told.exit_code == 0 or link.name in told.output or "cannot be written" in told.output
    else:
        assert told.exit_code == 0
        assert not link.is_symlink()


def test_a_table_that_names_another_place_is_ignored(inputs: Path, small_bundle: Path) -> None:
    """The next run would give the slide the name that its table states."""
    path = str(inputs / "slides" / SLIDE)
    figures = random_figures(3).assign(slide="../../evil")
    write_figures(inputs / "out" / "figures" / "b.parquet", slide_record("../../evil", path=path), figures)
    before = contents(inputs)
    assert classify(inputs, small_bundle).exit_code == 0
    assert {name for name in contents(inputs).keys() - before.keys() if not name.startswith("out/")} == set()
    assert list(summary(inputs / "out")) == [SLIDE]
    with ResultFolder(inputs / "out") as folder:
        assert list(folder.records()) == [SLIDE]


def test_a_state_that_names_another_place_is_ignored(tmp_path: Path) -> None:
    state = SlideHistory(slide=SLIDE, path="/data/a.svs", status="failed", since="2026-01-01T00:00:00Z")
    with ResultFolder(tmp_path) as folder:
        write_history(folder, state)
        assert list(folder.histories()) == [SLIDE]
        evil = state.model_copy(update={"slide": "../../evil"})
        folder.state_path(SLIDE).write_text(evil.model_dump_json())
        assert folder.histories() == {}


def test_no_name_in_an_input_is_a_path(inputs: Path, small_bundle: Path) -> None:
    """Hostile names of slides, candidates, classes, objects, columns and regions, and a review of them."""
    place = CANDIDATES[0]
    rows = [{"slide": name, "x": 5, "y": 5, "id": "i"} for name in HOSTILE]
    rows += [{"slide": SLIDE, "x": place[0] + n, "y": place[1], "id": name} for n, name in enumerate(HOSTILE)]
    table = pd.DataFrame(rows).assign(**{name: name for name in HOSTILE})
    table.to_parquet(inputs / "dets.csv")  # which is detected by its content, and may hold any character
    outline = [[x * 10, y * 10] for x, y in ring(30, 25)]
    regions = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [outline]},
            "properties": {"name": name, "classification": {"name": name}},
        }
        for name in HOSTILE
    ]
    write_json(inputs / "regions.geojson", regions)
    before = contents(inputs)
    told = classify(inputs, small_bundle, "--regions", inputs / "regions.geojson", "--qupath-project")
    assert told.exit_code == 0, told.output
    exported = json.loads((inputs / "out" / "geojson" / f"{SLIDE}.geojson").read_text())
    (inputs / "reviewed").mkdir()
    write_json(inputs / "reviewed" / f"{SLIDE}.geojson", exported["features"])
    told = call("recount", inputs / "out", "--reviewed", inputs / "reviewed")
    assert told.exit_code == 0, told.output
    after = contents(inputs)
    assert {
        name for name in after.keys() - before.keys() if not name.startswith(("out", "reviewed"))
    } == set()
    assert {name: data for name, data in after.items() if name in before} == before
    kept = pd.read_parquet(inputs / "out" / "figures" / f"{SLIDE}.parquet")
    assert kept["candidate_id"].tolist() == [name.strip() for name in HOSTILE]
    page = (inputs / "out" / "report.html").read_text()
    assert "<script>alert" not in page


@pytest.mark.parametrize("line", ["../secret.svs", "/etc/passwd", "sub/../../secret.svs"])
def test_a_slide_lists_paths_name_no_output(tmp_path: Path, small_bundle: Path, line: str) -> None:
    """A list may name slides anywhere; what is written of them lies in the output folder."""
    lists = tmp_path / "lists"
    slides_in(tmp_path, ["secret.svs"])
    slides_in(lists / "sub", [SLIDE])
    (lists / "l.csv").write_text(f"slide\nsub/{SLIDE}\n{line}\n")
    candidates_csv(tmp_path / "dets.csv", [SLIDE, "secret.svs"])
    before = contents(tmp_path)
    run([lists / "l.csv"], tmp_path / "dets.csv", tmp_path / "out", small_bundle)
    assert {name.split("/")[0] for name in contents(tmp_path).keys() - before.keys()} == {"out"}


def test_a_bundle_cannot_name_files_elsewhere(small_bundle: Path, tmp_path: Path) -> None:
    manifest = (small_bundle / "manifest.toml").read_text()
    for name in ("../x.safetensors", "/etc/x.safetensors", "a\\\\x.safetensors", "\\u0000.safetensors"):
        (tmp_path / "manifest.toml").write_text(manifest.replace("member-0.safetensors", name, 1))
        told = call("models", "verify", tmp_path)
        assert told.exit_code == 2
        assert "manifest" in told.output


def test_a_domain_names_no_folder_elsewhere() -> None:
    """The folder of a fold is named after a domain, which a table of labels states."""
    names = slugs([*HOSTILE, "", "/", "../.."])
    assert len(set(names)) == len(HOSTILE) + 3
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


# --- cells that a spreadsheet would run


def test_only_one_module_writes_csv() -> None:
    """The module that neutralises cells. Every table that the program writes goes through it."""
    writers = set()
    for path in (ROOT / "wsi_mitosis").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {
                "to_csv",
                "writer",
                "DictWriter",
                "write_csv",
            }:
                of = node.value.id if isinstance(node.value, ast.Name) else ""
                if node.attr == "to_csv" or of in {"csv", "pacsv"}:
                    writers.add(path.name)
    assert writers == {"csv_files.py"}


def test_no_cell_of_any_table_is_a_formula(inputs: Path, small_bundle: Path) -> None:
    slides_in(inputs / "slides", ["=1+1.svs"])
    candidates_csv(inputs / "dets.csv", [SLIDE, "=1+1.svs"])
    (inputs / "slides" / "-bad.svs").write_bytes(b"")
    assert classify(inputs, small_bundle).exit_code == 1
    tables = sorted((inputs / "out").rglob("*.csv"))
    assert {"summary.csv", "review.csv"} <= {path.name for path in tables}
    for path in tables:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if cell.startswith(("=", "@", "\t", "\r", "-b"))] == []
    assert {row["slide"] for row in read_rows(inputs / "out" / "summary.csv")} == {
        SLIDE,
        "=1+1.svs",
        "-bad.svs",
    }


# --- modes of files


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_files_follow_the_umask(inputs: Path, small_bundle: Path, mask: int) -> None:
    from wsi_mitosis.io.bundles import open_bundle, write_bundle

    write_geojson(inputs / "regions.geojson", [(300, 250)], [0.5])
    with umask(mask):
        assert classify(inputs, small_bundle, "--qupath-project").exit_code == 0
        bundle = open_bundle(small_bundle)
        fields = bundle.manifest.model_dump(mode="json", exclude={"schema_", "member"}, by_alias=True)
        fields.pop("schema", None)
        fields.pop("training", None)
        write_bundle(inputs / "out" / "bundle", fields, bundle.read_members(), "card")
    for path in (inputs / "out").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name.startswith(".wsi-mitosis.lock"):
            assert mode & mask == 0
        else:
            assert (path.name, oct(mode)) == (path.name, oct((0o777 if path.is_dir() else 0o666) & ~mask))
