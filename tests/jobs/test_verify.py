"""What was changed in a folder of results: a pathologist's correction, and everything else."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import Silent, candidates_csv, run, slides_in, spec
from wsi_mitosis.errors import InputError
from wsi_mitosis.jobs.recount import recount
from wsi_mitosis.jobs.report import report
from wsi_mitosis.jobs.verify import Finding, Verification, verify
from wsi_mitosis.workers.slides import classify_batch

NAMES = ["a.tiff", "b.tiff"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    slides_in(folder / "slides", NAMES)
    candidates_csv(folder / "d.csv", NAMES)
    assert run([folder / "slides"], folder / "d.csv", folder / "out", small_bundle).exit_status == 0
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def others(result: Verification) -> list[Finding]:
    return [finding for finding in result.findings if finding.verdict != "intact"]


def test_results_are_intact_and_each_file_is_looked_at(out: Path) -> None:
    result = verify(out)
    assert others(result) == []
    assert result.exit_status == 0
    whole = {"summary.csv", "review.csv", "run.json", "report.html"}
    of_slides = {f"figures/{n}.parquet" for n in NAMES} | {f"assessments/{n}.json" for n in NAMES}
    assert {f.file for f in result.findings} == whole | of_slides | {f"geojson/{n}.geojson" for n in NAMES}


FILES = (
    *("summary.csv", "review.csv", "run.json", "report.html"),
    *("figures/a.tiff.parquet", "assessments/a.tiff.json", "geojson/a.tiff.geojson"),
)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_more_is_a_change(out: Path, name: str) -> None:
    with (out / name).open("ab") as file:
        file.write(b"x")
    (found,) = [finding for finding in others(verify(out)) if finding.file == name]
    assert found.verdict == "changed"
    assert verify(out).exit_status == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_missing(out: Path, name: str) -> None:
    (out / name).unlink()
    assert (name, "missing") in [finding[:2] for finding in others(verify(out))]
    assert verify(out).exit_status == 1


def edited(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Edit a GeoJSON file as a program does that reads and writes JSON."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def figures_of(document: dict[str, object]) -> list[dict[str, object]]:
    features = document["features"]
    assert isinstance(features, list)
    return [f for f in features if "Mitosis" not in str(f["properties"].get("name", "")) and f.get("id")]


def relabel(document: dict[str, object]) -> None:
    for feature in figures_of(document):
        properties = feature["properties"]
        assert isinstance(properties, dict)
        name = properties["classification"]["name"]
        if name.endswith("Typical"):
            properties["classification"]["name"] = name.replace("Typical", "Atypical")
            return


def remove(document: dict[str, object]) -> None:
    features = document["features"]
    assert isinstance(features, list)
    features.pop()


@pytest.mark.parametrize(("change", "detail"), [(relabel, "1 relabelled"), (remove, "1 removed")])
def test_a_correction_is_no_fault_and_is_named(
    out: Path, change: Callable[[dict[str, object]], None], detail: str
) -> None:
    edited(out / "geojson/a.tiff.geojson", change)
    result = verify(out)
    assert others(result) == [Finding("geojson/a.tiff.geojson", "corrected", detail)]
    assert result.exit_status == 0


def test_an_edit_of_anything_but_figures_is_no_correction(out: Path) -> None:
    def rename(document: dict[str, object]) -> None:
        stated = document["wsi_mitosis"]
        assert isinstance(stated, dict)
        stated["bundle"] = "another"

    edited(out / "geojson/a.tiff.geojson", rename)
    assert others(verify(out)) == [Finding("geojson/a.tiff.geojson", "changed", "not in its figures")]


def test_a_geojson_of_another_result_is_a_change(out: Path) -> None:
    shutil.copy(out / "geojson/b.tiff.geojson", out / "geojson/a.tiff.geojson")
    (found,) = others(verify(out))
    assert (found.file, found.verdict) == ("geojson/a.tiff.geojson", "changed")


def test_a_compressed_file_that_is_cut_is_a_change(out: Path) -> None:
    plain = out / "geojson/a.tiff.geojson"
    packed = gzip.compress(plain.read_bytes())
    plain.with_name("a.tiff.geojson.gz").write_bytes(packed[: len(packed) // 2])
    plain.unlink()
    (found,) = others(verify(out))
    assert (found.file, found.verdict) == ("geojson/a.tiff.geojson.gz", "changed")


def test_a_report_that_is_made_again_is_intact(out: Path) -> None:
    report(out)
    assert others(verify(out)) == []


def test_a_recount_is_checked_by_its_own_digest(out: Path, tmp_path: Path) -> None:
    (tmp_path / "reviewed").mkdir()
    shutil.copy(out / "geojson/a.tiff.geojson", tmp_path / "reviewed/a.tiff.geojson")
    recount(out, tmp_path / "reviewed")
    assert Finding("reviewed/summary.csv", "intact") in verify(out).findings
    with (out / "reviewed/summary.csv").open("a") as file:
        file.write("x\n")
    assert others(verify(out)) == [Finding("reviewed/summary.csv", "changed")]


def test_without_the_list_of_digests_it_is_missing(out: Path) -> None:
    (out / "digests.json").unlink()
    (found,) = others(verify(out))
    assert (found.file, found.verdict) == ("digests.json", "missing")
    assert "the last run has not ended" in found.detail


def test_while_a_run_is_at_work_there_is_no_list(made: Path, out: Path, small_bundle: Path) -> None:
    class Looking(Silent):
        def patches(self, number: int) -> None:  # noqa: ARG002
            seen.append((out / "digests.json").exists())

    seen: list[bool] = []
    again = {"output": {"overwrite": True}}
    classify_batch(spec([made / "slides"], made / "d.csv", out, small_bundle, **again), Looking())
    assert seen == [False, False]
    assert (out / "digests.json").exists()


def test_what_is_no_folder_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no results of `classify`"):
        verify(tmp_path)


def test_another_run_into_the_folder_leaves_it_intact(made: Path, out: Path, small_bundle: Path) -> None:
    assert run([made / "slides"], made / "d.csv", out, small_bundle).exit_status == 0
    assert others(verify(out)) == []
