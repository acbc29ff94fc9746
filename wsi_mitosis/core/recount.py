"""A reviewer's corrections of one slide: which figures stay, which change, and how far the two agree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.core import qupath
from wsi_mitosis.core.agreement import cohens_kappas
from wsi_mitosis.core.reviews import STAGE
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.core.voting import agreement
from wsi_mitosis.errors import DetectionsError, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.core.reviews import Review
    from wsi_mitosis.units import Mpp

LABELS = ("atypical", "typical")
CHANGES = ("relabelled", "removed", "added")
"""What a review can do to a figure, besides keeping it, in the order in which it is listed."""
UNSEEN = "unseen"
"""A figure that its reviewer did not see, because it is not in the result that was exported, or of which
nobody said anything."""
UNDECIDED = "undecided"
"""A figure that keeps the ensemble's label because reviewers were divided on it, or could not tell."""


class Matches(NamedTuple):
    """Pairs of an ensemble's and a reviewer's figure; (k,) each, no row twice.

    Attributes:
        machine: Rows of the ensemble's figures.
        reviewed: Rows of the reviewer's figures.
        by_id: Whether the ids are the same; otherwise the places are near.
    """

    machine: NDArray[np.intp]
    reviewed: NDArray[np.intp]
    by_id: NDArray[np.bool_]


def match_figures(
    machine_ids: NDArray[np.object_],
    machine_um: NDArray[np.float64],
    reviewed_ids: NDArray[np.object_],
    reviewed_um: NDArray[np.float64],
    distance_um: float,
) -> Matches:
    """Pair figures of the same id, wherever they are; pair the others by distance, one to one.

    The nearest pair is taken first, then the nearest of those that remain. Pairs of the same distance are
    taken in the order of their coordinates, so the order of rows does not change the result.

    Args:
        machine_ids: (n,) distinct.
        machine_um: (n, 2) x, y in um.
        reviewed_ids: (m,) distinct; None for an object without an id.
        reviewed_um: (m, 2) x, y in um.
        distance_um: Figures that are farther apart than this are not paired.

    Returns:
        The pairs; those by id come first.
    """
    places = {name: row for row, name in enumerate(machine_ids)}
    named = [(places[name], row) for row, name in enumerate(reviewed_ids) if name in places]
    taken, given = {machine for machine, _ in named}, {reviewed for _, reviewed in named}
    left = np.array([row for row in range(len(machine_um)) if row not in taken], dtype=np.intp)
    right = np.array([row for row in range(len(reviewed_um)) if row not in given], dtype=np.intp)
    near = _nearest_pairs(machine_um[left], reviewed_um[right], distance_um)
    pairs = [*named, *((int(left[a]), int(right[b])) for a, b in near)]
    machine, reviewed = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return Matches(machine, reviewed, np.arange(len(pairs)) < len(named))


def _nearest_pairs(
    left_um: NDArray[np.float64], right_um: NDArray[np.float64], distance_um: float
) -> list[tuple[int, int]]:
    """Return pairs of rows of (n, 2) and (m, 2) points, one to one, the nearest pairs first."""
    if not len(left_um) or not len(right_um):
        return []
    # Slightly wider, because the tree rounds differently from the comparison below.
    reach = distance_um * (1 + 1e-9) + 1e-12
    found = cKDTree(left_um).sparse_distance_matrix(cKDTree(right_um), reach, output_type="ndarray")
    a, b = found["i"], found["j"]
    apart = np.hypot(*(left_um[a] - right_um[b]).T)
    a, b, apart = (values[apart <= distance_um] for values in (a, b, apart))
    order = np.lexsort((*right_um[b].T[::-1], *left_um[a].T[::-1], apart))
    free_left, free_right = np.ones(len(left_um), dtype=bool), np.ones(len(right_um), dtype=bool)
    pairs = []
    for one, other in zip(a[order].tolist(), b[order].tolist(), strict=True):
        if free_left[one] and free_right[other]:
            free_left[one] = free_right[other] = False
            pairs.append((one, other))
    return pairs


def near_share(
    machine_um: NDArray[np.float64], reviewed_um: NDArray[np.float64], distance_um: float
) -> float:
    """Return the share of (m, 2) reviewed figures with one of the ensemble's (n, 2) nearby; x, y in um."""
    if not len(machine_um) or not len(reviewed_um):
        return 0.0
    apart, _ = cKDTree(machine_um).query(reviewed_um)
    return float(np.mean(apart <= distance_um))


class Comparison(NamedTuple):
    """The figures of the ensemble and of a reviewer side by side.

    Attributes:
        table: A row per figure of either: the ensemble's in their order, then the added ones. `figure_id`;
            `change` ("kept", "unseen" or one of CHANGES); `label_machine`, `label_reviewed` (None without a
            label); `x_px0`, `y_px0` (the reviewer's place, the ensemble's for a removed figure; a shift that
            QuPath's rounding explains is none); `matched_by` ("id", "distance" or None); `moved_um` (NaN
            unless matched); `votes_atypical`, `votes_cast` (Int64, missing for an added figure).
        notes: What the user should know.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    figures: pd.DataFrame,
    review: Review,
    *,
    slide: str,
    mpp: Mpp,
    distance_um: float,
    seen: Collection[str] | None = None,
) -> Comparison:
    """Set the figures of the ensemble and of the reviewer side by side.

    What a reviewer draws on a figure that is as the ensemble left it corrects that figure: a figure of
    another class relabels it, one of the same class is the same figure, and a look-alike removes it.

    Args:
        figures: FIGURE_COLUMNS without `geometry`; a row without a label is not a figure.
        review: The reviewer's figures.
        slide: The slide's name, for messages.
        mpp: um per level-0 px along x and y.
        distance_um: Figures that are farther apart than this are not the same.
        seen: Ids of the figures that the reviewer saw; None for all. A figure that the reviewer did not see
            keeps the ensemble's label.

    Raises:
        DetectionsError: if objects at one place contradict each other.
    """
    machine = figures[figures["label"].notna()].reset_index(drop=True)
    theirs, scale = review.figures, np.array(mpp)
    match = match_figures(
        machine["figure_id"].to_numpy(object),
        _xy(machine) * scale,
        theirs["figure_id"].to_numpy(object),
        _xy(theirs) * scale,
        distance_um,
    )
    table = _matched(machine, theirs, match, scale)
    drawn = theirs[~np.isin(np.arange(len(theirs)), match.reviewed)]
    place = _Place(slide, scale, distance_um)
    corrects, corrected = _correct(table, drawn, place)
    unseen = _keep_unseen(table, seen)
    marked = _remove_marked(table, drawn, review.marks, place)
    table.insert(1, "change", _changes(table))
    table.loc[unseen & table["label_reviewed"].notna(), ["change", "moved_um"]] = UNSEEN, np.nan
    whole = _with_added(table, drawn[~corrects])
    over = _covering(table, drawn[~corrects], place)
    return Comparison(whole, (*_notes(slide, corrected, marked), *over, *_close(whole, place)))


class _Place(NamedTuple):
    """What it means that two objects lie on each other.

    Attributes:
        slide: The slide's name, for messages.
        scale: (2,) um per px along x and y.
        distance_um: Objects that are nearer than this lie on each other.
    """

    slide: str
    scale: NDArray[np.float64]
    distance_um: float

    def nearest(self, places: pd.DataFrame, among: pd.DataFrame) -> NDArray[np.intp]:
        """Return the position in `among` of the nearest object to each place, -1 if none is near."""
        if among.empty or places.empty:
            return np.full(len(places), -1)
        apart, rows = cKDTree(_xy(among) * self.scale).query(_xy(places) * self.scale)
        return np.where(apart <= self.distance_um, rows, -1)

    def under(self, mark: Mapping[Any, Any], among: pd.DataFrame) -> list[int]:
        """Return the positions in `among` of what lies under a mark: in its box, or near its centre."""
        away = np.abs(_xy(among) - [mark["x_px0"], mark["y_px0"]])
        inside = (away <= [mark["width"] / 2, mark["height"] / 2]).all(axis=1)
        near = np.hypot(*(away * self.scale).T) <= self.distance_um
        found: list[int] = np.flatnonzero(inside | near).tolist()
        return found

    def contradiction(self, row: Mapping[Any, Any], what: str) -> DetectionsError:
        """Return the error for an object that contradicts another one at its place."""
        return DetectionsError(
            f"feature {row['feature']} at ({row['x_px0']:.2f}, {row['y_px0']:.2f}) px of the slide {what}",
            subject=self.slide,
            stage=STAGE,
            remedy="Delete one of the two in QuPath",
        )


def _correct(
    table: pd.DataFrame, drawn: pd.DataFrame, place: _Place
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Let figures that were drawn on others correct these, in `table`.

    Returns:
        (k,) which of the drawn figures lie on another one and are not added, and how many of them were
        drawn twice and how many relabelled one.
    """
    present = table[table["label_reviewed"].notna()]
    under = place.nearest(drawn, present)
    found = {"drawn twice": 0, "relabelled": 0}
    given: dict[Any, str] = {}
    for row, at in zip(drawn.to_dict("records"), under.tolist(), strict=True):
        if at < 0:
            continue
        index = present.index[at]
        before = given.get(index, present.at[index, "label_reviewed"])
        is_untouched = index not in given and _is_untouched(present.loc[index])
        if row["label"] != before and not is_untouched:
            what = f"is {row['label']}, and a figure that was reviewed as {before!s} lies under it"
            raise place.contradiction(row, what)
        found["drawn twice" if row["label"] == before else "relabelled"] += 1
        given[index] = row["label"]
    for index, label in given.items():
        table.at[index, "label_reviewed"] = label
    return under >= 0, found


def _is_untouched(row: pd.Series[Any]) -> bool:
    """Whether a figure is as the ensemble left it."""
    return bool(row["label_machine"] == row["label_reviewed"] and row["moved_um"] == 0)


def _remove_marked(table: pd.DataFrame, drawn: pd.DataFrame, marks: pd.DataFrame, place: _Place) -> list[str]:
    """Remove the figures in `table` that are marked as none.

    Returns:
        The class of the mark of each removed figure.
    """
    present = pd.concat([table[table["label_reviewed"].notna()], drawn.assign(label_machine=None)])
    classes = {}
    for row in marks.to_dict("records"):
        for at in place.under(row, present):
            if not _is_untouched(present.iloc[at]):
                what = f"is of class '{row['class']}', and a figure that was reviewed lies under it"
                raise place.contradiction(row, what)
            classes[present.index[at]] = row["class"]
    for index in classes:
        table.at[index, "label_reviewed"] = table.at[index, "matched_by"] = None
        table.at[index, "moved_um"] = np.nan
    return list(classes.values())


def _keep_unseen(table: pd.DataFrame, seen: Collection[str] | None) -> pd.Series[bool]:
    """Let the figures that the reviewer did not see keep the ensemble's label, in `table`.

    Returns:
        Which rows they are.
    """
    unseen = table["label_reviewed"].isna() & (seen is not None)
    if seen is not None:
        unseen &= ~table["figure_id"].isin(set(seen))
    table.loc[unseen, "label_reviewed"] = table.loc[unseen, "label_machine"]
    table.loc[unseen, "moved_um"] = 0.0
    return unseen


def _with_added(table: pd.DataFrame, added: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the added figures at its end."""
    whole = table.reindex(range(len(table) + len(added)))
    for name in ("figure_id", "x_px0", "y_px0"):
        whole.loc[len(table) :, name] = added[name].to_numpy()
    whole.loc[len(table) :, "label_reviewed"] = added["label"].to_numpy(object)
    whole.loc[len(table) :, "change"] = "added"
    for name in ("figure_id", "label_machine", "label_reviewed", "matched_by"):
        whole[name] = whole[name].astype(object).where(whole[name].notna(), None)
    return whole


def _notes(slide: str, corrected: Mapping[str, int], marked: list[str]) -> list[str]:
    """Notes about what was drawn on figures."""
    notes = []
    if number := corrected["relabelled"]:
        notes.append(f"{slide}: figures relabelled by one that was drawn on them: {number}")
    if number := corrected["drawn twice"]:
        notes.append(f"{slide}: figures drawn on one of the same class, which count once: {number}")
    if marked:
        names = listed(dict.fromkeys(marked))
        notes.append(f"{slide}: figures removed by what was drawn on them ({names}): {len(marked)}")
    return notes


def _covering(table: pd.DataFrame, added: pd.DataFrame, place: _Place) -> list[str]:
    """A note about added figures that are so wide that another one lies under them, far from their centre."""
    present = table[table["label_reviewed"].notna()]
    number = sum(bool(place.under(row, present)) for row in added.to_dict("records"))
    beside = f"another one farther than {place.distance_um:g} um from their centre, and count beside it"
    return [f"{place.slide}: added figures that cover {beside}: {number}"] if number else []


def _close(table: pd.DataFrame, place: _Place) -> list[str]:
    """A note about added figures that lie on each other."""
    added = table[table["change"] == "added"]
    if len(added) < 2:
        return []
    centres_um = _xy(added) * place.scale
    apart = cKDTree(centres_um).query(centres_um, k=2)[0][:, 1]
    number = int((apart <= place.distance_um).sum())
    near = f"within {place.distance_um:g} um of another added one, all of which count"
    return [f"{place.slide}: added figures {near}: {number}"] if number else []


def _matched(
    machine: pd.DataFrame, theirs: pd.DataFrame, match: Matches, scale: NDArray[np.float64]
) -> pd.DataFrame:
    """Return a row per figure of the ensemble, with what the reviewer made of it."""
    here, there = _xy(machine), _xy(theirs)
    table = pd.DataFrame(
        {
            "figure_id": machine["figure_id"].astype(object),
            "label_machine": machine["label"].astype(object),
            "label_reviewed": pd.Series(None, machine.index, dtype=object),
            "x_px0": here[:, 0],
            "y_px0": here[:, 1],
            "matched_by": pd.Series(None, machine.index, dtype=object),
            "moved_um": np.nan,
            "votes_atypical": machine["votes_atypical"].astype("Int64"),
            "votes_cast": machine["votes_cast"].astype("Int64"),
        }
    )
    rows, shift = match.machine, there[match.reviewed] - here[match.machine]
    moved = np.abs(shift).max(axis=1, initial=0) > qupath.UNMOVED_PX
    table.loc[rows, "label_reviewed"] = theirs["label"].to_numpy(object)[match.reviewed]
    table.loc[rows, "matched_by"] = np.where(match.by_id, "id", "distance").astype(object)
    table.loc[rows, "moved_um"] = np.where(moved, np.hypot(*(shift * scale).T), 0.0)
    table.loc[rows[moved], ["x_px0", "y_px0"]] = there[match.reviewed[moved]]
    return table


def _xy(table: pd.DataFrame) -> NDArray[np.float64]:
    return table[["x_px0", "y_px0"]].to_numpy(np.float64)


def _changes(table: pd.DataFrame) -> NDArray[np.object_]:
    """(n,) what the review does to each of the ensemble's figures."""
    same = (table["label_machine"] == table["label_reviewed"]).to_numpy(bool)
    kept_or_not = np.where(same, "kept", "relabelled")
    return np.where(table["label_reviewed"].isna(), "removed", kept_or_not).astype(object)


def counted(table: pd.DataFrame, machine: Counts) -> Counts:
    """Return the reviewed counts of one slide.

    Added figures are candidates, and removed ones are excluded. The mean agreement is that of the ensemble's
    members over the figures that it voted on and that the reviewer kept.

    Args:
        table: As from `compare`.
        machine: The ensemble's counts.
    """
    labels, changes = table["label_reviewed"], Counter(table["change"])
    voted = table[labels.notna() & table["label_machine"].notna()]
    votes = voted["votes_atypical"].to_numpy(np.int64), voted["votes_cast"].to_numpy(np.int64)
    return Counts(
        candidates=machine.candidates + changes["added"],
        classified=int(labels.notna().sum()),
        atypical=int((labels == "atypical").sum()),
        typical=int((labels == "typical").sum()),
        excluded=machine.excluded + changes["removed"],
        mean_agreement=float(agreement(*votes).mean()) if len(voted) else None,
    )


def agreement_of(tables: Iterable[pd.DataFrame]) -> dict[str, Any]:
    """Return how far ensemble and reviewer agree, over all tables from `compare` together.

    Returns:
        Numbers of figures by change, also `unseen` and `undecided`; `matched`, of which `by_id` and
        `by_distance`; `moved`; `agreed`, the share of the matched figures with the same label, and Cohen's
        `kappa` (None if undefined); `confusion[label of the ensemble][label of the reviewer]` over the
        matched figures.
    """
    rows = [row for table in tables for row in zip(*(table[name] for name in _COMPARED), strict=True)]
    changes = Counter(change for change, *_ in rows)
    matched_by = Counter(by for _, _, _, by, _ in rows if by is not None)
    pairs = Counter((ours, theirs) for _, ours, theirs, by, _ in rows if by is not None)
    confusion = {ours: {theirs: pairs[ours, theirs] for theirs in LABELS} for ours in LABELS}
    matched = sum(pairs.values())
    agreed = sum(confusion[label][label] for label in LABELS)
    return {
        "machine": sum(ours is not None for _, ours, *_ in rows),
        "reviewed": sum(theirs is not None and change not in _NOT_DECIDED for change, _, theirs, *_ in rows),
        **{change: changes[change] for change in ("kept", *CHANGES, *_NOT_DECIDED)},
        "matched": matched,
        "by_id": matched_by["id"],
        "by_distance": matched_by["distance"],
        "moved": sum(moved > 0 for *_, moved in rows),
        "agreed": agreed / matched if matched else None,
        "kappa": cohens_kappa(confusion),
        "confusion": confusion,
    }


_NOT_DECIDED = (UNSEEN, UNDECIDED)
_COMPARED = ("change", "label_machine", "label_reviewed", "matched_by", "moved_um")


def cohens_kappa(confusion: Mapping[str, Mapping[str, int]]) -> float | None:
    """Return the agreement beyond chance (Cohen 1960), from counts by first and second rater's label.

    Returns:
        1 for full agreement, 0 for the agreement that the raters' frequencies give by chance; None without
        figures, and if both raters gave the same single label throughout.
    """
    counts = np.array([[confusion[ours][theirs] for theirs in LABELS] for ours in LABELS], dtype=np.int64)
    kappa = float(cohens_kappas(counts))
    return None if np.isnan(kappa) else kappa
