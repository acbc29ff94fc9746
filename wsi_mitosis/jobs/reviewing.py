"""The reviews of one slide: whose they are, what they change, and the numbers after them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsi_mitosis.core.assessments import AssessedSlide, Assessment, assess_places
from wsi_mitosis.core.classes import label_of_class
from wsi_mitosis.core.consensus import SlideReview, consensus_of, review_in_qupath, review_on_page
from wsi_mitosis.core.qupath import (
    LEAST_REGION_UM,
    base_class,
    hotspot_id,
    hotspot_ids,
    is_hotspot_class,
    other_frame,
)
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideIdentity, SlideRecord, SlideScale
from wsi_mitosis.core.recount import compare, counted, near_share
from wsi_mitosis.core.regions import check_on_slide, cut_off_note
from wsi_mitosis.core.review_identity import Evidence, check_not_transformed, what_was_shown
from wsi_mitosis.core.reviews import STAGE as READING
from wsi_mitosis.core.reviews import described_areas, placed_objects, reviewed_figures
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.core.verdicts import verdicts_on_slide
from wsi_mitosis.errors import DetectionsError, SlideError, listed, several
from wsi_mitosis.io.detections.folder import only_file
from wsi_mitosis.io.detections.regions import RegionFile, region_note, regions_of
from wsi_mitosis.io.detections.reviews import read_review
from wsi_mitosis.io.results.geojson import read_provenance
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.tables import FIGURE_COLUMNS, MATCH_UM
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from wsi_mitosis.core.recount import Comparison
    from wsi_mitosis.core.regions import Region, RegionCount
    from wsi_mitosis.core.review_identity import Shown
    from wsi_mitosis.core.reviews import Review
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.detections.review_files import VerdictFile
    from wsi_mitosis.io.detections.reviews import ReviewFile
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Frame

STAGE = "recounting"
_SAME_AREA = 0.01
"""Areas are the same if they differ by less than this share: QuPath rounds coordinates to 0.01 px."""


@dataclass(frozen=True)
class RecountOptions:
    """How reviews are read.

    Attributes:
        distance_um: A reviewed object this near to a figure is that figure, unless its id says otherwise.
        frame: Frame of the reviewed coordinates; None for the frame of the slide's GeoJSON.
        labels: Meanings of further classes, by `core.classes.class_key`.
        regions_from_review: Count in the regions that were drawn in the review.
    """

    distance_um: float = MATCH_UM
    frame: Frame | None = None
    labels: Mapping[str, ReviewLabel] = field(default_factory=dict)
    regions_from_review: bool = False


@dataclass(frozen=True)
class UsedFile:
    """A file of a review.

    Attributes:
        reviewer: Name of the reviewer.
        name: Its path in the folder of exports, or the name of a review file.
        sha256: Its digest.
        frame: Frame that its coordinates were taken in.
    """

    reviewer: str
    name: str
    sha256: str
    frame: Frame


@dataclass(frozen=True)
class OneReview:
    """One reviewer's review of one slide.

    Attributes:
        review: What the reviewer said.
        files: Where it was said.
        regions: The regions to count in, if the reviewer drew or kept some; None for the whole slide.
        notes: What the user should know.
    """

    review: SlideReview
    files: tuple[UsedFile, ...]
    regions: tuple[Region, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SlideRecount:
    """One reviewed slide.

    Attributes:
        record: The slide's record, with the ensemble's counts.
        table: As `core.recount.Comparison.table`, after all reviewers.
        consensus: CONSENSUS_COLUMNS without `slide`.
        verdicts: VERDICT_COLUMNS without `slide`.
        state: The slide's state with the reviewed counts, hotspot and regions.
        machine_regions: The ensemble's counts in the same regions.
        files: The reviewed files.
        assessment_key: Key of the assessment that was reviewed; empty for a slide without detections.
        notes: What the user should know.
    """

    record: SlideRecord
    table: pd.DataFrame
    consensus: pd.DataFrame
    verdicts: pd.DataFrame
    state: SlideState
    machine_regions: tuple[RegionCount, ...]
    files: tuple[UsedFile, ...]
    assessment_key: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class UnreviewedSlide:
    """A slide before its review.

    Attributes:
        state: Its state.
        record: Its record; one without figures for a slide without detections.
        figures: FIGURE_COLUMNS without `geometry`, rows with a label.
        assessed: Its assessment; an empty one without key for a slide without detections.
        frame: Frame of its GeoJSON.
    """

    state: SlideState
    record: SlideRecord
    figures: pd.DataFrame
    assessed: AssessedSlide
    frame: Frame

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """Its regions; None for the whole slide."""
        return self.assessed.assessment.regions

    def hotspots(self) -> pd.DataFrame:
        """Return id and centre of each hotspot: `figure_id`, and `x_px0`, `y_px0` in the slide frame."""
        spots = self.assessed.assessment.hotspots
        return pd.DataFrame(
            {
                "figure_id": [hotspot_id(self.record.slide.digest, rank + 1) for rank in range(len(spots))],
                "x_px0": [spot.x_px0 + spot.width_px0 / 2 for spot in spots],
                "y_px0": [spot.y_px0 + spot.height_px0 / 2 for spot in spots],
            }
        )


def recount_slide(
    folder: ResultFolder, state: SlideState, paths: Sequence[Path], options: RecountOptions
) -> SlideRecount:
    """Recount one slide as its only reviewer left it in QuPath.

    Args:
        folder: The output folder.
        state: The slide's state.
        paths: The files that are named after the slide.
        options: How the review is read.

    Raises:
        InputError: as `review_of_export`.
    """
    slide = before_review(folder, state)
    return after_reviews(slide, [review_of_export(folder, slide, "reviewer", paths, options)], options)


def review_of_export(
    folder: ResultFolder,
    slide: UnreviewedSlide,
    reviewer: str,
    paths: Sequence[Path],
    options: RecountOptions,
    root: Path | None = None,
) -> OneReview:
    """Read a review that was exported from QuPath.

    Args:
        folder: The output folder.
        slide: The slide before it.
        reviewer: Name of the reviewer.
        paths: The files that are named after the slide.
        options: How the review is read.
        root: The folder of exports that the name of a file is relative to; None for the file's own.

    Raises:
        InputError: if the review cannot be used: it is of another slide or result, it contradicts itself, or
            an object does not say what it is.
    """
    path = only_file(paths, slide.state.name, READING)
    file, record = read_review(path), slide.record
    frame = options.frame or slide.frame
    _check_whole(record.name, file, options)
    evidence = _evidence(folder, slide, file, frame, options)
    beside = check_not_transformed(evidence, slide.hotspots())
    shown = what_was_shown(evidence, lambda ids: _slide_of(folder, ids, record.name))
    review = reviewed_figures(evidence.objects, slide.figures, record.name, labels=options.labels)
    _check_inside(record, review)
    compared = compare(
        slide.figures,
        review,
        slide=record.name,
        mpp=record.scale.mpp,
        distance_um=options.distance_um,
        seen=shown.ids,
    )
    regions, notes = _regions(slide, file, review, frame, options)
    name = path.relative_to(root or path.parent).as_posix()
    return OneReview(
        review=review_in_qupath(reviewer, compared.table, record.slide.digest),
        files=(UsedFile(reviewer, name, file.sha256, frame),),
        regions=regions,
        notes=(
            *_unused(record.name, file),
            *shown.notes,
            *beside,
            *review.notes,
            *compared.notes,
            *_doubts(slide, file, evidence.objects, compared),
            *_other_hotspots(slide, evidence.objects, shown),
            *notes,
        ),
    )


def review_of_files(
    slide: UnreviewedSlide, reviewer: str, files: Sequence[VerdictFile], options: RecountOptions
) -> OneReview:
    """Read a review that was saved from a page.

    Args:
        slide: The slide before it.
        reviewer: Name of the reviewer.
        files: The reviewer's files with verdicts on the slide.
        options: How the review is read.

    Raises:
        InputError: if the review cannot be used: it is of another slide, or it contradicts itself.
    """
    named = [(file.path.name, file.content) for file in files]
    found = verdicts_on_slide(named, slide.record, slide.figures, options.distance_um)
    return OneReview(
        review=review_on_page(reviewer, slide.figures, found.given),
        files=tuple(UsedFile(reviewer, file.path.name, file.sha256, "slide") for file in files),
        regions=slide.regions,
        notes=found.notes,
    )


def after_reviews(
    slide: UnreviewedSlide, reviews: Sequence[OneReview], options: RecountOptions
) -> SlideRecount:
    """Recount one slide as its reviewers left it, by their consensus.

    Args:
        slide: The slide before the reviews.
        reviews: One per reviewer, at least one. At most one of them has other regions than the slide.
        options: How reviews are read.
    """
    record = slide.record
    together = consensus_of(
        [one.review for one in reviews],
        slide.figures,
        mpp=record.scale.mpp,
        distance_um=options.distance_um,
        digest=record.slide.digest,
    )
    regions = next((one.regions for one in reviews if one.review.adds), slide.regions)
    reviewed = _reviewed_state(slide, together.table, regions)
    reason = () if reviewed.no_hotspot is None else (f"{record.name}: no hotspot: {reviewed.no_hotspot}",)
    return SlideRecount(
        record=record,
        table=together.table,
        consensus=together.figures,
        verdicts=together.verdicts,
        state=reviewed,
        machine_regions=_assessed(slide, slide.figures, "label", regions).region_counts,
        files=tuple(file for one in reviews for file in one.files),
        assessment_key=slide.assessed.key,
        notes=(*_notes_of(reviews, record.name), *together.notes(record.name), *reason),
    )


def _notes_of(reviews: Sequence[OneReview], slide: str) -> Iterator[str]:
    """Yield the notes of all reviews; of several reviewers, with the name of the one that they are about."""
    for one in reviews:
        for note in one.notes:
            yield note if len(reviews) == 1 else named_after(one.review.reviewer, slide, note)


def named_after(reviewer: str, slide: str, text: str) -> str:
    """Return a note or an error on a slide with the name of a reviewer."""
    rest = text.removeprefix(f"{slide}: ")
    return f"{slide}: {reviewer}: {rest}" if rest != text else f"{reviewer}: {text}"


# The slide before its review


def before_review(folder: ResultFolder, state: SlideState) -> UnreviewedSlide:
    """Read a slide of the output folder.

    Raises:
        SlideError: if `classify` has not left it done, or without detections.
    """
    if state.status == "no_detections":
        return _without_detections(folder, state)
    if state.status != "done" or state.record is None:
        cause = f"its status after `classify` is {state.status}"
    elif state.assessed is None:
        cause = "its assessment is missing or damaged"
    else:
        figures = folder.figures(state.name)
        classified = figures[figures["label"].notna()].reset_index(drop=True)
        return UnreviewedSlide(
            state, state.record, classified, state.assessed, folder.drawn_frame(state.name)
        )
    raise SlideError(cause, subject=state.name, stage=STAGE, remedy="Run `classify` again, then recount")


def _without_detections(folder: ResultFolder, state: SlideState) -> UnreviewedSlide:
    """Open a slide that `classify` had no detections for: its review can only add figures."""
    history, run = folder.histories().get(state.name), folder.run()
    if history is None or not history.path:
        cause = "it has no detections, and the folder does not say where it is"
        raise SlideError(cause, subject=state.name, stage=STAGE, remedy="Run `classify` again, then recount")
    parameters = run.get("parameters", {})
    path, output = Path(history.path), parameters.get("output", {})
    with open_slide(path, given_mpp=parameters.get("result", {}).get("mpp")) as slide:
        scale = SlideScale(
            size_px0=slide.size_px0, mpp=slide.mpp, mpp_source=slide.mpp_source, bounds=slide.bounds
        )
        identity = SlideIdentity(name=state.name, path=str(path), digest=slide.identity)
    model = ModelIdentity(
        name=str(run.get("bundle")), digest=str(run.get("bundle_digest")), trained=run.get("trained") is True
    )
    record = SlideRecord(
        slide=identity,
        scale=scale,
        model=model,
        counts=Counts(candidates=0),
        cost=Cost(seconds=0.0),
        key="",
        program=__version__,
    )
    names = AssessmentOptions.model_fields
    options = AssessmentOptions.parse({k: v for k, v in output.items() if k in names}, "run.json")
    assessed = AssessedSlide(use=model.use, key="", record=record, options=options, assessment=Assessment())
    figures = pd.DataFrame({name: pd.Series(dtype=object) for name in FIGURE_COLUMNS if name != "geometry"})
    frame: Frame = "slide" if output.get("geojson_frame") == "slide" else "qupath"
    return UnreviewedSlide(state, record, figures, assessed, frame)


# Whose review it is


def _evidence(
    folder: ResultFolder, slide: UnreviewedSlide, file: ReviewFile, frame: Frame, options: RecountOptions
) -> Evidence:
    scale = slide.record.scale

    def placed(frame: Frame) -> pd.DataFrame:
        return placed_objects(file.objects, frame=frame, mpp=scale.mpp, bounds=scale.bounds)

    if options.frame is None and scale.bounds is not None and scale.bounds[:2] != (0, 0):
        other = other_frame(frame)
        _check_frame(slide, placed(frame), placed(other), other, options.distance_um)
    earlier = folder.earlier_results(slide.record.name)
    return Evidence(placed(frame), slide.figures, slide.record, earlier, options.distance_um)


def _check_frame(
    slide: UnreviewedSlide, taken: pd.DataFrame, instead: pd.DataFrame, other: Frame, distance_um: float
) -> None:
    """Refuse coordinates that fit the figures better in the other frame."""
    scale = np.array(slide.record.scale.mpp)
    small = taken["extent_um"] <= LEAST_REGION_UM
    machine, here, there = (
        table[["x_px0", "y_px0"]].to_numpy(np.float64) * scale
        for table in (slide.figures, taken[small], instead[small])
    )
    if near_share(machine, there, distance_um) > near_share(machine, here, distance_um):
        raise DetectionsError(
            f"its coordinates fit the figures in the frame '{other}', not in that of the slide's GeoJSON",
            subject=slide.record.name,
            stage=READING,
            remedy=f"Give --frame {other}; the two differ by the corner of the slide's bounds",
        )


def _slide_of(folder: ResultFolder, ids: Collection[str], slide: str) -> str | None:
    """Return the other slide of the folder that more than half of the ids are of; None if there is none."""
    for name, record in folder.records().items():
        if name == slide:
            continue
        known = {*folder.figures(name)["figure_id"].dropna()} | hotspot_ids(record.slide.digest)
        if 2 * len(known.intersection(ids)) > len(ids):
            return name
    return None


def _check_whole(slide: str, file: ReviewFile, options: RecountOptions) -> None:
    """Refuse figures, and regions that are to be counted in, whose geometry cannot be used."""
    lost = [
        number
        for number, name in zip(file.broken, file.broken_classes, strict=True)
        if options.regions_from_review
        or (name is not None and label_of_class(name, options.labels) in {"atypical", "typical"})
    ]
    if lost:
        raise DetectionsError(
            f"a part of the review cannot be used: {file.unused}",
            subject=slide,
            stage=READING,
            remedy="Delete these objects in QuPath, or draw them again",
        )


def _check_inside(record: SlideRecord, review: Review) -> None:
    """Refuse figures that do not lie on the slide."""
    centres = review.figures[["x_px0", "y_px0"]].to_numpy(np.float64)
    outside = ((centres < 0) | (centres >= np.array(record.scale.size_px0))).any(axis=1)
    if outside.any():
        x, y = centres[outside][0]
        raise DetectionsError(
            f"{outside.sum()} of its figures lie outside the slide, the first at ({x:.2f}, {y:.2f}) px",
            subject=record.name,
            stage=READING,
            remedy="Check that the file is this slide's, or name its frame with --frame",
        )


# The numbers after it


def _reviewed_state(
    slide: UnreviewedSlide, table: pd.DataFrame, regions: tuple[Region, ...] | None
) -> SlideState:
    """Return the slide's state with the counts, the hotspot and the regions of the reviewed figures."""
    figures = table[table["label_reviewed"].notna()]
    assessment = _assessed(slide, figures, "label_reviewed", regions)
    record = slide.record.model_copy(update={"counts": counted(table, slide.record.counts)})
    assessed = slide.assessed.model_copy(update={"assessment": assessment})
    return replace(slide.state, status="done", record=record, assessed=assessed, error="")


def _assessed(
    slide: UnreviewedSlide, figures: pd.DataFrame, label: str, regions: tuple[Region, ...] | None
) -> Assessment:
    return assess_places(
        figures["x_px0"].to_numpy(np.float64),
        figures["y_px0"].to_numpy(np.float64),
        (figures[label] == "atypical").to_numpy(bool),
        slide.record.scale,
        slide.assessed.options.model_copy(update={"hotspots": 1}),
        regions,
    )


# Areas that were drawn


def _regions(
    slide: UnreviewedSlide, file: ReviewFile, review: Review, frame: Frame, options: RecountOptions
) -> tuple[tuple[Region, ...] | None, list[str]]:
    """Return the regions to count in, and notes about those that were drawn in the review.

    Regions that count take the place of the run's. Those that only cut out are cut out of the run's, or of
    the whole slide.
    """
    before, name, scale = slide.regions, slide.record.name, slide.record.scale
    if not review.areas:
        return before, []
    found = regions_of(file.features, file.path, [number - 1 for number in review.areas])
    origin = scale.origin_px0(frame)
    drawn = RegionFile(file.path, file.sha256, found, frame).placed(origin)
    new = [region for region in drawn if not any(_is_same(region, one) for one in before or ())]
    gone = [one for one in before or () if not any(_is_same(region, one) for region in drawn)]
    if not new and (not gone or len(gone) == len(before or ())):
        return before, []
    if not options.regions_from_review:
        return before, [f"{name}: {note}" for note in _without_effect(new, gone)]
    check_on_slide(new, size_px0=scale.size_px0, bounds=scale.bounds, frame=frame, name=name)
    counts = any(not region.excludes for region in drawn)
    regions = drawn if counts else (*(before or ()), *new)
    note = region_note([RegionFile(file.path, file.sha256, drawn if counts else tuple(new))])
    return regions, [
        f"{name}: drawn in the review: {note.removeprefix('regions: ')}",
        *filter(None, [cut_off_note(new, scale.size_px0, name)]),
    ]


def _without_effect(new: Sequence[Region], gone: Sequence[Region]) -> Iterator[str]:
    """Yield notes about changes of regions that nobody asked for."""
    if new:
        classes = described_areas([region.class_name or None for region in new])
        yield (
            f"what was drawn in the review has no effect ({several(len(new), 'area')}: {classes}). Pass "
            "--regions-from-review to count in it, or to cut it out"
        )
    if gone:
        names = listed(region.name for region in gone)
        yield (
            f"regions of the run that are not in the review, or were changed: {names}. They count as before; "
            "--regions-from-review takes those of the review"
        )


def _is_same(one: Region, other: Region) -> bool:
    """Whether two regions mean the same area."""
    if one.excludes != other.excludes:
        return False
    both = one.geometry.union(other.geometry).area
    return bool(one.geometry.symmetric_difference(other.geometry).area <= _SAME_AREA * both)


# Doubts


def _unused(slide: str, file: ReviewFile) -> list[str]:
    return [f"{slide}: not used of the review: {file.unused}"] if file.unused else []


def _doubts(
    slide: UnreviewedSlide, file: ReviewFile, objects: pd.DataFrame, compared: Comparison
) -> Iterator[str]:
    """Yield warnings about what looks like a mistake and may not be one."""
    name, table = slide.record.name, compared.table
    changes = set(table["change"])
    if changes == {"kept"} and read_provenance(file.path) is not None:  # QuPath's export loses the provenance
        yield f"{name}: nothing was changed, and the file is not from QuPath: is it the reviewed one?"
    if "removed" in changes:
        yield from _doubts_on_removed(slide, objects, table)
    if far := int((table["moved_um"] > LEAST_REGION_UM).sum()):
        yield f"{name}: figures moved by more than {LEAST_REGION_UM:g} um, as their ids say: {far}"


def _doubts_on_removed(slide: UnreviewedSlide, objects: pd.DataFrame, table: pd.DataFrame) -> Iterator[str]:
    name, removed = slide.record.name, int((table["change"] == "removed").sum())
    hotspots = set(slide.hotspots()["figure_id"])
    if table["label_reviewed"].isna().all():
        yield f"{name}: the review has no figure; were all objects exported, not only some?"
    elif table["matched_by"].isna().all():
        yield f"{name}: no figure of the review is one of the ensemble's: is the file this slide's?"
    elif hotspots and not hotspots & set(objects["object_id"]):
        yield (
            f"{name}: {several(removed, 'figure')} and the hotspot are not in the review. Were all objects "
            "exported, not only selected ones?"
        )


def _other_hotspots(slide: UnreviewedSlide, objects: pd.DataFrame, shown: Shown) -> list[str]:
    """A note about hotspots in the review that this program did not draw there."""
    drawn = objects[objects["class"].map(lambda name: is_hotspot_class(base_class(str(name)))).astype(bool)]
    if shown.ids is not None:  # those of an earlier result were elsewhere
        drawn = drawn[~drawn["object_id"].isin(set(slide.hotspots()["figure_id"]))]
    places = slide.hotspots()[["x_px0", "y_px0"]].to_numpy(np.float64)
    there = drawn[["x_px0", "y_px0"]].to_numpy(np.float64)
    others = sum(not (np.abs(places - place) <= 1).all(axis=1).any() for place in there)
    if not others:
        return []
    return [
        f"{slide.record.name}: hotspots that this program did not draw there have no effect: {others}. The "
        "hotspot is found again among the reviewed figures"
    ]
