"""Mutated files never crash, hang or exhaust a reader: a small part of what `tests.faults.fuzz` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.fuzz import fuzz
from tests.faults.readers import READERS, Reader, outcome
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections

INPUTS = 400
SEED = 1


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    tallies = fuzz(INPUTS, SEED, keep=tmp_path, jobs=2)
    faults = [
        (fault["reader"], fault["number"], fault["what"]) for t in tallies.values() for fault in t.faults
    ]
    assert faults == []
    assert tallies.keys() == READERS.keys()
    assert sum(tally.accepted + tally.refused for tally in tallies.values()) >= INPUTS * 0.95
    assert sum(tally.refused for tally in tallies.values()) > INPUTS / 4  # they are really changed
    assert sum(tally.accepted for tally in tallies.values()) > INPUTS / 10  # and not only their first bytes


def test_the_fuzzer_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of another kind is no refusal."""

    def write(folder: Path) -> list[Path]:
        (folder / "a").write_bytes(b"1")
        return [folder / "a"]

    reader = Reader(write, lambda path: int(path.read_bytes()))
    [path] = write(tmp_path)
    assert outcome(reader, path) is None
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="invalid literal"):
        outcome(reader, path)


KEYS = (
    *("type", "features", "geometry", "coordinates", "properties", "classification", "name", "names", "id"),
    *(
        "measurements",
        "score",
        "objectType",
        "boxes",
        "scores",
        "labels",
        "image_path",
        "images",
        "categories",
    ),
    *(
        "annotations",
        "bbox",
        "image_id",
        "category_id",
        "points",
        "point",
        "polygons",
        "path_points",
        "version",
    ),
)
WORDS = (
    "Feature",
    "FeatureCollection",
    "Point",
    "Polygon",
    "MultiPoint",
    "GeometryCollection",
    "detection_1",
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inside, max_size=5),
    max_leaves=25,
)


@settings(max_examples=300)
@given(DOCUMENTS)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps([document] if not isinstance(document, list | dict) else document))
    read_or_refused(path)


CELLS = st.sampled_from(
    (
        "slide",
        "x",
        "y",
        "score",
        "x1",
        "width",
        "class",
        "a.tiff",
        "",
        "1",
        "-2.5",
        "1,5",
        "1.000,5",
        "nan",
        "1e999",
    )
) | st.text(max_size=4)


@settings(max_examples=300)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=6), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_any_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], separator: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    lines = ["slide,x,y".replace(",", separator), *(separator.join(row) for row in rows)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    read_or_refused(path)


def read_or_refused(path: Path) -> None:
    try:
        detections = read_detections(path)
    except DetectionsError as refusal:
        message = str(refusal)
        assert path.name in message
    else:
        assert detections.units in {"px", "um", "mm", "fraction"}
