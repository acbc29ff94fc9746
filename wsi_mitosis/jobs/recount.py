"""Recount slides after reviews: the ensemble's files stay, reviewed counts are written beside."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from wsi_mitosis.core.agreement import CountedFile, Reviewer, ReviewersAgreement, reviewers_agreement
from wsi_mitosis.core.recount import CHANGES, UNDECIDED, UNSEEN, agreement_of
from wsi_mitosis.core.reviews import STAGE as READING
from wsi_mitosis.core.states import lost_results
from wsi_mitosis.errors import DetectionsError, InputError, WsiMitosisError, listed
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.recounts import (
    ASSESSMENT_KEY,
    FOLDER,
    REGION_COUNTS,
    RecountTables,
    write_recount,
)
from wsi_mitosis.jobs.estimating import estimate
from wsi_mitosis.jobs.reviewers import Reviewed, find_reviewers
from wsi_mitosis.jobs.reviewing import (
    STAGE,
    RecountOptions,
    SlideRecount,
    after_reviews,
    before_review,
    named_after,
)
from wsi_mitosis.tables import CHANGE_COLUMNS, CONSENSUS_COLUMNS, MATCH_UM, VERDICT_COLUMNS, SlideSource
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wsi_mitosis.core.review_files import ReviewFile
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.jobs.estimating import SampleEstimates
    from wsi_mitosis.jobs.reviewers import PageReviewer, QuPathReviewer, Reviewers
    from wsi_mitosis.jobs.reviewing import OneReview, UnreviewedSlide
    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Frame

NOT_BLIND = (
    "The reviewer saw the ensemble's labels: this is not the agreement of two who decided independently."
)
BLIND = "The reviewer did not see the ensemble's labels, and decided independently of them."
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
        files: The review files, by reviewer and then by name.
        errors: One line for each slide whose review cannot be used. With several reviewers a slide is named
            with the reviewer, if not all of its reviews failed, or more than one.
        details: Tracebacks of errors that no input explains, by slide.
        warnings: All warnings.
        estimates: What the reviews of a random sample say of all figures; None if they are of none.
        not_estimated: Why a sample gave no estimate; empty otherwise.
    """

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    regions: list[dict[str, Any]] = field(default_factory=list)
    agreement: dict[str, Any] = field(default_factory=dict)
    files: tuple[ReviewFile, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    estimates: SampleEstimates | None = None
    not_estimated: str = ""

    @property
    def exit_status(self) -> int:
        """0 if every review was counted, 1 if some could not be used, or a sample gave no estimate."""
        return int(bool(self.errors or self.not_estimated))


class _Refusal(NamedTuple):
    """A review of a slide that cannot be used.

    Attributes:
        slide: The slide.
        reviewer: Name of the reviewer; empty if the slide itself cannot be used.
        error: Why.
        details: The traceback of an error that no input explains; empty otherwise.
    """

    slide: str
    reviewer: str
    error: str
    details: str = ""


@dataclass
class _Counted:
    """What was made of all reviews.

    Attributes:
        done: The slides with a review that was counted, in the order in which they were.
        refusals: The reviews that were not.
        notes: What the user should know about reviews that say nothing of their slide.
    """

    done: dict[str, SlideRecount] = field(default_factory=dict)
    refusals: list[_Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, str]:
        """Why, by slide without a review that was counted."""
        found: dict[str, list[str]] = {}
        for refusal in self.refusals:
            if refusal.slide not in self.done:
                found.setdefault(refusal.slide, []).append(refusal.error)
        return {slide: "; ".join(errors) for slide, errors in found.items()}

    def named(self) -> Iterator[tuple[str, _Refusal]]:
        """Yield the refusals, each with its slide's name, and the reviewer's if that is not enough."""
        slides = [refusal.slide for refusal in self.refusals]
        for refusal in self.refusals:
            is_all = refusal.slide not in self.done and slides.count(refusal.slide) == 1
            is_named = refusal.reviewer and not is_all
            yield f"{refusal.slide} ({refusal.reviewer})" if is_named else refusal.slide, refusal


def recount(
    results: Path,
    reviewed: Path | Sequence[Reviewed],
    *,
    distance_um: float = MATCH_UM,
    frame: Frame | None = None,
    labels: Mapping[str, ReviewLabel] | None = None,
    regions_from_review: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> RecountResult:
    """Recount the slides of a folder of results as reviewers left them.

    Only the folder's `reviewed/` is written. A slide without a review keeps the ensemble's counts, and its
    row says so. A slide of several reviewers is counted by their consensus (`core.consensus`). A slide none
    of whose reviews can be used fails alone.

    Args:
        results: A folder that `classify` wrote.
        reviewed: A folder with GeoJSON from QuPath, named after the slides; a review file; a folder of review
            files; or several of these.
        distance_um: As for `RecountOptions`.
        frame: Likewise.
        labels: Likewise.
        regions_from_review: Likewise.
        warn: Takes what the user should know.

    Raises:
        InputError: if nothing can be started.
    """
    options = RecountOptions(distance_um, frame, labels or {}, regions_from_review)
    given = [Reviewed(reviewed)] if isinstance(reviewed, Path) else list(reviewed)
    with open_results(results, STAGE) as folder:
        states = folder.states()
        sources = _sources(folder, states)
        if not sources:
            raise InputError(
                "no slide of this folder is done", subject=results, stage=STAGE, remedy="Run `classify` first"
            )
        reviewers = find_reviewers(given, sources)
        _check_regions(reviewers, options)
        counted = _counted(folder, states, reviewers, sources, options)
        result = RecountResult(folder.folder / FOLDER, files=reviewers.contents)
        _estimate(result, folder, counted)
        result.warnings = [
            *lost_results(folder.earlier_states().values(), states),
            *reviewers.notes(),
            *counted.notes,
            *(note for one in counted.done.values() for note in one.notes),
            *(result.estimates.warnings if result.estimates is not None else ()),
        ]
        for warning in result.warnings:
            warn(warning)
        _write(result, states, counted, reviewers, options)
    return result


def _sources(folder: ResultFolder, states: Mapping[str, SlideState]) -> Sequence[SlideSource]:
    """Return the slides that a review may be of: those with a result, and those without detections."""
    paths = {name: record.slide.path for name, record in folder.records().items() if name in states}
    for name, history in folder.histories().items():
        if name in states and states[name].status == "no_detections":
            paths.setdefault(name, history.path)
    return [SlideSource(Path(path), name) for name, path in paths.items()]


def _check_regions(reviewers: Reviewers, options: RecountOptions) -> None:
    """Refuse regions of several reviewers, which have no consensus."""
    if options.regions_from_review and len(reviewers.in_qupath) > 1:
        raise InputError(
            "several reviewers may have drawn regions, and which of them count is not decided",
            subject="--regions-from-review",
            stage=STAGE,
            remedy="Give one folder of exports, or pass the regions to `classify` with --regions",
        )


# The reviews of each slide


def _counted(
    folder: ResultFolder,
    states: Mapping[str, SlideState],
    reviewers: Reviewers,
    sources: Sequence[SlideSource],
    options: RecountOptions,
) -> _Counted:
    """Recount each reviewed slide; a review that cannot be used is named, and changes nothing else."""
    counted = _Counted()
    known = {source.relative for source in sources}
    for one in reviewers.on_pages:
        for name in sorted(one.slides - known):
            counted.refusals.append(_Refusal(name, one.name, str(_unknown(one.name, name, states))))
    for source in sources:
        readers = [one for one in reviewers.all if one.has(source)]
        if readers:
            with _refusing(counted, source.relative):
                slide = before_review(folder, states[source.relative])
                reviews = _reviews(folder, slide, source, readers, options, counted, len(reviewers.all) > 1)
                if reviews:
                    counted.done[source.relative] = after_reviews(slide, reviews, options)
    return counted


def _unknown(reviewer: str, slide: str, states: Mapping[str, SlideState]) -> DetectionsError:
    """Return the error for a slide of a review file that the folder has no result of."""
    status = f"; its status is {states[slide].status}" if slide in states else ""
    return DetectionsError(
        f"{reviewer} has verdicts on this slide, and the folder has no result of it{status}",
        subject=slide,
        stage=READING,
        remedy="Give the folder of results that the page was made from",
    )


def _reviews(
    folder: ResultFolder,
    slide: UnreviewedSlide,
    source: SlideSource,
    readers: Sequence[QuPathReviewer | PageReviewer],
    options: RecountOptions,
    counted: _Counted,
    are_named: bool,
) -> list[OneReview]:
    """Return the reviews of one slide that can be used, and that say something of it."""
    found = []
    for reader in readers:
        with _refusing(counted, source.relative, reader.name if are_named else ""):
            one = reader.read(folder, slide, source, options)
            if one.review.adds or one.review.decided:
                found.append(one)
            else:
                counted.notes += one.notes
    return found


@contextmanager
def _refusing(counted: _Counted, slide: str, reviewer: str = "") -> Iterator[None]:
    """Turn an error into the refusal of a slide, or of one reviewer's review of it."""
    try:
        yield
    except WsiMitosisError as failure:
        error, details = str(failure), ""
    except Exception as failure:  # noqa: BLE001 - it fails this review alone, and the traceback is kept
        error = f"{slide}: {STAGE}: unexpected {type(failure).__name__}: {failure}. -v shows where"
        details = traceback.format_exc()
    else:
        return
    text = named_after(reviewer, slide, error) if reviewer else error
    counted.refusals.append(_Refusal(slide, reviewer, text, details))


def _estimate(result: RecountResult, folder: ResultFolder, counted: _Counted) -> None:
    """Estimate the numbers of all figures if reviews are of a random sample; a failure costs no count."""
    slides = {slide.slide for file in result.files for slide in file.slides if file.design.sample}
    figures = {name: folder.figures(name) for name in folder.records() if name in slides}
    consensus = _joined({name: one.consensus for name, one in counted.done.items()}, CONSENSUS_COLUMNS)
    try:
        rows = [{str(name): value for name, value in row.items()} for row in consensus.to_dict("records")]
        result.estimates = estimate(figures, result.files, rows)
    except InputError as error:
        result.not_estimated = str(error)


# The files


def _write(
    result: RecountResult,
    states: Mapping[str, SlideState],
    counted: _Counted,
    reviewers: Reviewers,
    options: RecountOptions,
) -> None:
    done, failed = counted.done, counted.failed
    for name, refusal in counted.named():
        result.errors[name] = refusal.error
        if refusal.details:
            result.details[name] = refusal.details
    result.rows = [_row(state, done.get(name), failed.get(name)) for name, state in states.items()]
    result.changes = [row for name in sorted(done) for row in _changes(name, done[name])]
    result.regions = [
        row
        for name, state in states.items()
        if name not in failed
        for row in _region_rows(state, done.get(name))
    ]
    consensus = _joined({name: done[name].consensus for name in sorted(done)}, CONSENSUS_COLUMNS)
    verdicts = _joined({name: done[name].verdicts for name in sorted(done)}, VERDICT_COLUMNS)
    independent = _with_files(reviewers, done)
    among = reviewers_agreement(
        independent, verdicts[verdicts["reviewer"].isin([one.name for one in independent])], consensus
    )
    result.agreement = {
        **_agreement(done, options.distance_um, among),
        **among.model_dump(mode="json"),
        "slides": {name: _slide_agreement(done[name]) for name in sorted(done)},
        "not_reviewed": sorted(set(states) - set(done) - set(failed)),
        "failed": dict(sorted(result.errors.items())),
        "warnings": result.warnings,
    }
    estimates = () if result.estimates is None else result.estimates.rows
    tables = RecountTables(result.rows, result.changes, result.regions, verdicts, consensus, estimates)
    write_recount(result.folder, tables, result.agreement)


def _joined(tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return the tables of all slides as one, with the slide."""
    parts = [table.assign(slide=pd.Series(name, table.index, dtype=object)) for name, table in tables.items()]
    return pd.concat(parts, ignore_index=True)[[*columns]] if parts else pd.DataFrame(columns=[*columns])


def _with_files(reviewers: Reviewers, done: Mapping[str, SlideRecount]) -> list[Reviewer]:
    """Return the reviewers with the files of theirs that were counted.

    Those who only decided where others disagreed are left out: they saw what the others said.
    """
    used = {(one.reviewer, one.name, one.sha256) for slide in done.values() for one in slide.files}
    return [
        Reviewer(
            reader.name,
            tuple(
                CountedFile(file=name, sha256=sha256)
                for owner, name, sha256 in sorted(used)
                if owner == reader.name
            ),
        )
        for reader in reviewers.all
        if not reader.only_decides
    ]


def _row(state: SlideState, one: SlideRecount | None, error: str | None) -> dict[str, Any]:
    """Return the slide's row of `summary.csv`, with the ensemble's own numbers beside the reviewed ones."""
    machine = state.row()
    row, review = dict(machine), {"reviewed": "false"}
    if error is not None:
        row = {"slide": state.name, "status": "failed", "error": error}
    elif one is not None:
        changes = one.table["change"].value_counts()
        review = {
            "reviewed": "true",
            **{name: str(changes.get(name, 0)) for name in (*CHANGES, UNSEEN, UNDECIDED)},
        }
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


def _agreement(
    done: Mapping[str, SlideRecount], distance_um: float, among: ReviewersAgreement
) -> dict[str, Any]:
    models = {one.record.model for one in done.values()}
    ordered = sorted(models, key=lambda model: (model.name, model.digest))
    bundles = [{"bundle": m.name, "bundle_digest": m.digest, "trained": m.trained} for m in ordered]
    second = "reviewer" if len(among.reviewers) == 1 else "consensus of the reviewers"
    return {
        "program": f"wsi-mitosis {__version__}",
        "use": "research use only",
        "notes": [*_independence(among), *([] if all(model.trained for model in models) else [UNTRAINED])],
        "bundles": bundles,
        "distance_um": distance_um,
        "confusion_is": f"label of the ensemble, then label of the {second}, over the matched figures",
        **agreement_of(one.table for one in done.values()),
    }


def _independence(among: ReviewersAgreement) -> list[str]:
    """Say which reviewers decided independently of the ensemble."""
    if len(among.reviewers) == 1:
        return [BLIND if among.reviewers[0].blind else NOT_BLIND]
    saw = [one.name for one in among.reviewers if not one.blind]
    blind = [one.name for one in among.reviewers if one.blind]
    notes = []
    if saw:
        notes.append(
            f"Reviewers who saw the ensemble's labels: {listed(saw)}. Their agreement with it is not that of "
            "two who decided independently."
        )
    if blind:
        notes.append(
            "Reviewers who did not see the ensemble's labels, and decided independently of them: "
            f"{listed(blind)}."
        )
    return notes


def _slide_agreement(one: SlideRecount) -> dict[str, Any]:
    files = [
        {"reviewer": file.reviewer, "file": file.name, "sha256": file.sha256, "frame": file.frame}
        for file in one.files
    ]
    only = {name: files[0][name] for name in ("file", "sha256", "frame")} if len(files) == 1 else {}
    return {**only, "files": files, ASSESSMENT_KEY: one.assessment_key, **agreement_of([one.table])}


def _changes(slide: str, one: SlideRecount) -> list[dict[str, Any]]:
    """Return the slide's rows of `changes.csv`, by kind of change and place."""
    changed = one.table[one.table["change"].isin(CHANGES)]
    rows = [{"slide": slide, **row} for row in changed.to_dict("records")]
    rows.sort(key=lambda row: (CHANGES.index(row["change"]), row["y_px0"], row["x_px0"]))
    return [{name: row[name] for name in CHANGE_COLUMNS} for row in rows]
