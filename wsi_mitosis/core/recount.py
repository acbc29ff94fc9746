"""A reviewer's corrections of one slide: which figures stay, which change, and how far the two agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from wsi_mitosis.core import qupath
from wsi_mitosis.core.classes import label_of_class
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.core.voting import agreement
from wsi_mitosis.errors import DetectionsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.tables import Detections, ReviewLabel
    from wsi_mitosis.units import Bounds, Frame, Mpp

STAGE = "reading the review"
LABELS = ("atypical", "typical")
CHANGES = ("relabelled", "removed", "added")
"""What a review can do to a figure, besides keeping it, in the order in which it is listed."""


@dataclass(frozen=True)
class Review:
    """A slide's figures as its reviewer left them.

    Attributes:
        figures: A row per figure in the order of the file: `figure_id` (str or None), `x_px0`, `y_px0`
            (float64, slide frame), `label` ("atypical" or "typical").
        notes: What the user should know about the file.
    """

    figures: pd.DataFrame
    notes: tuple[str, ...]


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


def reviewed_figures(
    detections: Detections,
    slide: str,
    *,
    frame: Frame,
    mpp: Mpp,
    bounds: Bounds | None,
    labels: Mapping[str, ReviewLabel] | None = None,
) -> Review:
    """Turn the objects of a reviewed GeoJSON file into figures.

    Areas wider than 50 um are regions, whatever their class. Every other object must have a class of known
    meaning, so that no count includes an object that nobody decided about. Copies of an object count once:
    QuPath does not replace what it imported before.

    Args:
        detections: The file, in px.
        slide: The slide's name, for messages.
        frame: Frame of the file's coordinates.
        mpp: um per level-0 px along x and y.
        bounds: The slide's bounds, whose corner is the origin of the `qupath` frame; None for (0, 0).
        labels: Meanings of further classes, by `class_key`.

    Raises:
        DetectionsError: for an object without a class, of an unknown class or without a place, and for two
            copies of one object that were given different classes; names the object.
    """
    objects = _objects(detections, frame, mpp, bounds, labels or {})
    region = objects["extent_um"] > qupath.LEAST_REGION_UM
    notes = _region_notes(slide, objects.loc[region & (objects["label"] != "none"), "class"])
    objects = objects[~region]
    _check_decided(objects, slide)
    each = _once(objects, slide, _id_keys(objects))
    figures = each[each["label"] != "none"]
    figures = _once(figures, slide, _place_keys(figures))
    copies = int(objects["label"].ne("none").sum()) - len(figures)
    if copies > 0:
        notes += (f"{slide}: {copies} objects of the review are copies of others and are counted once",)
    return Review(figures[["figure_id", "x_px0", "y_px0", "label"]].reset_index(drop=True), notes)


def _objects(
    detections: Detections,
    frame: Frame,
    mpp: Mpp,
    bounds: Bounds | None,
    labels: Mapping[str, ReviewLabel],
) -> pd.DataFrame:
    """Return a row per object: `figure_id`, `x_px0`, `y_px0` (slide frame), `extent_um`, `class`, `label`."""
    table = detections.table
    meanings = {name: label_of_class(name, labels) for name in table["detector_class"].dropna().unique()}
    origin = qupath.frame_origin(frame, bounds)
    classes = table["detector_class"].to_list()
    return pd.DataFrame(
        {
            # UUIDs are the same in upper and lower case
            "figure_id": pd.Series([name and name.lower() for name in table["id"]], dtype=object),
            "x_px0": table["x"] + origin[0],
            "y_px0": table["y"] + origin[1],
            "extent_um": table["extent"] * mpp.mean,
            "class": pd.Series(classes, dtype=object),
            "label": pd.Series([meanings.get(name) for name in classes], dtype=object),
        }
    )


def _region_notes(slide: str, classes: pd.Series[Any]) -> tuple[str, ...]:
    if classes.empty:
        return ()
    names = ", ".join(sorted({"no class" if name is None else f"'{name}'" for name in classes}))
    width = f"over {qupath.LEAST_REGION_UM:g} um wide"
    return (f"{slide}: {len(classes)} areas {width} are taken for regions, not for figures ({names})",)


def _check_decided(objects: pd.DataFrame, slide: str) -> None:
    """Refuse objects without a known class, and figures without a place."""
    unknown = objects["label"].isna()
    if unknown.any():
        first = objects[unknown].iloc[0]
        fault = "has no class" if first["class"] is None else f"is of the unknown class '{first['class']}'"
        others = f", and so are {unknown.sum() - 1} more" if unknown.sum() > 1 else ""
        raise DetectionsError(
            f"{_object_name(first)} {fault}: typical or atypical?{others}",
            subject=slide,
            stage=STAGE,
            remedy="Set the class in QuPath, delete the object, or say what a class means with --label "
            "'NAME=atypical', '=typical' or '=none'",
        )
    placed = np.isfinite(objects["x_px0"].to_numpy()) & np.isfinite(objects["y_px0"].to_numpy())
    lost = (objects["label"] != "none") & ~placed
    if lost.any():
        raise DetectionsError(
            f"{_object_name(objects[lost].iloc[0])} has no geometry that can be read",
            subject=slide,
            stage=STAGE,
            remedy="Delete the object in QuPath, or draw it again",
        )


def _object_name(row: pd.Series[Any]) -> str:
    place = f"at ({row['x_px0']:.2f}, {row['y_px0']:.2f}) px of the slide"
    return f"an object {place}" if row["figure_id"] is None else f"object {row['figure_id']} {place}"


def _id_keys(objects: pd.DataFrame) -> list[Any]:
    """Return keys that copies with the same id have in common."""
    return [row if name is None else name for row, name in enumerate(objects["figure_id"])]


def _place_keys(figures: pd.DataFrame) -> list[Any]:
    """Return keys that copies with new ids have in common: the place, to 0.01 px."""
    return qupath.figure_ids("", figures["x_px0"].to_numpy(), figures["y_px0"].to_numpy())


def _once(objects: pd.DataFrame, slide: str, keys: list[Any]) -> pd.DataFrame:
    """Return the first of each group of copies, which must have the same class."""
    groups = objects.groupby(pd.Series(keys, objects.index, dtype=object), sort=False)["label"]
    differ = groups.transform("nunique") > 1
    if differ.any():
        raise DetectionsError(
            f"{_object_name(objects[differ].iloc[0])} has a copy with a different class",
            subject=slide,
            stage=STAGE,
            remedy="Delete one of the copies in QuPath: it does not replace what was imported before",
        )
    return objects[groups.cumcount() == 0]


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


def drawn_over(table: pd.DataFrame, *, mpp: Mpp, distance_um: float) -> int:
    """Count the added figures that lie on another one of the review, perhaps to correct it.

    Args:
        table: As from `compare`.
        mpp: um per level-0 px along x and y.
        distance_um: Figures that are nearer than this lie on each other.
    """
    remaining = table[table["change"] != "removed"]
    added = remaining["change"].to_numpy(object) == "added"
    if len(remaining) < 2 or not added.any():
        return 0
    centres_um = _xy(remaining) * np.array(mpp)
    apart = cKDTree(centres_um).query(centres_um[added], k=2)[0][:, 1]
    return int((apart <= distance_um).sum())


def compare(figures: pd.DataFrame, review: Review, *, mpp: Mpp, distance_um: float) -> pd.DataFrame:
    """Set the figures of the ensemble and of the reviewer side by side.

    Args:
        figures: FIGURE_COLUMNS without `geometry`; a row without a label is not a figure.
        review: The reviewer's figures.
        mpp: um per level-0 px along x and y.
        distance_um: As for `match_figures`.

    Returns:
        A row per figure of either: the ensemble's in their order, then the added ones. `figure_id`; `change`
        ("kept" or one of CHANGES); `label_machine`, `label_reviewed` (None without a label); `x_px0`, `y_px0`
        (the reviewer's place, the ensemble's for a removed figure; a shift that QuPath's rounding explains is
        none); `matched_by` ("id", "distance" or None); `moved_um` (NaN unless matched); `votes_atypical`,
        `votes_cast` (Int64, missing for an added figure).
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
    added = theirs[~np.isin(np.arange(len(theirs)), match.reviewed)]
    whole = table.reindex(range(len(table) + len(added)))
    for name in ("figure_id", "x_px0", "y_px0"):
        whole.loc[len(table) :, name] = added[name].to_numpy()
    whole.loc[len(table) :, "label_reviewed"] = added["label"].to_numpy(object)
    for name in ("figure_id", "label_machine", "label_reviewed", "matched_by"):
        whole[name] = whole[name].astype(object).where(whole[name].notna(), None)
    whole.insert(1, "change", _changes(whole))
    return whole


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


def _changes(table: pd.DataFrame) -> list[str]:
    return [_change(*labels) for labels in zip(table["label_machine"], table["label_reviewed"], strict=True)]


def _change(machine: str | None, reviewed: str | None) -> str:
    if machine is None:
        return "added"
    if reviewed is None:
        return "removed"
    return "kept" if machine == reviewed else "relabelled"


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
        Numbers of figures by change; `matched`, of which `by_id` and `by_distance`; `moved`;
        `agreed`, the share of the matched figures with the same label, and Cohen's `kappa` (None if
        undefined); `confusion[label of the ensemble][label of the reviewer]` over the matched figures.
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
        "reviewed": sum(theirs is not None for _, _, theirs, *_ in rows),
        **{change: changes[change] for change in ("kept", *CHANGES)},
        "matched": matched,
        "by_id": matched_by["id"],
        "by_distance": matched_by["distance"],
        "moved": sum(moved > 0 for *_, moved in rows),
        "agreed": agreed / matched if matched else None,
        "kappa": cohens_kappa(confusion),
        "confusion": confusion,
    }


_COMPARED = ("change", "label_machine", "label_reviewed", "matched_by", "moved_um")


def cohens_kappa(confusion: Mapping[str, Mapping[str, int]]) -> float | None:
    """Return the agreement beyond chance (Cohen 1960), from counts by first and second rater's label.

    Returns:
        1 for full agreement, 0 for the agreement that the raters' frequencies give by chance; None without
        figures, and if both raters gave the same single label throughout.
    """
    counts = np.array([[confusion[ours][theirs] for theirs in LABELS] for ours in LABELS], dtype=np.int64)
    total = int(counts.sum())
    # Whole numbers detect the undefined case exactly.
    by_chance = int(counts.sum(axis=0) @ counts.sum(axis=1))
    if by_chance == total**2:
        return None
    return float((total * int(np.trace(counts)) - by_chance) / (total**2 - by_chance))
