"""Whose review a file is: of which slide, and of which result of the slide.

QuPath's export keeps nothing of a file but its objects. Their ids, which are made from the slide's digest and
the figure's place, tell the slide; their measurements tell the result.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_mitosis.core import qupath
from wsi_mitosis.core.recount import match_figures
from wsi_mitosis.core.reviews import STAGE
from wsi_mitosis.errors import DetectionsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
    from wsi_mitosis.core.records import SlideRecord

_OURS = 5
"""Version of the UUIDs that this program makes. Those of QuPath's own objects are random, version 4."""
_SAME_P = 1e-5
"""Probabilities that differ by less are the same: they have 6 digits, and QuPath keeps float32."""
_SAMPLE = 50
"""Objects whose ids are made again from their places."""
_EXPORT_AGAIN = (
    "Import the present GeoJSON into QuPath, review it there, and export all objects with measurements"
)


class Shown(NamedTuple):
    """What an export showed to the reviewer.

    Attributes:
        ids: Ids of the figures; None if it showed the present result.
        notes: What the user should know.
    """

    ids: frozenset[str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A review's objects beside the present result of its slide.

    Attributes:
        objects: As from `core.reviews.placed_objects`.
        machine: The ensemble's figures: FIGURE_COLUMNS without `geometry`, with a label each.
        record: The slide's record.
        earlier: The slide's earlier results.
        distance_um: Objects that are nearer than this may be the same.
    """

    objects: pd.DataFrame
    machine: pd.DataFrame
    record: SlideRecord
    earlier: EarlierResults
    distance_um: float

    @property
    def slide(self) -> str:
        """The slide's name."""
        return self.record.name

    def refusal(self, cause: str, remedy: str) -> DetectionsError:
        """Return the error for a review that is not of this slide or of this result."""
        return DetectionsError(cause, subject=self.slide, stage=STAGE, remedy=remedy)


def what_was_shown(evidence: Evidence, slide_of: Callable[[Collection[str]], str | None]) -> Shown:
    """Find out which figures the reviewer saw, and refuse a review of another slide or bundle.

    Args:
        evidence: The review and the present result.
        slide_of: Returns the slide of the folder that most of the ids are of, None if there is none.

    Raises:
        DetectionsError: if most of the review's figures are of another slide, of another bundle, or of a
            result that this folder does not know.
    """
    strange = _check_slide(evidence, slide_of)
    shown = _what_result_showed(evidence)
    return shown._replace(notes=(*strange, *shown.notes))


def _what_result_showed(evidence: Evidence) -> Shown:
    """Find out of which result of the slide a review is, and refuse one of another bundle."""
    number = _result_number(evidence)
    if number == qupath.result_number(evidence.record.key):
        _check_places(evidence, number)
        return Shown()
    if number is None:
        return _without_number(evidence)
    earlier = next((one for one in evidence.earlier.results if one.number == number), None)
    if earlier is None:
        return _of_unknown_result(evidence)
    return _of_earlier_result(evidence, earlier)


def _check_slide(evidence: Evidence, slide_of: Callable[[Collection[str]], str | None]) -> tuple[str, ...]:
    """Refuse a review most of whose figures have ids of another slide; return a note on fewer such ids."""
    objects, digest = evidence.objects, evidence.record.slide.digest
    made = objects[objects["object_id"].map(_is_ours).astype(bool)]
    known = {*evidence.machine["figure_id"], *qupath.hotspot_ids(digest)}
    known.update(name for one in evidence.earlier.results for name in (*one.atypical, *one.typical))
    strange = made[~made["object_id"].isin(known)]
    share = f"{len(strange)} of {len(made)} ids in it"
    if strange.empty:
        return ()
    if 2 * len(strange) <= len(made):
        doubt = "are of none of this slide's figures. Are their objects of another slide?"
        return (f"{evidence.slide}: {share} {doubt}",)
    if (other := slide_of(set(strange["object_id"]))) is not None:
        cause = f"it is a review of another slide, {other}: {share} are of figures there"
        raise evidence.refusal(cause, "Name the file after the slide that it was exported from")
    if _are_of_slide(strange.head(_SAMPLE), digest):
        cause = f"{share} are of another result of this slide, which this folder does not have"
        raise evidence.refusal(cause, _EXPORT_AGAIN)
    cause = (
        f"it is a review of another slide, or of another scan of this one: {share} are of none of its figures"
    )
    raise evidence.refusal(cause, "Name the file after the slide that it was exported from")


def _is_ours(name: str | None) -> bool:
    try:
        return name is not None and uuid.UUID(name).version == _OURS
    except ValueError:
        return False


def _are_of_slide(objects: pd.DataFrame, digest: str) -> bool:
    """Whether most ids are those that this program gives to figures at these places of the slide."""
    ids, places = objects["object_id"].tolist(), objects[["x_px0", "y_px0"]].to_numpy(np.float64)
    found = 0
    for name, place in zip(ids, places, strict=True):
        around = place + _ROUNDED
        found += name in qupath.figure_ids(digest, around[:, 0], around[:, 1])
    return 2 * found > len(objects)


_ROUNDED = np.array([(x, y) for x in (-0.01, 0, 0.01) for y in (-0.01, 0, 0.01)])
"""By how much QuPath's rounding may shift a centre, px."""


def _result_number(evidence: Evidence) -> int | None:
    """The result that most of the figures are of, as their measurements state it; None if they do not."""
    stated = evidence.objects["result"].dropna()
    numbers = Counter(int(number) for number in stated if np.isfinite(number))
    return max(numbers, key=lambda number: (numbers[number], number)) if numbers else None


def _check_places(evidence: Evidence, number: int) -> None:
    """Refuse figures of this result, by their number, most of which are not where it has figures.

    Copies of a figure, which have its probability, count as one with it.
    """
    theirs = evidence.objects["result"] == number
    probabilities = evidence.objects["p_atypical"]
    stated, found = set(probabilities[theirs]), set(probabilities.loc[_pairs(evidence, theirs).rows])
    if 2 * len(stated - found) > len(stated):
        raise evidence.refusal(
            f"its {theirs.sum()} figures are of this result, and do not lie where it has figures",
            "Export the objects from the slide itself, not from a downsampled or cropped image of it",
        )


def _of_earlier_result(evidence: Evidence, earlier: EarlierResult) -> Shown:
    slide, model = evidence.record.slide, evidence.record.model
    if earlier.digest != slide.digest:
        cause = "it was exported before the slide's file was replaced by another one"
        raise evidence.refusal(cause, _EXPORT_AGAIN)
    if earlier.bundle_digest != model.digest:
        cause = (
            f"it was exported from labels of the bundle {earlier.bundle} ({earlier.bundle_digest[:12]}), and "
            f"the results are now of {model.name} ({model.digest[:12]})"
        )
        raise evidence.refusal(cause, _EXPORT_AGAIN)
    labels = dict(zip(evidence.machine["figure_id"], evidence.machine["label"], strict=True))
    if differ := sum(labels.get(name, label) != label for name, label in earlier.labels.items()):
        cause = f"it was exported from an earlier result, which labelled {differ} figures otherwise"
        raise evidence.refusal(cause, _EXPORT_AGAIN)
    shown, notes = frozenset(earlier.labels), []
    if (evidence.objects["result"] == qupath.result_number(evidence.record.key)).any():
        # the import script has kept reviewed objects of the earlier result beside the others
        shown |= labels.keys()
    if unseen := len(labels.keys() - shown):
        notes.append(
            f"{evidence.slide}: exported before {earlier.replaced}, when the slide was classified again: its "
            f"reviewer never saw {unseen} of the figures. They keep the ensemble's label, unless the review "
            "has something at their place"
        )
    if gone := len(shown - labels.keys()):
        notes.append(
            f"{evidence.slide}: figures that its reviewer saw, and that are not in the present result: "
            f"{gone}. Those that the review still has are counted as added"
        )
    return Shown(shown, tuple(notes))


def _of_unknown_result(evidence: Evidence) -> Shown:
    """Accept a result that this folder does not know only if it had the same figures and probabilities."""
    pairs = _pairs(evidence)
    if len(pairs.machine) == len(evidence.machine) and pairs.differ == 0:
        return Shown()
    why = "with other probabilities" if 2 * pairs.differ > pairs.compared else "with other figures or labels"
    raise evidence.refusal(
        f"it was exported from another result, {why}: from another run, another slide, or labels of another "
        f"bundle than {evidence.record.model.name}",
        _EXPORT_AGAIN,
    )


def _without_number(evidence: Evidence) -> Shown:
    """Decide by probabilities, classes and earlier results where no figure states its result."""
    pairs, model = _pairs(evidence), evidence.record.model
    if pairs.compared and 2 * pairs.differ > pairs.compared:
        raise evidence.refusal(
            f"{pairs.differ} of {pairs.compared} probabilities in it are not those of this result: it was "
            f"exported from another run, or from labels of another bundle than {model.name}",
            _EXPORT_AGAIN,
        )
    family = qupath.UNTRAINED_FAMILY if model.trained else qupath.TRAINED_FAMILY
    foreign = sum(str(name).startswith(f"{family}{qupath.CLASS_SEPARATOR}") for name in pairs.classes)
    if 2 * foreign > len(pairs.classes):
        raise evidence.refusal(
            f"{foreign} of {len(pairs.classes)} figures in it have the class '{family}', which those of the "
            f"bundle {model.name} never have: it was exported from labels of another bundle",
            _EXPORT_AGAIN,
        )
    _check_not_earlier(evidence, pairs)
    return Shown()


def _check_not_earlier(evidence: Evidence, pairs: _Pairs) -> None:
    """Refuse a review without measurements that may be of an earlier result."""
    machine = evidence.machine
    labels = dict(zip(machine["figure_id"], machine["label"], strict=True))
    found = set(machine["figure_id"].iloc[pairs.machine])
    missing = labels.keys() - found
    for one in evidence.earlier.results:
        changed = [name for name in found & one.labels.keys() if one.labels[name] != labels[name]]
        if changed or missing - one.labels.keys():
            raise evidence.refusal(
                f"it does not say whether it was exported before {one.replaced}, when the slide was "
                "classified again, and its figures differ from the present ones",
                _EXPORT_AGAIN,
            )


class _Pairs(NamedTuple):
    """The ensemble's figures that are in the review.

    Attributes:
        machine: Rows of the ensemble's figures, (k,).
        rows: Labels of the rows of their objects, (k,).
        classes: Classes of their objects, (k,).
        compared: How many of them state a probability.
        differ: How many of these state another one than the ensemble's.
    """

    machine: NDArray[np.intp]
    rows: pd.Index
    classes: list[Any]
    compared: int
    differ: int


def _pairs(evidence: Evidence, among: pd.Series[bool] | None = None) -> _Pairs:
    """Pair the ensemble's figures with the review's objects of a figure's size, or with some of them."""
    objects, machine = evidence.objects, evidence.machine
    small = objects["extent_um"].le(qupath.LEAST_REGION_UM) | objects["object_id"].isin(machine["figure_id"])
    objects = objects[small if among is None else small & among]
    ids = objects["object_id"].to_numpy(object).copy()
    ids[objects["object_id"].duplicated().to_numpy()] = None
    scale = np.array(evidence.record.scale.mpp)
    match = match_figures(
        machine["figure_id"].to_numpy(object),
        machine[["x_px0", "y_px0"]].to_numpy(np.float64) * scale,
        ids,
        objects[["x_px0", "y_px0"]].to_numpy(np.float64) * scale,
        evidence.distance_um,
    )
    theirs = objects["p_atypical"].to_numpy(np.float64)[match.reviewed]
    apart = np.abs(theirs - machine["p_atypical"].to_numpy(np.float64)[match.machine])
    stated = np.isfinite(theirs)
    return _Pairs(
        match.machine,
        objects.index[match.reviewed],
        objects["class"].to_numpy(object)[match.reviewed].tolist(),
        int(stated.sum()),
        int((apart[stated] > _SAME_P).sum()),
    )


def check_not_transformed(evidence: Evidence, hotspots: pd.DataFrame) -> tuple[str, ...]:
    """Refuse a review all of whose figures were moved by one factor or one shift.

    Args:
        evidence: The review and the present result.
        hotspots: The present hotspots: `figure_id`, `x_px0`, `y_px0` (centre). They help where a slide has a
            single figure: they are locked in QuPath.

    Returns:
        A note if all were moved by one shift that is shorter than the distance of figures that are the same.

    Raises:
        DetectionsError: if it was. It names the factor and the shift.
    """
    here, there = _same_ids(evidence, evidence.machine)
    if len(here) == 1:
        more_here, more_there = _same_ids(evidence, hotspots)
        here, there = np.concatenate([here, more_here]), np.concatenate([there, more_there])
    if len(here) < 2:
        return ()
    shift = np.median(there - here, axis=0)
    is_shift = _fits(there, here + shift) and np.abs(shift).max() > _LOOSE_PX
    away_um = np.hypot(*((there - here) * evidence.record.scale.mpp).T)
    if np.quantile(away_um, _FEW) <= evidence.distance_um:
        beside = f"all figures lie ({shift[0]:.1f}, {shift[1]:.1f}) px beside where they were exported"
        return (f"{evidence.slide}: {beside}",) if is_shift else ()
    if is_shift:
        cause = f"they were all moved by ({shift[0]:.1f}, {shift[1]:.1f}) px"
        raise _transformed(evidence, len(here), cause, "cropped")
    factor, rest = _scaling(here, there)
    if _fits(there, here * factor + rest):
        moved = "" if np.abs(rest).max() < 1 else f" and moved by ({rest[0]:.1f}, {rest[1]:.1f}) px"
        cause = f"their coordinates were all multiplied by {factor:.4g}{moved}"
        raise _transformed(evidence, len(here), cause, "downsampled")
    return ()


_FEW = 0.1
"""Share of the objects that a reviewer may have moved on purpose besides."""
_LOOSE_PX = 1.0
"""Rounding of the coordinates of an image of another scale, px."""


def _same_ids(evidence: Evidence, ours: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of our objects and of the review's objects of the same ids, (k, 2) each."""
    theirs = evidence.objects.drop_duplicates("object_id", keep=False).set_index("object_id")
    both = ours[ours["figure_id"].isin(theirs.index)]
    columns = ["x_px0", "y_px0"]
    return both[columns].to_numpy(np.float64), theirs.loc[both["figure_id"], columns].to_numpy(np.float64)


def _fits(there: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """Whether nearly all places, (k, 2), are the expected ones."""
    return bool(np.quantile(np.hypot(*(there - expected).T), 1 - _FEW) <= _LOOSE_PX)


def _scaling(here: NDArray[np.float64], there: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the factor and the shift, (2,), that lead from `here` to `there`; a few moves do not matter."""
    # From pairs, because one place that was moved changes only the pairs that it belongs to. Distant ones are
    # more exact: the two of a pair are half of all places apart in their order.
    order = np.argsort(here.sum(axis=1), kind="stable")
    mine, theirs = (each[order] - np.roll(each[order], len(order) // 2, axis=0) for each in (here, there))
    apart = np.abs(mine).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.abs(theirs).sum(axis=1) / apart
    factor = float(np.median(factors[apart > 0])) if (apart > 0).any() else np.nan
    return factor, np.median(there - here * factor, axis=0)


def _transformed(evidence: Evidence, number: int, cause: str, kind: str) -> DetectionsError:
    return evidence.refusal(
        f"{number} of its objects have ids of this slide, and {cause}: it was exported from a {kind} image",
        "Export the objects from the slide itself, at full resolution",
    )
