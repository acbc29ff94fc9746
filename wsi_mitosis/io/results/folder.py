"""The output folder: one file per slide and kind, each whole or absent, and one writer at a time.

A slide has a figures table, an assessment and a GeoJSON file. The figures table is the last that is written
and carries the key of the result in its metadata: if it exists, the slide is done. The assessment is computed
from the table, the GeoJSON is drawn from both, and nothing is ever read back from a GeoJSON.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from wsi_mitosis.core import qupath
from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
from wsi_mitosis.core.moments import now
from wsi_mitosis.core.states import SlideState, summary_rows
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.csv_files import read_rows, write_rows
from wsi_mitosis.io.results.assessments import read_assessment, write_assessment
from wsi_mitosis.io.results.dicom import is_of, write_dicom
from wsi_mitosis.io.results.dicom_report import is_report_of, write_dicom_report
from wsi_mitosis.io.results.earlier import FOLDER as EARLIER
from wsi_mitosis.io.results.earlier import add_earlier, read_earlier
from wsi_mitosis.io.results.figures import read_figures, read_record, write_figures
from wsi_mitosis.io.results.geojson import (
    geojson_paths,
    provenance_of,
    read_sealed_provenance,
    write_slide_geojson,
)
from wsi_mitosis.io.results.held import HeldFolder, RunFolder
from wsi_mitosis.io.results.log import LOG
from wsi_mitosis.io.results.places import refuse_links
from wsi_mitosis.tables import REGION_COLUMNS, REVIEW_COLUMNS, SUMMARY_COLUMNS, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.assessments import AssessedSlide, Assessment
    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.units import Frame


SUMMARY_FILE, REVIEW_FILE = "summary.csv", "review.csv"
EXPORTS = "exports"
"""Where files for other programs are, which `export` writes."""


@dataclass(frozen=True)
class Drawing:
    """How a slide is drawn for viewers; it changes no number.

    Attributes:
        objects: What figures are in QuPath.
        frame: Frame of the coordinates.
        dicom: A file of the DICOM slide that annotations and a report are written for; None for none.
    """

    objects: qupath.ObjectType
    frame: Frame
    dicom: Path | None = None


class ResultFiles(RunFolder):
    """The files of an output folder. Reading them needs no lock and changes nothing."""

    def figures_path(self, slide: str) -> Path:
        """Return the path of a slide's figures table, whether it exists or not."""
        return self.folder / "figures" / f"{slide}.parquet"

    def assessment_path(self, slide: str) -> Path:
        """Return the path of a slide's assessment, whether it exists or not."""
        return self.folder / "assessments" / f"{slide}.json"

    def earlier_path(self, slide: str) -> Path:
        """Return the path of a slide's earlier results, whether it exists or not."""
        return self.folder / EARLIER / f"{slide}.json"

    def dicom_path(self, slide: str) -> Path:
        """Return the path of a slide's DICOM annotations, whether they exist or not."""
        return self.folder / "dicom" / f"{slide}.dcm"

    def dicom_report_path(self, slide: str) -> Path:
        """Return the path of a slide's DICOM structured report, whether it exists or not."""
        return self.folder / "dicom" / f"{slide}.sr.dcm"

    def earlier_results(self, slide: str) -> EarlierResults:
        """Return the results that others have replaced, of which a reviewer may have exported the figures."""
        found = read_earlier(self.earlier_path(slide))
        return found if found is not None and found.slide == slide else EarlierResults(slide=slide)

    def records(self) -> dict[str, SlideRecord]:
        """Return the records of the finished slides by name, from the metadata of their tables.

        A table in another place than that of the slide that it names is ignored.
        """
        tables = sorted((self.folder / "figures").rglob("*.parquet"))
        found = ((path, read_record(path)) for path in tables if not path.name.startswith("."))
        return {r.name: r for path, r in found if r is not None and self.figures_path(r.name) == path}

    def slide_of(self, table: Path) -> str:
        """Return the slide of a figures table, by the table's path."""
        return table.relative_to(self.folder / "figures").as_posix().removesuffix(".parquet")

    def figures(self, slide: str) -> pd.DataFrame:
        """Read a slide's figures table without its geometry column."""
        return read_figures(self.figures_path(slide))

    def assessed(self, record: SlideRecord) -> AssessedSlide | None:
        """Read a slide's assessment; None if there is no valid one of this very result."""
        found = read_assessment(self.assessment_path(record.name))
        return found if found is not None and found.record == record else None

    def is_drawn(self, assessed: AssessedSlide, drawing: Drawing) -> bool:
        """Return whether the slide's files for viewers are up to date."""
        record, found = assessed.record, self.geojson_files(assessed.record.name)
        missing = self._without_dicom(record, drawing) or self._without_report(assessed, drawing)
        if len(found) != 1 or missing is not None:
            return False
        provenance = provenance_of(
            record, objects=drawing.objects, frame=drawing.frame, assessment_key=assessed.key
        )
        return read_sealed_provenance(found[0]) == provenance

    def drawn_frame(self, slide: str) -> Frame:
        """Return the frame that a slide's GeoJSON is drawn in; `qupath`, the default, if it is not intact."""
        found = [read_sealed_provenance(path) for path in self.geojson_files(slide)]
        return "slide" if any(stated and stated["frame"] == "slide" for stated in found) else "qupath"

    def states(self) -> dict[str, SlideState]:
        """Return the state of every slide of the folder, sorted by name.

        A slide that `summary.csv` does not name, because a run was killed, is done if it has a record.
        """
        states = self.earlier_states()
        for name, record in self.records().items():
            if name not in states or states[name].status == "done":
                states[name] = SlideState(name, "done", record, self.assessed(record))
        known = ((n, s) for n, s in states.items() if s.record is not None or s.status != "done")
        return dict(sorted(known))

    def earlier_states(self) -> dict[str, SlideState]:
        """Return the states that earlier runs left, by slide, without records.

        The state of a slide counts more than its row in `summary.csv`, which a killed run does not write.
        """
        rows = self.earlier_rows()
        states = {n: SlideState(n, row["status"], error=row.get("error", "")) for n, row in rows.items()}  # type: ignore[arg-type]
        histories = (history.after_its_run for history in self.histories().values())
        return states | {h.slide: SlideState(h.slide, h.status, error=h.reason) for h in histories}  # type: ignore[arg-type]

    def earlier_rows(self) -> dict[str, dict[str, str]]:
        """Return the rows of the folder's `summary.csv` by slide; empty if there is none.

        A row whose status is unknown is ignored.

        Raises:
            OutputError: if the file cannot be read, or names no slides and statuses.
        """
        path = self.folder / SUMMARY_FILE
        try:
            return {row["slide"]: row for row in read_rows(path) if row["status"] in get_args(Status)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            remedy = "Delete it: the next run of `classify` writes it again, and finished slides are kept"
            raise OutputError("is not a summary of `classify`", subject=path, remedy=remedy) from error

    def _without_dicom(self, record: SlideRecord, drawing: Drawing) -> Path | None:
        """The slide that DICOM annotations are missing for; a slide without figures cannot have any."""
        if drawing.dicom is None or not record.counts.classified:
            return None
        return None if is_of(self.dicom_path(record.name), record) else drawing.dicom

    def _without_report(self, assessed: AssessedSlide, drawing: Drawing) -> Path | None:
        """The slide that a DICOM structured report is missing for, or is one of an earlier assessment."""
        is_current = is_report_of(self.dicom_report_path(assessed.record.name), assessed)
        return None if is_current else drawing.dicom

    def geojson_files(self, slide: str) -> list[Path]:
        """Return a slide's GeoJSON file, plain or compressed; empty if there is none."""
        return [path for path in geojson_paths(self._geojson_stem(slide)) if path.exists()]

    def _geojson_stem(self, slide: str) -> Path:
        return self.folder / qupath.GEOJSON_FOLDER / slide


WRITTEN = (
    "assessments",
    "dicom",
    EARLIER,
    EXPORTS,
    "figures",
    qupath.GEOJSON_FOLDER,
    "qupath",
    "reviewed",
    "states",
    LOG,
)
"""What runs write below the output folder or append to. Other files there are replaced as a whole."""


class ResultFolder(ResultFiles, HeldFolder):
    """An output folder that this process holds. Use it as a context manager.

    Args:
        folder: Created if it does not exist.
        steal: Take it over from a run of which it cannot be known whether it lives.

    Raises:
        OutputError: if the folder cannot be written, another run holds it, or a link leads out of it.
    """

    def __init__(self, folder: Path, *, steal: bool = False) -> None:
        refuse_links(folder, WRITTEN)
        super().__init__(folder, steal=steal)

    def write_slide(self, figures: pd.DataFrame, assessed: AssessedSlide, drawing: Drawing) -> None:
        """Write a slide's assessment, its GeoJSON, its figures table, and DICOM objects if requested.

        Args:
            figures: FIGURE_COLUMNS without `geometry`, then the input's other columns.
            assessed: The slide's record and assessment.
            drawing: How the slide is drawn.
        """
        record = assessed.record
        self._remember(record)
        self.write_assessment(assessed)
        self._draw(figures, assessed, drawing)
        self.dicom_path(record.name).unlink(missing_ok=True)  # of an earlier result
        write_figures(self.figures_path(record.name), record, figures)
        # last: a header that cannot be used must not cost the result
        self._annotate(figures, assessed, drawing)

    def write_assessment(self, assessed: AssessedSlide) -> None:
        """Write a slide's assessment, and remove a DICOM report that has the numbers of an earlier one."""
        report = self.dicom_report_path(assessed.record.name)
        if not is_report_of(report, assessed):
            report.unlink(missing_ok=True)
        write_assessment(self.assessment_path(assessed.record.name), assessed)

    def draw(self, assessed: AssessedSlide, drawing: Drawing) -> None:
        """Write a finished slide's files for viewers again."""
        figures = self.figures(assessed.record.name)
        self._draw(figures, assessed, drawing)
        self._annotate(figures, assessed, drawing)

    def put_summary_aside(self) -> Path:
        """Give a summary that cannot be read another name, and return that."""
        kept = self.folder / f"{SUMMARY_FILE}.unreadable"
        (self.folder / SUMMARY_FILE).replace(kept)
        return kept

    def write_summary(self, states: Iterable[SlideState]) -> None:
        """Write `summary.csv`, sorted by slide."""
        write_rows(self.folder / SUMMARY_FILE, SUMMARY_COLUMNS, summary_rows(states))

    def write_reviews(self, assessments: Mapping[str, Assessment]) -> None:
        """Write `review.csv` and, if a slide has regions, `regions.csv`, of all slides of the folder."""
        ordered = sorted(assessments.items())
        reviews = [
            {"slide": name, **item.model_dump(), "in_hotspot": str(item.in_hotspot).lower()}
            for name, assessment in ordered
            for item in assessment.review
        ]
        regions = [
            {"slide": name, **count.model_dump(by_alias=True)}
            for name, assessment in ordered
            for count in assessment.region_counts
        ]
        write_rows(self.folder / REVIEW_FILE, REVIEW_COLUMNS, reviews)
        if regions:
            write_rows(self.folder / "regions.csv", REGION_COLUMNS, regions)
        else:
            (self.folder / "regions.csv").unlink(missing_ok=True)

    def _remember(self, record: SlideRecord) -> None:
        """Keep which figures a result has that is about to be replaced by another one."""
        path = self.figures_path(record.name)
        earlier = read_record(path)
        if earlier is None or earlier.name != record.name or earlier.key == record.key:
            return
        result = EarlierResult.of(earlier, read_figures(path), now())
        add_earlier(self.earlier_path(record.name), record.name, result)

    def _draw(self, figures: pd.DataFrame, assessed: AssessedSlide, drawing: Drawing) -> None:
        write_slide_geojson(
            self._geojson_stem(assessed.record.name),
            figures,
            assessed.assessment,
            assessed.record,
            objects=drawing.objects,
            frame=drawing.frame,
            assessment_key=assessed.key,
        )

    def _annotate(self, figures: pd.DataFrame, assessed: AssessedSlide, drawing: Drawing) -> None:
        record = assessed.record
        if (slide := self._without_dicom(record, drawing)) is not None:
            write_dicom(self.dicom_path(record.name), slide, figures, record)
        if (slide := self._without_report(assessed, drawing)) is not None:
            write_dicom_report(self.dicom_report_path(record.name), slide, assessed)


def open_results(path: Path, stage: str) -> ResultFolder:
    """Open an output folder that `classify` wrote.

    Args:
        path: The folder.
        stage: What it is opened for, for messages.

    Raises:
        InputError: if it has no results.
        OutputError: if it cannot be written, or another run holds it.
    """
    check_results(path, stage)
    try:
        return ResultFolder(path)
    except OutputError as error:
        remedy = "Wait for the other run, or make the folder writable"
        raise OutputError(error.cause, subject=path, stage=stage, remedy=remedy) from error


def check_results(path: Path, stage: str) -> None:
    """Check that a folder has results of `classify`.

    Args:
        path: The folder.
        stage: What it is checked for, for messages.

    Raises:
        InputError: if it has none.
    """
    if not (path / "figures").is_dir() and not (path / SUMMARY_FILE).is_file():
        raise InputError(
            "this folder has no results of `classify`",
            subject=path,
            stage=stage,
            remedy="Give the folder that `classify` wrote to",
        )
