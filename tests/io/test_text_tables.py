from __future__ import annotations

from pathlib import Path

import pytest

from wsi_mitosis.errors import DatasetError, InputError
from wsi_mitosis.io.csv_files import write_rows
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.slides import find_slides
from wsi_mitosis.io.text_tables import decode, detect_dialect, read_records
from wsi_mitosis.io.training.labels.rows import read_label_rows

COLUMNS = ("slide", "mpp", "x", "y", "label")
NAMES = ("ü, 1.svs", "=a.svs", "-b.svs", "'+c.svs", "'d.svs")


def names_of_all_readers(path: Path) -> tuple[list[str], list[str], list[str]]:
    """The slides that a table names, as a slide list, as detections and as labels."""
    listed = [source.relative for source in find_slides([str(path)]).sources]
    return (
        listed,
        list(read_detections(path).table["slide"]),
        [row.text("slide") for row in read_label_rows(path)],
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_lists_detections_and_labels_are_read_in_the_same_dialects(
    tmp_path: Path, encoding: str, separator: str
) -> None:
    rows = [COLUMNS, ("ü.svs", "0.25", "1.5", "2", "AMF"), ('"b, c.svs"', "0.5", "3", "4", "NMF")]
    first = f"sep={separator}\r\n" if separator == "|" else ""
    text = first + "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    for name in ("ü.svs", "b, c.svs"):
        (tmp_path / name).write_bytes(b"x")
    listed, *others = names_of_all_readers(tmp_path / "table.csv")
    assert sorted(listed) == ["b, c.svs", "ü.svs"]
    assert others == [["ü.svs", "b, c.svs"]] * 2


def test_every_reader_restores_what_was_neutralised(tmp_path: Path) -> None:
    rows = [{"slide": name, "x": 1, "y": -2.5, "label": 1} for name in NAMES]
    write_rows(tmp_path / "table.csv", COLUMNS, rows)
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    listed, *others = names_of_all_readers(tmp_path / "table.csv")
    assert sorted(listed) == sorted(NAMES)
    assert others == [list(NAMES)] * 2
    assert read_detections(tmp_path / "table.csv").table["y"].tolist() == [-2.5] * len(NAMES)


@pytest.mark.parametrize("data", [b"slide\n\xff\xfe\x00b.svs\n", b"slide\n\x81\n", b"\xff\xfe\x00"])
def test_data_that_is_not_text_is_refused_by_every_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    assert decode(data) is None
    with pytest.raises(InputError, match="not text in UTF-8, UTF-16 or Windows-1252"):
        find_slides([str(path)])
    with pytest.raises(DatasetError, match="not text in UTF-8, UTF-16 or Windows-1252"):
        read_label_rows(path)
    with pytest.raises(InputError, match="neither text nor"):
        read_detections(path)


def test_a_cell_that_is_too_long_names_its_row(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("slide,label\na,1\n" + "b" * 200_000 + ",1\n")
    with pytest.raises(DatasetError, match="row 2 cannot be read: field larger than"):
        read_label_rows(path)
    with pytest.raises(InputError, match="row 2 cannot be read: field larger than"):
        find_slides([str(path)])


def test_the_separator_with_most_known_columns_decides() -> None:
    dialect, text = detect_dialect("\nslide;note, long, longer\na;b\n", {"slide", "mpp"}.__contains__)
    assert (dialect.separator, dialect.header) == (";", ["slide", "note, long, longer"])
    assert read_records(text, dialect) == [["a", "b"]]


def test_a_column_without_a_name_is_numbered() -> None:
    dialect, _ = detect_dialect(",slide, \n0,a,1\n", {"slide"}.__contains__)
    assert dialect.header == ["column_1", "slide", "column_3"]
