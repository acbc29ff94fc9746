"""Annotation stores, read by TIAToolbox's own class and by our reader."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.export_files import DIGEST, PLACES, exported
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.results.exports import FORMATS
from wsi_mitosis.io.results.exports.tiatoolbox import _store


@contextmanager
def store(path: Path) -> Iterator[Any]:
    """TIAToolbox's class itself, where this Python has SQLite's extensions, which it asks for."""
    from tiatoolbox.annotation import SQLiteStore

    has_extensions = hasattr(sqlite3.Connection, "enable_load_extension")
    with closing(SQLiteStore(path) if has_extensions else _store(path)) as opened:
        yield opened


def test_tiatoolbox_reads_points_types_and_votes(tmp_path: Path) -> None:
    FORMATS["tiatoolbox"].write(tmp_path / "a.db", [exported()])
    with store(tmp_path / "a.db") as opened:
        found = {key: opened[key] for key in exported().figures["figure_id"]}
        assert len(opened) == 3
        metadata = opened.metadata["wsi_mitosis"]
    assert [(one.geometry.x, one.geometry.y) for one in found.values()] == list(PLACES)
    first, second, _ = (one.properties for one in found.values())
    assert first == {
        "type": "Mitosis: Atypical",
        "prob": 0.9,
        "votes_atypical": 5,
        "votes_cast": 5,
        "detector_score": 0.75,
    }
    assert second == {"type": "Mitosis: Typical", "prob": 0.25, "votes_atypical": 1, "votes_cast": 5}
    assert metadata["use"] == "research use only"
    assert (metadata["bundle"], metadata["bundle_digest"], metadata["trained"]) == ("nano", DIGEST, True)


def test_tiatoolbox_finds_figures_by_place_and_property(tmp_path: Path) -> None:
    """What TIAViz asks for: the figures in a window, and those of a type."""
    FORMATS["tiatoolbox"].write(tmp_path / "a.db", [exported()])
    ids = exported().figures["figure_id"].tolist()
    with store(tmp_path / "a.db") as opened:
        assert set(opened.query((90, 90, 260, 310))) == {ids[0], ids[1]}
        assert set(opened.query(where="props['type'] == 'Mitosis: Typical'")) == {ids[1]}


def test_our_reader_reads_the_store_back(tmp_path: Path) -> None:
    FORMATS["tiatoolbox"].write(tmp_path / "a.db", [exported(trained=False)])
    read = read_detections(tmp_path / "a.db")
    assert (read.format, read.units, read.frame) == ("tiatoolbox", "px", "slide")
    np.testing.assert_array_equal(read.table[["x", "y"]], PLACES)
    assert read.table["id"].tolist() == exported().figures["figure_id"].tolist()
    assert read.table["detector_class"].tolist()[:2] == ["Untrained: Atypical", "Untrained: Typical"]


def test_a_slide_without_figures_is_an_empty_store(tmp_path: Path) -> None:
    FORMATS["tiatoolbox"].write(tmp_path / "a.db", [exported((), spots=())])
    assert read_detections(tmp_path / "a.db").table.empty
    with store(tmp_path / "a.db") as opened:
        assert len(opened) == 0
        assert opened.metadata["wsi_mitosis"]["slide"] == "a.svs"


def test_a_store_replaces_an_earlier_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    for places in (PLACES, PLACES[:1]):
        FORMATS["tiatoolbox"].write(tmp_path / "a.db", [exported(places)])
    assert len(read_detections(tmp_path / "a.db").table) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
