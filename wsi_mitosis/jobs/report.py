"""`report.html` of a folder of results: made of what stands there, and of the slides' pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsi_mitosis.core.assessments import Assessment
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
from wsi_mitosis.errors import InputError, WsiMitosisError
from wsi_mitosis.io.pages.pictures import crops, open_classified, overview
from wsi_mitosis.io.pages.report import write_report
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.recounts import read_recount
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from wsi_mitosis.core.assessments import AssessedSlide
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.results.folder import ResultFolder

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
    with open_results(results, STAGE) as folder:
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
        self.states = folder.states()
        self.records = {name: s.record for name, s in self.states.items() if s.record is not None}
        self.rows = {name: state.row() for name, state in self.states.items()}
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
        mpp, scale = record.scale.mpp, record.scale
        figures = self.folder.figures(record.name)
        classified = figures[figures["label"].notna()]
        state = self.states[record.name]
        assessment = state.assessment or Assessment()
        view = View.of(scale.size_px0, scale.bounds, mpp)
        shown = gallery(classified, assessment.review, self.limits.crops)
        picture, pictures, reason = self._pictures(record, view, shown)
        in_order = gallery(classified, (), len(classified))
        drawn_marks = in_order.head(self.limits.marks)
        places = {
            label: marks(view, *_centres(drawn_marks[drawn_marks["label"] == label]))
            for label in ("atypical", "typical")
        }
        return Section(
            row=row,
            assessment=assessment,
            view=view,
            coordinates=Coordinates.drawn(self.folder.drawn_frame(record.name), scale.bounds, mpp),
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
            reviewed=reviewed_of(self.rows[record.name], self.recounted.get(record.name)),
            facts=_facts(record, state.assessed),
            warnings=record.warnings,
        )

    def _pictures(
        self, record: SlideRecord, view: View, shown: pd.DataFrame
    ) -> tuple[str | None, Sequence[str | None], str]:
        """The overview, a picture per figure, and why any of them is missing."""
        blank: list[str | None] = [None] * len(shown)
        if perf_counter() - self.started > MOST_SECONDS:
            reason = f"no picture: reading the slides before took over {MOST_SECONDS / 60:g} minutes"
            self.without_picture[record.name] = reason
            return None, blank, reason
        slide, reason = _tried(lambda: open_classified(Path(record.slide.path), record.slide.digest))
        whole, each = None, None
        if slide is not None:
            with slide:
                whole, reason = _tried(lambda: overview(slide, view, self.limits.overview_chars))
                each, reason_of_crops = _tried(
                    lambda: crops(slide, view.mpp, *_centres(shown), self.limits.crops_chars)
                )
            reason = "; ".join(dict.fromkeys(filter(None, (reason, reason_of_crops))))
        if reason:
            self.without_picture[record.name] = reason
        return whole, blank if each is None else each, f"no picture: {reason}" if reason else ""


def _tried(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """What was made, or why not: a picture's failure is that picture's alone."""
    try:
        return make(), ""
    except WsiMitosisError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the reason stands in the picture's place
        return None, f"unexpected {type(error).__name__}: {error}"


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


def _facts(record: SlideRecord, assessed: AssessedSlide | None) -> tuple[tuple[str, str], ...]:
    scale, model = record.scale, record.model
    width, height = scale.size_px0
    mm = f"{width * scale.mpp.x / 1000:.2f} x {height * scale.mpp.y / 1000:.2f} mm"
    pixel = " x ".join(dict.fromkeys(f"{axis:g}" for axis in scale.mpp))
    hotspot = "none"
    if assessed is not None and (options := assessed.options).hotspot_area:
        hotspot = f"{options.hotspot_area:g} mm², {options.hotspot_aspect}, at most {options.hotspots}"
    return (
        ("bundle", model.name),
        ("its digest", model.digest),
        ("trained", "yes" if model.trained else "NO: the labels mean nothing"),
        ("classified by", f"wsi-mitosis {record.program}"),
        ("size", f"{width} x {height} px, {mm}"),
        ("pixel size", f"{pixel} µm, from: {scale.mpp_source}"),
        ("hotspots asked for", hotspot),
        ("slide's identity", record.slide.digest),
        ("result's key", record.key),
    )
