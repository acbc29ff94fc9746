"""Tables in any dialect give the points that they were written for, or are refused."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import ALIASES, Detections

NO_BREAK, NARROW, THIN = "\u00a0", "\u202f", "\u2009"


def read(folder: Path, text: str, encoding: str = "utf-8", **options) -> Detections:
    path = folder / "table.csv"
    path.write_bytes(text.encode(encoding))
    return read_detections(path, **options)


def xy(detections: Detections) -> list[list[float]]:
    return detections.table[["x", "y"]].to_numpy().tolist()


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("x;y\n2.438,25;1.196,5\n", [[2438.25, 1196.5]]),
        ("x;y\n2.438;1.196,5\n", [[2438, 1196.5]]),  # y decides for x
        ("x\ty\n2,438.25\t1,196\n", [[2438.25, 1196]]),
        ('x,y\n"2,438","1,196.5"\n', [[2438, 1196.5]]),
        ('x,y\n"438,25","196,5"\n', [[438.25, 196.5]]),
        ("x;y\n1.234.567;2.438\n", [[1234567, 2438]]),
        ("x,y\n1.234.567,438.250\n", [[1234567, 438250]]),
        ("x;y\n2'438;1'196.5\n", [[2438, 1196.5]]),
        ("x;y\n2\u2019438;196\n", [[2438, 196]]),
        ("x;y\n2 438;1 196,5\n", [[2438, 1196.5]]),
        (f"x;y\n2{NO_BREAK}438;12{NARROW}196,5\n", [[2438, 12196.5]]),
        (f"x\ty\n2{THIN}438.125\t196\n", [[2438.125, 196]]),
        ("x\ty\n438.250\t0.875\n", [[438.25, 0.875]]),
        ("x\ty\n438.250\t1438.250\n", [[438.25, 1438.25]]),
        ("x,y\n438.250,196.500\n", [[438.25, 196.5]]),  # between commas, a point is decimal
        ("x;y\n4,38E+02;1,965e2\n", [[438, 196.5]]),
        ("x;y\n+438,5;\u2212196\n", [[438.5, -196]]),
        ("x;y\n2438;1196\n", [[2438, 1196]]),
        ("x;y\n2438;1\n196.500;1\n", [[2438, 1], [196.5, 1]]),  # 2438 would be 2.438 with thousands
    ],
)
def test_signs_that_columns_decide(tmp_path: Path, text: str, points: list) -> None:
    assert xy(read(tmp_path, text)) == points


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "x\ty\n2,438\t1,196\n",
            r"row 1: 'x' is '2,438', which may be 2\.438, or 2438 with a thousands sign",
        ),
        ("x;y\n2.438;1.196\n", r"row 1: 'x' is '2\.438', which may be 2\.438, or 2438 "),
        ("x;y\n2'438;1.196\n", r"row 1: 'y' is '1\.196'"),
        ("x;y\n438;1.196\n", r"row 1: 'y' is '1\.196'"),
        ("x;y\n2,438;1,196\n", r"row 1: 'x' is '2,438'"),
        ('x,y\n"2,438","1,196"\n', r"row 1: 'x' is '2,438'"),
        ('x,y\n"2.438",9\n463,9\n', r"row 1: 'x' is '2\.438'"),  # no program writes 463.000 as 463
        ("x;y\n2.438;1\n1,196;1\n", r"row 1: 'x' is '2\.438'"),
        ("x;y\n438,5;1\n438.5;1\n", r"'x' is '438,5' in row 1 and '438\.5' in row 2: their decimal and thou"),
        ("x;y\n1.234.567;1\n438.5;1\n", r"'x' is '1\.234\.567' in row 1 and '438\.5' in row 2"),
        ("x;y;score\n438,5;1;2.438\n", None),
        ("x;y;score\n438;1;2.438\n", r"row 1: 'score' is '2\.438'"),
        ("x;y\n45,3 %;1\n", r"row 1: 'x' is '45,3 %', not a number, but a percentage"),
    ],
)
def test_signs_that_may_be_either_are_refused(tmp_path: Path, text: str, cause: str | None) -> None:
    if cause is None:
        assert read(tmp_path, text).table["score"].tolist() == [2438]  # by the coordinates' sign
        return
    with pytest.raises(DetectionsError, match=cause) as caught:
        read(tmp_path, text)
    assert caught.value.remedy


@pytest.mark.parametrize(("decimal", "x"), [("point", 2.438), ("comma", 2438)])
def test_the_user_decides_a_sign_in_doubt(tmp_path: Path, decimal: str, x: float) -> None:
    assert xy(read(tmp_path, "x;y\n2.438;7\n", decimal=decimal)) == [[x, 7]]


def test_what_contradicts_the_users_sign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"row 2: 'x' is '438\.5', not a number"):
        read(tmp_path, "x;y\n438,5;1\n438.5;1\n", decimal="comma")


def test_a_parquet_tables_texts_are_read_likewise(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": ["2.438,5", "12"], "y": ["1", "2"]}).to_parquet(path)
    assert xy(read_detections(path)) == [[2438.5, 1], [12, 2]]
    pd.DataFrame({"x": ["2.438"], "y": ["1"]}).to_parquet(path)
    with pytest.raises(DetectionsError, match="which may be"):
        read_detections(path)
    pd.DataFrame({"x": [True], "y": ["1"]}).to_parquet(path)
    with pytest.raises(DetectionsError, match="row 1: 'x' is 'True', not a number"):
        read_detections(path)


def test_other_columns_are_numbers_only_beyond_doubt(tmp_path: Path) -> None:
    table = read(tmp_path, "x;y;area;pages;note\n438,5;1;3,25;2.438;1,2,3\n").table
    assert table[["area", "pages", "note"]].iloc[0].tolist() == [3.25, 2438, "1,2,3"]
    table = read(tmp_path, "x;y;area;pages\n438;1;3,25;2.438\n").table
    assert table[["area", "pages"]].iloc[0].tolist() == [3.25, "2.438"]


# --- what stands around a table


@pytest.mark.parametrize(
    "line", ["sep=;", "SEP=;", '"sep=;"', "sep=; ", " sep=;", "sep = ;", "sep=;;;", '"sep=;";;']
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_excels_own_first_line(tmp_path: Path, line: str, end: str) -> None:
    text = end.join([line, "slide;x;y", "a, b.tiff;438,25;196,5", ""])
    detections = read(tmp_path, text, "utf-8-sig")
    assert xy(detections) == [[438.25, 196.5]]
    assert detections.table["slide"].tolist() == ["a, b.tiff"]


def test_excels_line_may_name_any_separator(tmp_path: Path) -> None:
    assert xy(read(tmp_path, "sep=|\nx|y\n1.5|2\n")) == [[1.5, 2]]
    assert xy(read(tmp_path, "sep=\\t\nx\ty\n1.5\t2\n")) == [[1.5, 2]]
    assert xy(read(tmp_path, "sep=\t\nx\ty\n1.5\t2\n")) == [[1.5, 2]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_encodings_of_spreadsheets(tmp_path: Path, encoding: str) -> None:
    detections = read(tmp_path, "slide\tx\ty\nGewebe-Ü.svs\t438,25\t196,5\n", encoding)
    assert (detections.table["slide"].tolist(), xy(detections)) == (["Gewebe-Ü.svs"], [[438.25, 196.5]])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quotes_behind_blanks(tmp_path: Path, separator: str) -> None:
    rows = ['"slide", "x", "y"', '"a, b; c.tiff",  438.25, "196.5"', "d.tiff, 1, 2"]
    detections = read(tmp_path, "\n".join(row.replace(", ", f"{separator} ") for row in rows))
    assert xy(detections) == [[438.25, 196.5], [1, 2]]
    assert detections.table["slide"].tolist() == [f"a{separator} b; c.tiff", "d.tiff"]


@pytest.mark.parametrize(
    ("after", "note"),
    [
        ("Total: 2\n", "'Total: 2'"),
        ("\n\nExported by X on 2024-05-01\n", "'Exported by X on 2024-05-01'"),
        ("\nTotal;;\n", "'Total;;'"),
        ("# 1\n# 2\n# 3\n# 4\n", "'# 1', '# 2', '# 3' and 1 more"),
    ],
)
def test_notes_after_the_table_are_no_candidates_and_are_named(tmp_path: Path, after: str, note: str) -> None:
    detections = read(tmp_path, f"slide;x;y\na;1,5;2\na;3;4\n{after}")
    assert xy(detections) == [[1.5, 2], [3, 4]]
    assert detections.notes == (f"table.csv: lines after the table are not read as candidates: {note}",)


def test_a_last_row_without_coordinates_is_a_row(tmp_path: Path) -> None:
    detections = read(tmp_path, "slide;x;y\na;1;2\na;;\n")
    assert (len(detections.table), detections.notes) == (2, ())


def test_a_second_table_below_the_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="row 2: 'x' is 'x', not a number"):
        read(tmp_path, "slide,x,y\na,1,2\n\nslide,x,y\nb,3,4\n")


# --- every dialect


def grouped(number: str, sign: str) -> str:
    """Thousands separated in a number with a decimal point."""
    whole, point, fraction = number.partition(".")
    return f"{int(whole):,}".replace(",", sign) + point + fraction


@st.composite
def dialects(draw: st.DrawFn) -> dict:
    decimal = draw(st.sampled_from([".", ","]))
    thousands = draw(st.sampled_from(["", "", " ", "'", NO_BREAK, "," if decimal == "." else "."]))
    separators = [";", "\t"] if thousands == "." else [",", ";", "\t"]  # beside commas a point is decimal
    return {
        "separator": draw(st.sampled_from(separators)),
        "decimal": decimal,
        "thousands": thousands,
        "places": draw(st.integers(0, 4)),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "excel": draw(st.booleans()),
        "blank": draw(st.booleans()),
        "names": draw(st.sampled_from(list(zip(ALIASES["x"], ALIASES["y"], strict=True)))),
        "note": draw(st.sampled_from(["", "", "Total: 4"])),
    }


def written(points: list[tuple[float, float]], dialect: dict) -> bytes:
    def cell(value: float) -> str:
        text = grouped(f"{value:.{dialect['places']}f}", "T") if dialect["thousands"] else ""
        text = text or f"{value:.{dialect['places']}f}"
        return text.replace(".", dialect["decimal"]).replace("T", dialect["thousands"])

    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=dialect["separator"], quoting=dialect["quoting"], lineterminator=dialect["end"]
    )
    writer.writerows([["slide", *dialect["names"]], *(["a.svs", cell(x), cell(y)] for x, y in points)])
    table = text.getvalue()
    if dialect["blank"] and dialect["quoting"] == csv.QUOTE_ALL:
        table = table.replace(f'"{dialect["separator"]}"', f'"{dialect["separator"]} "')
    first = f"sep={dialect['separator']}{dialect['end']}" if dialect["excel"] else ""
    return f"{first}{table}{dialect['note']}".encode(dialect["encoding"])


@settings(max_examples=200)
@given(
    points=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=5),
    dialect=dialects(),
)
def test_a_table_in_any_dialect_gives_its_points_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, points: list, dialect: dict
) -> None:
    rounded = [tuple(round(value / 10**4, dialect["places"]) for value in point) for point in points]
    path = tmp_path_factory.mktemp("dialect") / "table.csv"
    path.write_bytes(written(rounded, dialect))
    table, refusal = None, None
    try:
        table = read_detections(path, units="px").table
    except DetectionsError as error:
        refusal = error
    if table is None:
        in_doubt = dialect["thousands"] or dialect["places"] == 3
        assert in_doubt, f"refused without need: {refusal}"
        return
    np.testing.assert_array_equal(table[["x", "y"]], rounded)
    assert table["slide"].tolist() == ["a.svs"] * len(points)


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_what_python_and_pandas_write_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("python")
    for separator, decimal in ((",", "."), ("\t", "."), (";", ",")):
        frame = pd.DataFrame({"x": values, "y": [0.5] * len(values)})
        text = frame.to_csv(index=False, sep=separator, decimal=decimal)
        table = read(folder, text, units="px").table
        np.testing.assert_array_equal(table["x"], values)
        assert not any(map(math.isnan, table["y"]))
