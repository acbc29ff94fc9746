from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.io.csv_files import neutralise, read_rows, restore, write_frame, write_rows

FORMULAS = [
    "=1+1",
    "+a",
    "-b.svs",
    "@SUM(A1)",
    "\t=a",
    "\r=a",
    "\n=a",
    "\uff1d1+1",
    '=HYPERLINK("http://x")',
    "-",
]
HARMLESS = ["a=b", "a.svs", "", "'", "'quoted'", "0.5", "O'Neill", " =a"]
NUMBERS = ["-3", "+2.5", "-1e-05", "-.5", "-1."]


def test_a_file_is_written_byte_by_byte_as_described(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    rows = [{"slide": "ü, a.svs", "n": 3, "x": -0.5}, {"slide": "=b", "x": math.nan}, {"n": None, "x": pd.NA}]
    write_rows(path, ("slide", "n", "x"), rows)
    assert path.read_bytes() == 'slide,n,x\n"ü, a.svs",3,-0.5\n\'=b,,\n,,\n'.encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_value_without_a_column_is_an_error_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_rows(path, ("slide",), [{"slide": "a"}])
    with pytest.raises(ValueError, match="other"):
        write_rows(path, ("slide",), [{"slide": "b", "other": 1}])
    assert read_rows(path) == [{"slide": "a"}]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_run_is_neutralised(text: str) -> None:
    assert neutralise(text) == f"'{text}"


@pytest.mark.parametrize("text", [*HARMLESS, *NUMBERS])
def test_other_texts_and_numbers_stay_as_they_are(text: str) -> None:
    assert neutralise(text) == restore(text) == text


def test_an_apostrophe_before_a_number_is_kept() -> None:
    assert restore("'-5") == neutralise("'-5") == "'-5"


@given(st.lists(st.text("'=+-@\t\r\n,\";a1.\uff1d"), min_size=1, max_size=4))
def test_every_text_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    rows = [{"name": text, "last": "z"} for text in texts]
    write_rows(path, ("name", "last"), rows)
    assert read_rows(path) == rows
    with path.open(newline="") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert not any(cell.startswith(tuple("=@\t\r\n\uff1d")) for cell in cells)


def test_a_frame_is_written_without_its_index(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"slide": ["-b", None], "n": pd.array([1, None], "Int64"), "x": [1.5, math.nan]}, [7, 8]
    )
    write_frame(tmp_path / "table.csv", frame)
    assert (tmp_path / "table.csv").read_text() == "slide,n,x\n'-b,1,1.5\n,,\n"


def test_cells_beyond_the_header_are_left_out_and_missing_ones_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("slide,n\na\nb,1,2\n")
    assert read_rows(path) == [{"slide": "a", "n": ""}, {"slide": "b", "n": "1"}]
