"""CellViT's cells: at level 0 or refused, in the frame of the bounds, by the names of their types."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.detection_files import write_json
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Bounds, Mpp

AT_LEVEL_0 = {
    "orig_n_tiles_cols": 9,
    "orig_n_tiles_rows": 7,
    "base_magnification": 40.0,
    "downsampling": 1,
    "patch_overlap": 64,
    "patch_size": 1024,
    "base_mpp": 0.2525,
    "target_patch_mpp": 0.2525,
    "magnification": 40.0,
    "level": 17,
}
PANNUKE = {"Background": 0, "Neoplastic": 1, "Inflammatory": 2, "Connective": 3, "Dead": 4, "Epithelial": 5}
MITOSES = {"0": "mitotic figure", "1": "hard negative", "2": "lymphocyte"}


def cell(x: Any = 60.5, y: Any = 25.25, **others: Any) -> dict[str, Any]:
    return {"bbox": [[20, 40], [31, 81]], "centroid": [x, y], "type_prob": 0.75, "type": 0, **others}


def document(*cells: dict[str, Any], type_map: Any = MITOSES, **metadata: Any) -> dict[str, Any]:
    stated = {key: value for key, value in {**AT_LEVEL_0, **metadata}.items() if value is not None}
    return {"wsi_metadata": stated, "type_map": type_map, "cells": list(cells)}


def examples(folder: Path) -> list[Path]:
    """Valid files, for the fuzzing of readers."""
    cells = [cell(contour=[[40, 20], [81, 20], [81, 31]]), cell(100, 200, type=1), cell(200, 100, type=2)]
    return [write_json(folder / "cells.json", document(*cells))]


def read(tmp_path: Path, content: Any, **options: Any) -> Detections:
    return read_detections(write_json(tmp_path / "d.json", content), **options)


def placed(detections: Detections, **options: Any) -> list[tuple[float, float, str | None]]:
    size = {"size_px0": (9000, 7000), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    table = prepare_candidates(detections, **{**size, **options})
    return list(table[["x_px0", "y_px0", "excluded_reason"]].itertuples(index=False, name=None))


def test_a_cell_worked_by_hand(tmp_path: Path) -> None:
    detections = read(tmp_path, document(cell()))
    assert (detections.format, detections.units, detections.frame) == ("cellvit", "px", "qupath")
    row = detections.table.iloc[0]
    assert row[["x", "y", "score", "detector_class", "extent"]].tolist() == [
        *(60.5, 25.25, 0.75, "mitotic figure", 41)
    ]
    assert placed(detections) == [(60.5, 25.25, None)]


def test_places_are_counted_from_the_corner_of_the_bounds(tmp_path: Path) -> None:
    # as patches are by openslide.deepzoom with limit_bounds
    bounds = Bounds(700, 300, 5000, 4000)
    assert placed(read(tmp_path, document(cell())), bounds=bounds) == [(760.5, 325.25, None)]


def test_cells_that_are_not_mitotic_figures_are_excluded(tmp_path: Path) -> None:
    cells = [cell(60 + at, type=kind) for at, kind in enumerate((0, 1, 2, 2))]
    detections = read(tmp_path, document(*cells))
    assert [reason for *_, reason in placed(detections)] == [None, "class", "class", "class"]
    assert detections.notes == (
        "d.json: classes: 'lymphocyte' (2), 'mitotic figure' (1), 'hard negative' (1)",
    )


@pytest.mark.parametrize("type_map", [PANNUKE, {str(number): name for name, number in PANNUKE.items()}])
def test_types_of_nuclei_need_a_choice_in_either_form_of_the_map(tmp_path: Path, type_map: dict) -> None:
    detections = read(tmp_path, document(cell(type=1), cell(90, type=2), type_map=type_map))
    cause = "none of the file's classes is named after mitotic figures: 'Neoplastic', 'Inflammatory'"
    with pytest.raises(DetectionsError, match=cause) as caught:
        placed(detections)
    assert "--class" in str(caught.value.remedy)
    assert [reason for *_, reason in placed(detections, classes=["neoplastic"])] == [None, "class"]


@pytest.mark.parametrize(
    ("type_map", "kind", "name"),
    [
        ({"0": "background", "1": "nuclei"}, 1, "nuclei"),
        (None, 1, "1"),
        ({}, None, "cell"),
        (PANNUKE, None, "cell"),
    ],
)
def test_cells_of_one_kind_need_a_choice_too(tmp_path: Path, type_map: Any, kind: Any, name: str) -> None:
    detections = read(tmp_path, document(cell(type=kind), type_map=type_map))
    assert detections.table["detector_class"].tolist() == [name]
    with pytest.raises(DetectionsError, match=f"none of the file's classes .*: '{name}'"):
        placed(detections)
    assert placed(detections, classes=[name]) == [(60.5, 25.25, None)]


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        (
            {"downsampling": 2, "target_patch_mpp": 0.505},
            r"they have 0\.505 um/px, and the slide has 0\.2525",
        ),
        ({"downsampling": 2}, r"not pixels of level 0.*\(downsampling 2\)"),
        ({"target_patch_mpp": 0.25}, r"they have 0\.25 um/px, and the slide has 0\.2525 \(downsampling 1\)"),
        (
            {"downsampling": None},
            "does not state at which scale it was made: wsi_metadata lacks 'downsampling'",
        ),
        ({"base_mpp": "x", "target_patch_mpp": None}, "lacks 'base_mpp', 'target_patch_mpp'"),
        ({"base_mpp": float("nan")}, "lacks 'base_mpp'"),
        ({"orig_n_tiles_rows": 1}, "the slide is one patch wide or high"),
    ],
)
def test_other_scales_are_refused_unless_the_user_knows(tmp_path: Path, metadata: dict, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as caught:
        read(tmp_path, document(cell(), **metadata))
    assert "--units px" in str(caught.value.remedy)
    assert placed(read(tmp_path, document(cell(), **metadata), units="px")) == [(60.5, 25.25, None)]


def test_a_pixel_size_that_is_only_rounded_is_the_same(tmp_path: Path) -> None:
    detections = read(tmp_path, document(cell(), base_mpp=0.2525, target_patch_mpp=0.2525 * (1 + 1e-12)))
    assert len(detections.table) == 1


def test_exchanged_axes_are_refused_by_name(tmp_path: Path) -> None:
    detections = read(tmp_path, document(*(cell(100 + at, 8500) for at in range(5))))
    with pytest.raises(DetectionsError) as caught:
        placed(detections)
    assert "with x and y exchanged" in str(caught.value.remedy)


def test_a_compressed_file_and_one_without_cells(tmp_path: Path) -> None:
    (tmp_path / "cells.json.gz").write_bytes(gzip.compress(json.dumps(document(cell())).encode()))
    assert len(read_detections(tmp_path / "cells.json.gz").table) == 1
    empty = read(tmp_path, document(downsampling=None))
    assert (empty.format, len(empty.table)) == ("cellvit", 0)
    assert placed(empty) == []


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (document(cell(), cell(type=9)), "cell 2 has the type 9, which type_map does not explain"),
        (document(cell(), type_map={"a": 0, "b": 0}), "type 0 is both 'a' and 'b'"),
        (document(cell(), 3), "not every one of 'cells' is an object"),
        (document(cell(), cell(centroid=[1])), r"entry 2: the centroid is \[1\], not \[x, y\]"),
        (document(cell("a")), "entry 1: the x of the centroid is 'a', not a number"),
        (document({"type": 0}), "none of its 1 cells has coordinates"),
        ({"wsi_metadata": None, "cells": [cell()]}, "wsi_metadata lacks 'downsampling'"),
        ({"type_map": PANNUKE, "cells": {}}, "JSON of no known format"),
        ({"cells": [cell()]}, "JSON of no known format"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, content: Any, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause):
        read(tmp_path, content)


def test_a_cell_without_a_place_is_a_row(tmp_path: Path) -> None:
    detections = read(tmp_path, document(cell(), cell(float("nan")), {"type": 0}))
    assert [reason for *_, reason in placed(detections)] == [None, "not_finite", "not_finite"]
