"""`report.html` of an output folder, made from the results in it and from the slides' pixels."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsi_mitosis.core.assessments import Assessment
from wsi_mitosis.core.gallery import gallery_figures
from wsi_mitosis.core.histograms import probability_bars, vote_bars
from wsi_mitosis.core.naming import fits
from wsi_mitosis.core.states import lost_results, missing_assessments
from wsi_mitosis.errors import InputError, WsiMitosisError, listed
from wsi_mitosis.io.pages.drawing import View, marks
from wsi_mitosis.io.pages.limits import MOST_SLIDES, MOST_WARNINGS, Limits
from wsi_mitosis.io.pages.model import LastRun, Page, Reviewed, Row, Section, Tile, bundles_of
from wsi_mitosis.io.pages.pictures import crops, mapped_crops, open_classified, overview
from wsi_mitosis.io.pages.template import write_report
from wsi_mitosis.io.pages.wording import Coordinates, parameters
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.results.digests import write_digests
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.recounts import read_recount
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.assessments import AssessedSlide
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.io.results.recounts import Recounted
    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.jobs.explanation import Explainer

FILE, TREND = "report.html", "trend.html"
STAGE = "making the report"
MOST_SECONDS = 600.0
"""After this time no further slide is opened, so that slow storage does not delay the end of a batch."""

THREADS = 4
"""The most slides that are read at a time. An overview takes up to 500 MB while it is read."""
_OPENING = Lock()
"""Held while a slide is opened: some libraries change settings of the whole process meanwhile."""

NO_ASSESSMENT = Assessment(
    hotspot_reason="the slide has no valid assessment; classify it again, which keeps its labels"
)
"""Shown for a slide whose assessment is missing or damaged."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    Attributes:
        path: The file.
        slides: Number of rows in its table.
        pictured: Slides with a section.
        without_picture: For slides whose overview or gallery has no pictures, the reason.
        notes: Which slides have no section, and how to show them.
        size_bytes: Size of the file.
        seconds: Time it took.
    """

    path: Path
    slides: int
    pictured: tuple[str, ...]
    without_picture: dict[str, str]
    notes: tuple[str, ...]
    size_bytes: int
    seconds: float

    def messages(self) -> list[str]:
        """Return the messages for the user."""
        missing = len(self.without_picture)
        if missing > 1:
            return [*self.notes, f"{missing} slides have no picture in {FILE}; the report shows the reasons"]
        return [*self.notes, *self.without_picture.values()]


@dataclass(frozen=True)
class _Results:
    """The results in an output folder.

    Attributes:
        folder: The folder.
        states: The states of its slides by name, sorted.
        rows: The rows of `summary.csv` by slide.
        run: The content of `run.json`; empty if it is missing or damaged.
        recounted: The reviewed slides of `reviewed/`.
        faults: Messages about results that cannot be used.
    """

    folder: ResultFolder
    states: Mapping[str, SlideState]
    rows: Mapping[str, Mapping[str, Any]]
    run: Mapping[str, Any]
    recounted: Mapping[str, Recounted]
    faults: Sequence[str]

    @property
    def done(self) -> list[str]:
        """The slides that can have a section."""
        return [name for name, state in self.states.items() if state.record is not None]


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a slide; `missing` is the reason if any of them is None, else ""."""

    overview: str | None
    crops: Sequence[str | None]
    maps: Sequence[str | None]
    missing: str


def report(results: Path, globs: Sequence[str] = (), explainer: Explainer | None = None) -> ReportResult:
    """Make the report of a folder of results again.

    Args:
        results: The output folder of `classify`.
        globs: Slides to show with pictures, by name or by file name; those of the last run if none is given.
        explainer: Makes maps of where members look, for the slides that its bundle classified.

    Raises:
        InputError: if there are no results, or no slide fits, or the bundle of `explainer` classified none of
            the slides that are shown.
        OutputError: if the folder cannot be written, or is in use.
    """
    with open_results(results, STAGE) as folder:
        made = make_report(folder, globs, explainer)
        write_digests(folder.folder, [FILE])
        return made


def make_report(
    folder: ResultFolder, globs: Sequence[str] = (), explainer: Explainer | None = None
) -> ReportResult:
    """Write `report.html` of a folder that this process holds.

    Every slide of the folder is in the table. The slides that fit `globs`, or else those of the last run,
    have a section with pictures, at most MOST_SLIDES. If a slide is missing or cannot be read, its section
    has its numbers, and the reason instead of its pictures. No slide is opened after MOST_SECONDS.

    Raises:
        InputError: if no slide fits `globs`, or the bundle of `explainer` classified none that is shown.
        OSError: if the file cannot be written.
    """
    started = perf_counter()
    results = _read_results(folder)
    selected = _selected(results, globs)
    shown = selected[:MOST_SLIDES]
    records = [record for name in shown if (record := results.states[name].record) is not None]
    explained = _explained(records, explainer)
    ids = {name: f"slide-{number}" for number, name in enumerate(shown, start=1)}
    rows = {name: Row.of(row, ids.get(name)) for name, row in results.rows.items()}
    limits = Limits.shared(len(shown))
    deadline = started + MOST_SECONDS
    threads = 1 if explained else min(THREADS, granted_cpus())
    with ThreadPoolExecutor(threads, thread_name_prefix="report") as pool:
        made = pool.map(
            lambda record: _section(
                results,
                record,
                rows[record.name],
                limits,
                deadline,
                explainer if record in explained else None,
            ),
            records,
        )
        sections = tuple(made)  # an exception cancels the slides that are not begun
    page = Page(
        title=folder.folder.resolve().name,
        rows=tuple(rows.values()),
        sections=sections,
        notes=(
            *_notes(results, len(selected), len(shown)),
            *(_unexplained(records, explained) if explainer is not None else ()),
        ),
        run=_last_run(results.run),
        bundles=bundles_of(tuple(results.rows.values())),
        program=__version__,
        days=_days(results.states.values()),
        trend=TREND if (folder.folder / TREND).is_file() else None,
    )
    path = folder.folder / FILE
    write_report(path, page)
    return _result(path, page, perf_counter() - started)


def _result(path: Path, page: Page, seconds: float) -> ReportResult:
    missing = {section.row.slide: section.no_picture for section in page.sections if section.no_picture}
    return ReportResult(
        path=path,
        slides=len(page.rows),
        pictured=tuple(section.row.slide for section in page.sections),
        without_picture=missing,
        notes=tuple(page.notes),
        size_bytes=path.stat().st_size,
        seconds=seconds,
    )


# Reading the results


def _read_results(folder: ResultFolder) -> _Results:
    states = folder.states()
    recounted, fault = _attempt(lambda: read_recount(folder.folder))
    lost = lost_results(folder.earlier_states().values(), states)
    return _Results(
        folder=folder,
        states=states,
        rows={name: state.row() for name, state in states.items()},
        run=_read_run(folder.folder),
        recounted=recounted or {},
        faults=[*lost, *missing_assessments(states.values()), *([fault] if fault else [])],
    )


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) and _has_lists(run) else {}


def _has_lists(run: Mapping[str, Any]) -> bool:
    """Return whether the lists of `run.json` that the report shows are lists."""
    slides, warnings = run.get("slides", []), run.get("warnings", [])
    lists = isinstance(slides, list) and isinstance(warnings, list)
    return lists and all(isinstance(slide, dict) for slide in slides)


# Selecting the slides


def _selected(results: _Results, globs: Sequence[str]) -> list[str]:
    """Return the slides that the user or the last run selects, sorted."""
    done = results.done
    if not globs:
        of_run = {slide.get("slide") for slide in results.run.get("slides", ())}
        return [name for name in done if name in of_run] if of_run else done
    fitting = [name for name in done if fits(name, globs)]
    if not fitting:
        raise InputError(
            f"none of the {len(done)} classified slides is named {' or '.join(globs)}",
            subject=results.folder.folder,
            stage=STAGE,
            remedy="Quote a glob; `*` stands for any characters, and summary.csv has the names",
        )
    return fitting


def _days(states: Iterable[SlideState]) -> int:
    """Return the number of days (UTC) on which slides were classified, as far as their records state them."""
    origins = (state.record.origin for state in states if state.record is not None)
    return len({origin.made[:10] for origin in origins if origin is not None})


def _notes(results: _Results, selected: int, shown: int) -> Iterator[str]:
    yield from results.faults
    total = selected if selected > shown else len(results.done)
    if shown < total:
        command = f"`wsi-mitosis report {results.folder.folder.name} --slides GLOB`"
        yield f"{shown} of {total} slides are shown with pictures; {command} shows others"


def _explained(records: Sequence[SlideRecord], explainer: Explainer | None) -> list[SlideRecord]:
    """Return the slides that the explainer's bundle classified.

    Raises:
        InputError: if there is none.
    """
    if explainer is None:
        return []
    bundle = explainer.bundle
    found = [record for record in records if record.model.digest == bundle.digest]
    if not found:
        others = {f"{record.model.name} {record.model.digest[:12]}" for record in records}
        raise InputError(
            f"'{bundle.manifest.name}' ({bundle.digest[:12]}) classified none of the slides that are shown",
            subject=bundle.folder,
            stage=STAGE,
            remedy=f"Name the bundle that did: {listed(sorted(others)) or 'there are no such slides'}",
        )
    return found


def _unexplained(records: Sequence[SlideRecord], explained: Sequence[SlideRecord]) -> Iterator[str]:
    if others := [record.name for record in records if record not in explained]:
        yield f"no maps of {listed(others)}: classified with another bundle than --explain names"


def _last_run(run: Mapping[str, Any]) -> LastRun | None:
    if not run:
        return None
    names = ("version", "started", "ended", "exit_status")
    warnings = list(run.get("warnings", ()))
    more = len(warnings) - MOST_WARNINGS
    return LastRun(
        **{name: run.get(name) for name in names},
        parameters=tuple(parameters(run)),
        warnings=[*warnings[:MOST_WARNINGS], *([f"and {more} more, in run.json"] if more > 0 else [])],
    )


# The section of a slide


def _section(
    results: _Results,
    record: SlideRecord,
    row: Row,
    limits: Limits,
    deadline: float,
    explainer: Explainer | None,
) -> Section:
    scale, assessed = record.scale, results.states[record.name].assessed
    figures = results.folder.figures(record.name)
    classified = figures[figures["label"].notna()]
    assessment = NO_ASSESSMENT if assessed is None else assessed.assessment
    view = View.of(scale.size_px0, scale.bounds, scale.mpp)
    tiles = gallery_figures(classified, assessment.review, limits.crops)
    pictures = _pictures(record, view, tiles, limits, deadline, explainer)
    atypical, typical = _places(view, gallery_figures(classified).head(limits.marks))
    return Section(
        row=row,
        assessment=assessment,
        view=view,
        coordinates=Coordinates.of(results.folder.drawn_frame(record.name), scale.bounds, scale.mpp),
        overview=pictures.overview,
        no_picture=pictures.missing,
        atypical=atypical,
        typical=typical,
        marks_omitted=max(len(classified) - limits.marks, 0),
        tiles=list(map(Tile, tiles.itertuples(index=False), pictures.crops, pictures.maps)),
        looking=explainer.text if explainer is not None and any(pictures.maps) else "",
        probabilities=probability_bars(classified),
        votes=vote_bars(classified),
        excluded={str(k): int(n) for k, n in figures["excluded_reason"].value_counts().items()},
        reviewed=_reviewed(results, record.name),
        facts=_facts(record, assessed),
        warnings=record.warnings,
    )


def _places(view: View, figures: pd.DataFrame) -> list[list[tuple[int, int]]]:
    """Return the marks of atypical and of typical figures."""
    labels = ("atypical", "typical")
    return [marks(view, *_centres(figures[figures["label"] == label])) for label in labels]


def _centres(figures: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return figures["x_px0"].to_numpy(np.float64), figures["y_px0"].to_numpy(np.float64)


def _reviewed(results: _Results, slide: str) -> Reviewed | None:
    recounted = results.recounted.get(slide)
    if recounted is None:
        return None
    assessed = results.states[slide].assessed
    is_current = assessed is not None and assessed.key == recounted.assessment_key
    return Reviewed.of(recounted.row, is_current=is_current)


def _facts(record: SlideRecord, assessed: AssessedSlide | None) -> tuple[tuple[str, str], ...]:
    scale, model = record.scale, record.model
    width, height = scale.size_px0
    mm = f"{width * scale.mpp.x / 1000:.2f} x {height * scale.mpp.y / 1000:.2f} mm"
    pixel = " x ".join(dict.fromkeys(f"{axis:g}" for axis in scale.mpp))
    return (
        ("bundle", model.name),
        ("its digest", model.digest),
        ("trained", "yes" if model.trained else "NO: the labels mean nothing"),
        ("classified by", f"wsi-mitosis {record.program}"),
        ("size", f"{width} x {height} px, {mm}"),
        ("pixel size", f"{pixel} µm, from: {scale.mpp_source}"),
        *([] if record.sharpness is None else [("sharpness of its figures", record.sharpness.text)]),
        ("requested hotspots", _requested_hotspots(assessed)),
        ("slide's identity", record.slide.digest),
        ("result's key", record.key),
    )


def _requested_hotspots(assessed: AssessedSlide | None) -> str:
    if assessed is None or not assessed.options.hotspot_area:
        return "none"
    options = assessed.options
    return f"{options.hotspot_area:g} mm², {options.hotspot_aspect}, at most {options.hotspots}"


# Pictures


def _pictures(
    record: SlideRecord,
    view: View,
    tiles: pd.DataFrame,
    limits: Limits,
    deadline: float,
    explainer: Explainer | None,
) -> _Pictures:
    """Make the pictures of a slide; a failure costs only the pictures that it concerns."""
    none: list[str | None] = [None] * len(tiles)
    if perf_counter() > deadline:
        reason = f"{record.name}: reading the other slides took over {MOST_SECONDS / 60:g} minutes"
        return _Pictures(None, none, none, reason)
    with _OPENING:
        slide, reason = _attempt(lambda: open_classified(record.slide.path, record.slide.digest))
    if slide is None:
        return _Pictures(None, none, none, reason)
    with slide:
        return _pictures_of(slide, view, tiles, limits, explainer)


def _pictures_of(
    slide: Slide, view: View, tiles: pd.DataFrame, limits: Limits, explainer: Explainer | None
) -> _Pictures:
    none: list[str | None] = [None] * len(tiles)
    whole, no_overview = _attempt(lambda: overview(slide, view, limits.overview_chars))
    each, no_crops = _attempt(lambda: crops(slide, view.mpp, *_centres(tiles), limits.crops_chars))
    maps, no_maps = none, ""
    if explainer is not None:
        made, no_maps = _attempt(lambda: _maps(slide, view, tiles, limits, explainer))
        maps = none if made is None else made
    reasons = dict.fromkeys(filter(None, (no_overview, no_crops, no_maps)))
    return _Pictures(whole, none if each is None else each, maps, "; ".join(reasons))


def _maps(
    slide: Slide, view: View, tiles: pd.DataFrame, limits: Limits, explainer: Explainer
) -> list[str | None]:
    """Return the maps of the first figures of the review list; None for the other tiles."""
    chosen = (tiles["rank"] <= limits.maps).to_numpy(bool)
    if not chosen.any():
        return [None] * len(tiles)
    x, y = _centres(tiles[chosen])
    values = explainer.maps(slide, view.mpp, x, y)
    uris = iter(mapped_crops(slide, view.mpp, x, y, values, explainer.window_um, limits.maps_chars))
    return [next(uris) if is_chosen else None for is_chosen in chosen]


def _attempt(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """Return what `make` returns and "", or None and the reason why it failed."""
    try:
        return make(), ""
    except WsiMitosisError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the report shows the reason
        return None, f"unexpected {type(error).__name__}: {error}"
