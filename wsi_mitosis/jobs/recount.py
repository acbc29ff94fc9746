"""Recount slides after a review in QuPath: the ensemble's files stay, reviewed counts are written beside."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.assessments import assess_places
from wsi_mitosis.core.qupath import figure_ids, other_frame
from wsi_mitosis.core.recount import (
    CHANGES,
    Review,
    agreement_of,
    compare,
    counted,
    drawn_over,
    near_share,
    reviewed_figures,
)
from wsi_mitosis.core.states import lost_results
from wsi_mitosis.errors import DetectionsError, InputError, SlideError, WsiMitosisError
from wsi_mitosis.io.detections.folder import only_file
from wsi_mitosis.io.detections.reviews import find_reviews, read_review, strangers
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.geojson import read_provenance
from wsi_mitosis.io.results.recounts import FOLDER, REGION_COUNTS, write_recount
from wsi_mitosis.tables import CHANGE_COLUMNS, MATCH_UM, SlideSource
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from wsi_mitosis.core.assessments import AssessedSlide
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Frame

STAGE = "recounting"
NOT_BLIND = (
    "The reviewer saw the ensemble's labels: this is not the agreement of two who decided independently."
)
UNTRAINED = "The bundle is UNTRAINED: the ensemble's labels, and so this agreement, mean nothing."


@dataclass(frozen=True)
class RecountOptions:
    """How reviews are read.

    Attributes:
        distance_um: A reviewed object this near to a figure is that figure, unless its id says otherwise.
        frame: Frame of the reviewed coordinates; None for the frame of the slide's GeoJSON.
        labels: Meanings of further classes, by `core.recount.class_key`.
    """

    distance_um: float = MATCH_UM
    frame: Frame | None = None
    labels: Mapping[str, ReviewLabel] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideRecount:
    """One reviewed slide.

    Attributes:
        record: The slide's record, with the ensemble's counts.
        table: As from `core.recount.compare`.
        state: The slide's state with the reviewed counts, hotspot and regions.
        path: The reviewed file.
        frame: Frame that its coordinates were taken in.
        notes: What the user should know.
    """

    record: SlideRecord
    table: pd.DataFrame
    state: SlideState
    path: Path
    frame: Frame
    notes: tuple[str, ...]


@dataclass
class RecountResult:
    """The result of a recount.

    Attributes:
        folder: Where it was written.
        rows: The rows of `summary.csv`.
        changes: The rows of `changes.csv`.
        regions: The rows of `regions.csv`; empty if no slide has regions.
        agreement: `agreement.json`.
        errors: One line for each slide whose review cannot be used.
        details: Tracebacks of errors that no input explains, by slide.
        warnings: All warnings.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    agreement: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 if every review was counted, 1 if some could not be used."""
        return int(bool(self.errors))


def recount(
    results: Path,
    reviewed: Path,
    *,
    distance_um: float = MATCH_UM,
    frame: Frame | None = None,
    labels: Mapping[str, ReviewLabel] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> RecountResult:
    """Recount the slides of a folder of results as a reviewer left them.

    Only the folder's `reviewed/` is written. A slide without a reviewed file keeps the ensemble's counts, and
    its row says so. A slide whose review cannot be used fails alone.

    Args:
        results: A folder that `classify` wrote.
        reviewed: A folder with GeoJSON from QuPath, named after the slides.
        distance_um: As for `RecountOptions`.
        frame: Likewise.
        labels: Likewise.
        warn: Takes what the user should know.

    Raises:
        InputError: if nothing can be started.
    """
    options = RecountOptions(distance_um, frame, labels or {})
    with open_results(results, STAGE) as folder:
        states = folder.states()
        records = {name: record for name, record in folder.records().items() if name in states}
        if not records:
            raise InputError(
                "no slide of this folder is done", subject=results, stage=STAGE, remedy="Run `classify` first"
            )
        result = RecountResult(folder.folder / FOLDER)
        reviews = find_reviews(reviewed, [_source(record) for record in records.values()])
        done = dict(_recounted(folder, states, records, reviews, options, result))
        strange = strangers(reviewed, reviews)
        unknown = [f"{name}: fits no slide of {results}, and is not counted" for name in strange]
        result.warnings = [
            *lost_results(folder.earlier_states().values(), states),
            *unknown,
            *(note for name in done for note in done[name].notes),
        ]
        for warning in result.warnings:
            warn(warning)
        _write(result, states, done, reviewed, options)
    return result


def _source(record: SlideRecord) -> SlideSource:
    return SlideSource(Path(record.slide.path), record.name)


def _recounted(
    folder: ResultFolder,
    states: Mapping[str, SlideState],
    records: Mapping[str, SlideRecord],
    reviews: FoundFiles,
    options: RecountOptions,
    result: RecountResult,
) -> Iterator[tuple[str, SlideRecount]]:
    """Recount each reviewed slide; the failure of a slide is its own and goes to the result."""
    for source, refusal in reviews.refused.items():
        result.errors[source.relative] = str(refusal)
    for source, paths in reviews.of_slide.items():
        if not paths:
            continue
        name = source.relative
        try:
            yield name, _recount_slide(folder, states[name], records[name], paths, options)
        except WsiMitosisError as failure:
            result.errors[name] = str(failure)
        except Exception as failure:  # noqa: BLE001 - it fails this slide alone, and the traceback is kept
            error = f"{name}: {STAGE}: unexpected {type(failure).__name__}: {failure}"
            result.errors[name] = f"{error}. -v shows where"
            result.details[name] = traceback.format_exc()


def _recount_slide(
    folder: ResultFolder,
    state: SlideState,
    record: SlideRecord,
    paths: Sequence[Path],
    options: RecountOptions,
) -> SlideRecount:
    path = only_file(paths, record.name, STAGE)
    assessed = _checked(state)
    figures = folder.figures(record.name)
    frame = options.frame or folder.drawn_frame(record.name)
    review = _review(record, path, frame, figures, options)
    table = compare(figures, review, mpp=record.scale.mpp, distance_um=options.distance_um)
    reviewed = _reviewed_state(state, record, assessed, table)
    reason = () if reviewed.no_hotspot is None else (f"{record.name}: no hotspot: {reviewed.no_hotspot}",)
    notes = (*review.notes, *_doubts(record, path, table, options.distance_um), *reason)
    return SlideRecount(record, table, reviewed, path, frame, notes)


def _checked(state: SlideState) -> AssessedSlide:
    """Return the assessment of a done slide.

    Raises:
        SlideError: if the slide is not done, or has no valid assessment.
    """
    if state.status != "done":
        cause = f"its status after `classify` is {state.status}"
    elif state.assessed is None:
        cause = "its assessment is missing or damaged"
    else:
        return state.assessed
    raise SlideError(cause, subject=state.name, stage=STAGE, remedy="Run `classify` again, then recount")


def _reviewed_state(
    state: SlideState, record: SlideRecord, assessed: AssessedSlide, table: pd.DataFrame
) -> SlideState:
    """Return the slide's state with the counts, the hotspot and the regions of the reviewed figures."""
    figures = table[table["label_reviewed"].notna()]
    assessment = assess_places(
        figures["x_px0"].to_numpy(np.float64),
        figures["y_px0"].to_numpy(np.float64),
        (figures["label_reviewed"] == "atypical").to_numpy(bool),
        record.scale,
        assessed.options.model_copy(update={"hotspots": 1}),
        assessed.assessment.regions,
    )
    return replace(
        state,
        record=record.model_copy(update={"counts": counted(table, record.counts)}),
        assessed=assessed.model_copy(update={"assessment": assessment}),
    )


def _review(
    record: SlideRecord, path: Path, frame: Frame, figures: pd.DataFrame, options: RecountOptions
) -> Review:
    detections, scale = read_review(path), record.scale

    def in_frame(frame: Frame) -> Review:
        return reviewed_figures(
            detections,
            record.name,
            frame=frame,
            mpp=scale.mpp,
            bounds=scale.bounds,
            labels=options.labels,
        )

    review = in_frame(frame)
    if options.frame is None and scale.bounds is not None and scale.bounds[:2] != (0, 0):
        other = other_frame(frame)
        _check_frame(record, figures, review, in_frame(other), other, options.distance_um)
    _check_inside(record, review)
    return review


def _doubts(record: SlideRecord, path: Path, table: pd.DataFrame, distance_um: float) -> Iterator[str]:
    """Yield warnings about what looks like a mistake and may not be one."""
    name, changes = record.name, set(table["change"])
    if changes == {"kept"} and read_provenance(path) is not None:  # QuPath's export loses the provenance
        yield f"{name}: nothing was changed, and the file is not from QuPath: is it the reviewed one?"
    if "removed" in changes and table["label_reviewed"].isna().all():
        yield f"{name}: the review has no figure; were all objects exported, not only some?"
    elif "removed" in changes and table["matched_by"].isna().all():
        yield f"{name}: no figure of the review is one of the ensemble's: is the file this slide's?"
    if over := drawn_over(table, mpp=record.scale.mpp, distance_um=distance_um):
        yield (
            f"{name}: {over} added figures lie within {distance_um:g} um of another one, and both "
            "count: if they were drawn to correct it, delete the other in QuPath"
        )


def _write(
    result: RecountResult,
    states: Mapping[str, SlideState],
    done: Mapping[str, SlideRecount],
    reviewed: Path,
    options: RecountOptions,
) -> None:
    result.rows = [_row(state, done.get(name), result.errors.get(name)) for name, state in states.items()]
    result.changes = [row for name in sorted(done) for row in _changes(name, done[name])]
    result.regions = [
        row
        for name, state in states.items()
        if name not in result.errors
        for row in _region_rows(state, done.get(name))
    ]
    result.agreement = {
        **_agreement(done, options.distance_um),
        "slides": {name: _slide_agreement(done[name], reviewed) for name in sorted(done)},
        "not_reviewed": sorted(set(states) - set(done) - set(result.errors)),
        "failed": dict(sorted(result.errors.items())),
        "warnings": result.warnings,
    }
    write_recount(result.folder, result.rows, result.changes, result.regions, result.agreement)


def _row(state: SlideState, one: SlideRecount | None, error: str | None) -> dict[str, Any]:
    """Return the slide's row of `summary.csv`, with the ensemble's own numbers beside the reviewed ones."""
    machine = state.row()
    row, review = dict(machine), {"reviewed": "false"}
    if error is not None:
        row = {"slide": state.name, "status": "failed", "error": error}
    elif one is not None:
        changes = one.table["change"].value_counts()
        review = {"reviewed": "true", **{change: str(changes.get(change, 0)) for change in CHANGES}}
        row = {**one.state.row(), "seconds": None}  # the time is the ensemble's
    beside = {f"machine_{key}": value for key, value in machine.items() if key != "slide"}
    return {**row, **beside, **review}


def _region_rows(state: SlideState, one: SlideRecount | None) -> Iterator[dict[str, Any]]:
    """Yield the slide's rows of `regions.csv`, with the ensemble's own counts beside the reviewed ones."""
    machine = state.assessment.region_counts if state.assessment is not None else ()
    reviewed = machine
    if one is not None and one.state.assessment is not None:
        reviewed = one.state.assessment.region_counts
    flag = {"reviewed": str(one is not None).lower()}
    for after, before in zip(reviewed, machine, strict=True):
        beside = {f"machine_{name}": getattr(before, name) for name in REGION_COUNTS}
        yield {"slide": state.name, **after.model_dump(by_alias=True), **beside, **flag}


def _agreement(done: Mapping[str, SlideRecount], distance_um: float) -> dict[str, Any]:
    models = {one.record.model for one in done.values()}
    ordered = sorted(models, key=lambda model: (model.name, model.digest))
    bundles = [{"bundle": m.name, "bundle_digest": m.digest, "trained": m.trained} for m in ordered]
    return {
        "program": f"wsi-mitosis {__version__}",
        "use": "research use only",
        "notes": [NOT_BLIND] if all(model.trained for model in models) else [NOT_BLIND, UNTRAINED],
        "bundles": bundles,
        "distance_um": distance_um,
        "confusion_is": "label of the ensemble, then label of the reviewer, over the matched figures",
        **agreement_of(one.table for one in done.values()),
    }


def _slide_agreement(one: SlideRecount, reviewed: Path) -> dict[str, Any]:
    return {
        "file": one.path.relative_to(reviewed).as_posix(),
        "sha256": file_sha256(one.path),
        "frame": one.frame,
        **agreement_of([one.table]),
    }


def _check_inside(record: SlideRecord, review: Review) -> None:
    """Refuse figures that do not lie on the slide."""
    centres = review.figures[["x_px0", "y_px0"]].to_numpy(np.float64)
    outside = ((centres < 0) | (centres >= np.array(record.scale.size_px0))).any(axis=1)
    if outside.any():
        x, y = centres[outside][0]
        raise DetectionsError(
            f"{outside.sum()} of its figures lie outside the slide, the first at ({x:.2f}, {y:.2f}) px",
            subject=record.name,
            stage=STAGE,
            remedy="Check that the file is this slide's, or name its frame with --frame",
        )


def _check_frame(
    record: SlideRecord,
    figures: pd.DataFrame,
    review: Review,
    other_review: Review,
    other: Frame,
    distance_um: float,
) -> None:
    """Refuse coordinates that fit the figures better in the other frame."""
    machine, taken, instead = (
        table[["x_px0", "y_px0"]].to_numpy(np.float64) * np.array(record.scale.mpp)
        for table in (figures[figures["label"].notna()], review.figures, other_review.figures)
    )
    if near_share(machine, instead, distance_um) > near_share(machine, taken, distance_um):
        raise DetectionsError(
            f"its coordinates fit the figures in the frame '{other}', not in that of the slide's GeoJSON",
            subject=record.name,
            stage=STAGE,
            remedy=f"Give --frame {other}; the two differ by the corner of the slide's bounds",
        )


def _changes(slide: str, one: SlideRecount) -> list[dict[str, Any]]:
    """Return the slide's rows of `changes.csv`, by kind of change and place.

    An added figure whose object has no id gets the id of its place.
    """
    table = one.table.copy()
    nameless = table["figure_id"].isna()
    places = table.loc[nameless, ["x_px0", "y_px0"]].to_numpy(np.float64)
    table.loc[nameless, "figure_id"] = figure_ids(one.record.slide.digest, *places.T)
    changed = table[table["change"] != "kept"]
    rows = [{"slide": slide, **row} for row in changed.to_dict("records")]
    rows.sort(key=lambda row: (CHANGES.index(row["change"]), row["y_px0"], row["x_px0"]))
    return [{name: row[name] for name in CHANGE_COLUMNS} for row in rows]
