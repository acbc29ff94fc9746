"""`export` over an output folder: which slides, where to, and what happens if something is wrong."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest

import wsi_mitosis
from tests.export_files import DIGEST, PLACES, results
from tests.runs import candidates_csv, run, slides_in, summary
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.results.exports import FORMATS
from wsi_mitosis.io.results.figures import write_figures
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.jobs.export import ExportResult, export
from wsi_mitosis.tables import FIGURE_COLUMNS

OTHERS = (
    SlideState("broken.svs", "failed", error="broken.svs: opening: no reader opens it"),
    SlideState("blank.svs", "no_detections"),
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return results(tmp_path / "out", {"a.svs": PLACES, "b.svs": PLACES[:1]})


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def points(path: Path) -> int:
    return len(json.loads(path.read_text())["points"])


# --- where and what


def test_each_slide_gets_a_file_named_after_it(out: Path) -> None:
    result = export(out, "grand-challenge")
    folder = out / "exports/grand-challenge"
    assert result == ExportResult(
        folder, [folder / "a.svs.json", folder / "b.svs.json"], ["a.svs", "b.svs"], 4
    )
    assert result.exit_status == 0
    assert files(folder) == ["a.svs.json", "b.svs.json"]
    assert [points(path) for path in result.files] == [3, 1], "the excluded candidates are left out"


def test_all_slides_share_a_file_where_the_format_has_one(out: Path, tmp_path: Path) -> None:
    result = export(out, "midog", out=tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == ["midog.json"]
    assert (result.slides, result.figures) == (["a.svs", "b.svs"], 4)
    assert not (out / "exports").exists()


def test_the_results_are_not_changed(out: Path, tmp_path: Path) -> None:
    before = {name: (out / name).read_bytes() for name in files(out)}
    export(out, "midog")
    export(out, "tiatoolbox", out=tmp_path / "elsewhere")
    after = {name: (out / name).read_bytes() for name in files(out) if not name.startswith("exports/")}
    assert after == before


def test_slides_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"1/a.svs": PLACES, "2/a.svs": PLACES[:1]})
    export(out, "grand-challenge")
    assert files(out / "exports/grand-challenge") == ["1/a.svs.json", "2/a.svs.json"]


def test_globs_choose_slides_by_name_or_file_name(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"1/a.svs": PLACES, "1/b.svs": PLACES, "c.svs": PLACES})
    assert export(out, "midog", globs=["a*", "c.svs"]).slides == ["1/a.svs", "c.svs"]
    assert export(out, "midog", globs=["1/*"]).slides == ["1/a.svs", "1/b.svs"]


def test_a_glob_that_fits_nothing_is_refused(out: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 2 slides is named z\* or y\..*summary\.csv"):
        export(out, "midog", globs=["z*", "y"])
    assert not (out / "exports").exists()


def test_no_path_and_no_other_column_is_exported(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES}, path="/secret/case/a.svs")
    for to in ("midog", "grand-challenge", "grand-challenge-labels", "tiatoolbox"):
        for path in export(out, to).files:  # type: ignore[arg-type]
            assert b"secret" not in path.read_bytes()


# --- slides without a result


@pytest.mark.parametrize("to", ["midog", "grand-challenge", "tiatoolbox"])
def test_a_failed_slide_is_named_and_the_others_are_exported(tmp_path: Path, to: Any) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES}, OTHERS)
    result = export(out, to)
    assert result.exit_status == 1
    assert result.slides == ["a.svs"]
    assert list(result.errors) == ["broken.svs"]
    assert "no result: failed" in result.errors["broken.svs"]
    assert "no reader opens it" in result.errors["broken.svs"]
    assert result.notes == ["not exported, because they have no detections: 'blank.svs'"]


def test_a_slide_without_detections_is_no_failure(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES}, OTHERS)
    assert export(out, "midog", globs=["a*", "bl*"]).exit_status == 0


def test_where_nothing_has_a_result_nothing_is_exported(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES}, OTHERS)
    result = export(out, "midog", globs=["broken*"])
    assert (result.exit_status, result.files) == (2, [])
    assert files(out / "exports") == []


def test_a_slide_without_figures_is_exported_as_such(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": ()})
    result = export(out, "grand-challenge")
    assert (result.exit_status, result.slides, result.figures) == (0, ["a.svs"], 0)
    assert points(result.files[0]) == 0


def test_a_changed_table_is_not_exported(out: Path) -> None:
    table = out / "figures/b.svs.parquet"
    content = bytearray(table.read_bytes())
    content[20] ^= 255
    table.write_bytes(content)
    result = export(out, "midog")
    assert (result.exit_status, result.slides) == (1, ["a.svs"])
    assert "its figures table is missing, damaged or edited" in result.errors["b.svs"]


def test_a_slide_without_a_pixel_size_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES})
    with ResultFolder(out) as held:
        state = held.states()["a.svs"]
        assert state.record is not None
        scale = state.record.scale.model_copy(update={"mpp": state.record.scale.mpp._replace(x=0.0)})
        slide = state.record.slide.model_copy(update={"name": "b.svs"})
        record = state.record.model_copy(update={"scale": scale, "slide": slide})
        write_figures(held.figures_path("b.svs"), record, held.figures("a.svs"))
    result = export(out, "grand-challenge")
    assert (result.exit_status, result.slides) == (1, ["a.svs"])
    assert "the pixel size in its record is 0 x 0.5 um" in result.errors["b.svs"]
    assert export(out, "midog").slides == ["a.svs", "b.svs"], "which is in pixels"
    monkeypatch.setitem(FORMATS, "midog", replace(FORMATS["midog"], needs_mpp=True))
    result = export(out, "midog")
    assert (result.exit_status, result.slides) == (1, ["a.svs"]), "also where all slides share a file"


def test_an_assessment_that_is_missing_is_told(out: Path) -> None:
    (out / "assessments/b.svs.json").unlink()
    result = export(out, "midog")
    assert result.exit_status == 0
    assert any("'b.svs' has no valid assessment" in note for note in result.notes)


# --- the target


def test_an_earlier_export_is_replaced(out: Path, tmp_path: Path) -> None:
    export(out, "grand-challenge")
    (out / "exports/grand-challenge/a.svs.json").write_text("{}")
    export(out, "grand-challenge")
    assert points(out / "exports/grand-challenge/a.svs.json") == 3
    assert files(out / "exports") == ["grand-challenge/a.svs.json", "grand-challenge/b.svs.json"]


def test_an_earlier_export_of_a_slide_that_failed_since_is_removed(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": PLACES, "b.svs": PLACES})
    export(out, "grand-challenge")
    results(out, {"a.svs": PLACES}, [SlideState("b.svs", "failed", error="b.svs: it changed")])
    assert export(out, "grand-challenge").exit_status == 1
    assert files(out / "exports") == ["grand-challenge/a.svs.json"]


def test_a_write_that_fails_leaves_the_earlier_file_and_the_other_slides(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(out, "grand-challenge")
    before = (out / "exports/grand-challenge/a.svs.json").read_bytes()
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "a.svs.json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    result = export(out, "grand-challenge")
    assert (result.exit_status, result.slides) == (1, ["b.svs"])
    assert "cannot be written: No space left on device" in result.errors["a.svs"]
    assert (out / "exports/grand-challenge/a.svs.json").read_bytes() == before
    assert files(out / "exports") == ["grand-challenge/a.svs.json", "grand-challenge/b.svs.json"]


def test_a_folder_in_the_place_of_a_file_fails_its_slide(out: Path) -> None:
    (out / "exports/grand-challenge/a.svs.json").mkdir(parents=True)
    result = export(out, "grand-challenge")
    assert (result.exit_status, list(result.errors)) == (1, ["a.svs"])


@pytest.mark.parametrize("to", ["midog", "tiatoolbox"])
def test_a_target_that_cannot_be_written_is_named(out: Path, tmp_path: Path, to: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.*cannot be made.*--out$"):
        export(out, to, out=tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be made"):
        export(out, to, out=Path("/proc/exports"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_target_fails(out: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert export(out, "midog", out=tmp_path / "locked").exit_status == 2


def test_exports_that_are_a_link_out_of_the_folder_are_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (out / "exports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link that leads out"):
        export(out, "midog")


# --- the folder


@pytest.mark.parametrize("kind", ["missing", "empty", "of another program"])
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    if kind != "missing":
        folder.mkdir()
    if kind == "of another program":
        (folder / "results.csv").write_text("slide\na.svs\n")
    with pytest.raises(InputError, match=r"no results of `classify`\. Give the folder"):
        export(folder, "midog")
    assert not list(folder.rglob("exports"))


def test_a_run_in_progress_is_refused(out: Path) -> None:
    with ResultFolder(out), pytest.raises(OutputError, match=r"exporting: another run holds.*Wait"):
        export(out, "midog")
    assert export(out, "midog").exit_status == 0


def test_a_whole_folder_of_points_is_one_of_detections(out: Path) -> None:
    """What is exported can be classified again: one file per slide, each named after it."""
    for path in export(out, "grand-challenge").files:
        assert read_detections(path).format == "grand-challenge"


# --- figures without this program, and in one table


def test_a_figures_table_opens_with_geopandas_alone(out: Path) -> None:
    table = geopandas.read_parquet(out / "figures/a.svs.parquet")
    assert isinstance(table, geopandas.GeoDataFrame)
    assert table.crs is None
    assert tuple(table.columns) == FIGURE_COLUMNS
    assert table.geometry.geom_type.tolist() == ["Point"] * 4
    assert [(point.x, point.y) for point in table.geometry] == [*PLACES, (5.0, 5.0)]
    np.testing.assert_array_equal(table.geometry.x, table["x_px0"])
    np.testing.assert_array_equal(table.geometry.y, table["y_px0"])
    assert table.total_bounds.tolist() == [5.0, 5.0, 600.125, 300.25]


def test_a_figures_table_is_geoparquet_with_its_record(out: Path) -> None:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(out / "figures/a.svs.parquet").metadata
    geo = json.loads(metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert geo["columns"]["geometry"] == {"encoding": "WKB", "geometry_types": ["Point"], "crs": None}
    model = json.loads(metadata[b"wsi_mitosis"])["model"]
    assert (model["name"], model["digest"], model["trained"]) == ("nano", DIGEST, True)


def test_a_table_without_figures_opens_with_geopandas(tmp_path: Path) -> None:
    out = results(tmp_path / "out", {"a.svs": ()})
    assert len(geopandas.read_parquet(out / "figures/a.svs.parquet")) == 1


def test_figures_of_a_folder_are_one_table(out: Path) -> None:
    table = wsi_mitosis.figures_of(out)
    assert isinstance(table, geopandas.GeoDataFrame)
    assert table.crs is None
    assert table["slide"].tolist() == ["a.svs"] * 4 + ["b.svs"] * 2
    figures = table[table["label"].notna()]
    assert [(point.x, point.y) for point in figures.geometry] == [*PLACES, PLACES[0]]
    assert figures["votes_atypical"].tolist() == [5, 1, 3, 5]
    stated = table.attrs["wsi_mitosis"]
    assert stated.keys() == {"a.svs", "b.svs"}
    assert (stated["a.svs"]["bundle_digest"], stated["a.svs"]["use"]) == (DIGEST, "research use only")


def test_figures_of_a_folder_without_finished_slides_are_none(tmp_path: Path) -> None:
    table = wsi_mitosis.figures_of(str(results(tmp_path / "out", {}, OTHERS)))
    assert len(table) == 0
    assert tuple(table.columns) == FIGURE_COLUMNS


def test_figures_of_a_changed_table_are_left_out_with_a_warning(out: Path) -> None:
    (out / "figures/b.svs.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="left out.*'b.svs'"):
        table = wsi_mitosis.figures_of(out)
    assert set(table["slide"]) == {"a.svs"}


def test_figures_of_no_folder_of_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results of `classify`"):
        wsi_mitosis.figures_of(tmp_path)


def test_classify_writes_the_stores_of_tiatoolbox_in_the_same_run(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    options = {"tiatoolbox": True, "report": False}
    done = run(slides, detections, tmp_path / "out", small_bundle, output=options)
    stores = tmp_path / "out/exports/tiatoolbox"
    assert (done.exit_status, files(stores)) == (0, ["a.tiff.db"])
    assert len(read_detections(stores / "a.tiff.db").table) == int(
        summary(tmp_path / "out")["a.tiff"]["classified"]
    )

    (stores / "a.tiff.db").unlink()
    (stores / "a.tiff.db").mkdir()
    again = run(slides, detections, tmp_path / "out", small_bundle, output=options)
    assert (again.exit_status, again.statuses["a.tiff"]) == (1, "done")
    assert any("a.tiff" in error and "cannot be written" in error for error in again.errors.values())


def test_a_slide_that_fails_in_a_later_run_loses_its_store(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff"])
    options = {"tiatoolbox": True, "report": False}
    run(slides, detections, tmp_path / "out", small_bundle, output=options)
    slides[1].write_bytes(b"no slide")
    done = run(slides, detections, tmp_path / "out", small_bundle, output=options)
    assert (done.statuses["b.tiff"], len(done.errors)) == ("failed", 1)
    assert files(tmp_path / "out/exports/tiatoolbox") == ["a.tiff.db"]
