"""Export the results of an output folder for other programs, and read its figures into one table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.core.naming import fits
from wsi_mitosis.core.states import missing_assessments
from wsi_mitosis.errors import UNWRITABLE, InputError, OutputError, SlideError, listed
from wsi_mitosis.io.results.exports import FORMATS, Export
from wsi_mitosis.io.results.exports.common import PROVENANCE, STAGE
from wsi_mitosis.io.results.folder import EXPORTS, ResultFiles, check_results, open_results
from wsi_mitosis.jobs.slide_result import SlideResult

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import geopandas

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.results.exports import ExportWriter
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.tables import ExportFormat


@dataclass
class ExportResult:
    """What was exported.

    Attributes:
        folder: Where the files are.
        files: The files that were written.
        slides: The slides that are in them.
        figures: How many figures they have together.
        errors: Why a slide is in none of them, by slide.
        notes: What else the user should know.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    slides: list[str] = field(default_factory=list)
    figures: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 if every slide was exported, 1 if some were not, 2 if none was."""
        return (1 if self.files else 2) if self.errors else 0


def export(
    results: Path, to: ExportFormat, *, globs: Sequence[str] = (), out: Path | None = None
) -> ExportResult:
    """Export the results of an output folder.

    The slides themselves are not read. A slide that failed, or whose figures table is damaged, fails alone,
    and so does one that cannot be written in this format. A slide without detections has no result to export.

    Args:
        results: The output folder of `classify`.
        to: The format.
        globs: Slides to export, by name or by file name; all if none is given.
        out: Where the files go; `exports/<format>` in the folder of results if it is None.

    Raises:
        InputError: if the folder has no results, or no slide fits.
        SpecError: if a library of the format is not installed.
        OutputError: if a run is in progress in the folder, or `out` cannot be written.
    """
    FORMATS[to].check_installed(to)
    with open_results(results, STAGE) as folder:
        return export_slides(folder, to, _selected(folder, globs), out)


def export_slides(
    folder: ResultFolder, to: ExportFormat, states: Mapping[str, SlideState], out: Path | None = None
) -> ExportResult:
    """Export slides of an open output folder.

    Args:
        folder: The output folder.
        to: The format, whose libraries are installed.
        states: The slides by name, also those that have no result.
        out: As for `export`.

    Raises:
        OutputError: if `out` cannot be written.
    """
    writer = FORMATS[to]
    result = ExportResult(_prepared(folder.folder / EXPORTS / to if out is None else out))
    result.notes = list(_notes(states.values()))
    exports = _read(folder, states, writer, result)
    # one slide in memory at a time, unless one file has them all
    for group in [list(exports)] if writer.file else ([export] for export in exports):
        if group:
            _write(writer, group, result)
    return result


def figures_of(results: str | os.PathLike[str]) -> geopandas.GeoDataFrame:
    """Read the figures of all finished slides of an output folder.

    A single `figures/<slide>.parquet` is GeoParquet, and opens with `geopandas.read_parquet` alone.

    Args:
        results: The output folder of `classify`. Nothing in it is changed, and a run may be in progress.

    Returns:
        A row per candidate, as `SlideResult.figures`: a point in level-0 px of the slide frame, without CRS.
        A candidate that was excluded has no label. `attrs["wsi_mitosis"]` says for each slide which bundle
        classified it and whether that is trained. Research use only.

    Raises:
        InputError: if the folder has no results.
    """
    import geopandas
    import pandas as pd

    from wsi_mitosis.tables import FIGURE_COLUMNS

    check_results(Path(results), "reading figures")
    folder = ResultFiles(Path(results))
    records = folder.records()
    if lost := _lost(folder, records):
        warnings.warn(
            f"left out, because their figures tables are missing, damaged or edited: {listed(lost)}",
            stacklevel=2,
        )
    tables = [SlideResult(record, folder.figures(name)).figures for name, record in records.items()]
    empty = geopandas.GeoDataFrame(columns=list(FIGURE_COLUMNS), geometry="geometry")
    figures: geopandas.GeoDataFrame = pd.concat(tables, ignore_index=True) if tables else empty
    figures.attrs[PROVENANCE] = {name: Export(r, figures).provenance for name, r in records.items()}
    return figures


def _selected(folder: ResultFolder, globs: Sequence[str]) -> dict[str, SlideState]:
    """Return the states of the slides to export, also of those that have no result.

    Raises:
        InputError: if there are none.
    """
    states = folder.states()
    earlier = folder.earlier_states()
    states |= {name: earlier[name] for name in _lost(folder, states)}
    chosen = {name: states[name] for name in sorted(states) if not globs or fits(name, globs)}
    if not chosen:
        cause = (
            f"none of the {len(states)} slides is named {' or '.join(globs)}" if globs else "no slide is done"
        )
        remedy = "Quote a glob; `*` stands for any characters, and summary.csv has the names"
        raise InputError(
            cause, subject=folder.folder, stage=STAGE, remedy=remedy if globs else "Run `classify` first"
        )
    return chosen


def _lost(folder: ResultFiles, found: Mapping[str, object]) -> list[str]:
    """Return the slides that were done and have no intact figures table."""
    return [n for n, s in folder.earlier_states().items() if s.status == "done" and n not in found]


def _prepared(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"cannot be made: {error.strerror or error}"
        raise OutputError(cause, subject=out, stage=STAGE, remedy="Name another folder by --out") from error
    return out


def _is_missing(state: SlideState) -> bool:
    """Whether a slide should have a result, and has none."""
    return state.record is None and state.status != "no_detections"


def _why_not(state: SlideState) -> str:
    if state.status == "done":
        cause = "its figures table is missing, damaged or edited"
    else:
        cause = f"it has no result: {state.status}" + (f" ({state.error})" if state.error else "")
    return str(SlideError(cause, subject=state.name, stage=STAGE, remedy="Classify it again"))


def _notes(states: Iterable[SlideState]) -> Iterator[str]:
    states = list(states)
    if without := [state.name for state in states if state.status == "no_detections"]:
        yield f"not exported, because they have no detections: {listed(without)}"
    yield from missing_assessments(state for state in states if state.record is not None)


def _read(
    folder: ResultFolder, states: Mapping[str, SlideState], writer: ExportWriter, result: ExportResult
) -> Iterator[Export]:
    """Read the slides that are done; one that has no result for this format goes to the errors."""
    for name, state in states.items():
        if _is_missing(state):
            _fail(name, _why_not(state), writer, result)
        if state.record is None:
            continue
        try:
            export = _export(folder, state, state.record)
            writer.check(export)
        except SlideError as error:
            _fail(name, str(error), writer, result)
        else:
            yield export


def _export(folder: ResultFolder, state: SlideState, record: SlideRecord) -> Export:
    figures = folder.figures(record.name)
    classified = figures[figures["label"].notna()].reset_index(drop=True)
    return Export(record, classified, () if state.assessment is None else state.assessment.hotspots)


def _fail(name: str, why: str, writer: ExportWriter, result: ExportResult) -> None:
    """Enter a slide that has no result, and remove its earlier export, or name it if it is a folder."""
    result.errors[name] = why
    earlier = writer.target(result.folder, name)
    if writer.file or not earlier.exists():
        return
    if earlier.is_file():
        earlier.unlink()
    else:
        result.notes.append(f"{name}: {earlier} is of an earlier result")


def _write(writer: ExportWriter, exports: Sequence[Export], result: ExportResult) -> None:
    """Write one file; if that fails, its slides go to the errors, and an earlier file stays."""
    names = [export.record.name for export in exports]
    path = writer.target(result.folder, names[0])
    try:
        writer.write(path, exports)
    except SlideError as error:
        result.errors |= dict.fromkeys(names, str(error))
    except OSError as error:
        text = SlideError(
            f"cannot be written: {error.strerror or error}", subject=path, stage=STAGE, remedy=UNWRITABLE
        )
        result.errors |= dict.fromkeys(names, str(text))
    else:
        result.files.append(path)
        result.slides += names
        result.figures += sum(len(export.figures) for export in exports)
