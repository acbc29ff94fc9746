"""Count again after a review in QuPath: the machine's files stay, the reviewed numbers stand beside them."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.hotspots import HotspotShape
from wsi_mitosis.core.qupath import figure_ids, other_frame
from wsi_mitosis.core.reading import Reading, read_places
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
from wsi_mitosis.errors import DetectionsError, InputError, OutputError, SlideError, WsiMitosisError
from wsi_mitosis.io.detections.folder import the_one
from wsi_mitosis.io.detections.reviews import (
    FOLDER,
    REGION_COUNTS,
    digest_of,
    drawn_as,
    find_reviews,
    is_our_own,
    read_review,
    strangers,
    write_recount,
)
from wsi_mitosis.io.results.folder import ResultFolder, SlideRecord, read_figures
from wsi_mitosis.tables import CHANGE_COLUMNS, MATCH_UM, SUMMARY_COLUMNS, SlideSource
from wsi_mitosis.units import Bounds, Mpp
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.core.summary import Counts
    from wsi_mitosis.tables import ReviewLabel
    from wsi_mitosis.units import Frame

STAGE = "recounting"
NOT_BLIND = (
    "The reviewer saw the ensemble's labels: this is not the agreement of two who decided independently."
)
_HOTSPOT = tuple(name for name in SUMMARY_COLUMNS if name.startswith("hotspot_"))
UNTRAINED = "The bundle is UNTRAINED: the ensemble's labels, and so this agreement, mean nothing."


@dataclass(frozen=True)
class SlideRecount:
    """One reviewed slide.

    Attributes:
        table: As from `core.recount.compare`.
        counts: The reviewed numbers.
        reading: The reviewed hotspot and regions.
        path: The reviewed file.
        frame: The frame that its coordinates were taken in.
        notes: What the user should know.
    """

    table: pd.DataFrame
    counts: Counts
    reading: Reading
    path: Path
    frame: Frame
    notes: tuple[str, ...]


@dataclass
class RecountResult:
    """A recount's end.

    Attributes:
        folder: Where it was written.
        rows: The rows of `summary.csv`.
        changes: The rows of `changes.csv`.
        regions: The rows of `regions.csv`; none where no slide has regions.
        agreement: `agreement.json`.
        errors: One line for each slide whose review cannot be used.
        details: Tracebacks of errors that no input explains, by slide.
        warnings: All that the user was told.
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
        """0 where every review was counted, 1 where some could not be used."""
        return int(bool(self.errors))


def recount(
    results: Path,
    reviewed: Path,
    *,
    distance_um: float = MATCH_UM,
    frame: Frame | None = None,
    labels: Mapping[str, ReviewLabel] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> RecountResult:
    """Count the slides of a folder of results again, as a reviewer left them.

    Only the folder's `reviewed/` is written. A slide without a reviewed file keeps the machine's numbers, and
    its row says so. One whose review cannot be used fails alone.

    Args:
        results: What `classify` wrote.
        reviewed: A folder with GeoJSON from QuPath, named after the slides.
        distance_um: A reviewed object this near to a figure is that figure, where ids do not say so.
        frame: Frame of the reviewed coordinates; that in which the slide was drawn for QuPath where None.
        labels: Meanings of further classes, by `core.recount.class_key`.
        tell: Takes what the user should know.

    Raises:
        InputError: where nothing can be started.
    """
    if not (results / "figures").is_dir():
        raise InputError(
            "no results of `classify` are there",
            subject=results,
            stage=STAGE,
            remedy="Give the folder that `classify` wrote to",
        )
    with _held(results) as folder:
        return _Recount(folder, reviewed, distance_um, frame, labels or {}, tell).through()


def _held(results: Path) -> ResultFolder:
    try:
        return ResultFolder(results)
    except OutputError as error:
        remedy = "Wait for the other run, or make the folder writable"
        raise OutputError(error.cause, subject=results, stage=STAGE, remedy=remedy) from error


class _Recount:
    """One recount's state."""

    def __init__(
        self,
        folder: ResultFolder,
        reviewed: Path,
        distance_um: float,
        frame: Frame | None,
        labels: Mapping[str, ReviewLabel],
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.reviewed = folder, reviewed
        self.distance_um, self.frame, self.labels, self.tell = distance_um, frame, labels, tell
        self.records = folder.records()
        self.machine = _machine_rows(folder.earlier_rows(), self.records)
        self.readings = {
            name: reading
            for name, row in self.machine.items()
            if row["status"] == "done" and (reading := folder.reading(name)) is not None
        }
        for name, reading in self.readings.items():
            self.machine[name].update(reading.hotspot_columns())
        self.result = RecountResult(folder.folder / FOLDER)
        self.done: dict[str, SlideRecount] = {}

    def through(self) -> RecountResult:
        """Do every slide, then write."""
        if not self.records:
            raise InputError(
                "no slide is done there",
                subject=self.folder.folder,
                stage=STAGE,
                remedy="Run `classify` first",
            )
        sources = {SlideSource(Path(r.source), name): r for name, r in self.records.items()}
        reviews = find_reviews(self.reviewed, list(sources))
        for name in strangers(self.reviewed, reviews):
            self._warn(f"{name}: fits no slide of {self.folder.folder}, and is not counted")
        for source, error in reviews.refused.items():
            self.result.errors[sources[source].slide] = str(error)
        for source, paths in reviews.of_slide.items():
            if paths:
                self._try(sources[source], paths)
        self._finish()
        return self.result

    def _try(self, record: SlideRecord, paths: Sequence[Path]) -> None:
        """One slide; whatever goes wrong with it is its own."""
        try:
            one = self._slide(record, paths)
        except WsiMitosisError as failure:
            self.result.errors[record.slide] = str(failure)
        except Exception as failure:  # noqa: BLE001 - a slide's failure is that slide's alone; the traceback is kept
            told = f"{record.slide}: {STAGE}: unexpected {type(failure).__name__}: {failure}"
            self.result.errors[record.slide] = f"{told}. -v shows where"
            self.result.details[record.slide] = traceback.format_exc()
        else:
            self.done[record.slide] = one
            for note in one.notes:
                self._warn(note)

    def _slide(self, record: SlideRecord, paths: Sequence[Path]) -> SlideRecount:
        path = the_one(paths, record.slide, STAGE)
        status = self.machine[record.slide]["status"]
        if status != "done":
            raise SlideError(
                f"`classify` has left this slide {status}",
                subject=record.slide,
                stage=STAGE,
                remedy="Run `classify` again, then recount",
            )
        mpp = Mpp(*record.mpp)
        figures = read_figures(self.folder.figures_path(record.slide))
        drawn = drawn_as(self.folder.folder, record.slide)
        frame: Frame = self.frame or ("slide" if drawn.get("frame") == "slide" else "qupath")
        review = self._review(record, path, frame, figures)
        table = compare(figures, review, mpp=mpp, distance_um=self.distance_um)
        machine = self.readings.get(record.slide, Reading())
        reading = _read(record, table, drawn, machine.drawn)
        why = reading.hotspot_reason
        reason = () if why is None else (f"{record.slide}: no hotspot: {why}",)
        notes = (*review.notes, *self._doubts(record, path, table, mpp), *reason)
        return SlideRecount(table, counted(table, record.counts), reading, path, frame, notes)

    def _review(self, record: SlideRecord, path: Path, frame: Frame, figures: pd.DataFrame) -> Review:
        detections, mpp = read_review(path), Mpp(*record.mpp)
        bounds = None if record.bounds is None else Bounds(*record.bounds)

        def taken_in(frame: Frame) -> Review:
            return reviewed_figures(
                detections, record.slide, frame=frame, mpp=mpp, bounds=bounds, labels=self.labels
            )

        review = taken_in(frame)
        if self.frame is None and bounds is not None and bounds[:2] != (0, 0):
            other = other_frame(frame)
            _check_frame(record.slide, figures, review, taken_in(other), other, mpp, self.distance_um)
        _check_inside(record, review)
        return review

    def _doubts(self, record: SlideRecord, path: Path, table: pd.DataFrame, mpp: Mpp) -> Iterator[str]:
        """What looks like a mistake and may be none."""
        name, changes = record.slide, set(table["change"])
        if changes == {"kept"} and is_our_own(path):
            yield f"{name}: nothing was changed, and the file is not from QuPath: is it the reviewed one?"
        if "removed" in changes and table["label_reviewed"].isna().all():
            yield f"{name}: the review has no figure; were all objects exported, not only some?"
        elif "removed" in changes and table["matched_by"].isna().all():
            yield f"{name}: no figure of the review is one of the ensemble's: is the file this slide's?"
        over = drawn_over(table, mpp=mpp, distance_um=self.distance_um)
        if over:
            yield (
                f"{name}: {over} added figures lie within {self.distance_um:g} um of another one, and both "
                "count: if they were drawn to correct it, delete the other in QuPath"
            )

    def _finish(self) -> None:
        result = self.result
        result.rows = [self._row(name) for name in sorted(self.machine)]
        result.changes = [row for name in sorted(self.done) for row in _changes(name, self._identified(name))]
        result.regions = [row for name in sorted(self.readings) for row in self._regions(name)]
        result.agreement = self._agreement()
        write_recount(result.folder, result.rows, result.changes, result.regions, result.agreement)

    def _identified(self, name: str) -> pd.DataFrame:
        """The slide's table, where an added figure whose object has no id is called by its place."""
        table = self.done[name].table.copy()
        nameless = table["figure_id"].isna()
        places = table.loc[nameless, ["x_px0", "y_px0"]].to_numpy(np.float64)
        table.loc[nameless, "figure_id"] = figure_ids(self.records[name].identity, *places.T)
        return table

    def _row(self, name: str) -> dict[str, Any]:
        machine = self.machine[name]
        row, told = dict(machine), {"reviewed": "false"}
        if name in self.result.errors:
            row = {"slide": name, "status": "failed", "error": self.result.errors[name]}
        elif name in self.done:
            one = self.done[name]
            changes = one.table["change"].value_counts()
            told = {"reviewed": "true", **{change: str(changes.get(change, 0)) for change in CHANGES}}
            # neither the time nor the hotspot of the machine is the review's
            row |= dict.fromkeys(("seconds", *_HOTSPOT), "") | one.counts.columns()
            row |= one.reading.hotspot_columns()
        beside = {f"machine_{key}": value for key, value in machine.items() if key != "slide"}
        return {**row, **beside, **told}

    def _regions(self, name: str) -> Iterator[dict[str, Any]]:
        """The slide's regions as reviewed, the machine's numbers beside them."""
        if name in self.result.errors:
            return
        machine = self.readings[name].regions
        reviewed = self.done[name].reading.regions if name in self.done else machine
        told = {"reviewed": str(name in self.done).lower()}
        for row, before in zip(reviewed, machine, strict=True):
            beside = {f"machine_{column}": before[column] for column in REGION_COUNTS}
            yield {"slide": name, **row, **beside, **told}

    def _agreement(self) -> dict[str, Any]:
        records = self.records.values()
        bundles = {(r.bundle, r.bundle_digest, r.trained) for r in records if r.slide in self.done}
        notes = [NOT_BLIND] if all(trained for *_, trained in bundles) else [NOT_BLIND, UNTRAINED]
        return {
            "program": f"wsi-mitosis {__version__}",
            "use": "research use only",
            "notes": notes,
            "bundles": [
                dict(zip(("bundle", "bundle_digest", "trained"), bundle, strict=True))
                for bundle in sorted(bundles)
            ],
            "distance_um": self.distance_um,
            "confusion_is": "label of the ensemble, then label of the reviewer, over the matched figures",
            **agreement_of(one.table for one in self.done.values()),
            "slides": {name: self._slide_agreement(self.done[name]) for name in sorted(self.done)},
            "not_reviewed": sorted(set(self.machine) - set(self.done) - set(self.result.errors)),
            "failed": dict(sorted(self.result.errors.items())),
            "warnings": self.result.warnings,
        }

    def _slide_agreement(self, one: SlideRecount) -> dict[str, Any]:
        return {
            "file": one.path.relative_to(self.reviewed).as_posix(),
            "sha256": digest_of(one.path),
            "frame": one.frame,
            **agreement_of([one.table]),
        }

    def _warn(self, message: str) -> None:
        self.result.warnings.append(message)
        self.tell(message)


def _machine_rows(
    rows: Mapping[str, Mapping[str, Any]], records: Mapping[str, SlideRecord]
) -> dict[str, dict[str, Any]]:
    """The machine's rows by slide: of `summary.csv`, its numbers as the figures tables have them."""
    machine = {name: dict(row) for name, row in rows.items()}
    for name, record in records.items():
        row = machine.setdefault(name, {"status": "done"})
        if row["status"] == "done":
            row.update(record.summary_row())
    return machine


def _read(
    record: SlideRecord, table: pd.DataFrame, drawn: Mapping[str, Any], regions: Sequence[Region] | None
) -> Reading:
    """The reviewed figures' hotspot and regions, as the slide was drawn with them."""
    area_mm2, aspect = drawn.get("hotspot_area_mm2"), drawn.get("hotspot_aspect")
    left = table[table["label_reviewed"].notna()]
    return read_places(
        left["x_px0"].to_numpy(np.float64),
        left["y_px0"].to_numpy(np.float64),
        (left["label_reviewed"] == "atypical").to_numpy(bool),
        size_px0=record.size_px0,
        mpp=Mpp(*record.mpp),
        shape=HotspotShape(area_mm2, (aspect[0], aspect[1])) if area_mm2 and aspect else None,
        regions=regions,
    )


def _check_inside(record: SlideRecord, review: Review) -> None:
    """Refuse figures that do not lie on the slide."""
    centres = review.figures[["x_px0", "y_px0"]].to_numpy(np.float64)
    outside = ((centres < 0) | (centres >= np.array(record.size_px0))).any(axis=1)
    if outside.any():
        x, y = centres[outside][0]
        raise DetectionsError(
            f"{outside.sum()} of its figures lie outside the slide, the first at ({x:.2f}, {y:.2f}) px",
            subject=record.slide,
            stage=STAGE,
            remedy="Check that the file is this slide's, or name its frame with --frame",
        )


def _check_frame(
    slide: str,
    figures: pd.DataFrame,
    review: Review,
    other_review: Review,
    other: Frame,
    mpp: Mpp,
    distance_um: float,
) -> None:
    """Refuse coordinates that fit the figures better in the other frame."""
    machine, taken, instead = (
        table[["x_px0", "y_px0"]].to_numpy(np.float64) * np.array(mpp)
        for table in (figures[figures["label"].notna()], review.figures, other_review.figures)
    )
    if near_share(machine, instead, distance_um) > near_share(machine, taken, distance_um):
        raise DetectionsError(
            f"its coordinates fit the figures in the frame '{other}', not in that of the slide's GeoJSON",
            subject=slide,
            stage=STAGE,
            remedy=f"Give --frame {other}; the two differ by the corner of the slide's bounds",
        )


def _changes(slide: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `changes.csv` of one slide, by kind of change and place."""
    changed = table[table["change"] != "kept"]
    rows = [{"slide": slide, **row} for row in changed.to_dict("records")]
    rows.sort(key=lambda row: (CHANGES.index(row["change"]), row["y_px0"], row["x_px0"]))
    return [{name: row[name] for name in CHANGE_COLUMNS} for row in rows]
