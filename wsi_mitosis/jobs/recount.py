"""Recount slides after a review in QuPath: the ensemble's files stay, reviewed counts are written beside."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.recount import CHANGES, UNSEEN, agreement_of
from wsi_mitosis.core.states import lost_results
from wsi_mitosis.errors import InputError, WsiMitosisError
from wsi_mitosis.io.detections.reviews import find_reviews, strangers
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.recounts import ASSESSMENT_KEY, FOLDER, REGION_COUNTS, write_recount
from wsi_mitosis.jobs.reviewing import STAGE, RecountOptions, recount_slide
from wsi_mitosis.tables import CHANGE_COLUMNS, MATCH_UM, SlideSource
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.detections.folder import FoundFiles
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.jobs.reviewing import SlideRecount
    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Frame

NOT_BLIND = (
    "The reviewer saw the ensemble's labels: this is not the agreement of two who decided independently."
)
UNTRAINED = "The bundle is UNTRAINED: the ensemble's labels, and so this agreement, mean nothing."


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
    regions_from_review: bool = False,
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
        regions_from_review: Likewise.
        warn: Takes what the user should know.

    Raises:
        InputError: if nothing can be started.
    """
    options = RecountOptions(distance_um, frame, labels or {}, regions_from_review)
    with open_results(results, STAGE) as folder:
        states = folder.states()
        sources = _sources(folder, states)
        if not sources:
            raise InputError(
                "no slide of this folder is done", subject=results, stage=STAGE, remedy="Run `classify` first"
            )
        result = RecountResult(folder.folder / FOLDER)
        reviews = find_reviews(reviewed, sources)
        done = dict(_recounted(folder, states, reviews, options, result))
        result.warnings = [
            *lost_results(folder.earlier_states().values(), states),
            *strangers(reviewed, reviews),
            *(note for name in done for note in done[name].notes),
        ]
        for warning in result.warnings:
            warn(warning)
        _write(result, states, done, reviewed, options)
    return result


def _sources(folder: ResultFolder, states: Mapping[str, SlideState]) -> Sequence[SlideSource]:
    """Return the slides that a review may be of: those with a result, and those without detections."""
    paths = {name: record.slide.path for name, record in folder.records().items() if name in states}
    for name, history in folder.histories().items():
        if name in states and states[name].status == "no_detections":
            paths.setdefault(name, history.path)
    return [SlideSource(Path(path), name) for name, path in paths.items()]


def _recounted(
    folder: ResultFolder,
    states: Mapping[str, SlideState],
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
            yield name, recount_slide(folder, states[name], paths, options)
        except WsiMitosisError as failure:
            result.errors[name] = str(failure)
        except Exception as failure:  # noqa: BLE001 - it fails this slide alone, and the traceback is kept
            error = f"{name}: {STAGE}: unexpected {type(failure).__name__}: {failure}"
            result.errors[name] = f"{error}. -v shows where"
            result.details[name] = traceback.format_exc()


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
        review = {"reviewed": "true", **{name: str(changes.get(name, 0)) for name in (*CHANGES, UNSEEN)}}
        row = {**one.state.row(), "seconds": None}  # the time is the ensemble's
    beside = {f"machine_{key}": value for key, value in machine.items() if key != "slide"}
    return {**row, **beside, **review}


def _region_rows(state: SlideState, one: SlideRecount | None) -> Iterator[dict[str, Any]]:
    """Yield the slide's rows of `regions.csv`, with the ensemble's own counts beside the reviewed ones."""
    machine = state.assessment.region_counts if state.assessment is not None else ()
    reviewed = machine
    if one is not None and one.state.assessment is not None:
        reviewed, machine = one.state.assessment.region_counts, one.machine_regions
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
        "sha256": one.sha256,
        "frame": one.frame,
        ASSESSMENT_KEY: one.assessment_key,
        **agreement_of([one.table]),
    }


def _changes(slide: str, one: SlideRecount) -> list[dict[str, Any]]:
    """Return the slide's rows of `changes.csv`, by kind of change and place.

    An added figure whose object has no id gets the id of its place.
    """
    table = one.table.copy()
    nameless = table["figure_id"].isna()
    places = table.loc[nameless, ["x_px0", "y_px0"]].to_numpy(np.float64)
    table.loc[nameless, "figure_id"] = figure_ids(one.record.slide.digest, *places.T)
    changed = table[table["change"].isin(CHANGES)]
    rows = [{"slide": slide, **row} for row in changed.to_dict("records")]
    rows.sort(key=lambda row: (CHANGES.index(row["change"]), row["y_px0"], row["x_px0"]))
    return [{name: row[name] for name in CHANGE_COLUMNS} for row in rows]
