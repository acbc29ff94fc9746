from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.records import assessed_slide, slide_record
from wsi_mitosis.core.assessments import AssessedSlide
from wsi_mitosis.core.records import SlideRecord
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.errors import OutputError, SlideError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.results import folder as folder_module
from wsi_mitosis.io.results.figures import read_figures, read_record, write_figures
from wsi_mitosis.io.results.folder import Drawing, ResultFolder
from wsi_mitosis.io.results.geojson import read_provenance
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.tables import FIGURE_COLUMNS, SUMMARY_COLUMNS

DRAWING = Drawing("detection", "qupath")
OPTIONS = AssessmentOptions(hotspot_area=0.01)
"""115 x 87 um, which hold both figures."""
OURS = [name for name in FIGURE_COLUMNS if name != "geometry"]


COUNTS = Counts(candidates=3, classified=2, atypical=1, typical=1, excluded=1)


def record(name: str = "a.svs", **changes: Any) -> SlideRecord:
    given = {"mpp": (0.25, 0.251), "bounds": (300, 160, 1000, 800), "trained": False, "counts": COUNTS}
    return slide_record(name, **given | {"seconds": 1.23456, "warnings": ("a warning",)} | changes)


def assessed(
    one: SlideRecord | None = None, table: pd.DataFrame | None = None, **changes: Any
) -> AssessedSlide:
    table = figures() if table is None else table
    return assessed_slide(record(**changes) if one is None else one, table, OPTIONS)


def figures() -> pd.DataFrame:
    """An atypical and a typical figure, a candidate excluded by its score, one without coordinates."""
    return pd.DataFrame(
        {
            "slide": ["a.svs"] * 4,
            "candidate_id": ["c1", "c2", "c3", "c4"],
            "figure_id": [f"0000000{i}-0000-5000-8000-000000000000" for i in (1, 2)] + [None, None],
            "x_px0": [400.25, 500.0, 600.0, np.nan],
            "y_px0": [300.5, 310.0, 320.0, np.nan],
            "detector_score": [0.9, np.nan, 0.1, 0.8],
            "p_atypical": [0.75, 0.25, np.nan, np.nan],
            "votes_atypical": pd.array([4, 1, None, None], dtype="Int16"),
            "votes_cast": pd.array([5, 5, None, None], dtype="Int16"),
            "label": ["atypical", "typical", None, None],
            "excluded_reason": [None, None, "score", "not_finite"],
        }
    )


def write(
    results: ResultFolder, table: pd.DataFrame, one: SlideRecord | None = None, drawing: Drawing = DRAWING
) -> None:
    results.write_slide(table, assessed(one, table), drawing)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- figures tables


def test_a_figures_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = figures().assign(
        cell_area=[1.5, np.nan, 3.0, 4.0],
        count=[1, 2, 3, 2**40],
        note=["µ", None, "", "x,y"],
        flag=[True, False, True, False],
        input_slide=["A", "B", "C", "D"],
    )
    with ResultFolder(tmp_path / "out") as results:
        write(results, table)
        back = read_figures(results.figures_path("a.svs"))
    assert list(back.columns) == [*OURS, "cell_area", "count", "note", "flag", "input_slide"]
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    # whole numbers stay whole beside missing ones
    assert [str(back[name].dtype) for name in ("votes_atypical", "votes_cast", "count")] == [
        "Int16",
        "Int16",
        "Int64",
    ]


def test_columns_stand_in_the_documented_order_whatever_the_input(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures()[OURS[::-1]].assign(z=1, a=2))
        names = pq.read_schema(results.figures_path("a.svs")).names
    assert tuple(names) == (*FIGURE_COLUMNS, "z", "a")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "two", 3.5, None], ["1", "two", "3.5", None]),
        ([1, "two", np.nan, pd.NA], ["1", "two", None, None]),
        ([2**70, 1, None, None], [str(2**70), "1", None, None]),
        ([{"a": 1}, "text", None, [1]], ["{'a': 1}", "text", None, "[1]"]),
    ],
)
def test_a_column_of_several_kinds_is_kept_as_text(tmp_path: Path, values: list, expected: list) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures().assign(extra=pd.Series(values, dtype=object)))
        back = read_figures(results.figures_path("a.svs"))["extra"]
    assert [None if missing else value for value, missing in zip(back, back.isna(), strict=True)] == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes its file anew
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.just(float("nan")),
            st.text(),
            st.binary(),
        ),
        min_size=4,
        max_size=4,
    )
)
def test_any_carried_column_can_be_written_and_keeps_what_is_missing(tmp_path: Path, values: list) -> None:
    column = pd.Series(values, dtype=object)
    with ResultFolder(tmp_path) as results:
        write(results, figures().assign(extra=column))
        back = read_figures(results.figures_path("a.svs"))["extra"]
    assert back.isna().tolist() == column.isna().tolist()


def test_a_slide_without_candidates_has_an_empty_table(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures().iloc[:0])
        assert read_figures(results.figures_path("a.svs")).shape == (0, len(OURS))
        assert results.records() == {"a.svs": record()}
        assert results.is_drawn(assessed(), DRAWING)


def test_geopandas_reads_the_points(tmp_path: Path) -> None:
    import geopandas

    with ResultFolder(tmp_path) as results:
        write(results, figures())
        frame = geopandas.read_parquet(results.figures_path("a.svs"))
    assert frame.crs is None
    assert frame.geometry.name == "geometry"
    assert [(point.x, point.y) for point in frame.geometry[:3]] == [(400.25, 300.5), (500, 310), (600, 320)]
    assert frame.geometry[3] is None
    assert frame["label"].tolist()[:2] == ["atypical", "typical"]


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with ResultFolder(tmp_path / name) as results:
            write(results, figures())
    for path in ("figures/a.svs.parquet", "geojson/a.svs.geojson"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()


# --- records


@pytest.mark.parametrize(
    "one",
    [
        record(),
        record(bounds=None, warnings=()),
        record("left/b µ.svs", trained=True, counts=Counts(candidates=0), mpp=(0.5, 0.5)),
    ],
)
def test_a_table_says_what_it_is(tmp_path: Path, one: SlideRecord) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures(), one)
        assert read_record(results.figures_path(one.name)) == one
        assert results.records() == {one.name: one}


def test_records_are_read_from_all_folders_and_not_from_temporary_files(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        assert results.records() == {}
        for slide in ("b.svs", "a/x.svs", "c/x.svs"):
            write(results, figures(), record(slide))
        write(results, figures(), record("z.svs"))
        path = results.figures_path("z.svs")
        path.rename(path.with_name(f".77-{path.name}"))
        assert set(results.records()) == {"b.svs", "a/x.svs", "c/x.svs"}


@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_table_is_no_record(tmp_path: Path, kept: float) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = results.figures_path("a.svs")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        assert read_record(path) is None
        assert results.records() == {}


def test_other_peoples_tables_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    figures().to_parquet(tmp_path / "b.parquet")
    assert read_record(tmp_path / "a.parquet") is None
    assert read_record(tmp_path / "b.parquet") is None
    assert read_record(tmp_path / "missing.parquet") is None


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"slide": "a.svs"}'])
def test_a_table_whose_record_lacks_parts_is_no_record(tmp_path: Path, text: str) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = results.figures_path("a.svs")
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({b"wsi_mitosis": text.encode()}), path)
        assert read_record(path) is None


@pytest.mark.parametrize("harm", ["relabelled", "shortened", "renamed", "record", "bytes"])
def test_an_edited_table_is_no_record(tmp_path: Path, harm: str) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = results.figures_path("a.svs")
        table, content = pq.read_table(path), bytearray(path.read_bytes())
        metadata = pq.read_metadata(path).metadata
        if harm == "bytes":
            content[100:140] = bytes(40)
            path.write_bytes(content)
        elif harm == "renamed":
            swapped = {"x_px0": "y_px0", "y_px0": "x_px0"}
            edited = table.rename_columns([swapped.get(name, name) for name in table.column_names])
            pq.write_table(edited.replace_schema_metadata(metadata), path)
        elif harm == "record":
            text = metadata[b"wsi_mitosis"].replace(b'"key":"k', b'"key":"x')
            assert text != metadata[b"wsi_mitosis"]
            pq.write_table(table.replace_schema_metadata({**metadata, b"wsi_mitosis": text}), path)
        else:
            column = table.column_names.index("label")
            labels = [label and "atypical" for label in table["label"].to_pylist()]
            edited = table.slice(1) if harm == "shortened" else table.set_column(column, "label", [labels])
            assert not edited.equals(table)
            pq.write_table(edited.replace_schema_metadata(metadata), path)
        assert read_record(path) is None


def test_a_damaged_byte_never_gives_other_rows(tmp_path: Path) -> None:
    """Wherever it is: the table is no record, or its rows are as they were."""
    path = tmp_path / "a.parquet"
    write_figures(path, record(), figures())
    whole, rows = path.read_bytes(), read_figures(path)
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        if read_record(path) is not None:
            try:
                pd.testing.assert_frame_equal(read_figures(path), rows)
            except SlideError:
                continue


@pytest.mark.parametrize("content", ["slide\na.svs\n", "a\n1\n", "\udcff"])
def test_a_summary_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.csv").write_bytes(content.encode(errors="surrogateescape"))
    with (
        ResultFolder(tmp_path) as results,
        pytest.raises(OutputError, match=r"not a summary of `classify`\. Delete it"),
    ):
        results.earlier_states()


def test_a_summary_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    text = "slide,status,error\na.svs,failed,why\nb.svs,great,\n"
    (tmp_path / "summary.csv").write_text(text, encoding="utf-8-sig")
    with ResultFolder(tmp_path) as results:
        assert results.earlier_states() == {"a.svs": SlideState("a.svs", "failed", error="why")}


def test_a_table_of_the_version_before_is_taken_up(tmp_path: Path) -> None:
    flat = {
        "slide": "a.svs",
        "source": "/data/a.svs",
        "identity": "i" * 64,
        "size_px0": [1400, 1000],
        "mpp": [0.25, 0.251],
        "mpp_source": "slide",
        "bounds": [300, 160, 1000, 800],
        "bundle": "nano µ",
        "bundle_digest": "d" * 64,
        "trained": False,
        "key": "k" * 64,
        "program": "0.1.0",
        "seconds": 1.23456,
        "warnings": ["a warning"],
        "counts": COUNTS.model_dump(),
    }
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = results.figures_path("a.svs")
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({b"wsi_mitosis": json.dumps(flat).encode()}), path)
        assert results.records() == {"a.svs": record()}


# --- assessments


def test_an_assessment_comes_back_as_it_was(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        assert results.assessed(record()) is None
        write(results, figures())
        found = results.assessed(record())
    assert found == assessed()
    assert found is not None
    assert [spot.mitoses for spot in found.assessment.hotspots] == [2]
    document = json.loads((tmp_path / "assessments/a.svs.json").read_text(encoding="utf-8"))
    assert document["schema"] == 1
    assert document["use"] == "untrained: the labels mean nothing"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"mitoses": 2', '"mitoses": 99'),
        ('"p_atypical": 0.75', '"p_atypical": 0.74'),
        ('"atypical": 1', '"atypical": 2'),
        ('"schema": 1', '"schema": 2'),
        ('"key"', '"mood"'),
        ("}", ""),
    ],
)
def test_an_edited_or_damaged_assessment_is_none(tmp_path: Path, before: str, after: str) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = results.assessment_path("a.svs")
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
        assert results.assessed(record()) is None
        path.write_text(text, encoding="utf-8")
        assert results.assessed(record()) == assessed()


def test_an_assessment_of_another_result_is_none(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        for other in (
            record(key="l" * 64),
            record(bundle_digest="e" * 64),
            record(counts=Counts(candidates=9)),
        ):
            assert results.assessed(other) is None


# --- drawings


def test_a_drawing_is_known_again(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        assert not results.is_drawn(assessed(), DRAWING)
        write(results, figures())
        assert results.is_drawn(assessed(), DRAWING)
        provenance = read_provenance(tmp_path / "geojson" / "a.svs.geojson")
    assert provenance is not None
    assert provenance["bundle"] == "nano µ"
    assert provenance["bundle_digest"] == "d" * 64
    assert provenance["trained"] is False


@pytest.mark.parametrize(
    ("change", "drawing"),
    [
        ({}, Drawing("annotation", "qupath")),
        ({}, Drawing("detection", "slide")),
        ({"key": "other"}, DRAWING),
        ({"bundle_digest": "other"}, DRAWING),
        ({"trained": True}, DRAWING),
        ({"name": "b.svs"}, DRAWING),
    ],
)
def test_another_drawing_or_result_is_not_drawn(tmp_path: Path, change: dict, drawing: Drawing) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        assert not results.is_drawn(assessed(**change), drawing)


def test_a_slide_with_both_files_is_not_drawn(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        (tmp_path / "geojson" / "a.svs.geojson.gz").write_bytes(b"")
        assert not results.is_drawn(assessed(), DRAWING)
        results.draw(assessed(), DRAWING)
        assert results.is_drawn(assessed(), DRAWING)


def test_drawing_again_from_the_table_gives_what_writing_gave(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures())
        path = tmp_path / "geojson" / "a.svs.geojson"
        table, before = results.figures_path("a.svs").read_bytes(), path.read_bytes()
        results.draw(assessed(), Drawing("annotation", "slide"))
        assert path.read_bytes() != before
        results.draw(assessed(), DRAWING)
        assert path.read_bytes() == before
        assert results.figures_path("a.svs").read_bytes() == table


@pytest.mark.parametrize(
    "change",
    [(b'"Atypical votes":', b'"Atypical votes":1'), (b'"frame":"qupath"', b'"frame":"slide"'), (b"}", b"")],
)
def test_an_edited_geojson_is_not_drawn_and_says_nothing(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    with ResultFolder(tmp_path) as results:
        write(results, figures(), drawing=Drawing("detection", "slide"))
        assert results.drawn_frame("a.svs") == "slide"
        write(results, figures())
        assert results.drawn_frame("a.svs") == "qupath"
        path = tmp_path / "geojson" / "a.svs.geojson"
        whole = path.read_bytes()
        assert change[0] in whole
        path.write_bytes(whole.replace(*change, 1))
        assert not results.is_drawn(assessed(), DRAWING)
        assert results.drawn_frame("a.svs") == "qupath"
        results.draw(assessed(), DRAWING)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("frame", "bounds", "left"),
    [
        ("qupath", (300, 160, 1000, 800), 400.25 - 25 - 300),
        ("slide", (300, 160, 1000, 800), 400.25 - 25),
        ("qupath", None, 400.25 - 25),
    ],
)
def test_geojson_is_in_the_frame_asked_for_and_the_table_in_the_slides(
    tmp_path: Path, frame: str, bounds: tuple[int, int, int, int] | None, left: float
) -> None:
    one = record(bounds=bounds, mpp=(0.25, 0.25))
    with ResultFolder(tmp_path) as results:
        write(results, figures(), one, Drawing("detection", frame))
        document = json.loads((tmp_path / "geojson" / "a.svs.geojson").read_text(encoding="utf-8"))
        assert document["features"][0]["geometry"]["coordinates"][0][0][0] == left
        assert read_figures(results.figures_path("a.svs"))["x_px0"][0] == 400.25


# --- one writer at a time, whole files


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with ResultFolder(tmp_path / "out"):
        with pytest.raises(OutputError, match=r"out: another run holds this folder: process \d+ on .+ Wait"):
            ResultFolder(tmp_path / "out")
        code = (
            "import sys; from pathlib import Path; from wsi_mitosis.io.results.folder import ResultFolder\n"
            "ResultFolder(Path(sys.argv[1]))"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=False
        )
        assert "OutputError" in other.stderr
    with ResultFolder(tmp_path / "out"):
        pass


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path, inside: bool) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        ResultFolder(tmp_path / "out" / "deep" if inside else tmp_path / "out")


@pytest.mark.parametrize("stage", ["assessment", "geojson", "table"])
def test_a_slide_whose_writing_fails_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with ResultFolder(tmp_path) as results:
        function = {"assessment": "assessment", "geojson": "slide_geojson", "table": "figures"}[stage]
        monkeypatch.setattr(f"wsi_mitosis.io.results.folder.write_{function}", fails)
        with pytest.raises(OSError, match="disk full"):
            write(results, figures())
        assert results.records() == {}
    there = files(tmp_path)
    written = {"assessment": 0, "geojson": 1, "table": 2}[stage]
    assert [name for name in there if "lock" not in name] == [
        "assessments/a.svs.json",
        "geojson/a.svs.geojson",
    ][:written]


def test_the_table_is_the_last_of_a_slides_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def spy(*_: object) -> None:
        seen.append([name for name in files(tmp_path) if "lock" not in name])

    monkeypatch.setattr(folder_module, "write_figures", spy)
    with ResultFolder(tmp_path) as results:
        write(results, figures())
    assert seen == [["assessments/a.svs.json", "geojson/a.svs.geojson"]]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "deep" / "summary.csv"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.startswith(".")
            assert temporary.suffix == ".csv"
            temporary.write_text("half")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert files(tmp_path) == ["deep/summary.csv"]
    assert path.read_text() == "old"


def test_a_file_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert files(tmp_path) == ["a.csv"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "\u00e9" * 125 + ".csv"])
def test_the_temporary_file_of_the_longest_name_is_no_longer(tmp_path: Path, name: str) -> None:
    assert 254 <= len(name.encode()) <= 255
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".csv"
    assert files(tmp_path) == [name]


def test_bytes_of_a_name_that_are_not_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "M\udcfcller")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "M\\udcfcller"
    with ResultFolder(tmp_path / "out") as folder:
        folder.log("start", argument="M\udcfcller")
        folder.write_run({"argument": "M\udcfcller"})
    for name in ("log.jsonl", "run.json"):
        told = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
        assert told["argument"] == "M\udcfcller"


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "µm\r\nline\n")
    assert (tmp_path / "a").read_bytes() == "µm\r\nline\n".encode()


# --- summary, run, log


def test_the_summary_is_sorted_and_has_its_columns_in_order(tmp_path: Path) -> None:
    failed = SlideState("b.svs", "failed", error='broken, "very"\nbroken')
    with ResultFolder(tmp_path) as results:
        assert results.earlier_rows() == {}
        done = [SlideState(name, "done", record(name)) for name in ("c µ.svs", "a/x.svs")]
        results.write_summary([done[0], failed, done[1]])
        rows = results.earlier_rows()
    with (tmp_path / "summary.csv").open(encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))) == SUMMARY_COLUMNS
    assert list(rows) == ["a/x.svs", "b.svs", "c µ.svs"]
    assert rows["b.svs"]["error"] == failed.error
    assert rows["b.svs"]["candidates"] == ""
    row = rows["c µ.svs"]
    assert row["status"] == "done"
    assert row["candidates"] == "3"
    assert row["mean_agreement"] == ""  # None: its denominator is zero
    assert row["mpp_um"] == "0.2505"
    assert row["trained"] == "false"
    assert row["seconds"] == "1.235"
    assert b"\r" not in (tmp_path / "summary.csv").read_bytes()


def test_states_are_those_of_the_summary_and_of_tables_that_it_lacks(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        for name in ("a.svs", "b.svs", "c.svs"):
            write(results, figures(), record(name))
        results.write_summary(
            [
                SlideState("gone.svs", "done", record("gone.svs")),
                SlideState("b.svs", "failed", error="b.svs: broken"),
                SlideState("x.svs", "no_detections"),
                SlideState("a.svs", "done", record("a.svs")),
            ]
        )
        states = results.states()
    assert {name: state.status for name, state in states.items()} == {
        "a.svs": "done",
        "b.svs": "failed",
        "c.svs": "done",
        "x.svs": "no_detections",
    }
    assert states["a.svs"] == SlideState("a.svs", "done", record("a.svs"), assessed(record("a.svs")))
    assert states["b.svs"] == SlideState("b.svs", "failed", error="b.svs: broken")


def test_run_json_is_json(tmp_path: Path) -> None:
    with ResultFolder(tmp_path) as results:
        results.write_run({"version": "1", "inputs": [Path("/data/µ.svs")]})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["inputs"] == ["/data/µ.svs"]


def test_the_log_is_a_json_object_a_line_and_is_appended(tmp_path: Path) -> None:
    for run in range(2):
        with ResultFolder(tmp_path) as results:
            results.log("slide_done", slide="a\nb µ.svs", run=run, path=Path("/x"))
            results.log("end")
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["event"] for entry in entries] == ["slide_done", "end"] * 2
    assert entries[0]["slide"] == "a\nb µ.svs"
    assert [entry["run"] for entry in entries[::2]] == [0, 1]
    assert all(datetime.fromisoformat(entry["time"]).tzinfo is not None for entry in entries)
