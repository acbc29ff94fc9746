"""Which figures a review keeps, changes, removes and adds, and how far two raters agree."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tests.review_files import MPP, Drawn, figures_table, objects_of
from wsi_mitosis.core.qupath import FIGURE_UM
from wsi_mitosis.core.recount import (
    LABELS,
    Comparison,
    agreement_of,
    cohens_kappa,
    compare,
    counted,
    match_figures,
    near_share,
)
from wsi_mitosis.core.reviews import Review, reviewed_figures
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.tables import MATCH_UM

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


# Both sides


MACHINE = figures_table(
    ("k", 100, 100, "atypical"),
    (None, 900, 900, None),
    ("r", 200, 100, "atypical"),
    ("x", 300, 100, "typical"),
    ("n", 400, 100, "typical"),
)
REVIEWED = (
    Drawn(100.01, 100.0, "Mitosis: Atypical", "k"),
    Drawn(230.0, 100.0, "Mitosis: Typical", "r"),
    Drawn(404.0, 102.0, "NMF", extent=0),
    Drawn(900.0, 900.0, "AMF", "new", extent=0),
)


def _review(machine: pd.DataFrame, *drawn: Drawn) -> Review:
    return reviewed_figures(objects_of(*drawn), machine, "a.svs")


def _compare(
    *drawn: Drawn, machine: pd.DataFrame = MACHINE, distance_um: float = REACH_UM, **options
) -> Comparison:
    review = _review(machine, *drawn)
    return compare(machine, review, slide="a.svs", mpp=MPP, distance_um=distance_um, **options)


def _changes(found: Comparison) -> dict[str, str]:
    return found.table.set_index("figure_id")["change"].to_dict()


def test_every_figure_of_either_side_has_its_row() -> None:
    found = _compare(*REVIEWED)
    table = found.table.set_index("figure_id")
    assert found.notes == ()
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
    counts = counted(_compare(*REVIEWED).table, Counts(candidates=5, excluded=1))
    assert (counts.candidates, counts.classified, counts.excluded) == (6, 4, 2)
    assert (counts.atypical, counts.typical) == (2, 2)
    assert counts.mean_agreement == pytest.approx((0.8 + 0.8 + 1.0) / 3)


def test_agreement_is_over_the_matched_figures() -> None:
    table = _compare(*REVIEWED).table
    found = agreement_of([table, table])
    assert found["confusion"] == {
        "atypical": {"atypical": 2, "typical": 2},
        "typical": {"atypical": 0, "typical": 2},
    }
    assert (found["machine"], found["reviewed"], found["matched"]) == (8, 8, 6)
    assert (found["kept"], found["relabelled"], found["removed"], found["added"]) == (4, 2, 2, 2)
    assert (found["by_id"], found["by_distance"], found["moved"], found["unseen"]) == (4, 2, 4, 0)
    assert found["agreed"] == pytest.approx(4 / 6)


def test_nothing_is_left_of_an_empty_review() -> None:
    table = _compare().table
    assert set(table["change"]) == {"removed"}
    counts = counted(table, Counts(candidates=5, excluded=1))
    assert (counts.classified, counts.excluded, counts.mean_agreement) == (0, 5, None)
    assert agreement_of([table])["kappa"] is None


def test_a_slide_without_figures_can_get_some() -> None:
    table = _compare(*REVIEWED, machine=MACHINE.iloc[:0]).table
    assert set(table["change"]) == {"added"}
    assert agreement_of([table])["machine"] == 0
    assert agreement_of([table])["reviewed"] == 4


labelled = st.tuples(point, st.sampled_from(LABELS))


@given(
    st.lists(labelled, max_size=10, unique_by=lambda row: row[0]),
    st.lists(labelled, max_size=10, unique_by=lambda row: row[0]),
)
def test_nothing_is_lost(machine: list, reviewed: list) -> None:
    ours = figures_table(*((f"m{i}", 50 * x, 50 * y, label) for i, ((x, y), label) in enumerate(machine)))
    drawn = [Drawn(50 * x, 50 * y, label, f"r{i}") for i, ((x, y), label) in enumerate(reviewed)]
    table = _compare(*drawn, machine=ours, distance_um=2.0).table
    found, counts = agreement_of([table]), counted(table, Counts(candidates=len(machine)))
    assert found["kept"] + found["relabelled"] + found["removed"] == found["machine"] == len(machine)
    assert found["kept"] + found["relabelled"] + found["added"] == found["reviewed"] == len(reviewed)
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


def test_the_share_of_reviewed_figures_near_one_of_the_machines() -> None:
    here, there = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0], [50.0, 0.0]])
    assert near_share(here, there, 2.0) == pytest.approx(2 / 3)
    assert near_share(here[:0], there, 2.0) == near_share(here, there[:0], 2.0) == 0


# What is drawn on figures

UNTOUCHED = (
    Drawn(100, 100, "Mitosis: Atypical", "k"),
    Drawn(200, 100, "Mitosis: Atypical", "r"),
    Drawn(300, 100, "Mitosis: Typical", "x"),
    Drawn(400, 100, "Mitosis: Typical", "n"),
)
KEPT = dict.fromkeys("krxn", "kept")
NEAR = (100.0, 110.0)  # 5 um below k


def test_a_figure_of_another_class_that_is_drawn_on_one_relabels_it() -> None:
    found = _compare(*UNTOUCHED, Drawn(*NEAR, "NMF", "drawn"))
    assert _changes(found) == KEPT | {"k": "relabelled"}
    row = found.table.iloc[0]
    assert (row["label_machine"], row["label_reviewed"], row["matched_by"]) == ("atypical", "typical", "id")
    assert (row["x_px0"], row["y_px0"], row["moved_um"]) == (100, 100, 0)
    assert found.notes == ("a.svs: figures relabelled by one that was drawn on them: 1",)


def test_a_figure_of_the_same_class_that_is_drawn_on_one_counts_once() -> None:
    found = _compare(*UNTOUCHED, Drawn(*NEAR, "AMF", "drawn"))
    assert _changes(found) == KEPT
    assert found.notes == ("a.svs: figures drawn on one of the same class, which count once: 1",)


def test_beyond_the_distance_a_figure_is_added() -> None:
    point = Drawn(*NEAR, "NMF", "drawn", extent=0)
    found = _compare(*UNTOUCHED, point, distance_um=4.9)
    assert _changes(found) == KEPT | {"drawn": "added"}
    assert found.notes == ()
    assert _changes(_compare(*UNTOUCHED, point, distance_um=5.0))["k"] == "relabelled"


@pytest.mark.parametrize(
    ("on", "label"),
    [
        (Drawn(100, 100, "Mitosis: Typical", "k"), "AMF"),  # relabelled before
        (Drawn(102, 100, "Mitosis: Atypical", "k"), "NMF"),  # moved before
        (Drawn(100, 100, "Mitosis: Typical", "k"), "Non-mitotic figure"),
        (Drawn(102, 100, "Mitosis: Atypical", "k"), "Imposter"),
    ],
)
def test_a_figure_that_was_changed_is_not_changed_again_by_what_lies_on_it(on: Drawn, label: str) -> None:
    cause = r"feature 5 at \(100.00, 110.00\) px of the slide is .* reviewed.* lies under it"
    with pytest.raises(DetectionsError, match=cause) as error:
        _compare(on, *UNTOUCHED[1:], Drawn(*NEAR, label, "drawn"))
    assert error.value.subject == "a.svs"
    assert error.value.remedy == "Delete one of the two in QuPath"


def test_what_is_drawn_on_a_changed_figure_and_agrees_with_it_counts_once() -> None:
    found = _compare(Drawn(100, 100, "NMF", "k"), *UNTOUCHED[1:], Drawn(*NEAR, "NMF", "drawn"))
    assert _changes(found) == KEPT | {"k": "relabelled"}
    assert found.notes == ("a.svs: figures drawn on one of the same class, which count once: 1",)


def test_two_that_are_drawn_on_one_figure_must_agree() -> None:
    two = Drawn(*NEAR, "NMF", "drawn"), Drawn(100, 90, "Typical", "more")
    found = _compare(*UNTOUCHED, *two)
    assert _changes(found) == KEPT | {"k": "relabelled"}
    assert [note.split(": ")[1:] for note in found.notes] == [
        ["figures relabelled by one that was drawn on them", "1"],
        ["figures drawn on one of the same class, which count once", "1"],
    ]
    with pytest.raises(DetectionsError, match=r"feature 6 .* is of class 'Imposter'"):
        _compare(*UNTOUCHED, Drawn(*NEAR, "AMF", "drawn"), Drawn(*NEAR, "Imposter"))
    for other in (Drawn(100, 90, "AMF", "more"), Drawn(100, 90, "Imposter")):
        with pytest.raises(DetectionsError, match=r"feature 6 .* lies under it"):
            _compare(*UNTOUCHED, two[0], other)


@pytest.mark.parametrize(("extent", "covers"), [(40, True), (38, False)])
def test_a_wide_figure_beside_one_that_it_covers_is_added_by_name(extent: float, covers: bool) -> None:
    found = _compare(*UNTOUCHED, Drawn(120, 120, "NMF", "new", extent=extent))  # 11.2 um from k
    assert _changes(found) == KEPT | {"new": "added"}
    beside = "another one farther than 6 um from their centre, and count beside it"
    note = f"a.svs: added figures that cover {beside}: 1"
    assert found.notes == ((note,) if covers else ())


@pytest.mark.parametrize("name", ["Non-mitotic figure", "Ignore*", "hard negative"])
def test_a_look_alike_that_is_drawn_on_a_figure_removes_it(name: str) -> None:
    found = _compare(*UNTOUCHED, Drawn(*NEAR, name), Drawn(700, 700, name))
    assert _changes(found) == KEPT | {"k": "removed"}
    row = found.table.iloc[0]
    assert (row["label_machine"], row["label_reviewed"], row["matched_by"]) == ("atypical", None, None)
    assert math.isnan(row["moved_um"])
    assert found.notes == (f"a.svs: figures removed by what was drawn on them ('{name}'): 1",)
    assert agreement_of([found.table])["matched"] == 3


@pytest.mark.parametrize(
    ("mark", "distance_um", "removed"),
    [
        (Drawn(*NEAR, "Imposter", extent=0), 5.0, "k"),
        (Drawn(*NEAR, "Imposter", extent=0), 4.9, ""),  # beyond the distance
        (Drawn(*NEAR, "Imposter", extent=20), 4.9, "k"),  # k is on its edge
        (Drawn(*NEAR, "Imposter", extent=19), 4.9, ""),
        (Drawn(110, 100, "Imposter", extent=20, height=0), 0.1, "k"),
        (Drawn(110, 100, "Imposter", extent=18, height=90), 0.1, ""),  # k is beside it
        (Drawn(150, 100, "Imposter", extent=120), 0.1, "kr"),  # it covers both
    ],
)
def test_what_lies_in_a_mark_or_near_its_centre_is_removed(
    mark: Drawn, distance_um: float, removed: str
) -> None:
    found = _compare(*UNTOUCHED, mark, distance_um=distance_um)
    assert _changes(found) == KEPT | dict.fromkeys(removed, "removed")
    assert bool(found.notes) == bool(removed)


def test_the_nearest_figure_is_relabelled() -> None:
    near = figures_table(("k", 100, 100, "atypical"), ("l", 110, 100, "atypical"))
    drawn = Drawn(100, 100, "AMF", "k"), Drawn(110, 100, "AMF", "l"), Drawn(108, 100, "NMF", "m")
    assert _changes(_compare(*drawn, machine=near)) == {"k": "kept", "l": "relabelled"}


def test_two_marks_on_one_figure_remove_one() -> None:
    found = _compare(*UNTOUCHED, Drawn(*NEAR, "Imposter"), Drawn(100, 95, "Ignore*"))
    assert _changes(found) == KEPT | {"k": "removed"}
    assert found.notes[0].endswith("): 1")


def test_a_look_alike_on_an_added_figure_contradicts_it() -> None:
    with pytest.raises(DetectionsError, match=r"feature 6 .* is of class 'Imposter'"):
        _compare(*UNTOUCHED, Drawn(700, 700, "AMF", "new"), Drawn(702, 700, "Imposter"))


def test_added_figures_that_lie_on_each_other_all_count_and_are_named() -> None:
    three = Drawn(700, 700, "AMF", "a"), Drawn(710, 700, "NMF", "b"), Drawn(900, 700, "NMF", "c")
    found = _compare(*UNTOUCHED, *three)
    assert _changes(found) == KEPT | dict.fromkeys("abc", "added")
    assert found.notes == ("a.svs: added figures within 6 um of another added one, all of which count: 2",)
    assert _compare(*UNTOUCHED, *three[1:]).notes == _compare(*UNTOUCHED, three[0]).notes == ()


# What its reviewer did not see


def test_figures_that_were_not_seen_keep_their_label() -> None:
    found = _compare(*UNTOUCHED[:2], seen={"k", "x"})
    assert _changes(found) == {"k": "kept", "r": "kept", "x": "removed", "n": "unseen"}
    row = found.table.iloc[3]
    assert (row["label_reviewed"], row["matched_by"]) == ("typical", None)
    assert math.isnan(row["moved_um"])
    counts = counted(found.table, Counts(candidates=5, excluded=1))
    assert (counts.classified, counts.typical, counts.excluded) == (3, 1, 2)
    assert counts.mean_agreement == pytest.approx((0.8 + 0.8 + 1.0) / 3)
    agreement = agreement_of([found.table])
    assert (agreement["unseen"], agreement["reviewed"], agreement["matched"]) == (1, 2, 2)
    assert (agreement["moved"], agreement["machine"]) == (0, 4)
    assert agreement["confusion"]["typical"] == {"atypical": 0, "typical": 0}


def test_what_is_drawn_on_a_figure_that_was_not_seen_counts() -> None:
    drawn = Drawn(402, 100, "AMF", "drawn")  # within the distance: it is this figure
    assert _changes(_compare(*UNTOUCHED[:3], drawn, seen={"k", "r", "x"})) == KEPT | {"n": "relabelled"}
    mark = Drawn(402, 100, "Imposter")
    assert _changes(_compare(*UNTOUCHED[:3], mark, seen={"k", "r", "x"})) == KEPT | {"n": "removed"}


def test_all_are_seen_unless_it_is_said() -> None:
    assert _changes(_compare(seen=None)) == dict.fromkeys("krxn", "removed")
    assert _changes(_compare(seen=set())) == dict.fromkeys("krxn", "unseen")
