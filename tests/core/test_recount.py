"""Which figures a review keeps, changes, removes and adds, and how far two raters agree."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from wsi_mitosis.core.qupath import FIGURE_UM
from wsi_mitosis.core.recount import (
    LABELS,
    Review,
    agreement_of,
    cohens_kappa,
    compare,
    counted,
    drawn_over,
    match_figures,
    near_share,
    reviewed_figures,
)
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import MATCH_UM, Detections
from wsi_mitosis.units import Bounds, Mpp

MPP = Mpp(0.25, 0.5)
REACH_UM = 6.0

# whole numbers, so that ties and exact distances are common
point = st.tuples(st.integers(0, 20), st.integers(0, 20))
points = st.lists(point, max_size=12, unique=True)


def _arrays(places: list[tuple[int, int]], names: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*names, None], dtype=object)[:-1], np.array(places, dtype=float).reshape(-1, 2)


def _matched(
    machine: list[tuple[int, int]],
    reviewed: list[tuple[int, int]],
    names: list[str | None],
    reach_um: float = REACH_UM,
) -> set[tuple[tuple[int, int], tuple[int, int], bool]]:
    """Pairs as places; a machine's figure is called by its place."""
    mine = _arrays(machine, [str(place) for place in machine])
    found = match_figures(*mine, *_arrays(reviewed, names), reach_um)
    return {
        (machine[a], reviewed[b], bool(by_id))
        for a, b, by_id in zip(found.machine, found.reviewed, found.by_id, strict=True)
    }


@st.composite
def reviews(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[str | None]]:
    machine, reviewed = draw(points), draw(points)
    known = draw(st.permutations([*(str(place) for place in machine), *[None] * len(reviewed)]))
    return machine, reviewed, known[: len(reviewed)]


@given(reviews())
def test_matches_are_one_to_one_by_id_first_and_nothing_near_is_left(
    case: tuple[list[tuple[int, int]], list[tuple[int, int]], list[str | None]],
) -> None:
    machine, reviewed, names = case
    pairs = _matched(machine, reviewed, names)
    assert len({a for a, _, _ in pairs}) == len({b for _, b, _ in pairs}) == len(pairs)
    named = {(a, b) for a in machine for b, name in zip(reviewed, names, strict=True) if name == str(a)}
    assert {(a, b) for a, b, by_id in pairs if by_id} == named
    assert all(math.dist(a, b) <= REACH_UM for a, b, by_id in pairs if not by_id)
    free = set(machine) - {a for a, _, _ in pairs}
    left = set(reviewed) - {b for _, b, _ in pairs}
    assert all(math.dist(a, b) > REACH_UM for a in free for b in left)


@given(reviews(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_match(
    case: tuple[list[tuple[int, int]], list[tuple[int, int]], list[str | None]], shuffler
) -> None:
    machine, reviewed, names = case
    rows = list(zip(reviewed, names, strict=True))
    other, other_rows = machine.copy(), rows.copy()
    shuffler.shuffle(other)
    shuffler.shuffle(other_rows)
    shuffled = _matched(other, [place for place, _ in other_rows], [name for _, name in other_rows])
    assert shuffled == _matched(machine, reviewed, names)


@given(points, points)
def test_the_sides_can_be_exchanged(machine: list[tuple[int, int]], reviewed: list[tuple[int, int]]) -> None:
    there = _matched(machine, reviewed, [None] * len(reviewed))
    back = _matched(reviewed, machine, [None] * len(machine))
    assert there == {(a, b, by_id) for b, a, by_id in back}


@given(points, points)
def test_the_nearest_pair_of_all_is_a_pair(
    machine: list[tuple[int, int]], reviewed: list[tuple[int, int]]
) -> None:
    apart = {(a, b): math.dist(a, b) for a in machine for b in reviewed}
    pairs = {(a, b) for a, b, _ in _matched(machine, reviewed, [None] * len(reviewed))}
    if apart and min(apart.values()) <= REACH_UM:
        assert min(apart[pair] for pair in pairs) == min(apart.values())
    else:
        assert not pairs


def test_an_id_wins_over_a_nearer_place() -> None:
    pairs = _matched([(0, 0), (100, 0)], [(0, 0), (1, 0)], ["(100, 0)", None])
    assert pairs == {((100, 0), (0, 0), True), ((0, 0), (1, 0), False)}


def test_the_stated_distance_itself_is_near() -> None:
    assert _matched([(0, 0)], [(3, 4)], [None], 5.0)
    assert not _matched([(0, 0)], [(3, 4)], [None], 4.999)


def test_the_default_distance_is_the_radius_of_the_circle_that_is_drawn() -> None:
    assert MATCH_UM == FIGURE_UM / 2


# Objects


def _objects(*rows: tuple[str | None, float, float, str | None, float]) -> Detections:
    """Rows of id, x, y, class, extent in px."""
    names = ["id", "x", "y", "detector_class", "extent"]
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    table = pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=object if name in {"id", "detector_class"} else float)
            for name, values in zip(names, columns, strict=True)
        }
    )
    return Detections(table, "px", "qupath", "qupath", "geojson")


def _review(*rows: tuple[str | None, float, float, str | None, float], **options) -> Review:
    return reviewed_figures(
        _objects(*rows), "a.svs", **{"frame": "slide", "mpp": MPP, "bounds": None, **options}
    )


def test_figures_are_what_is_left_of_the_objects() -> None:
    found = _review(
        ("ABC", 1.0, 2.0, "Mitosis: Atypical", 50.0),
        ("b", 3.0, 4.0, "Ignore*", 50.0),
        ("c", 5.0, 6.0, "Hotspot", 5000.0),
        ("d", 7.0, 8.0, None, 5000.0),
        ("e", 9.0, 10.0, "Tumor", 5000.0),
        (None, 11.0, 12.0, "NMF", math.nan),
    )
    assert found.figures["figure_id"].to_list() == ["abc", None]
    assert found.figures["label"].to_list() == ["atypical", "typical"]
    assert found.figures[["x_px0", "y_px0"]].to_numpy().tolist() == [[1, 2], [11, 12]]
    assert len(found.notes) == 1
    assert "2 areas over 50 um" in found.notes[0]
    assert "'Tumor', no class" in found.notes[0]


def test_50_um_is_still_a_figure_in_the_mean_pixel_size() -> None:
    edge_px = 50 / MPP.mean
    assert len(_review(("a", 0.0, 0.0, "AMF", edge_px)).figures) == 1
    assert len(_review(("a", 0.0, 0.0, "AMF", edge_px + 0.1)).figures) == 0


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([("a", 1.0, 2.0, None, 5.0)], r"object a at \(1.00, 2.00\) px of the slide has no class"),
        ([("a", 1.0, 2.0, "Tumor", 5.0)], "unknown class 'Tumor'"),
        ([(None, 1.0, 2.0, None, 5.0), ("b", 3.0, 2.0, None, 5.0)], "an object at .* and so are 1 more"),
        ([("a", math.nan, math.nan, "AMF", math.nan)], "object a .* no geometry"),
        (
            [("a", 1.0, 2.0, "AMF", 5.0), ("A", 1.0, 2.0, "NMF", 5.0)],
            "object a .* has a copy",
        ),
        (
            [("a", 1.0, 2.0, "AMF", 5.0), ("b", 1.001, 2.0, "NMF", 5.0)],
            "object a .* has a copy",
        ),
        (
            [("a", 1.0, 2.0, "AMF", 5.0), ("a", 1.0, 2.0, "Ignore*", 5.0)],
            "object a .* has a copy",
        ),
    ],
)
def test_an_object_that_does_not_say_what_it_is_is_named(rows: list, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as error:
        _review(*rows)
    assert error.value.subject == "a.svs"
    assert error.value.remedy


def test_copies_of_an_object_count_once() -> None:
    found = _review(
        ("a", 1.0, 2.0, "AMF", 5.0), ("a", 1.0, 2.0, "AMF", 5.0), ("new", 1.0, 2.0, "Atypical", 5.0)
    )
    assert found.figures["figure_id"].to_list() == ["a"]
    assert found.notes == ("a.svs: 2 objects of the review are copies of others and are counted once",)


def test_a_place_in_qupaths_frame_starts_at_the_corner_of_the_bounds() -> None:
    bounds = Bounds(700, 300, 5000, 5000)
    row = ("a", 1.0, 2.0, "AMF", 5.0)
    there = _review(row, frame="qupath", bounds=bounds).figures
    assert there[["x_px0", "y_px0"]].to_numpy().tolist() == [[701, 302]]
    assert _review(row, frame="slide", bounds=bounds).figures["x_px0"].to_list() == [1]


def test_no_objects_are_no_figures() -> None:
    assert _review().figures.empty


# Both sides


def _figures(*rows: tuple[str | None, float, float, str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "figure_id": pd.Series([row[0] for row in rows], dtype="str"),
            "x_px0": [float(row[1]) for row in rows],
            "y_px0": [float(row[2]) for row in rows],
            "label": pd.Series([row[3] for row in rows], dtype="str"),
            "votes_atypical": pd.array(
                [None if row[3] is None else 4 if row[3] == "atypical" else 0 for row in rows], dtype="Int16"
            ),
            "votes_cast": pd.array([None if row[3] is None else 5 for row in rows], dtype="Int16"),
        }
    )


MACHINE = _figures(
    ("k", 100, 100, "atypical"),
    (None, 900, 900, None),
    ("r", 200, 100, "atypical"),
    ("x", 300, 100, "typical"),
    ("n", 400, 100, "typical"),
)
REVIEWED = (
    ("k", 100.01, 100.0, "Mitosis: Atypical", 50.0),
    ("r", 230.0, 100.0, "Mitosis: Typical", 50.0),
    (None, 404.0, 102.0, "NMF", math.nan),
    ("new", 900.0, 900.0, "AMF", math.nan),
)


def _compared(*rows: tuple) -> pd.DataFrame:
    return compare(MACHINE, _review(*(rows or REVIEWED)), mpp=MPP, distance_um=REACH_UM)


def test_every_figure_of_either_side_has_its_row() -> None:
    table = _compared().set_index("figure_id")
    assert table["change"].to_dict() == {
        "k": "kept", "r": "relabelled", "x": "removed", "n": "kept", "new": "added"
    }  # fmt: skip
    assert table["label_machine"].to_list() == ["atypical", "atypical", "typical", "typical", None]
    assert table["label_reviewed"].to_list() == ["atypical", "typical", None, "typical", "atypical"]
    assert table["matched_by"].to_list() == ["id", "id", None, "distance", None]
    # rounding is no shift; r was moved by hand; n was drawn again, 4 px = 1 um and 2 px = 1 um beside
    assert table[["x_px0", "y_px0"]].to_numpy().tolist() == [
        [100, 100], [230, 100], [300, 100], [404, 102], [900, 900]
    ]  # fmt: skip
    assert table["moved_um"].round(6).fillna(-1).to_list() == [0, 7.5, -1, round(math.sqrt(2), 6), -1]


def test_reviewed_numbers() -> None:
    counts = counted(_compared(), Counts(candidates=5, excluded=1))
    assert (counts.candidates, counts.classified, counts.excluded) == (6, 4, 2)
    assert (counts.atypical, counts.typical) == (2, 2)
    assert counts.mean_agreement == pytest.approx((0.8 + 0.8 + 1.0) / 3)


def test_agreement_is_over_the_matched_figures() -> None:
    told = agreement_of([_compared(), _compared()])
    assert told["confusion"] == {
        "atypical": {"atypical": 2, "typical": 2},
        "typical": {"atypical": 0, "typical": 2},
    }
    assert (told["machine"], told["reviewed"], told["matched"]) == (8, 8, 6)
    assert (told["kept"], told["relabelled"], told["removed"], told["added"]) == (4, 2, 2, 2)
    assert (told["by_id"], told["by_distance"], told["moved"]) == (4, 2, 4)
    assert told["agreed"] == pytest.approx(4 / 6)


def test_nothing_is_left_of_an_empty_review() -> None:
    table = compare(MACHINE, _review(), mpp=MPP, distance_um=REACH_UM)
    assert set(table["change"]) == {"removed"}
    counts = counted(table, Counts(candidates=5, excluded=1))
    assert (counts.classified, counts.excluded, counts.mean_agreement) == (0, 5, None)
    assert agreement_of([table])["kappa"] is None


def test_a_slide_without_figures_can_get_some() -> None:
    table = compare(MACHINE.iloc[:0], _review(*REVIEWED), mpp=MPP, distance_um=REACH_UM)
    assert set(table["change"]) == {"added"}
    assert agreement_of([table])["machine"] == 0


labelled = st.tuples(point, st.sampled_from(LABELS))


@given(
    st.lists(labelled, max_size=10, unique_by=lambda row: row[0]),
    st.lists(labelled, max_size=10, unique_by=lambda row: row[0]),
)
def test_nothing_is_lost(machine: list, reviewed: list) -> None:
    ours = _figures(*((f"m{i}", x, y, label) for i, ((x, y), label) in enumerate(machine)))
    theirs = _review(
        *((f"r{i}", float(x), float(y), label, math.nan) for i, ((x, y), label) in enumerate(reviewed))
    )
    table = compare(ours, theirs, mpp=MPP, distance_um=2.0)
    told, counts = agreement_of([table]), counted(table, Counts(candidates=len(machine)))
    assert told["kept"] + told["relabelled"] + told["removed"] == told["machine"] == len(machine)
    assert told["kept"] + told["relabelled"] + told["added"] == told["reviewed"] == len(reviewed)
    assert counts.classified == len(reviewed)
    assert counts.candidates == counts.classified + counts.excluded
    assert counts.atypical == sum(label == "atypical" for _, label in reviewed)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), max_size=40))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    confusion = {a: {b: pairs.count((a, b)) for b in LABELS} for a in LABELS}
    found = cohens_kappa(confusion)
    if len({label for pair in pairs for label in pair}) < 2:
        assert found is None
    else:
        ours, theirs = zip(*pairs, strict=True)
        assert found == pytest.approx(cohen_kappa_score(ours, theirs))


def test_added_figures_on_another_one_are_told() -> None:
    on = ("drawn", 100.0, 110.0, "NMF", math.nan)  # 5 um below k
    assert drawn_over(_compared(*REVIEWED, on), mpp=MPP, distance_um=REACH_UM) == 1
    assert drawn_over(_compared(*REVIEWED, on), mpp=MPP, distance_um=4.0) == 0
    assert drawn_over(_compared(), mpp=MPP, distance_um=REACH_UM) == 0


def test_the_share_of_reviewed_figures_near_one_of_the_machines() -> None:
    here, there = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0], [50.0, 0.0]])
    assert near_share(here, there, 2.0) == pytest.approx(2 / 3)
    assert near_share(here[:0], there, 2.0) == near_share(here, there[:0], 2.0) == 0
