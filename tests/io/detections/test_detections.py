"""Reading candidates: what each format says, and what is said of files that make no sense."""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.detection_files import (
    BOX_PX,
    ring,
    write_all,
    write_geojson,
    write_grand_challenge,
    write_json,
    write_midog,
    write_midog_guide,
    write_parquet,
    write_sliderunner,
    write_tiatoolbox_db,
    write_tiatoolbox_json,
)
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import FORMATS, read_detections
from wsi_mitosis.tables import ALIASES, CANDIDATE_COLUMNS, FIGURE_COLUMNS, Detections
from wsi_mitosis.units import Bounds, Mpp

MPP = Mpp(0.2425, 0.25)
BOUNDS = Bounds(700, 300, 9000, 9000)
DIALECTS = {
    "csv": ("csv", "px", "slide", "any"),
    "csv-semicolon": ("csv", "px", "slide", "any"),
    "csv-um": ("csv", "um", "slide", "any"),
    "csv-box": ("csv", "px", "slide", "any"),
    "parquet": ("parquet", "px", "slide", "any"),
    "geojson": ("geojson", "px", "qupath", "qupath"),
    "geojson-gz": ("geojson", "px", "qupath", "qupath"),
    "qupath-tsv": ("csv", "um", "qupath", "qupath"),
    "tiatoolbox-db": ("tiatoolbox", "px", "slide", "any"),
    "tiatoolbox-json": ("tiatoolbox", "px", "slide", "any"),
    "midog": ("midog", "px", "slide", "mitotic"),
    "midog-guide": ("midog-guide", "px", "slide", "any"),
    "sliderunner": ("sliderunner", "px", "slide", "mitotic"),
    "grand-challenge": ("grand-challenge", "mm", "slide", "mitotic"),
}
DECIMALS = {"csv-semicolon": "comma", "qupath-tsv": "point"}
"""Of the tables whose separator leaves it open."""
NAMELESS = {"geojson", "geojson-gz", "tiatoolbox-db", "tiatoolbox-json", "grand-challenge"}
XY = [(1012.5, 834.25), (2000.0, 3000.0), (4321.0, 765.5)]
SCORES = [0.25, 0.5, 0.875]


def read_text(tmp_path: Path, text: str, encoding: str = "utf-8", **options) -> Detections:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return read_detections(path, **options)


def read_features(tmp_path: Path, *features: object, **options) -> Detections:
    document = {"type": "FeatureCollection", "features": list(features)}
    return read_detections(write_json(tmp_path / "objects.geojson", document), **options)


def feature(geometry: object, identity: str | None = "a", **properties: object) -> dict[str, object]:
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def point(x: float, y: float) -> dict[str, object]:
    return {"type": "Point", "coordinates": [x, y]}


def polygon(x: float, y: float) -> dict[str, object]:
    return {"type": "Polygon", "coordinates": [ring(x, y)]}


# One meaning, many formats


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_format_is_told_by_content_and_gives_the_same_candidates(tmp_path: Path, dialect: str) -> None:
    written = write_all(tmp_path, "a.svs", XY, SCORES, MPP, (BOUNDS.x, BOUNDS.y))[dialect]
    nondescript = written.rename(tmp_path / "file")

    detections = read_detections(nondescript)

    assert (detections.format, detections.units, detections.frame, detections.class_rule) == DIALECTS[dialect]
    assert tuple(detections.table.columns[: len(CANDIDATE_COLUMNS)]) == CANDIDATE_COLUMNS
    assert detections.table["slide"].tolist() == [None if dialect in NAMELESS else "a.svs"] * 3
    prepared = prepare_candidates(detections, size_px0=(9999, 9999), mpp=MPP, mpp_stated=True, bounds=BOUNDS)
    np.testing.assert_allclose(prepared[["x_px0", "y_px0"]], XY, atol=1e-6)  # um and mm round
    assert prepared["excluded_reason"].isna().all()
    if dialect != "sliderunner":
        assert prepared["detector_score"].tolist() == SCORES


def test_the_table_of_dialects_has_every_dialect(tmp_path: Path) -> None:
    assert write_all(tmp_path, "a.svs", XY, SCORES, MPP).keys() == DIALECTS.keys()
    assert {DIALECTS[dialect][0] for dialect in DIALECTS} <= set(FORMATS)


@settings(max_examples=25, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 400_000), st.integers(0, 400_000), st.integers(0, 1000)),
        max_size=8,
        unique=True,
    )
)
def test_round_trip_through_every_format(tmp_path_factory: pytest.TempPathFactory, cells: list) -> None:
    xy = [(x / 4, y / 4) for x, y, _ in cells]
    scores = [score / 1000 for *_, score in cells]
    paths = write_all(tmp_path_factory.mktemp("formats"), "0012.svs", xy, scores, MPP, (BOUNDS.x, BOUNDS.y))
    for dialect, path in paths.items():
        units = "px" if DIALECTS[dialect][1] == "px" else None  # shares of an image are not meant
        if DIALECTS[dialect][1] == "um" and xy and max(max(point) for point in xy) * 0.25 <= 1:
            continue
        prepared = prepare_candidates(
            read_detections(path, units=units, decimal=DECIMALS.get(dialect)),
            size_px0=(100_001, 100_001),
            mpp=MPP,
            mpp_stated=True,
            bounds=BOUNDS,
        )
        np.testing.assert_allclose(prepared[["x_px0", "y_px0"]], np.array(xy).reshape(-1, 2), atol=1e-6)
        if dialect != "sliderunner":
            np.testing.assert_array_equal(prepared["detector_score"], scores)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_types_of_columns_are_the_same_with_and_without_rows(tmp_path: Path, dialect: str) -> None:
    for name, xy in (("some", XY), ("none", [])):
        path = write_all(tmp_path / name, "a.svs", xy, SCORES[: len(xy)], MPP)[dialect]
        table = read_detections(path).table
        assert len(table) == len(xy)
        assert [str(kind) for kind in table.dtypes.iloc[: len(CANDIDATE_COLUMNS)]] == [
            *("object", "float64", "float64", "float64", "object", "object", "float64")
        ]


def test_what_the_user_says_of_units_and_frame_wins(tmp_path: Path) -> None:
    for path in write_all(tmp_path, "a.svs", XY, SCORES, MPP).values():
        detections = read_detections(path, units="um", frame="qupath")
        assert (detections.units, detections.frame) == ("um", "qupath")


# Formats that are asked for


@pytest.mark.parametrize("asked", FORMATS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_format_that_does_not_fit_says_what_the_file_looks_like(
    tmp_path: Path, dialect: str, asked: str
) -> None:
    path = write_all(tmp_path, "a.svs", XY, SCORES, MPP)[dialect]
    actual = DIALECTS[dialect][0]
    json_of_both = {"geojson", "tiatoolbox"}
    if asked == actual or (dialect != "tiatoolbox-db" and {asked, actual} <= json_of_both):
        assert len(read_detections(path, format=asked).table) == len(XY)
        return
    with pytest.raises(DetectionsError, match=f"not {asked}: it looks like {actual}") as caught:
        read_detections(path, format=asked)
    assert caught.value.subject == str(path)
    assert f"--format {actual}" in str(caught.value.remedy)


def test_geojson_called_tiatoolbox_is_in_the_slides_frame(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.json", XY, SCORES)
    detections = read_detections(path, format="tiatoolbox")
    assert (detections.format, detections.frame, detections.class_rule) == ("tiatoolbox", "slide", "any")


def test_tiatoolbox_called_geojson_stays_in_the_slides_frame(tmp_path: Path) -> None:
    path = write_tiatoolbox_json(tmp_path / "a.json", XY, SCORES)
    assert read_detections(path, format="geojson").frame == "slide"


def test_an_empty_json_list_is_what_the_user_says(tmp_path: Path) -> None:
    path = write_json(tmp_path / "none.json", [])
    assert read_detections(path).format == "geojson"
    assert read_detections(path, format="grand-challenge").units == "mm"
    with pytest.raises(DetectionsError, match="not midog"):
        read_detections(path, format="midog")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"unknown format 'xml'.*midog-guide"):
        read_text(tmp_path, "x,y\n1,2\n", format="xml")


def test_columns_of_a_file_that_is_no_table_are_refused(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", XY, SCORES)
    with pytest.raises(DetectionsError, match="--columns is for tables, and this is geojson"):
        read_detections(path, columns={"x": "X"})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \r\n", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "neither text nor a database nor Parquet"),
        (bytes(range(256)), "neither text nor a database nor Parquet"),
        (b"x,y\n1,\x812\x01\n", "neither text nor a database nor Parquet"),
        (gzip.compress(b"x,y\n1,2\n" * 99, mtime=0)[:-9], "a damaged gzip file"),
        (gzip.compress(b"SQLite format 3\x00", mtime=0), "a compressed SQLite database"),
        (b"PAR1 and no more", "a damaged Parquet file"),
        (b"SQLite format 3\x00 and no more", "a damaged SQLite database"),
        (b'{"type": "FeatureCollection", "features": [', "not valid JSON"),
        (b"[" * 100_000, "JSON is nested too deeply"),
        (b'{"some": 1, "thing": 2}', "JSON of no known format, with the keys 'some', 'thing'"),
        (b"[1, 2]", "other things than features, points"),
        (b'{"type": "FeatureCollection"}', "'features' is not a list"),
        (b'{"type": "FeatureCollection", "features": [3]}', "feature 1 is 3, not an object"),
        (b'{"type": ["Feature"]}', "JSON of no known format"),
        (b"100,200\n300,400\n", "no columns for x and y; its header is '100', '200'"),
    ],
)
def test_files_of_no_known_format(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    with pytest.raises(DetectionsError) as caught:
        read_detections(path)
    assert caught.value.cause.startswith(cause) or cause in caught.value.cause
    assert (caught.value.subject, caught.value.stage) == (str(path), "reading detections")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200))
def test_garbage_is_refused_and_never_a_bug(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "file"
    path.write_bytes(content)
    with pytest.raises(DetectionsError):
        read_detections(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"none\.csv: reading detections: No such file"):
        read_detections(tmp_path / "none.csv")


# Delimited tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_spellings_of_a_table(tmp_path: Path, separator: str, line_end: str, encoding: str) -> None:
    rows = [["slide", "x", "y"], ["Gewebe-Ü.svs", "1.5", "2"], ["Gewebe-Ü.svs", "", "-3e2"]]
    text = line_end.join(separator.join(row) for row in rows)
    table = read_text(tmp_path, text, encoding).table
    assert table["slide"].tolist() == ["Gewebe-Ü.svs"] * 2
    np.testing.assert_array_equal(table[["x", "y"]], [[1.5, 2], [math.nan, -300]])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(tmp_path: Path, separator: str) -> None:
    table = read_text(tmp_path, "x;y;score;area\n1,5;2;0,25;3,5\n".replace(";", separator)).table
    assert table[["x", "y", "score", "area"]].to_numpy().tolist() == [[1.5, 2, 0.25, 3.5]]


def test_names_keep_their_leading_zeros(tmp_path: Path) -> None:
    table = read_text(tmp_path, "slide,id,case,number,x,y\n0012,007,0034,5,1,2\n").table
    assert table[["slide", "id", "case", "number"]].iloc[0].tolist() == ["0012", "007", "0034", 5]


def test_long_numbers_of_other_columns_stay_as_they_are(tmp_path: Path) -> None:
    table = read_text(tmp_path, "x,y,accession\n1,2,12345678901234567\n1,2,\n").table
    assert table["accession"].iloc[0] == "12345678901234567"


@pytest.mark.parametrize("x_name", ALIASES["x"])
def test_every_alias_of_x(tmp_path: Path, x_name: str) -> None:
    y_name = ALIASES["y"][ALIASES["x"].index(x_name)]
    detections = read_text(tmp_path, f"{x_name.upper()};{y_name.upper()}\n3;4\n")
    assert detections.table[["x", "y"]].to_numpy().tolist() == [[3, 4]]
    unit = "um" if x_name.endswith(("um", "µm")) else "mm" if x_name.endswith("mm") else "px"
    assert detections.units == unit
    assert detections.frame == ("qupath" if x_name.startswith("Centroid") else "slide")


@pytest.mark.parametrize("role", ["slide", "score", "id", "detector_class"])
def test_every_other_alias(tmp_path: Path, role: str) -> None:
    for alias in ALIASES[role]:
        table = read_text(tmp_path, f"x,y,{alias}\n3,4,5\n").table
        assert table[role].tolist() == [5.0 if role == "score" else "5"]


def test_of_several_aliases_the_first_of_the_list_is_taken_and_the_others_carried(tmp_path: Path) -> None:
    table = read_text(tmp_path, "cx,x,filename,slide,y,cy\n1,2,b,a,3,4\n").table
    assert table[["slide", "x", "y"]].iloc[0].tolist() == ["a", 2, 3]
    assert table[["cx", "cy", "filename"]].iloc[0].tolist() == [1, 4, "b"]


def test_x_and_y_are_taken_from_one_pair(tmp_path: Path) -> None:
    detections = read_text(tmp_path, "x_px,x_um,y_um\n1,2,3\n")
    assert (detections.units, detections.table["x"].tolist()) == ("um", [2])


def test_x_and_y_of_two_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="'x_um' is in um, 'y' in px"):
        read_text(tmp_path, "x_um,y\n1,2\n")


@pytest.mark.parametrize("sign", ["\u00b5", "\u03bc"])
@pytest.mark.parametrize("unit", ["px", "um"])
def test_qupath_tables_say_their_unit(tmp_path: Path, sign: str, unit: str) -> None:
    name = f"{sign}m" if unit == "um" else "px"
    text = f'Image\tName\tClassification\tCentroid X {name}\tCentroid Y {name}\na.svs\t"odd\t\t1.5\t2\n'
    text += 'a.svs\tnew"\tMitosis\t3\t4\n'
    detections = read_text(tmp_path, text)
    assert (detections.units, detections.frame, detections.class_rule) == (unit, "qupath", "qupath")
    assert detections.table["x"].tolist() == [1.5, 3]
    assert detections.table["Name"].tolist() == ['"odd', 'new"']
    assert detections.table["detector_class"].tolist() == [None, "Mitosis"]


def test_columns_that_are_called_like_ours_are_carried_under_other_names(tmp_path: Path) -> None:
    table = read_text(tmp_path, "x,y,votes_cast,geometry,Tumor,note\n1,2,NMF,g,breast,\n").table
    assert table["input_votes_cast"].tolist() == ["NMF"]
    assert table["input_geometry"].tolist() == ["g"]
    assert table["Tumor"].tolist() == ["breast"]
    assert table["note"].isna().all()
    assert table["detector_class"].tolist() == [None]


def test_carried_columns_have_distinct_names(tmp_path: Path) -> None:
    names = ["input_input_geometry", "geometry", "input_geometry"]
    table = read_text(tmp_path, f",x,y,{','.join(names)},n,n\n0,1,2,c,a,b,3,4\n").table
    others = list(table.columns[len(CANDIDATE_COLUMNS) :])
    carried = ["input_input_geometry", "input_geometry", "input_input_input_geometry"]
    assert others == ["column_1", *carried, "n", "n_2"]
    assert table[others].iloc[0].tolist() == [0, "c", "a", "b", 3, 4]


def test_columns_that_the_user_names_win(tmp_path: Path) -> None:
    text = "slide,x,y,Where,Down,Which,kind\na,1,2,30,40,b,Mitosis\n"
    named = {"x": "Where", "y": "down", "slide": "Which", "class": "kind"}
    table = read_text(tmp_path, text, columns=named).table
    assert table[["slide", "x", "y", "detector_class"]].iloc[0].tolist() == ["b", 30, 40, "Mitosis"]
    assert table[["input_slide", "input_x", "input_y"]].iloc[0].tolist() == ["a", 1, 2]


def test_the_separator_is_told_by_columns_that_the_user_names(tmp_path: Path) -> None:
    table = read_text(tmp_path, "a;b,c;d\n1;2,5;3\n", columns={"x": "a", "y": "b,c"}).table
    assert table[["x", "y", "d"]].to_numpy().tolist() == [[1, 2.5, 3]]


def test_a_column_named_that_is_absent_lists_those_there(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"no column 'xx', which .*; its columns are 'x', 'y', 'size'"):
        read_text(tmp_path, "x,y,size\n1,2,3\n", columns={"x": "xx"})


def test_a_role_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="--columns names 'z', which is none of slide, x, y"):
        read_text(tmp_path, "x,y,z\n1,2,3\n", columns={"z": "z"})


def test_boxes_give_centre_and_longer_side(tmp_path: Path) -> None:
    table = read_text(tmp_path, "x1,y1,x2,y2\n10,20,30,60\n30,60,10,20\n").table
    assert table[["x", "y", "extent"]].to_numpy().tolist() == [[20, 40, 40]] * 2


def test_a_centre_is_taken_before_a_box(tmp_path: Path) -> None:
    table = read_text(tmp_path, "x1,y1,x2,y2,x,y\n10,20,30,60,11,52\n").table
    assert table[["x", "y", "extent"]].to_numpy().tolist() == [[11, 52, 40]]
    named = {"x1": "x1", "y1": "y1", "x2": "x2", "y2": "y2"}
    table = read_text(tmp_path, "x1,y1,x2,y2,x,y\n10,20,30,60,1,2\n", columns=named).table
    assert table[["x", "y", "input_x"]].to_numpy().tolist() == [[20, 40, 1]]


def test_a_table_without_coordinates_lists_columns_and_aliases(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError) as caught:
        read_text(tmp_path, "slide;breadth;depth\na;1;2\n")
    assert "'slide', 'breadth', 'depth'" in caught.value.cause
    assert all(alias in str(caught.value.remedy) for alias in (*ALIASES["x"], "--columns", "x1, y1, x2, y2"))


@pytest.mark.parametrize("column", ["x", "y", "score"])
@pytest.mark.parametrize("row", [1, 2, 700])
def test_text_among_numbers_names_file_row_and_value(tmp_path: Path, column: str, row: int) -> None:
    rows = [{"x": "1", "y": "2", "score": "0.5"} for _ in range(1000)]
    rows[row - 1][column] = "12px"
    rows[900][column] = "later"
    text = "x,y,score\n" + "\n".join(",".join(cells.values()) for cells in rows)
    with pytest.raises(DetectionsError, match=rf"table\.csv.*row {row}: '{column}' is '12px', not a number"):
        read_text(tmp_path, text)


@pytest.mark.parametrize(
    "value", ["1_000", "0x10", "1.23,5", "1.2345,6", "True", "1 2", "1 23 456", "--", "."]
)
def test_what_is_no_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(DetectionsError, match="row 1: 'x' is"):
        read_text(tmp_path, f"x;y\n{value};2\n")


def test_missing_and_infinite_coordinates_are_kept(tmp_path: Path) -> None:
    words = ["", "NaN", "nan", "NA", "n/a", "null", "None", " ", "inf", "-Infinity", "1e999"]
    table = read_text(tmp_path, "x,y\n" + "".join(f"{word},1\n" for word in words)).table
    assert table["x"].isna().tolist() == [True] * 8 + [False] * 3
    assert table["x"].tolist()[8:] == [math.inf, -math.inf, math.inf]


def test_rows_of_other_lengths(tmp_path: Path) -> None:
    table = read_text(tmp_path, "x,y,note\n1,2,,\n\n3,4\n  \n5,6,z,,\n").table
    assert table["x"].tolist() == [1, 3, 5]
    assert table["note"].iloc[2] == "z"
    with pytest.raises(DetectionsError, match="row 2 has 3 fields, the header has 2"):
        read_text(tmp_path, "x,y\n1,2\n1,2,3\n")


def test_quoted_cells(tmp_path: Path) -> None:
    table = read_text(tmp_path, 'x,y,"a ""note"""\n1,2,"one, two\nlines"\n3,4,5\n').table
    assert table['a "note"'].tolist() == ["one, two\nlines", "5"]


def test_a_needed_column_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="two columns are called 'x'"):
        read_text(tmp_path, "x,x,y\n1,2,3\n")


def test_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    assert read_text(tmp_path, "slide,x,y").table.empty


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, width=64),
            st.floats(allow_nan=False, width=64),
            st.text(st.characters(codec="utf-8", exclude_characters="\x00\r", exclude_categories=["Cc"])),
        ),
        min_size=1,
    )
)
def test_numbers_are_read_exactly(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    frame = pd.DataFrame(rows, columns=["x", "y", "slide"])
    path = tmp_path_factory.mktemp("exact") / "a.csv"
    frame.to_csv(path, index=False)
    table = read_detections(path, units="px").table
    np.testing.assert_array_equal(table[["x", "y"]], frame[["x", "y"]])
    assert table["slide"].tolist() == [name.strip() or None for name in frame["slide"]]


# Parquet


def test_our_figures_table_is_read_back(tmp_path: Path) -> None:
    columns = {name: ["v"] for name in FIGURE_COLUMNS} | {
        "slide": ["a.svs"],
        "candidate_id": ["7"],
        "x_px0": [10.5],
        "y_px0": [20.5],
        "p_atypical": [0.9],
        "detector_score": [0.75],
        "geometry": [b"\x01"],
        "detector_class": ["Mitosis"],
        "stain": ["HE"],
    }
    pd.DataFrame(columns).to_parquet(tmp_path / "a.parquet")
    detections = read_detections(tmp_path / "a.parquet")
    row = detections.table.iloc[0]
    assert (row["slide"], row["id"], row["x"], row["y"], row["score"]) == ("a.svs", "7", 10.5, 20.5, 0.75)
    assert (row["detector_class"], row["input_p_atypical"], row["stain"]) == ("Mitosis", 0.9, "HE")
    assert (detections.units, detections.frame, detections.format) == ("px", "slide", "parquet")


def test_types_of_parquet_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "slide": pd.Categorical(["0012", "0013"]),
            "x": np.array([1, 2], dtype=np.int16),
            "y": ["3.5", ""],
            "id": [7.0, math.nan],
            "class": pd.Series([1, 2], dtype="int64"),
            "seen": pd.to_datetime(["2024-01-01", "2024-01-02"]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_detections(tmp_path / "a.parquet").table
    assert table["slide"].tolist() == ["0012", "0013"]
    assert table["x"].tolist() == [1, 2]
    assert table["y"].tolist()[0] == 3.5
    assert math.isnan(table["y"].tolist()[1])
    assert table["id"].tolist() == ["7", None]
    assert table["detector_class"].tolist() == ["1", "2"]
    assert table["seen"].iloc[0] == pd.Timestamp("2024-01-01")


def test_text_among_the_numbers_of_a_parquet_table(tmp_path: Path) -> None:
    pd.DataFrame({"x": ["1", "left"], "y": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DetectionsError, match="row 2: 'x' is 'left', not a number"):
        read_detections(tmp_path / "a.parquet")


def test_parquet_without_coordinates(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DetectionsError, match="no columns for x and y; its header is 'a'"):
        read_detections(tmp_path / "a.parquet")
    assert len(read_detections(write_parquet(tmp_path / "b.parquet", "s", XY, SCORES)).table) == len(XY)


# GeoJSON


@pytest.mark.parametrize(
    ("geometry", "centre", "extent"),
    [
        (point(3, 4), (3, 4), math.nan),
        ({"type": "Point", "coordinates": [3, 4, 0]}, (3, 4), math.nan),
        ({"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 4], [0, 4], [0, 0]]]}, (4, 2), 8),
        ({"type": "Polygon", "isEllipse": True, "coordinates": [ring(9, 9)]}, (9, 9), BOX_PX),
        ({"type": "MultiPolygon", "coordinates": [[ring(9, 0)]]}, (9, 0), BOX_PX),
        ({"type": "GeometryCollection", "geometries": [polygon(5, 5)]}, (5, 5), BOX_PX),
        ({"type": "Polygon", "coordinates": [[[7, 1], [7, 1], [7, 1], [7, 1]]]}, (7, 1), math.nan),
        ({"type": "Polygon", "coordinates": [[[7, 1], [97, 1], [7, 1]]]}, (52, 1), 90),
        ({"type": "Polygon", "coordinates": [[[0, 0], [8, 4], [8, 0], [0, 4], [0, 0]]]}, (4, 2), 8),
        # triangles of areas 24.3 and 10.8, whose middles are at (7.2, 4.2) and (1.2, 3.2)
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [9, 0], [0, 6], [0, 0]]]}, (5.3538, 3.8923), 9),
    ],
)  # fmt: skip
def test_centroids(tmp_path: Path, geometry: object, centre: tuple[float, float], extent: float) -> None:
    row = read_features(tmp_path, feature(geometry)).table.iloc[0]
    assert (row["x"], row["y"]) == pytest.approx(centre, abs=1e-4)
    assert row["extent"] == pytest.approx(extent, nan_ok=True)


def test_points_annotations_give_a_candidate_a_point(tmp_path: Path) -> None:
    points = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    features = [
        feature(point(0, 0), "first"),
        feature(points, "many", measurements={"score": 0.5, "n": 2}, classification={"name": "M"}),
        feature(points, None),
        feature({"type": "MultiPoint", "coordinates": []}, "empty"),
    ]
    table = read_features(tmp_path, *features).table
    assert table["id"].tolist() == ["first", "many/1", "many/2", None, None, "empty"]
    np.testing.assert_array_equal(table["x"], [0, 1, 3, 1, 3, math.nan])
    np.testing.assert_array_equal(table["score"], [math.nan, 0.5, 0.5, *[math.nan] * 3])
    assert table["detector_class"].tolist() == [None, "M", "M", None, None, None]
    np.testing.assert_array_equal(table["n"], [math.nan, 2, 2, *[math.nan] * 3])


@pytest.mark.parametrize(
    ("geometry", "places"),
    [
        ({"type": "MultiPolygon", "coordinates": [[ring(9, 9)], [ring(200, 9)]]}, [(9, 9), (200, 9)]),
        ({"type": "MultiPolygon", "coordinates": [[ring(9, 9)[:-1]], [ring(99, 9)]]}, [(9, 9), (99, 9)]),
        (
            {
                "type": "GeometryCollection",
                "geometries": [
                    point(7, 8),
                    {"type": "GeometryCollection", "geometries": [polygon(70, 80)]},
                    {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
                    {"type": "MultiPoint", "coordinates": []},
                ],
            },
            [(7, 8), (70, 80), (1, 2), (3, 4)],
        ),
    ],
)
def test_each_part_of_a_collection_is_a_candidate(tmp_path: Path, geometry: dict, places: list) -> None:
    score = {"measurements": {"score": 0.5}, "classification": {"name": "M"}}
    detections = read_features(tmp_path, feature(geometry, "all", **score), feature(point(9, 5), "one"))
    table = detections.table
    np.testing.assert_allclose(table[["x", "y"]], [*places, (9, 5)])
    assert table["id"].tolist() == [*(f"all/{at}" for at in range(1, len(places) + 1)), "one"]
    assert table["score"].tolist()[:-1] == [0.5] * len(places)
    assert table["detector_class"].tolist()[:-1] == ["M"] * len(places)
    assert detections.notes == (
        f"objects.geojson: 1 object ('all') has several parts: {len(places)} candidates",
    )


@given(
    st.recursive(
        st.tuples(st.integers(2, 999), st.integers(2, 999)),
        lambda members: st.lists(members, min_size=1, max_size=4),
        max_leaves=12,
    )
)
def test_points_are_found_however_deep_they_lie(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    def geometry(node: Any) -> dict:
        if isinstance(node, tuple):
            return polygon(*node) if sum(node) % 2 else point(*node)
        return {"type": "GeometryCollection", "geometries": [geometry(member) for member in node]}

    def leaves(node: Any) -> list:
        return [node] if isinstance(node, tuple) else [leaf for member in node for leaf in leaves(member)]

    table = read_features(tmp_path_factory.mktemp("deep"), feature(geometry(tree))).table
    np.testing.assert_allclose(table[["x", "y"]], leaves(tree))


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (None, "it has no geometry"),
        ({"type": "Point", "coordinates": []}, "its geometry is empty"),
        ({"type": "Point", "coordinates": ["a", "b"]}, "its coordinates are not all finite numbers"),
        ({"type": "Point", "coordinates": [math.nan, 1]}, "its coordinates are not all finite numbers"),
        ({"type": "Circle", "coordinates": [1, 2]}, "its geometry cannot be read"),
        (
            {"type": "LineString", "coordinates": [[0, 0], [10, 2]]},
            "it is a line, which is neither a place nor an area",
        ),
        (
            {"type": "MultiLineString", "coordinates": [[[0, 0], [9, 2]], [[9, 9], [9, 7]]]},
            "it is a line, which is neither a place nor an area",
        ),
    ],
)
def test_what_is_neither_a_place_nor_an_area_is_a_row_without_coordinates(
    tmp_path: Path, geometry: object, reason: str
) -> None:
    detections = read_features(tmp_path, feature(geometry, "bad"), feature(point(1, 2), "good"))
    table = detections.table
    assert table["id"].tolist() == ["bad", "good"]
    assert detections.notes == (f"objects.geojson: no candidates: feature 1 'bad' ({reason})",)
    np.testing.assert_array_equal(table[["x", "y"]], [[math.nan, math.nan], [1, 2]])
    found = prepare_candidates(detections, size_px0=(99, 99), mpp=MPP, mpp_stated=True, bounds=None)
    assert found["excluded_reason"].tolist() == ["not_finite", None]


def test_objects_that_are_used_in_part_are_named(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 0], [10, 2]]}
    mixed = {"type": "GeometryCollection", "geometries": [line, point(3, 4)]}
    detections = read_features(tmp_path, feature(point(1, 2), "good"), feature(mixed, "mixed"))
    assert detections.table[["x", "y"]].to_numpy().tolist() == [[1, 2], [3, 4]]
    assert detections.notes == ("objects.geojson: used in part, without feature 2 'mixed' (the lines in it)",)


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        (None, None),
        ({"name": "Mitosis", "color": [1, 2, 3]}, "Mitosis"),
        ({"names": ["Untrained", "Atypical"]}, "Untrained: Atypical"),
        ({"names": []}, None),
        ({"colorRGB": -1}, None),
        ({"name": 3}, "3"),
        ("Mitosis", "Mitosis"),
    ],
)
def test_classes_of_objects(tmp_path: Path, classification: object, name: str | None) -> None:
    table = read_features(tmp_path, feature(point(1, 2), classification=classification)).table
    assert table["detector_class"].tolist() == [name]


@pytest.mark.parametrize("place", ["class", "label", "category", "type", "Class Name"])
def test_look_alikes_in_any_property_that_names_a_class(tmp_path: Path, place: str) -> None:
    features = [
        feature(point(9, 2), "a", **{place: "mitosis"}),
        feature(point(9, 4), "b", classification={"name": "Cell"}, **{place: "Hard negative"}),
        feature(point(9, 6), "c", **{place: {"text": "imposter"}}),
        feature(point(9, 8), "d", classification={"names": ["Mitosis", "look-alike"]}),
    ]
    detections = read_features(tmp_path, *features)
    assert detections.table["detector_class"].tolist() == [None, "Hard negative", None, "Mitosis: look-alike"]
    found = prepare_candidates(detections, size_px0=(99, 99), mpp=MPP, mpp_stated=True, bounds=None)
    assert found["excluded_reason"].tolist() == [None, "class", None, "class"]


@pytest.mark.parametrize(
    "properties",
    [
        {"name": "Imposter"},
        {"metadata": {"note": "not a mitosis"}},
        {"tags": ["reviewed", "hard negative"]},
        {"label": ["look-alike"]},
        {"classification": {"name": None, "names": ["non-mitotic"]}},
        {"classification": {"label": "non-mitotic"}},
    ],
)
def test_look_alikes_in_what_people_write_of_an_object(tmp_path: Path, properties: dict) -> None:
    detections = read_features(tmp_path, feature(point(9, 2), "a"), feature(point(9, 4), "b", **properties))
    found = prepare_candidates(detections, size_px0=(99, 99), mpp=MPP, mpp_stated=True, bounds=None)
    assert found["excluded_reason"].tolist() == [None, "class"]


def test_rings_that_are_not_closed_are_closed(tmp_path: Path) -> None:
    geometry = {"type": "Polygon", "coordinates": [ring(9, 9)[:-1]]}
    detections = read_features(tmp_path, feature(geometry))
    assert detections.table[["x", "y"]].to_numpy().tolist() == [[9, 9]]


def test_a_file_without_a_usable_geometry_is_refused(tmp_path: Path) -> None:
    message = (
        r"none of its 3 objects is a point or an area: features 1, 2 \(it has no geometry\); "
        r"feature 3 \(its geometry cannot be read\)"
    )
    with pytest.raises(DetectionsError, match=message):
        read_features(tmp_path, *[feature(None)] * 2, feature({"type": "Circle", "coordinates": [1, 2]}))


@pytest.mark.parametrize("name", ["Detector score", "Probability", "score", "CONFIDENCE"])
@pytest.mark.parametrize("listed", [False, True])
def test_scores_among_measurements(tmp_path: Path, name: str, listed: bool) -> None:
    measured = {"Area µm^2": 20.5, name: 0.75, "label": 1}
    written = [{"name": key, "value": value} for key, value in measured.items()] if listed else measured
    table = read_features(tmp_path, feature(point(1, 2), measurements=written)).table
    assert table["score"].tolist() == [0.75]
    assert table.iloc[0][["Area µm^2", "input_label"]].tolist() == [20.5, 1]
    assert list(table.columns[len(CANDIDATE_COLUMNS) :]) == ["Area µm^2", "input_label"]


def test_measurements_that_are_not_numbers(tmp_path: Path) -> None:
    features = [
        feature(point(1, 2), measurements={"score": "NaN", "a": "Infinity", "b": None}),
        feature(point(1, 2), measurements={"score": math.nan, "a": 1, "c": "text"}),
        feature(point(1, 2), measurements=None),
    ]
    table = read_features(tmp_path, *features).table
    assert table["score"].isna().all()
    np.testing.assert_array_equal(table["a"], [math.inf, 1, math.nan])
    assert table["b"].isna().all()
    assert table["c"].iloc[1] == "text"


def test_a_score_that_is_no_number(tmp_path: Path) -> None:
    features = [feature(point(1, 2)), feature(point(1, 2), measurements={"score": "high"})]
    with pytest.raises(DetectionsError, match="entry 2: the score is 'high', not a number"):
        read_features(tmp_path, *features)


@pytest.mark.parametrize("shape", ["collection", "feature", "array"])
@pytest.mark.parametrize("compressed", [False, True])
def test_shapes_of_geojson(tmp_path: Path, shape: str, compressed: bool) -> None:
    one = json.dumps(feature(point(3, 4), "u", metadata={"a": "1"}))
    one = one.replace('"metadata": {', '"metadata": {"twice": "yes"}, "metadata": {')
    assert one.count("metadata") == 2
    text = {
        "collection": f'{{"type": "FeatureCollection", "features": [{one}]}}',
        "feature": one,
        "array": f"[{one}]",
    }
    data = ("\ufeff" + text[shape]).encode()
    path = tmp_path / "objects"
    path.write_bytes(gzip.compress(data) if compressed else data)
    detections = read_detections(path)
    assert (detections.format, detections.frame) == ("geojson", "qupath")
    assert detections.table[["id", "x", "y"]].iloc[0].tolist() == ["u", 3, 4]


@pytest.mark.parametrize(
    "mark",
    [{"id": "detection_0"}, {"class_value": 1}, {"properties": {"class_value": 0}}],
)
def test_marks_of_tiatoolbox(tmp_path: Path, mark: dict) -> None:
    plain = feature(point(1, 2), "3f0c2c1e")
    assert read_features(tmp_path, plain).frame == "qupath"
    detections = read_features(tmp_path, plain, {**plain, **mark})
    assert (detections.format, detections.frame, detections.class_rule) == ("tiatoolbox", "slide", "any")


# SQLite


@pytest.mark.parametrize("blob", [False, True])
def test_tiatoolbox_store(tmp_path: Path, blob: bool) -> None:
    path = write_tiatoolbox_db(tmp_path / "100%? # a.db", XY, SCORES, blob=blob)
    before = sorted(tmp_path.iterdir())
    table = read_detections(path).table
    assert table[["id", "x", "y", "score", "detector_class"]].iloc[0].tolist() == [
        *("key-0", *XY[0], SCORES[0], "mitotic_figure")
    ]
    assert sorted(tmp_path.iterdir()) == before


def change(path: Path, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def test_store_with_other_properties(tmp_path: Path) -> None:
    path = write_tiatoolbox_db(tmp_path / "a.db", XY, SCORES)
    properties = '{"type": 3, "prob": 0.5, "size": 4, "box": [1]}'
    change(path, "UPDATE annotations SET properties = ? WHERE id = 1", properties)
    change(path, "UPDATE annotations SET properties = NULL WHERE id = 2")
    table = read_detections(path).table
    assert table["detector_class"].tolist() == ["3", None, "mitotic_figure"]
    np.testing.assert_array_equal(table["score"], [0.5, math.nan, SCORES[2]])
    np.testing.assert_array_equal(table["size"], [4, math.nan, math.nan])
    assert "box" not in table


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("UPDATE annotations SET cx = 'far' WHERE id = 2", "entry 2: the cx is 'far'"),
        ("UPDATE annotations SET properties = '{' WHERE id = 2", "properties that are not JSON"),
        ("UPDATE annotations SET properties = '[1]' WHERE id = 2", "properties that are not a JSON object"),
        (
            "ALTER TABLE annotations RENAME COLUMN cx TO x",
            "with the tables 'annotations', 'metadata'",
        ),
    ],
)
def test_stores_that_make_no_sense(tmp_path: Path, statement: str, cause: str) -> None:
    path = write_tiatoolbox_db(tmp_path / "a.db", XY, SCORES)
    change(path, statement)
    with pytest.raises(DetectionsError, match=cause):
        read_detections(path)


def test_a_database_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = write_tiatoolbox_db(tmp_path / "a.db", XY, SCORES)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("DELETE FROM annotations")
        writer.commit()
        with pytest.raises(DetectionsError, match=r"changes are still in 'a\.db-wal'.*Close the program"):
            read_detections(path)
    assert read_detections(path).table.empty


def test_sliderunner(tmp_path: Path) -> None:
    path = write_sliderunner(tmp_path / "a.sqlite", "a.svs", XY, look_alikes=[(5, 6)], deleted=[(7, 8)])
    table = read_detections(path).table
    assert table["detector_class"].tolist() == ["mitotic figure"] * 3 + ["mitotic figure look-alike"]
    assert table[["x", "y"]].to_numpy().tolist() == [*map(list, XY), [5, 6]]
    np.testing.assert_array_equal(table["extent"], [BOX_PX] * 3 + [math.nan])
    assert table["slide"].tolist() == ["a.svs"] * 4
    assert table["id"].tolist() == ["1", "2", "3", "4"]


def test_sliderunner_annotations_without_class_or_place_are_rows(tmp_path: Path) -> None:
    path = write_sliderunner(tmp_path / "a.sqlite", "a.svs", XY)
    change(path, "UPDATE Annotations SET agreedClass = 0, deleted = NULL WHERE uid = 1")
    change(path, "DELETE FROM Annotations_coordinates WHERE annoId = 2")
    table = read_detections(path).table
    assert table["detector_class"].tolist() == [None, "mitotic figure", "mitotic figure"]
    assert table["x"].isna().tolist() == [False, True, False]


def test_another_database(tmp_path: Path) -> None:
    change(tmp_path / "a.db", "CREATE TABLE places(x, y)")
    with pytest.raises(DetectionsError, match="no known format, with the tables 'places'"):
        read_detections(tmp_path / "a.db")


# Challenges' JSON


def test_midog(tmp_path: Path) -> None:
    path = write_midog(tmp_path / "a.json", "001.tiff", XY, SCORES, look_alikes=[(50, 60)])
    table = read_detections(path).table
    assert table["detector_class"].tolist() == ["mitotic figure"] * 3 + ["not mitotic figure"]
    assert table[["slide", "id", "x", "y", "extent"]].iloc[3].tolist() == ["001.tiff", "3", 50, 60, BOX_PX]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (
            {"bbox": [100, 100, 50, 50]},
            r"annotation 1: the box \[100.0, 100.0, 50.0, 50.0\] ends before it begins.*COCO",
        ),
        ({"bbox": [1, 2, 3]}, r"entry 1: the box is \[1, 2, 3\], not four numbers"),
        ({"bbox": [1, 2, 3, "z"]}, "entry 1: the box is 'z', not a number"),
        ({"image_id": 99}, "annotation 1 has image_id 99, which the file does not explain"),
        ({"category_id": [9]}, r"annotation 1 has category_id \[9\]"),
        ({"score": {}}, r"entry 1: the score is {}, not a number"),
    ],
)
def test_midog_that_makes_no_sense(tmp_path: Path, fault: dict, cause: str) -> None:
    path = write_midog(tmp_path / "a.json", "001.tiff", XY, SCORES)
    document = json.loads(path.read_text())
    document["annotations"][0].update(fault)
    with pytest.raises(DetectionsError, match=cause):
        read_detections(write_json(path, document))


def test_midog_annotation_without_a_box_is_a_row(tmp_path: Path) -> None:
    path = write_midog(tmp_path / "a.json", "001.tiff", XY, SCORES)
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = None
    assert read_detections(write_json(path, document)).table["x"].isna().tolist() == [True, False, False]


def test_midog_guide(tmp_path: Path) -> None:
    path = write_midog_guide(tmp_path / "a_detections.json", "/data/a.svs", XY, SCORES)
    row = read_detections(path).table.iloc[1]
    assert row[["slide", "x", "y", "score", "detector_class", "extent"]].tolist() == [
        *("/data/a.svs", *XY[1], SCORES[1], "1", BOX_PX)
    ]


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ({"boxes": [[1, 2, 3, 4]], "scores": []}, "1 boxes, but 0 scores"),
        ({"boxes": [[1, 2, 3, 4]], "labels": [1, 2]}, "1 boxes, but 2 labels"),
        ({"boxes": 3}, "'boxes' is not a list"),
        ({"points": [3]}, "not every one of 'points' is an object"),
        ({"points": [{"point": 3}]}, r"point 1 is 3, not \[x, y, z\]"),
        ({"points": [{"point": [1, "b", 0]}]}, "entry 1: the y is 'b'"),
        ({"images": [], "annotations": {}}, "'annotations' is not a list"),
    ],
)
def test_challenge_files_that_make_no_sense(tmp_path: Path, document: object, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause):
        read_detections(write_json(tmp_path / "a.json", document))


def test_midog_guides_boxes_that_end_before_they_begin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match=r"box 2: the box \[400.0, 300.0, 50.0, 40.0\] ends before"):
        read_detections(write_json(tmp_path / "a.json", {"boxes": [[0, 0, 2, 4], [400, 300, 50, 40]]}))


def test_cocos_boxes_near_the_corner_are_told_by_their_area(tmp_path: Path) -> None:
    path = write_midog(tmp_path / "a.json", "001.tiff", XY, SCORES)
    document = json.loads(path.read_text())
    document["annotations"][1] |= {"bbox": [10, 20, 50, 60], "area": 3000}
    with pytest.raises(DetectionsError, match=r"annotation 2: by its area the box .* is COCO's"):
        read_detections(write_json(path, document))
    document["annotations"][1]["area"] = 40 * 40
    assert len(read_detections(write_json(path, document)).table) == len(XY)


def mm(*places: tuple[float, float]) -> list[list[float]]:
    return [[x, y, 0.5] for x, y in places]


@pytest.mark.parametrize(
    ("name", "shape", "extent"),
    [
        ("points", {"point": mm((3, 4))[0]}, math.nan),
        ("boxes", {"corners": mm((2, 2), (4, 2), (4, 6), (2, 6))}, 4),
        ("polygons", {"path_points": mm((2, 2), (4, 3), (3, 6)), "seed_point": [0, 0, 0]}, 4),
    ],
)
@pytest.mark.parametrize("form", ["several", "one", "list"])
def test_grand_challenges_shapes(tmp_path: Path, name: str, shape: dict, extent: float, form: str) -> None:
    item = {"name": "mitotic figure", "probability": 0.5, **shape}
    forms = {
        "several": {"type": "any", name: [item], "version": {"major": 1}},
        "one": {"type": "any", **item},
        "list": [item],
    }
    detections = read_detections(write_json(tmp_path / "a.json", forms[form]))
    assert (detections.format, detections.units, detections.class_rule) == (
        "grand-challenge",
        "mm",
        "mitotic",
    )
    row = detections.table.iloc[0]
    assert (row["x"], row["y"], row["score"]) == (3, 4, 0.5)
    assert row["extent"] == pytest.approx(extent, nan_ok=True)


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        (
            {"type": "Multiple lines", "lines": [{"start": [1, 2, 3]}], "version": {"major": 1}},
            "a Grand Challenge file of type 'Multiple lines', which has none of points, boxes, polygons",
        ),
        ({"points": [{"name": "a"}]}, "entry 1 has none of point, corners, path_points"),
        ({"boxes": [{"corners": [1, 2, 3, 4]}]}, r"corners 1 is \[1, 2, 3, 4\], not \[x, y, z\]"),
        ({"boxes": [{"corners": mm((1, 2))}, {"corners": [["a", 1, 0]]}]}, "entry 2: the x is 'a'"),
    ],
)
def test_grand_challenges_files_that_make_no_sense(tmp_path: Path, document: object, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as caught:
        read_detections(write_json(tmp_path / "a.json", document))
    assert caught.value.remedy or "not a number" in caught.value.cause


def test_all_lists_of_a_grand_challenge_file_are_read(tmp_path: Path) -> None:
    document = {"points": [{"point": [1, 2, 0]}], "boxes": [{"corners": mm((2, 2), (4, 6))}], "polygons": []}
    table = read_detections(write_json(tmp_path / "a.json", document)).table
    assert table[["x", "y"]].to_numpy().tolist() == [[1, 2], [3, 4]]


def test_a_grand_challenge_file_with_other_boxes_is_refused(tmp_path: Path) -> None:
    document = {
        "type": "Multiple 2D bounding boxes",
        "version": {"major": 1},
        "boxes": [[0.1, 0.1, 0.2, 0.2]],
    }
    with pytest.raises(DetectionsError, match="not every one of 'boxes' is an object"):
        read_detections(write_json(tmp_path / "a.json", document))


def test_an_empty_list_of_grand_challenges_boxes_is_no_candidate(tmp_path: Path) -> None:
    document = {"type": "Multiple 2D bounding boxes", "boxes": [], "version": {"major": 1, "minor": 0}}
    detections = read_detections(write_json(tmp_path / "a.json", document))
    assert (detections.format, len(detections.table)) == ("grand-challenge", 0)


def test_boxes_alone_are_enough_for_midog_guide(tmp_path: Path) -> None:
    table = read_detections(write_json(tmp_path / "a.json", {"boxes": [[0, 0, 2, 4]]})).table
    assert table[["x", "y"]].to_numpy().tolist() == [[1, 2]]
    assert table[["slide", "detector_class", "score"]].isna().all(axis=None)


def test_grand_challenge_points_in_a_bare_list(tmp_path: Path) -> None:
    path = write_grand_challenge(tmp_path / "a.json", [(1000.0, 2000.0)], [0.5])
    points = json.loads(path.read_text())["points"]
    table = read_detections(write_json(path, [*points, {"name": None, "point": None}])).table
    np.testing.assert_array_equal(table[["x", "y", "score"]], [[1, 2, 0.5], [math.nan] * 3])
    assert table["detector_class"].tolist() == ["mitotic figure", None]
