"""QuPath's names, classes, frames and ids, and that no other module repeats them."""

from __future__ import annotations

import ast
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsi_mitosis
from wsi_mitosis.core import qupath
from wsi_mitosis.tables import ALIASES
from wsi_mitosis.units import Bounds, Frame

PACKAGE = Path(wsi_mitosis.__file__).parent
BOUNDS = Bounds(300, 160, 600, 500)

# One place


def constants(path: Path) -> Iterator[Any]:
    """The literals of a module, tuples included, without its docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant | ast.Tuple):
            try:
                yield ast.literal_eval(node)
            except ValueError:
                continue


def test_no_other_module_spells_what_qupath_means() -> None:
    facts = [
        *(qupath.TRAINED_FAMILY, qupath.UNTRAINED_FAMILY, qupath.HOTSPOT_CLASS),
        *(*qupath.FIGURE_COLOURS.values(), qupath.HOTSPOT_COLOUR),
        *(qupath.IMAGE_SIZE_KEY, qupath.IMPORTED_KEY, qupath.DISCARD_ARGUMENT, qupath.SERIES_SEPARATOR),
        *(qupath.MICRO_SIGN, qupath.MICRO_SIGN.casefold(), str(qupath.ID_NAMESPACE)),
        *(f"{qupath.TRAINED_FAMILY}: ", f"{qupath.UNTRAINED_FAMILY}: ", qupath.HOTSPOT_CLASS.casefold()),
    ]
    repeated = {
        f"{path.relative_to(PACKAGE)}: {value!r}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "core/qupath.py"
        for value in constants(path)
        if value in facts
    }
    assert repeated == set()


def test_every_column_that_qupath_writes_is_known() -> None:
    for columns in (qupath.CENTROID_COLUMNS_PX, qupath.CENTROID_COLUMNS_UM):
        assert all(column in ALIASES[axis] for axis, column in zip("xy", columns, strict=True))


# Classes


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("label", qupath.FIGURE_COLOURS)
def test_a_figures_class_is_one_that_this_program_writes(label: str, trained: bool) -> None:
    name = qupath.figure_class(label, trained=trained)
    family, separator, kind = name.partition(qupath.CLASS_SEPARATOR)
    assert (separator, kind.casefold()) == (": ", label)
    assert family.casefold() in qupath.FAMILY_SPELLINGS
    assert qupath.is_program_class(name)
    assert not qupath.is_ignored_class(name)
    assert not qupath.is_hotspot_class(name)


@pytest.mark.parametrize(
    ("name", "ignored", "hotspot", "own"),
    [
        ("Ignore*", True, False, False),
        ("Region* ", True, False, False),
        ("hotspot", False, True, True),
        ("Hotspot: checked", False, False, False),
        ("Tumor", False, False, False),
        ("Mitosis", False, False, False),
        ("", False, False, False),
    ],
)
def test_other_classes(name: str, ignored: bool, hotspot: bool, own: bool) -> None:
    assert qupath.is_ignored_class(name) == ignored
    assert qupath.is_hotspot_class(name) == hotspot
    assert qupath.is_program_class(name) == own


# Frames


@pytest.mark.parametrize(
    ("frame", "bounds", "origin", "size"),
    [
        ("qupath", BOUNDS, (300, 160), (600, 500)),
        ("slide", BOUNDS, (0, 0), (1200, 900)),
        ("qupath", None, (0, 0), (1200, 900)),
    ],
)
def test_qupath_crops_a_slide_to_its_bounds(
    frame: Frame, bounds: Bounds | None, origin: tuple[int, int], size: tuple[int, int]
) -> None:
    assert qupath.frame_origin(frame, bounds) == origin
    assert qupath.frame_size(frame, (1200, 900), bounds) == size
    assert {frame, qupath.other_frame(frame)} == {"slide", "qupath"}


# Image and column names


@pytest.mark.parametrize(
    ("name", "divisions"),
    [
        ("a.tiff", []),
        ("a.tiff - Series 0", [("a.tiff", "Series 0")]),
        ("a - b.tiff - x", [("a - b.tiff", "x"), ("a", "b.tiff - x")]),
        ("x - y/a.tiff", []),
        (" - Series 0", []),
    ],
)
def test_a_series_follows_a_file_name(name: str, divisions: list[tuple[str, str]]) -> None:
    assert list(qupath.files_and_series(name)) == divisions


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Centroid X \u00b5m", True),
        (" centroid y px", True),
        ("Centroid X um", False),
        ("Centroid Z px", False),
        ("x", False),
    ],
)
def test_columns_of_a_measurement_table(name: str, is_one: bool) -> None:
    assert qupath.is_centroid_column(name) == is_one


# Object ids


def test_ids_are_pinned() -> None:
    """With other ids, QuPath would not recognise the objects in users' projects."""
    assert qupath.hotspot_id("slide-1", 1) == "7e3b22f4-ab70-5fdc-9265-daf8a8528871"
    assert qupath.figure_ids("slide-1", [1234.5], [678.25]) == ["f3523d43-796c-5ade-8986-a16f808ed149"]


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=30, unique=True),
    st.floats(-0.004, 0.004),
)
def test_ids_are_distinct_and_do_not_change_by_rounding(places: list, noise: float) -> None:
    x = np.array([place[0] for place in places]) / 100
    y = np.array([place[1] for place in places]) / 100
    ids = qupath.figure_ids("s", x, y)
    assert len(set(ids)) == len(places)
    assert qupath.figure_ids("s", x + noise, y - noise) == ids
    assert qupath.figure_ids("s", x[::-1], y[::-1]) == ids[::-1]
    assert not set(qupath.figure_ids("t", x, y)) & set(ids)
    assert all(uuid.UUID(name).version == 5 for name in ids)


def test_ids_of_exchanged_axes_differ() -> None:
    assert len(set(qupath.figure_ids("s", [1, 2, 0, 12], [2, 1, 12, 0]))) == 4


def test_zero_has_one_id() -> None:
    assert qupath.figure_ids("s", [-0.0], [0.001]) == qupath.figure_ids("s", [0.0], [0.0])
