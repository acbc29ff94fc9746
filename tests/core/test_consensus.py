"""The consensus of several reviewers of a slide, counted by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.review_files import Drawn, figures_table, objects_of
from wsi_mitosis.core.consensus import (
    Consensus,
    SlideReview,
    consensus_of,
    review_in_qupath,
    review_on_page,
    same_figures,
)
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.recount import agreement_of, compare, counted
from wsi_mitosis.core.reviews import reviewed_figures
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.core.verdicts import GivenVerdict
from wsi_mitosis.tables import CONSENSUS_COLUMNS, VERDICT_COLUMNS
from wsi_mitosis.units import Mpp

MPP, DISTANCE_UM, DIGEST = Mpp(0.25, 0.5), 5.0, "i" * 64
MACHINE = figures_table(
    *(
        (f"f{n}", 100.0 * (n + 1), 200.0, label)
        for n, label in enumerate(["atypical", "atypical", "typical"] * 2)
    )
)
NAMES = {"a": "atypical", "t": "typical", "n": "none", "u": "unsure"}


def on_page(
    reviewer: str, letters: str, *, blind: bool = False, machine: pd.DataFrame = MACHINE
) -> SlideReview:
    """A review on a page, by letter; "-" is no verdict."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    given = {
        name: GivenVerdict(NAMES[letter], at, blind, f"{reviewer} {letter}", 2.5, "id")  # type: ignore[arg-type]
        for name, letter in zip(machine["figure_id"], letters, strict=True)
        if letter != "-"
    }
    return review_on_page(reviewer, machine, given)


def in_qupath(
    reviewer: str,
    letters: str,
    *added: tuple[float, float, str],
    machine: pd.DataFrame = MACHINE,
    ids: tuple[str | None, ...] = (),
) -> SlideReview:
    """A review in QuPath, by letter; "n" is a figure that was deleted. Added figures by place and letter."""
    classes = {"a": "Mitosis: Atypical", "t": "Mitosis: Typical"}
    drawn = [
        Drawn(row.x_px0, row.y_px0, classes[letter], row.figure_id)
        for row, letter in zip(machine.itertuples(), letters, strict=True)
        if letter != "n"
    ]
    names = ids or (None,) * len(added)
    drawn += [Drawn(x, y, classes[letter], name) for (x, y, letter), name in zip(added, names, strict=True)]
    review = reviewed_figures(objects_of(*drawn, mpp=MPP), machine, "s")
    compared = compare(machine, review, slide="s", mpp=MPP, distance_um=DISTANCE_UM)
    return review_in_qupath(reviewer, compared.table, DIGEST)


def together(*reviews: SlideReview, machine: pd.DataFrame = MACHINE) -> Consensus:
    return consensus_of(reviews, machine, mpp=MPP, distance_um=DISTANCE_UM, digest=DIGEST)


def by_figure(found: Consensus) -> dict[str, str]:
    return dict(zip(found.figures["figure_id"], found.figures["consensus"], strict=True))


def changes(found: Consensus) -> dict[str, tuple[str, str | None]]:
    table = found.table
    return dict(
        zip(table["figure_id"], zip(table["change"], table["label_reviewed"], strict=True), strict=True)
    )


THREE = (on_page("anna", "attnu-"), on_page("ben", "atanu-", blind=True), on_page("cleo", "tnunu-"))


def test_three_reviewers_counted_by_hand() -> None:
    """The ensemble said a a t a a t."""
    found = together(*THREE)
    assert tuple(found.figures.columns) == CONSENSUS_COLUMNS[1:]
    assert by_figure(found) == {"f0": "atypical", "f1": "typical", "f2": "tie", "f3": "none", "f4": "unsure"}
    numbers = found.figures[["atypical", "typical", "none", "unsure"]].to_numpy().tolist()
    assert numbers == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 1, 0, 1], [0, 0, 3, 0], [0, 0, 0, 3]]
    assert changes(found) == {
        "f0": ("kept", "atypical"),
        "f1": ("relabelled", "typical"),
        "f2": ("undecided", "typical"),
        "f3": ("removed", None),
        "f4": ("undecided", "atypical"),
        "f5": ("unseen", "typical"),
    }
    counts = counted(found.table, Counts(candidates=6))
    assert (counts.classified, counts.atypical, counts.typical, counts.excluded) == (5, 2, 3, 1)
    agreement = agreement_of([found.table])
    assert (agreement["undecided"], agreement["unseen"], agreement["reviewed"]) == (2, 1, 2)
    assert (agreement["matched"], agreement["by_id"], agreement["agreed"]) == (2, 2, 1 / 2)
    assert found.notes("s") == ("s: figures without a majority, which keep the ensemble's label: 1 ('f2')",)


def test_the_verdicts_are_those_of_each_reviewer() -> None:
    found = together(*THREE).verdicts
    assert tuple(found.columns) == VERDICT_COLUMNS[1:]
    rows = found[["figure_id", "reviewer", "label"]].to_numpy().tolist()
    assert rows[:4] == [
        ["f0", "anna", "atypical"],
        ["f0", "ben", "atypical"],
        ["f0", "cleo", "typical"],
        ["f1", "anna", "typical"],
    ]
    assert len(rows) == 15
    assert found["blind"].tolist() == [False, True, False] * 5
    assert found["note"][3] == "anna t"
    assert set(found["seconds"]) == {2.5}
    assert found["x_px0"].tolist() == [100.0] * 3 + [200.0] * 3 + [300.0] * 3 + [400.0] * 3 + [500.0] * 3


def test_a_figure_was_blind_if_all_who_decided_were() -> None:
    found = together(
        on_page("anna", "aaa---", blind=True), on_page("ben", "a-u---", blind=True), on_page("c", "--a---")
    )
    assert found.figures["blind"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("letters", "consensus"),
    [
        ("a", "atypical"),
        ("at", "tie"),
        ("aat", "atypical"),
        ("atn", "tie"),
        ("aatn", "tie"),  # two of four are no more than half
        ("aaatn", "atypical"),
        ("aauu", "atypical"),  # who could not tell has no vote
        ("anuuu", "tie"),
        ("nnt", "none"),
        ("uu", "unsure"),
        ("u-", "unsure"),
        ("t-", "typical"),
    ],
)
def test_a_majority_is_more_than_half_of_the_votes(letters: str, consensus: str) -> None:
    reviews = [on_page(f"r{n}", f"{letter}-----") for n, letter in enumerate(letters)]
    assert by_figure(together(*reviews)) == {"f0": consensus}


def test_a_single_reviewer_is_the_consensus() -> None:
    own = on_page("anna", "atnu--")
    found = together(own)
    assert found.table is own.table
    assert by_figure(found) == {"f0": "atypical", "f1": "typical", "f2": "none", "f3": "unsure"}
    assert [change for change, _ in changes(found).values()] == [
        *("kept", "relabelled", "removed", "undecided", "unseen", "unseen"),
    ]
    # in QuPath, a figure counts where the only reviewer has moved it
    there = (MACHINE["x_px0"] + 8).tolist()
    drawn = objects_of(*(Drawn(x, 200, "AMF", f"f{n}") for n, x in enumerate(there)), mpp=MPP)
    table = compare(
        MACHINE, reviewed_figures(drawn, MACHINE, "s"), slide="s", mpp=MPP, distance_um=DISTANCE_UM
    ).table
    alone = together(review_in_qupath("ben", table, DIGEST))
    assert alone.figures["x_px0"].tolist() == there == alone.table["x_px0"].tolist()
    assert alone.moved == 0
    both = together(review_in_qupath("ben", table, DIGEST), on_page("anna", "aaaaaa"))
    assert both.figures["x_px0"].tolist() == MACHINE["x_px0"].tolist()
    assert both.moved == 6
    note = "s: figures that one of several reviewers moved, which count where the ensemble has them: 6"
    assert note in both.notes("s")


def test_reviews_in_qupath_and_on_pages_count_alike() -> None:
    """Deleting a figure is a vote for none."""
    found = together(in_qupath("anna", "aanntt"), in_qupath("ben", "atnatt"), on_page("cleo", "tanuu-"))
    assert list(by_figure(found).values()) == ["atypical", "atypical", "none", "tie", "typical", "typical"]
    label = dict(
        zip(found.verdicts["reviewer"] + found.verdicts["figure_id"], found.verdicts["label"], strict=True)
    )
    assert (label["annaf2"], label["benf3"], label["cleof3"]) == ("none", "atypical", "unsure")
    assert np.isnan(found.verdicts.loc[found.verdicts["reviewer"] == "anna", "seconds"]).all()


# Figures that reviewers add; a px is 0.25 um wide and 0.5 um high


def test_an_added_figure_needs_more_than_half_of_those_who_could_add_it() -> None:
    """Cleo reviewed a page, on which nothing can be added, and has no vote."""
    anna = in_qupath("anna", "aataat", (150, 400, "a"), (500, 600, "t"), (900, 900, "a"))
    ben = in_qupath("ben", "aataat", (154, 402, "a"), (500, 600, "t"))
    dora = in_qupath("dora", "aataat", (146, 398, "t"), (900, 906, "a"))
    found = together(ben, anna, dora, on_page("cleo", "aataat"))
    added = found.figures[6:]
    assert added[["x_px0", "y_px0"]].to_numpy().tolist() == [[150, 400], [500, 600], [900, 900]]
    assert added["consensus"].tolist() == ["atypical", "typical", "atypical"]
    numbers = added[["atypical", "typical", "none"]].to_numpy().tolist()
    assert numbers == [[2, 1, 0], [0, 2, 1], [2, 0, 1]]
    assert added["label_machine"].tolist() == [None] * 3
    assert found.table[6:]["change"].tolist() == ["added"] * 3
    assert found.table[6:]["label_reviewed"].tolist() == ["atypical", "typical", "atypical"]
    names = figure_ids(DIGEST, [150, 500, 900], [400, 600, 900])
    assert found.table[6:]["figure_id"].tolist() == added["figure_id"].tolist() == names
    verdicts = found.verdicts[found.verdicts["figure_id"] == names[0]]
    assert verdicts["reviewer"].tolist() == ["anna", "ben", "dora"]
    assert verdicts["label"].tolist() == ["atypical", "atypical", "typical"]
    assert set(verdicts["x_px0"]) == {150}


def test_an_added_figure_without_a_majority_is_named_and_not_counted() -> None:
    anna = in_qupath("anna", "aatnat", (150, 400, "a"), (500, 600, "a"))
    ben = in_qupath("ben", "aatnat", (500, 600, "t"))
    found = together(anna, ben)
    assert found.figures["consensus"][5:].tolist() == ["typical", "tie", "tie"]
    assert found.figures[["atypical", "typical", "none"]][6:].to_numpy().tolist() == [[1, 0, 1], [1, 1, 0]]
    assert set(found.table["change"]) == {"kept", "removed"}
    first, second = figure_ids(DIGEST, [150, 500], [400, 600])
    assert found.notes("s") == (
        f"s: added figures without a majority, which are not counted: 2 ('{first}', '{second}')",
    )
    assert by_figure(together(anna, ben, in_qupath("cleo", "aatnat")))[first] == "none"
    assert by_figure(together(anna, on_page("cleo", "aatnat")))[first] == "atypical"


def test_two_added_figures_of_one_id_at_different_places_are_two() -> None:
    anna = in_qupath("anna", "aataat", (150, 400, "a"), ids=("same",))
    ben = in_qupath("ben", "aataat", (500, 600, "a"), ids=("same",))
    found = together(anna, ben).figures
    assert found["figure_id"][6:].tolist() == ["same", *figure_ids(DIGEST, [500], [600])]
    assert found["figure_id"].is_unique


def test_a_figure_added_where_a_moved_one_was_has_an_id_of_its_own() -> None:
    (own,) = figure_ids(DIGEST, [150], [400])
    machine = figures_table((own, 150, 400, "atypical"))
    drawn = objects_of(Drawn(900, 900, "AMF", own), Drawn(150, 400, "NMF"), mpp=MPP)
    table = compare(
        machine, reviewed_figures(drawn, machine, "s"), slide="s", mpp=MPP, distance_um=DISTANCE_UM
    ).table
    review = review_in_qupath("anna", table, DIGEST)
    assert review.table["figure_id"].tolist() == [own, *figure_ids(f"{DIGEST}:added", [150], [400])]


def test_the_nearest_figures_are_the_same() -> None:
    """Of the second reviewer's two, the nearer one. The ends of a chain are too far from each other."""
    um = np.array([(0.0, 0.0), (3.0, 0.0), (1.0, 0.0), (8.5, 0.0), (4.5, 0.0)])
    assert sorted(map(sorted, same_figures(um, np.array([0, 1, 1, 0, 2]), 4.0))) == [[0, 2], [1, 4], [3]]
    assert same_figures(um[:1], np.array([0]), 4.0) == [[0]]
    assert same_figures(um[:0], np.array([], dtype=np.intp), 4.0) == []
    assert sorted(map(sorted, same_figures(um[[0, 1]], np.array([0, 1]), 3.0))) == [[0, 1]]
    assert sorted(map(sorted, same_figures(um[[0, 1]], np.array([0, 1]), 2.9))) == [[0], [1]]


point = st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from("at"))
exports = st.tuples(
    st.text("atn", min_size=6, max_size=6),
    st.lists(point, max_size=5, unique_by=lambda one: one[:2]),
)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(exports, min_size=1, max_size=3),
    st.lists(st.text("atnu-", min_size=6, max_size=6), max_size=2),
    st.randoms(use_true_random=False),
)
def test_the_order_of_reviewers_changes_nothing(drawn: list, saved: list, random: Random) -> None:
    """Added figures are on a grid of 1 um, so that equal distances are common."""
    reviews = [
        in_qupath(f"q{n}", letters, *((600 + 4 * x, 600 + 2 * y, letter) for x, y, letter in added))
        for n, (letters, added) in enumerate(drawn)
    ]
    reviews += [on_page(f"p{n}", letters) for n, letters in enumerate(saved)]
    expected = together(*reviews)
    for order in (reviews[::-1], random.sample(reviews, len(reviews))):
        found = together(*order)
        for one, other in zip(found[:3], expected[:3], strict=True):
            pd.testing.assert_frame_equal(one, other)
        assert found.notes("s") == expected.notes("s")
    groups = expected.figures[expected.figures["label_machine"].isna()]
    assert groups[["atypical", "typical"]].to_numpy().sum() == sum(len(added) for _, added in drawn)
    assert (groups[["atypical", "typical", "none"]].sum(axis=1) == len(drawn)).all()
    votes = expected.figures[["atypical", "typical", "none"]].to_numpy()
    counted_labels = expected.figures["consensus"].isin(["atypical", "typical", "none"])
    assert ((2 * votes.max(axis=1) > votes.sum(axis=1)) == counted_labels).all()


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3)), max_size=14, unique=True),
    st.permutations(range(14)),
    st.permutations(range(4)),
)
def test_groups_depend_neither_on_rows_nor_on_numbers(drawn: list, order: list, numbers: list) -> None:
    um = np.array([(x, y) for x, y, _ in drawn], dtype=float).reshape(-1, 2)
    owners = np.array([owner for *_, owner in drawn], dtype=np.intp)

    def named(groups: list, keys: list) -> set:
        return {frozenset(keys[row] for row in group) for group in groups}

    expected = named(same_figures(um, owners, 2.0), drawn)
    rows = [row for row in order if row < len(drawn)]
    other = np.array(numbers, dtype=np.intp)[owners[rows]] if rows else owners
    assert named(same_figures(um[rows], other, 2.0), [drawn[row] for row in rows]) == expected
    for group in expected:
        assert len({owner for *_, owner in group}) == len(group)
        assert max(np.hypot(a[0] - b[0], a[1] - b[1]) for a in group for b in group) <= 2.0
