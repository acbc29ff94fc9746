"""Any review, as QuPath may export it, is recounted to exactly what its reviewer did."""

from __future__ import annotations

import copy
import json
import math
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records import assessed_slide, slide_record
from tests.report_files import Done, figures_of
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import count
from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.io.results.folder import Drawing, ResultFolder
from wsi_mitosis.jobs.reviewing import RecountOptions, SlideRecount, recount_slide
from wsi_mitosis.specs import AssessmentOptions

SLIDE, SIZE_PX, DIGEST = "a.svs", 4000, "i" * 64
CELL_PX = 160.0
"""Figures of different cells are at least 40 px, 10 um, apart, also if both are moved: more than the distance
within which two are the same."""
CELLS = int(SIZE_PX / CELL_PX) - 1
REACH_PX = 24.0
"""Just under that distance, 6.25 um at 0.25 um/px."""
FAR_PX = 45.0
"""Farther than that; its id tells which figure it is."""
HALF_PX = 25.0
OPTIONS = AssessmentOptions(hotspot_area=0.05)
Feature = dict[str, Any]
CLASSES = {
    "atypical": ("Mitosis: Atypical", "AMF", "atypical mitosis", "Atypical"),
    "typical": ("Mitosis: Typical", "NMF", "Typical mitotic figure", "normal"),
}


@dataclass(frozen=True)
class Edit:
    """What a reviewer does to a figure, or to a place without one, and how QuPath exports it.

    Attributes:
        place: Where the figure is, px; None for one that the ensemble does not have.
        label: Its label; None likewise.
        reviewed: The place after the review, px; None if the reviewer removed it.
        reviewed_label: The label after it.
        form: How the geometry is written.
        spelling: Which name of the class is written, and whether as `names`.
        has_id: Whether its id is exported; otherwise it has another one, or none.
        copies: Of each copy, whether it has the id.
        is_merged: Whether it is exported as a part of one object, with all others of its class that are.
        by_drawing: Whether the reviewer left the figure itself, and drew on it what it is.
    """

    place: tuple[float, float] | None
    label: str | None
    reviewed: tuple[float, float] | None
    reviewed_label: str
    form: str = "as it was"
    spelling: int = 0
    as_names: bool = False
    has_id: bool = True
    copies: tuple[bool, ...] = ()
    is_merged: bool = False
    by_drawing: bool = False

    @property
    def change(self) -> str:
        """What a recount calls it."""
        if self.place is None:
            return "added"
        if self.reviewed is None:
            return "removed"
        return "kept" if self.label == self.reviewed_label else "relabelled"


@dataclass
class Case:
    """A slide and its review.

    Attributes:
        edits: The figures.
        has_measurements: Whether measurements are exported.
        order: Order of the features, by a random number each.
        has_hotspot: Whether the hotspot is exported.
    """

    edits: list[Edit]
    has_measurements: bool = True
    order: int = 0
    has_hotspot: bool = True


labels = st.sampled_from(["atypical", "typical"])
forms = st.sampled_from(
    [
        "as it was",
        "point",
        "open ring",
        "turned ring",
        "multipolygon",
        "multipoint",
        "collection",
        "fine ring",
    ]
)


@st.composite
def places(draw: st.DrawFn, cell: int) -> tuple[float, float]:
    jitter = [draw(st.integers(-1500, 1500)) / 100 for _ in range(2)]
    return (cell % CELLS + 1) * CELL_PX + jitter[0], (cell // CELLS + 1) * CELL_PX + jitter[1]


@st.composite
def moves(draw: st.DrawFn) -> tuple[float, float]:
    if draw(st.booleans()):
        return 0.0, 0.0
    length, angle = draw(st.floats(1, REACH_PX)), draw(st.floats(0, 2 * math.pi))
    return length * math.cos(angle), length * math.sin(angle)


@st.composite
def edits(draw: st.DrawFn, cell: int, is_figure: bool, keeps_ids: bool) -> Edit:
    place, label, reviewed_label = draw(places(cell)), draw(labels), draw(labels)
    move = draw(moves()) if is_figure else (0.0, 0.0)
    is_removed = is_figure and draw(st.integers(0, 3)) == 0
    has_id, is_merged = keeps_ids and draw(st.booleans()), draw(st.integers(0, 5)) == 0
    by_drawing = is_figure and draw(st.integers(0, 3)) == 0
    if is_figure and has_id and not is_merged and not by_drawing and draw(st.integers(0, 3)) == 0:
        move = FAR_PX * math.cos(2.4 * cell), FAR_PX * math.sin(2.4 * cell)  # in no common direction
    return Edit(
        place if is_figure else None,
        label if is_figure else None,
        None if is_removed else (place[0] + move[0], place[1] + move[1]),
        reviewed_label,
        draw(forms),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
        has_id,
        tuple(draw(st.lists(st.booleans(), max_size=2))) if draw(st.integers(0, 4)) == 0 else (),
        is_merged,
        by_drawing,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    cells = draw(st.lists(st.integers(0, CELLS**2 - 1), min_size=1, max_size=9, unique=True))
    figures = draw(st.integers(1, len(cells)))
    keeps_ids = draw(st.booleans())
    return Case(
        [draw(edits(cell, number < figures, keeps_ids)) for number, cell in enumerate(cells)],
        draw(st.booleans()),
        draw(st.integers(0, 1000)),
        draw(st.booleans()),
    )


# The slide and its export


Figures = Sequence[tuple[tuple[float, float], str]]


def _figures(case: Case) -> Figures:
    """Place and label of the ensemble's figures."""
    return [
        (edit.place, edit.label) for edit in case.edits if edit.place is not None and edit.label is not None
    ]


def _classified(folder: Path, found: Figures, key: str = "k" * 64) -> list[Feature]:
    """Write the slide's result, and return the features of its GeoJSON."""
    figures = figures_of(DIGEST, Done(Path(SLIDE), [place for place, _ in found]))
    figures["label"] = pd.Series([label for _, label in found], dtype=object)
    record = slide_record(SLIDE, identity=DIGEST, size_px0=(SIZE_PX, SIZE_PX), counts=count(figures), key=key)
    assessed = assessed_slide(record, figures, OPTIONS)
    with ResultFolder(folder) as held:
        held.write_slide(figures, assessed, Drawing("detection", "qupath"))
        held.write_summary([SlideState(SLIDE, "done", record, assessed)])
    features: list[Feature] = json.loads((folder / f"geojson/{SLIDE}.geojson").read_text())["features"]
    return features


def _exported(case: Case, drawn: list[Feature]) -> list[Feature]:
    """The features as QuPath exports them after the review."""
    figures = {
        feature["id"]: feature for feature in drawn[: sum(edit.place is not None for edit in case.edits)]
    }
    hotspots = drawn[len(figures) :]
    features, merged = [], {label: [] for label in CLASSES}
    for edit in case.edits:
        if edit.by_drawing and edit.place is not None:
            features += [copy.deepcopy(figures[_own_id(edit.place)]), _drawn_on(edit)]
            continue
        if edit.reviewed is None:
            continue
        if edit.is_merged:
            merged[edit.reviewed_label].append(_ring(*edit.reviewed))
            continue
        feature = _annotation() if edit.place is None else copy.deepcopy(figures[_own_id(edit.place)])
        _change(feature, edit, case.has_measurements)
        features.append(feature)
        features += [
            {**copy.deepcopy(feature), "id": feature["id"] if same else _new_id()} for same in edit.copies
        ]
    for label, rings in merged.items():
        if rings:
            one = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
            features.append(_annotation() | {"geometry": one})
            features[-1]["properties"]["classification"] = {"name": CLASSES[label][0], "color": [1, 2, 3]}
    features += hotspots if case.has_hotspot else []
    np.random.default_rng(case.order).shuffle(features)  # type: ignore[arg-type]
    return features


def _new_id() -> str:
    return str(uuid.uuid4())


def _own_id(place: tuple[float, float]) -> str:
    return figure_ids(DIGEST, [place[0]], [place[1]])[0]


def _drawn_on(edit: Edit) -> Feature:
    """What a reviewer draws on a figure: one that corrects it, or a look-alike that removes it."""
    x, y = edit.reviewed or edit.place or (0, 0)
    name = CLASSES[edit.reviewed_label][edit.spelling] if edit.reviewed else "Non-mitotic figure"
    feature = _annotation() | {"geometry": _geometry(edit.form, x, y)}
    feature["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}
    return feature


def _annotation() -> Feature:
    return {"type": "Feature", "id": _new_id(), "properties": {"objectType": "annotation"}}


def _change(feature: Feature, edit: Edit, has_measurements: bool) -> None:
    assert edit.reviewed is not None
    properties = feature["properties"]
    if edit.place != edit.reviewed or edit.form != "as it was":
        feature["geometry"] = _geometry(edit.form, *edit.reviewed)
    name = CLASSES[edit.reviewed_label][edit.spelling]
    is_new = edit.label != edit.reviewed_label
    if is_new or edit.spelling:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    if edit.as_names:
        properties["classification"] = {
            "names": properties["classification"]["name"].split(": "),
            "color": [1, 2, 3],
        }
    if not has_measurements:
        properties.pop("measurements", None)
    if not edit.has_id:
        feature["id"] = _new_id()


def _ring(x: float, y: float, half: float = HALF_PX) -> list[list[float]]:
    sides = [round(x - half, 2), round(y - half, 2), round(x + half, 2), round(y + half, 2)]
    left, top, right, bottom = sides
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _geometry(form: str, x: float, y: float) -> Feature:
    point, ring = [round(x, 2), round(y, 2)], _ring(x, y)
    area = {"type": "Polygon", "coordinates": [ring]}
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    fine = [[round(x + 20 * math.cos(a), 2), round(y + 20 * math.sin(a), 2)] for a in angles]
    return {
        "as it was": area,
        "point": {"type": "Point", "coordinates": point},
        "open ring": {"type": "Polygon", "coordinates": [ring[:-1]]},
        "turned ring": {"type": "Polygon", "coordinates": [ring[2:] + ring[1:3]]},
        "multipolygon": {"type": "MultiPolygon", "coordinates": [[ring]]},
        "multipoint": {"type": "MultiPoint", "coordinates": [point]},
        "collection": {"type": "GeometryCollection", "geometries": [area]},
        "fine ring": {"type": "Polygon", "coordinates": [[*fine, fine[0]]]},
    }[form]


def _recount(folder: Path, text: str) -> SlideRecount:
    path = folder / "reviews" / f"{SLIDE}.geojson"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    results = ResultFolder(folder)
    return recount_slide(results, results.states()[SLIDE], [path], RecountOptions())


def _outcome(folder: Path, text: str) -> SlideRecount | WsiMitosisError:
    try:
        return _recount(folder, text)
    except WsiMitosisError as error:
        return error


def _done(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What was done with each figure: change, label before and after, cell and place; sorted."""
    rows = table[["change", "label_machine", "label_reviewed", "x_px0", "y_px0"]].to_numpy(object).tolist()
    return sorted(_described(*row) for row in rows)


def _expected(case: Case) -> list[tuple[Any, ...]]:
    """The same as the reviewer did it."""
    return sorted(
        _described(
            edit.change,
            edit.label,
            edit.reviewed_label if edit.reviewed else None,
            *((edit.place if edit.by_drawing else edit.reviewed) or edit.place or ()),
        )
        for edit in case.edits
    )


def _described(change: str, before: str | None, after: str | None, x: float, y: float) -> tuple[Any, ...]:
    return change, str(before), str(after), round(x / CELL_PX), round(y / CELL_PX), x, y


@settings(max_examples=40)
@given(cases())
def test_any_review_is_recounted_to_what_was_done(case: Case) -> None:
    with tempfile.TemporaryDirectory() as name:
        features = _exported(case, _classified(Path(name), _figures(case)))
        found = _recount(Path(name), json.dumps({"type": "FeatureCollection", "features": features}))
    done, expected = _done(found.table), _expected(case)
    assert [row[:5] for row in done] == [row[:5] for row in expected]
    np.testing.assert_allclose([row[5:] for row in done], [row[5:] for row in expected], atol=0.0201)
    final = [edit.reviewed_label for edit in case.edits if edit.reviewed is not None]
    counts = found.state.record.counts if found.state.record else None
    assert counts is not None
    assert (counts.atypical, counts.typical) == (final.count("atypical"), final.count("typical"))


# An earlier result


@settings(max_examples=40)
@given(cases(), st.sets(st.integers(0, 8)), st.sets(st.integers(0, 20), max_size=3))
def test_a_review_of_an_earlier_result_changes_only_what_was_seen(
    case: Case, gone: set[int], more: set[int]
) -> None:
    """Some of its figures are gone, and others are new, in a row of the slide that the case leaves free."""
    case.edits = [
        replace(
            edit, by_drawing=False
        )  # what is drawn on a figure that is gone is refused as a contradiction
        for edit in case.edits
        if (edit.place or edit.reviewed or (0, 0))[1] < SIZE_PX - 2 * CELL_PX
    ]
    before = _figures(case)
    new = [((CELL_PX * (number + 1), SIZE_PX - CELL_PX), "atypical") for number in more]
    after = [*(figure for number, figure in enumerate(before) if number not in gone), *new]
    with tempfile.TemporaryDirectory() as name:
        features = _exported(case, _classified(Path(name), before, "e" * 64))
        _classified(Path(name), after)
        found = _outcome(Path(name), json.dumps(features))
    if isinstance(found, WsiMitosisError):
        assert "Result number" not in json.dumps(features)
        assert new
        return
    lost = {place for number, (place, _) in enumerate(before) if number in gone}
    kept = [edit for edit in case.edits if edit.place not in lost]
    left = [
        replace(edit, place=None, label=None) for edit in case.edits if edit.place in lost and edit.reviewed
    ]
    unseen = [_described("unseen", label, label, *place) for place, label in new]
    expected = sorted([*_expected(replace(case, edits=[*kept, *left])), *unseen])
    assert [row[:5] for row in _done(found.table)] == [row[:5] for row in expected]


# Damage

Damage = Callable[[list[Feature], Feature, float], object]
"""Changes features in place, or one of them; the number, from 0 to 1, says by how much."""


def _to_line(_: list[Feature], one: Feature, __: float) -> None:
    one["geometry"] = {"type": "LineString", "coordinates": [[10, 10], [90, 90]]}


def _number_in(one: Feature, value: object) -> None:
    """Replace the first number of a geometry."""
    numbers = one["geometry"].get("coordinates") or one["geometry"]["geometries"][0]["coordinates"]
    while isinstance(numbers[0], list):
        numbers = numbers[0]
    numbers[0] = value


def _transform(features: list[Feature], factor: float, shift: float) -> None:
    def moved(value: Any) -> Any:
        return (
            [moved(each) for each in value] if isinstance(value, list) else round(value * factor + shift, 2)
        )

    for geometry in [feature["geometry"] for feature in features]:
        for each in geometry.get("geometries", [geometry]):
            each["coordinates"] = moved(each["coordinates"])


def _renumber(features: list[Feature]) -> None:
    for feature in features:
        for measurements in filter(None, [feature["properties"].get("measurements")]):
            if "Result number" in measurements:
                measurements["Result number"] = 77


def _rename(features: list[Feature]) -> None:
    """Give the objects ids of another slide."""
    for number, feature in enumerate(features):
        feature["id"] = figure_ids("o" * 64, [number], [number])[0]


DAMAGES: dict[str, Damage] = {
    "no geometry": lambda _, one, __: one.pop("geometry"),
    "null geometry": lambda _, one, __: one.update(geometry=None),
    "empty geometry": lambda _, one, __: one.update(geometry={"type": "Polygon", "coordinates": []}),
    "NaN": lambda _, one, __: _number_in(one, math.nan),
    "infinite": lambda _, one, __: _number_in(one, math.inf),
    "huge": lambda _, one, __: _number_in(one, 1e300),
    "text": lambda _, one, __: _number_in(one, "12"),
    "line": _to_line,
    "outside": lambda _, one, __: one.update(geometry={"type": "Point", "coordinates": [-9, 5]}),
    "ids of another slide": lambda features, _, __: _rename(features),
    "scaled": lambda features, _, by: _transform(features, (0.25, 0.5, 2, 4)[int(by * 3.99)], 0),
    "shifted": lambda features, _, by: _transform(features, 1, 2 + 900 * by),
    "scaled and shifted": lambda features, _, by: _transform(features, 0.5, 2 + 900 * by),
    "no class": lambda _, one, __: one["properties"].pop("classification", None),
    "unknown class": lambda _, one, __: one["properties"].update(classification={"name": "Lymphocyte"}),
    "result numbers of another": lambda features, _, __: _renumber(features),
    "not an object": lambda features, _, __: features.append("x"),  # type: ignore[arg-type]
}


@settings(max_examples=40)
@given(cases(), st.sampled_from(sorted(DAMAGES)), st.integers(0, 99), st.floats(0, 1))
def test_a_damaged_review_is_refused_or_named_or_changes_nothing(
    case: Case, damage: str, which: int, by: float
) -> None:
    with tempfile.TemporaryDirectory() as name:
        features = _exported(case, _classified(Path(name), _figures(case)))
        before = _recount(Path(name), json.dumps(features))
        figures = [one for one in features if "Hotspot" not in str(one["properties"].get("name"))]
        if not figures:
            return
        DAMAGES[damage](features, figures[which % len(figures)], by)
        after = _outcome(Path(name), json.dumps(features))
    if isinstance(after, WsiMitosisError):
        assert after.remedy
    elif not set(after.notes) - set(before.notes):
        assert _done(after.table) == _done(before.table)


@given(cases(), st.integers(1, 5000))
@settings(max_examples=15)
def test_a_truncated_review_is_refused(case: Case, lost: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(
            {
                "type": "FeatureCollection",
                "features": _exported(case, _classified(Path(name), _figures(case))),
            }
        )
        outcome = _outcome(Path(name), text[: max(0, len(text) - lost)])
    assert isinstance(outcome, WsiMitosisError)
    assert f"{SLIDE}.geojson" in str(outcome)
