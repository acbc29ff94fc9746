"""The files of each slide in the output folder, written as the slide finishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.core.assessments import AssessedSlide, assess, assessment_key
from wsi_mitosis.core.regions import cut_off_note
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.io.results.folder import Drawing
from wsi_mitosis.io.slides.dicom import is_dicom

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.io.detections.regions import RegionFile
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.jobs.inputs import Inputs
    from wsi_mitosis.jobs.ledger import RunResult
    from wsi_mitosis.jobs.outcomes import SlideOutcome
    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.specs import ClassifySpec, OutputOptions
    from wsi_mitosis.tables import SlideSource

WITHOUT_RESULT = frozenset({"failed", "set_aside", "waiting"})
"""States in which a slide's earlier result does not count: it may be that of another slide or candidates."""


class SlideFiles:
    """Writes the files of the slides of one run, and knows what the folder holds.

    Args:
        folder: The output folder.
        records: Records of its finished slides, by name; kept up to date.
        output: What to look for, and how slides are drawn.
        regions: Regions by slide.
        dicom: A file of each slide that DICOM annotations are written for, by name.
    """

    def __init__(
        self,
        folder: ResultFolder,
        records: dict[str, SlideRecord],
        output: OutputOptions,
        regions: Mapping[str, RegionFile],
        dicom: Mapping[str, Path],
    ) -> None:
        self.folder, self.records, self.dicom = folder, records, dicom
        self._output, self._regions = output, regions
        self._options = output.assessment

    @classmethod
    def of(
        cls,
        folder: ResultFolder,
        records: dict[str, SlideRecord],
        spec: ClassifySpec,
        inputs: Inputs,
        names: Mapping[SlideSource, str],
    ) -> SlideFiles:
        """Make the writer of a run."""
        regions = {names[source]: regions for source, regions in inputs.regions.items()}
        openable = inputs.openable if spec.output.dicom else ()
        dicom = {names[source]: source.path for source in openable if is_dicom(source.path)}
        return cls(folder, records, spec.output, regions, dicom)

    def write(self, outcome: SlideOutcome[SlideResult]) -> tuple[SlideRecord, Mapping[str, float]]:
        """Write a done slide's files, or bring those on disk up to date if its result is unchanged.

        Returns:
            The slide's record, and the seconds by stage of its result.
        """
        if outcome.result is None:
            record = self.records[outcome.name]
            self._refresh(record)
            return record, {}
        record = outcome.result.record
        drawing = self._drawing(record.name)
        self.folder.write_slide(outcome.result.table, self._assess(record, outcome.result.table), drawing)
        self.records[record.name] = record
        return record, record.cost.stages

    def note(self, record: SlideRecord) -> str | None:
        """Return a note on regions of a slide that lie partly outside it; None without any."""
        regions = self._placed_regions(record)
        return None if regions is None else cut_off_note(regions, record.scale.size_px0, record.name)

    def states(self, result: RunResult, earlier: Mapping[str, SlideState]) -> list[SlideState]:
        """Return the state of every slide of the folder.

        Args:
            result: The run so far: its slides' states take the place of earlier ones.
            earlier: States that earlier runs left. One that failed since it was done has no result now.
        """
        states = {name: state for name, state in earlier.items() if state.status != "done"}
        for name, status in result.statuses.items():
            reason = result.errors.get(name) or result.reasons.get(name, "")
            states[name] = SlideState(name, status, error=reason)
        for name, record in self.records.items():
            if name not in states or states[name].status not in WITHOUT_RESULT:
                states[name] = SlideState(name, "done", record, self.folder.assessed(record))
        return list(states.values())

    def _refresh(self, record: SlideRecord) -> None:
        """Compute the assessment and draw the slide again, each only if it is not up to date."""
        drawing, regions = self._drawing(record.name), self._placed_regions(record)
        assessed = self.folder.assessed(record)
        if assessed is None or assessed.key != assessment_key(record.key, self._options, regions):
            assessed = self._assess(record, self.folder.figures(record.name))
            self.folder.write_assessment(assessed)
        if not self.folder.is_drawn(assessed, drawing):
            self.folder.draw(assessed, drawing)

    def _assess(self, record: SlideRecord, figures: pd.DataFrame) -> AssessedSlide:
        regions = self._placed_regions(record)
        return AssessedSlide(
            use=record.model.use,
            key=assessment_key(record.key, self._options, regions),
            record=record,
            options=self._options,
            assessment=assess(figures, record.scale, self._options, regions),
        )

    def _placed_regions(self, record: SlideRecord) -> tuple[Region, ...] | None:
        """The slide's regions in its own frame; None for the whole slide."""
        if (regions := self._regions.get(record.name)) is None:
            return None
        return regions.placed(record.scale.origin_px0(regions.frame))

    def _drawing(self, name: str) -> Drawing:
        return Drawing(
            "detection" if self._output.objects == "detections" else "annotation",
            self._output.geojson_frame,
            self.dicom.get(name),
        )
