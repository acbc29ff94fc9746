"""`report.html` of a folder of results: made of what stands there, and of the slides' pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsi_mitosis.core.reading import Reading
from wsi_mitosis.core.report import (
    Coordinates,
    Limits,
    Page,
    Row,
    Section,
    Tile,
    View,
    bundles_of,
    gallery,
    marks,
    parameters,
    probability_bars,
    reviewed_of,
    table_row,
    vote_bars,
)
from wsi_mitosis.errors import InputError, OutputError, WsiMitosisError
from wsi_mitosis.io.detections.reviews import drawn_as, read_recount
from wsi_mitosis.io.pages.pictures import crops, open_classified, overview
from wsi_mitosis.io.pages.report import write_report
from wsi_mitosis.io.results.folder import ResultFolder, SlideRecord, read_figures
from wsi_mitosis.units import Mpp
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

FILE = "report.html"
STAGE = "making the report"
MOST_SLIDES = 200
"""Slides with pictures: what a browser shows with ease, and a few minutes of reading."""
MOST_SECONDS = 600.0
"""After this no further slide is opened: a slow store must not keep a batch from ending."""
TOLD_OF_RUN = ("version", "started", "ended", "exit_status", "warnings")
MOST_WARNINGS = 100

Made = TypeVar("Made")


@dataclass(frozen=True)
class ReportResult:
    """A report's end.

    Attributes:
        path: The file.
        slides: Rows of its table.
        pictured: Slides with a section.
        without_picture: Why, for those whose overview or gallery is missing.
        notes: What was left out, and how to get it.
        size_bytes: Of the file.
        seconds: Time it took.
    """

    path: Path
    slides: int
    pictured: tuple[str, ...]
    without_picture: dict[str, str]
    notes: tuple[str, ...]
    size_bytes: int
    seconds: float

    def told(self) -> list[str]:
        """What the user should know, a line each."""
        missing = len(self.without_picture)
        if missing > 1:
            return [*self.notes, f"{missing} slides have no picture in {FILE}, which says why"]
        return [*self.notes, *self.without_picture.values()]


def report(results: Path, globs: Sequence[str] = ()) -> ReportResult:
    """Make the report of a folder of results again.

    Args:
        results: What `classify` wrote.
        globs: Slides to show with pictures, by name or by file name; those of the last run if none is given.

    Raises:
        InputError: where there are no results, no slide fits, or the folder cannot be written.
    """
    if not (results / "figures").is_dir() and not (results / "summary.csv").is_file():
        raise InputError(
            "no results of `classify` are there",
            subject=results,
            stage=STAGE,
            remedy="Give the folder that `classify` wrote to",
        )
    try:
        folder = ResultFolder(results)
    except OutputError as error:
        remedy = "Wait for the other run, or make the folder writable"
        raise OutputError(error.cause, subject=results, stage=STAGE, remedy=remedy) from error
    with folder:
        return make_report(folder, globs)


def make_report(folder: ResultFolder, globs: Sequence[str] = ()) -> ReportResult:
    """Write `report.html` of a folder that this process holds.

    Every slide of the folder is in the table; those that `globs` name, else those of the last run, at most
    MOST_SLIDES, have a section with pictures. Slides are read by this process, whoever classified them: of
    each an overview and the windows of at most 48 figures, and none is begun after MOST_SECONDS. A slide that
    is gone or unreadable keeps its numbers, and its section says why there is no picture.

    Raises:
        InputError: where no slide fits `globs`.
        OSError: where the file cannot be written.
    """
    return _Report(folder, globs).made()


class _Report:
    """One report's state."""

    def __init__(self, folder: ResultFolder, globs: Sequence[str]) -> None:
        self.folder, self.started = folder, perf_counter()
        self.records = folder.records()
        self.rows = _standing_rows(folder, self.records)
        self.run, self.recounted = _last_run(folder.folder), read_recount(folder.folder)
        done = [name for name, row in self.rows.items() if row["status"] == "done" and name in self.records]
        chosen = self._chosen(done, globs)
        self.names = chosen[:MOST_SLIDES]
        self.limits = Limits.shared(len(self.names))
        self.notes = tuple(self._left_out(len(done), len(chosen)))
        self.without_picture: dict[str, str] = {}

    def made(self) -> ReportResult:
        """Write the page."""
        ids = {name: f"slide-{number}" for number, name in enumerate(self.names, start=1)}
        rows = {name: table_row(row, ids.get(name)) for name, row in self.rows.items()}
        page = Page(
            title=self.folder.folder.resolve().name,
            rows=tuple(rows.values()),
            sections=tuple(self._section(self.records[name], rows[name]) for name in self.names),
            notes=self.notes,
            bundles=bundles_of(tuple(self.rows.values())),
            run={name: self.run.get(name) for name in TOLD_OF_RUN} | {"warnings": self._warnings()}
            if self.run
            else {},
            parameters=tuple(parameters(self.run)),
            program=__version__,
        )
        path = self.folder.folder / FILE
        write_report(path, page)
        return ReportResult(
            path=path,
            slides=len(rows),
            pictured=tuple(self.names),
            without_picture=self.without_picture,
            notes=self.notes,
            size_bytes=path.stat().st_size,
            seconds=perf_counter() - self.started,
        )

    def _chosen(self, done: Sequence[str], globs: Sequence[str]) -> list[str]:
        if not globs:
            mine = {slide.get("slide") for slide in self.run.get("slides", ())}
            return [name for name in done if name in mine] if mine else list(done)
        fitting = [name for name in done if any(_fits(name, glob) for glob in globs)]
        if not fitting:
            raise InputError(
                f"none of its {len(done)} done slides is called {' or '.join(globs)}",
                subject=self.folder.folder,
                stage=STAGE,
                remedy="Quote a glob; `*` stands for anything, and summary.csv has the names",
            )
        return fitting

    def _left_out(self, done: int, chosen: int) -> list[str]:
        others = f"`wsi-mitosis report {self.folder.folder.name} --slides GLOB` shows others"
        if chosen > MOST_SLIDES:
            return [f"{MOST_SLIDES} of {chosen} slides are shown with pictures; {others}"]
        if chosen < done:
            return [f"{chosen} of {done} slides are shown with pictures; {others}"]
        return []

    def _warnings(self) -> list[str]:
        told = list(self.run.get("warnings", ()))
        more = len(told) - MOST_WARNINGS
        return told if more <= 0 else [*told[:MOST_WARNINGS], f"and {more} more, in run.json"]

    def _section(self, record: SlideRecord, row: Row) -> Section:
        mpp = Mpp(*record.mpp)
        figures = read_figures(self.folder.figures_path(record.slide))
        classified = figures[figures["label"].notna()]
        reading = self.folder.reading(record.slide) or Reading()
        drawn = drawn_as(self.folder.folder, record.slide)
        view = View.of(record.size_px0, record.bounds, mpp)
        shown = gallery(classified, reading.review, self.limits.crops)
        picture, pictures, reason = self._pictures(record, view, shown)
        in_order = gallery(classified, (), len(classified))
        drawn_marks = in_order.head(self.limits.marks)
        places = {
            label: marks(view, *_centres(drawn_marks[drawn_marks["label"] == label]))
            for label in ("atypical", "typical")
        }
        return Section(
            row=row,
            reading=reading,
            view=view,
            coordinates=Coordinates.drawn(str(drawn.get("frame", "qupath")), record.bounds, mpp),
            overview=picture,
            no_picture=reason,
            **places,
            marks_left_out=len(in_order) - len(drawn_marks),
            tiles=[
                Tile(figure, picture)
                for figure, picture in zip(shown.itertuples(index=False), pictures, strict=True)
            ],
            probabilities=probability_bars(classified),
            votes=vote_bars(classified),
            excluded={str(k): int(n) for k, n in figures["excluded_reason"].value_counts().items()},
            reviewed=reviewed_of(self.rows[record.slide], self.recounted.get(record.slide)),
            facts=_facts(record, drawn),
            warnings=record.warnings,
        )

    def _pictures(
        self, record: SlideRecord, view: View, shown: pd.DataFrame
    ) -> tuple[str | None, Sequence[str | None], str]:
        """The overview, a picture per figure, and why any of them is missing."""
        blank: list[str | None] = [None] * len(shown)
        if perf_counter() - self.started > MOST_SECONDS:
            reason = f"no picture: reading the slides before took over {MOST_SECONDS / 60:g} minutes"
            self.without_picture[record.slide] = reason
            return None, blank, reason
        slide, reason = _tried(lambda: open_classified(Path(record.source), record.identity))
        whole, each = None, None
        if slide is not None:
            with slide:
                whole, reason = _tried(lambda: overview(slide, view, self.limits.overview_chars))
                each, reason_of_crops = _tried(
                    lambda: crops(slide, view.mpp, *_centres(shown), self.limits.crops_chars)
                )
            reason = "; ".join(dict.fromkeys(filter(None, (reason, reason_of_crops))))
        if reason:
            self.without_picture[record.slide] = reason
        return whole, blank if each is None else each, f"no picture: {reason}" if reason else ""


def _tried(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """What was made, or why not: a picture's failure is that picture's alone."""
    try:
        return make(), ""
    except WsiMitosisError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the reason stands in the picture's place
        return None, f"unexpected {type(error).__name__}: {error}"


def _standing_rows(folder: ResultFolder, records: dict[str, SlideRecord]) -> dict[str, dict[str, Any]]:
    """The rows of `summary.csv`, sorted; where it lacks a slide, for a run was killed, what its files say."""
    rows: dict[str, dict[str, Any]] = {name: dict(row) for name, row in folder.earlier_rows().items()}
    for name, record in records.items():
        if name not in rows:
            rows[name] = record.summary_row() | (folder.reading(name) or Reading()).hotspot_columns()
    return dict(sorted(rows.items()))


def _last_run(folder: Path) -> dict[str, Any]:
    """`run.json`; empty where it is missing or damaged."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _fits(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(PurePosixPath(name).name, glob)


def _centres(figures: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return figures["x_px0"].to_numpy(np.float64), figures["y_px0"].to_numpy(np.float64)


def _facts(record: SlideRecord, drawn: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    width, height = record.size_px0
    mm = f"{width * record.mpp[0] / 1000:.2f} x {height * record.mpp[1] / 1000:.2f} mm"
    pixel = " x ".join(dict.fromkeys(f"{axis:g}" for axis in record.mpp))
    hotspot = "none"
    if drawn.get("hotspot_area_mm2") and drawn.get("hotspot_aspect"):
        across, down = drawn["hotspot_aspect"]
        hotspot = f"{drawn['hotspot_area_mm2']:g} mm², {across:g}:{down:g}, at most {drawn['hotspots']}"
    return (
        ("bundle", record.bundle),
        ("its digest", record.bundle_digest),
        ("trained", "yes" if record.trained else "NO: the labels mean nothing"),
        ("classified by", f"wsi-mitosis {record.program}"),
        ("size", f"{width} x {height} px, {mm}"),
        ("pixel size", f"{pixel} µm, from: {record.mpp_source}"),
        ("hotspots asked for", hotspot),
        ("slide's identity", record.identity),
        ("result's key", record.key),
    )
