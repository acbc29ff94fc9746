"""The consensus of the reviewers of one slide.

Atypical, typical and none are votes; a reviewer who could not tell has no vote. The label of a figure is the
one that more than half of the votes have. Without such a label it is a tie. A verdict that was given on a
page of disagreements decides: the figure's label is then the majority of such verdicts alone.

A reviewer in QuPath may add figures. Those of several reviewers are one figure if they lie within the
distance of each other, all of them, and are of different reviewers; the nearest ones are joined first. Every
reviewer who could have added a figure, and did not, has voted for none. So a figure is added if more than
half of the reviewers who could add it did so, and gave it the same label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.core.agreement import CATEGORIES
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.recount import UNDECIDED, UNSEEN
from wsi_mitosis.errors import listed
from wsi_mitosis.tables import CONSENSUS_COLUMNS, VERDICT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.core.verdicts import GivenVerdict
    from wsi_mitosis.units import Mpp

_VERDICTS = (*CATEGORIES, "unsure")
_NONE, _UNSURE = _VERDICTS.index("none"), _VERDICTS.index("unsure")
TIE = "tie"


@dataclass(frozen=True)
class SlideReview:
    """One reviewer's review of one slide.

    Attributes:
        reviewer: Name of the reviewer.
        table: As `core.recount.Comparison.table`, in which each added figure has an id, and these columns:
            `verdict` (atypical, typical, none or unsure; None if the reviewer said nothing), `blind`, `note`,
            `seconds` (NaN if unknown), `decides`.
        adds: Whether the reviewer could add figures.
    """

    reviewer: str
    table: pd.DataFrame
    adds: bool

    @property
    def decided(self) -> int:
        """The number of figures that the reviewer decided about."""
        return int(self.table["verdict"].notna().sum())


class Consensus(NamedTuple):
    """What the reviewers of a slide say together.

    Attributes:
        table: As `core.recount.Comparison.table`. That of a single reviewer is his own.
        figures: CONSENSUS_COLUMNS without `slide`: the ensemble's figures in their order, then the added ones
            by place.
        verdicts: VERDICT_COLUMNS without `slide`, in the order of `figures`, then by reviewer.
        moved: Figures that one of several reviewers moved, which count at the ensemble's place.
    """

    table: pd.DataFrame
    figures: pd.DataFrame
    verdicts: pd.DataFrame
    moved: int

    def notes(self, slide: str) -> tuple[str, ...]:
        """Return what the user should know."""
        ties = self.figures[self.figures["consensus"] == TIE]
        is_added = ties["label_machine"].isna()
        found = {
            "figures without a majority, which keep the ensemble's label": ties.loc[~is_added, "figure_id"],
            "added figures without a majority, which are not counted": ties.loc[is_added, "figure_id"],
        }
        notes = [f"{slide}: {text}: {len(ids)} ({listed(ids)})" for text, ids in found.items() if len(ids)]
        if self.moved:
            text = "figures that one of several reviewers moved, which count where the ensemble has them"
            notes.append(f"{slide}: {text}: {self.moved}")
        return tuple(notes)


def review_in_qupath(reviewer: str, table: pd.DataFrame, digest: str) -> SlideReview:
    """Describe a review in QuPath.

    Args:
        reviewer: Name of the reviewer.
        table: `core.recount.Comparison.table`.
        digest: Digest of the slide, from which an added figure without an id gets one by its place.
    """
    decided = zip(table["change"], table["label_reviewed"], strict=True)
    verdicts = [None if change == UNSEEN else "none" if label is None else label for change, label in decided]
    named = table.assign(
        figure_id=pd.Series(_with_ids(table, digest), table.index, dtype=object),
        verdict=pd.Series(verdicts, table.index, dtype=object),
        blind=False,
        note=pd.Series("", table.index, dtype=object),
        seconds=np.nan,
        decides=False,
    )
    return SlideReview(reviewer, named, adds=True)


def review_on_page(reviewer: str, machine: pd.DataFrame, given: Mapping[str, GivenVerdict]) -> SlideReview:
    """Describe a review on a page, on which nothing can be added.

    Args:
        reviewer: Name of the reviewer.
        machine: The ensemble's figures: FIGURE_COLUMNS without `geometry`, with a label each.
        given: The verdicts by figure id.
    """
    found = [given.get(name) for name in machine["figure_id"]]
    verdicts = [None if one is None else one.label for one in found]
    blind = [one is not None and one.blind for one in found]
    table = _decided_table(
        machine,
        [verdict or "" for verdict in verdicts],
        [None if one is None else one.by for one in found],
    ).assign(
        verdict=pd.Series(verdicts, dtype=object),
        blind=np.array(blind, dtype=bool),
        note=pd.Series(["" if one is None else one.note for one in found], dtype=object),
        seconds=np.array([np.nan if one is None else one.seconds for one in found], dtype=np.float64),
        decides=np.array([one is not None and one.decides for one in found], dtype=bool),
    )
    return SlideReview(reviewer, table, adds=False)


def consensus_of(
    reviews: Sequence[SlideReview], machine: pd.DataFrame, *, mpp: Mpp, distance_um: float, digest: str
) -> Consensus:
    """Return the consensus of the reviewers of a slide. Their order does not change it.

    Args:
        reviews: One per reviewer, at least one.
        machine: The ensemble's figures: FIGURE_COLUMNS without `geometry`, with a label each.
        mpp: um per level-0 px along x and y.
        distance_um: Added figures that are farther apart than this are not the same.
        digest: Digest of the slide, from which an id is made if two different added figures have the same.
    """
    reviews = sorted(reviews, key=lambda one: one.reviewer)
    groups = _added(reviews, np.array(mpp), distance_um)
    figures = _all_figures(reviews, machine, groups, digest)
    ballots = _ballots(reviews, len(machine), groups)
    counts = _counts(ballots, len(figures))
    able = sum(one.adds for one in reviews)
    counts[len(machine) :, _NONE] += np.array([able - len(group) for group in groups], dtype=np.int64)
    figures = figures.assign(
        consensus=_decided(counts, _counts(ballots[ballots["decides"]], len(figures))),
        **{label: counts[:, code] for code, label in enumerate(_VERDICTS)},
        blind=ballots.groupby("row")["blind"].all().reindex(figures.index, fill_value=False).astype(bool),
    )
    moved = 0 if len(reviews) == 1 else int(_were_moved(reviews, len(machine)).sum())
    return Consensus(
        table=reviews[0].table if len(reviews) == 1 else _agreed_table(reviews, machine, figures),
        figures=figures.loc[figures["consensus"] != "", [*CONSENSUS_COLUMNS[1:]]].reset_index(drop=True),
        verdicts=_verdicts(ballots, figures),
        moved=moved,
    )


def _counts(ballots: pd.DataFrame, figures: int) -> NDArray[np.int64]:
    """(n, 4) how many reviewers gave each verdict on each of n figures, by _VERDICTS."""
    counts = np.zeros((figures, len(_VERDICTS)), dtype=np.int64)
    codes = np.array([_VERDICTS.index(label) for label in ballots["label"]], dtype=np.intp)
    np.add.at(counts, (ballots["row"].to_numpy(np.intp), codes), 1)
    return counts


def _decided(counts: NDArray[np.int64], deciding: NDArray[np.int64]) -> NDArray[np.object_]:
    """(n,) the consensus of all verdicts, or of those that decide where one of these is a vote."""
    is_decided = deciding[:, :_UNSURE].sum(axis=1, keepdims=True) > 0
    return _majorities(np.where(is_decided, deciding, counts))


def _majorities(counts: NDArray[np.int64]) -> NDArray[np.object_]:
    """(n,) the consensus of (n, 4) numbers by _VERDICTS; "" if nobody said anything."""
    votes = counts[:, :_UNSURE]
    number, best = votes.sum(axis=1), np.array(_VERDICTS, dtype=object)[votes.argmax(axis=1)]
    without = np.where(counts[:, _UNSURE] > 0, "unsure", "").astype(object)
    divided = np.where(number > 0, TIE, without).astype(object)
    return np.where(2 * votes.max(axis=1) > number, best, divided)


# Figures that were added


class _Member(NamedTuple):
    """A figure that a reviewer added: the reviewer's number, and the row of the reviewer's table."""

    reviewer: int
    row: int


def _added(
    reviews: Sequence[SlideReview], scale: NDArray[np.float64], distance_um: float
) -> list[list[_Member]]:
    """The figures that were added, with the added figure of each reviewer, by reviewer; sorted by place."""
    members = [
        _Member(number, row)
        for number, one in enumerate(reviews)
        for row in np.flatnonzero((one.table["change"] == "added").to_numpy(bool)).tolist()
    ]
    places = np.array([_place(reviews[m.reviewer].table, m.row) for m in members], dtype=np.float64)
    owners = np.array([member.reviewer for member in members], dtype=np.intp)
    groups = same_figures(places.reshape(-1, 2) * scale, owners, distance_um)
    found = [sorted(members[position] for position in group) for group in groups]
    return sorted(found, key=lambda group: _place(reviews[group[0].reviewer].table, group[0].row)[::-1])


def _place(table: pd.DataFrame, row: int) -> tuple[float, float]:
    x_px0, y_px0 = (table[name].to_numpy(np.float64)[row] for name in ("x_px0", "y_px0"))
    return float(x_px0), float(y_px0)


def same_figures(
    places_um: NDArray[np.float64], owners: NDArray[np.intp], distance_um: float
) -> list[list[int]]:
    """Return which figures of several reviewers are the same one.

    The nearest two are joined first. Groups are joined if all of their figures lie within the distance of
    each other and are of different reviewers. Pairs of the same distance are taken in the order of their
    places, so that neither the order of the figures nor that of the reviewers changes the groups.

    Args:
        places_um: (k, 2) x, y in um.
        owners: (k,) number of the reviewer of each.
        distance_um: Figures that are farther apart than this are not the same.
    """
    groups = {number: [number] for number in range(len(places_um))}
    of = list(range(len(places_um)))
    for a, b in _near_pairs(places_um, owners, distance_um):
        one, other = groups[of[a]], groups[of[b]]
        if of[a] == of[b] or not set(owners[one]).isdisjoint(owners[other]):
            continue
        apart = np.hypot(*np.moveaxis(places_um[one][:, None] - places_um[other][None], -1, 0))
        if apart.max() > distance_um:
            continue
        gone = of[b]
        one += groups.pop(gone)
        of = [of[a] if group == gone else group for group in of]
    return list(groups.values())


def _near_pairs(
    places_um: NDArray[np.float64], owners: NDArray[np.intp], distance_um: float
) -> Iterator[tuple[int, int]]:
    """Yield pairs of figures of different reviewers within the distance, the nearest first."""
    if len(places_um) < 2:
        return
    # Slightly wider, because the tree rounds differently from the comparison below.
    reach = distance_um * (1 + 1e-9) + 1e-12
    a, b = cKDTree(places_um).query_pairs(reach, output_type="ndarray").reshape(-1, 2).T
    apart = np.hypot(*(places_um[a] - places_um[b]).T)
    near = (apart <= distance_um) & (owners[a] != owners[b])
    a, b, apart = a[near], b[near], apart[near]
    turned = (places_um[a] > places_um[b])[:, 0] | (
        (places_um[a, 0] == places_um[b, 0]) & (places_um[a, 1] > places_um[b, 1])
    )
    first, second = np.where(turned, b, a), np.where(turned, a, b)
    order = np.lexsort((*places_um[second].T[::-1], *places_um[first].T[::-1], apart))
    yield from zip(first[order].tolist(), second[order].tolist(), strict=True)


def _with_ids(table: pd.DataFrame, digest: str) -> list[str]:
    """Ids of all figures of a table. One without an id gets one by its place."""
    taken = set(table["figure_id"].dropna())
    names = table["figure_id"].to_numpy(object).tolist()
    places = table[["x_px0", "y_px0"]].to_numpy(np.float64).tolist()
    return [_free_id(name, x, y, digest, taken) for name, (x, y) in zip(names, places, strict=True)]


def _free_id(name: str | None, x_px0: float, y_px0: float, digest: str, taken: set[str]) -> str:
    """Return the name, or without one an id that is made from the place and is not taken; take it."""
    if name is None:
        (name,) = figure_ids(digest, [x_px0], [y_px0])
        if name in taken:  # a figure of the ensemble was there, and was moved
            (name,) = figure_ids(f"{digest}:added", [x_px0], [y_px0])
    taken.add(name)
    return name


# Tables


def _all_figures(
    reviews: Sequence[SlideReview], machine: pd.DataFrame, groups: Sequence[Sequence[_Member]], digest: str
) -> pd.DataFrame:
    """Id, place and the ensemble's label of the ensemble's figures, then of the added ones.

    An added figure is called and placed as that of the first of its reviewers by name.
    """
    ours = (reviews[0].table.iloc[: len(machine)] if len(reviews) == 1 else machine).reset_index(drop=True)
    taken = set(machine["figure_id"])
    rows = []
    for reviewer, row in (group[0] for group in groups):
        table = reviews[reviewer].table
        name, place = table["figure_id"].to_numpy(object)[row], _place(table, row)
        rows.append((_free_id(None if name in taken else name, *place, digest, taken), *place))
    ids, across, down = zip(*rows, strict=True) if rows else ((), (), ())
    return pd.DataFrame(
        {
            "figure_id": pd.Series([*machine["figure_id"], *ids], dtype=object),
            "x_px0": np.array([*ours["x_px0"], *across], dtype=np.float64),
            "y_px0": np.array([*ours["y_px0"], *down], dtype=np.float64),
            "label_machine": pd.Series([*machine["label"], *[None] * len(ids)], dtype=object),
        }
    )


def _ballots(
    reviews: Sequence[SlideReview], machine: int, groups: Sequence[Sequence[_Member]]
) -> pd.DataFrame:
    """A row per figure and reviewer who decided: `row` of the figure, `reviewer`, `label`, and the rest."""
    rows_of_added = {member: machine + number for number, group in enumerate(groups) for member in group}
    parts = []
    for number, one in enumerate(reviews):
        table = one.table
        rows = [row if row < machine else rows_of_added[_Member(number, row)] for row in range(len(table))]
        part = pd.DataFrame(
            {
                "row": np.array(rows, dtype=np.int64),
                "reviewer": pd.Series([one.reviewer] * len(table), dtype=object),
                "label": table["verdict"].to_numpy(object),
                "blind": table["blind"].to_numpy(bool),
                "note": table["note"].to_numpy(object),
                "seconds": table["seconds"].to_numpy(np.float64),
                "decides": table["decides"].to_numpy(bool),
            }
        )
        parts.append(part[part["label"].notna()])
    # all parts have the same types, also those without rows
    return pd.concat(parts, ignore_index=True).sort_values(["row", "reviewer"], ignore_index=True)


def _verdicts(ballots: pd.DataFrame, figures: pd.DataFrame) -> pd.DataFrame:
    places = figures[["figure_id", "x_px0", "y_px0"]].iloc[ballots["row"]].reset_index(drop=True)
    return pd.concat([places, ballots.drop(columns="row")], axis=1)[[*VERDICT_COLUMNS[1:]]]


def _were_moved(reviews: Sequence[SlideReview], machine: int) -> NDArray[np.bool_]:
    """(n,) which of the ensemble's n figures one of the reviewers moved."""
    moved = [one.table["moved_um"].to_numpy(np.float64)[:machine] > 0 for one in reviews]
    return np.asarray(np.any(moved, axis=0), dtype=bool)


def _agreed_table(
    reviews: Sequence[SlideReview], machine: pd.DataFrame, figures: pd.DataFrame
) -> pd.DataFrame:
    """The table of the consensus of several reviewers, in the form of a single reviewer's."""
    number = len(machine)
    matched = np.stack([one.table["matched_by"].to_numpy(object)[:number] for one in reviews])
    by = ["id" if "id" in ways else "distance" if "distance" in ways else None for ways in matched.T.tolist()]
    added = figures[number:]
    added = added[added["consensus"].isin(["atypical", "typical"])]
    return _decided_table(machine, figures["consensus"].tolist()[:number], by, added)


def _decided_table(
    machine: pd.DataFrame,
    decisions: Sequence[str],
    matched_by: Sequence[str | None],
    added: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A table in the form of `core.recount.Comparison.table`.

    Args:
        machine: The ensemble's figures.
        decisions: What was decided of each of them; "" for nothing.
        matched_by: How they were matched with those of the reviewers.
        added: Figures to add: `figure_id`, `x_px0`, `y_px0`, `consensus`.
    """
    ours = machine["label"].tolist()
    after = [_label_after(label, decision) for label, decision in zip(ours, decisions, strict=True)]
    changes = [_change(label, decision) for label, decision in zip(ours, decisions, strict=True)]
    stays = [decision in ("atypical", "typical") for decision in decisions]
    more = pd.DataFrame() if added is None else added
    nothing = [None] * len(more)

    def column(mine: Sequence[object], theirs: Sequence[object]) -> pd.Series[Any]:
        return pd.Series([*mine, *theirs], dtype=object)

    def theirs(name: str) -> list[object]:
        return [] if more.empty else more[name].tolist()

    return pd.DataFrame(
        {
            "figure_id": column(machine["figure_id"].tolist(), theirs("figure_id")),
            "change": column(changes, ["added"] * len(more)),
            "label_machine": column(ours, nothing),
            "label_reviewed": column(after, theirs("consensus")),
            "x_px0": column(machine["x_px0"].tolist(), theirs("x_px0")).astype(np.float64),
            "y_px0": column(machine["y_px0"].tolist(), theirs("y_px0")).astype(np.float64),
            "matched_by": column(
                [by if stay else None for by, stay in zip(matched_by, stays, strict=True)], nothing
            ),
            "moved_um": np.array(
                [0.0 if stay else np.nan for stay in stays] + [np.nan] * len(more), dtype=np.float64
            ),
            "votes_atypical": pd.array([*machine["votes_atypical"], *nothing], dtype="Int64"),
            "votes_cast": pd.array([*machine["votes_cast"], *nothing], dtype="Int64"),
        }
    )


def _label_after(label: str, decision: str) -> str | None:
    """The label of one of the ensemble's figures after a decision."""
    if decision in ("atypical", "typical"):
        return decision
    return None if decision == "none" else label


def _change(label: str, decision: str) -> str:
    """What a decision does to one of the ensemble's figures."""
    if decision == "":
        return UNSEEN
    if decision in (TIE, "unsure"):
        return UNDECIDED
    if decision == "none":
        return "removed"
    return "kept" if decision == label else "relabelled"
