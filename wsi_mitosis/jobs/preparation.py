"""What a run will do with each slide, decided without changing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wsi_mitosis.io.slides.finding import is_regular
from wsi_mitosis.jobs.histories import Histories, basis_of
from wsi_mitosis.jobs.inputs import Left
from wsi_mitosis.jobs.plan import ClassifyTask, names_in_folder, plan_classification
from wsi_mitosis.jobs.readiness import waiting_slides
from wsi_mitosis.version import RESULT_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.results.folder import ResultFiles
    from wsi_mitosis.jobs.inputs import Inputs
    from wsi_mitosis.specs import ClassifySpec
    from wsi_mitosis.tables import SlideSource


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        inputs: Its slides and their candidates.
        names: Name in the output folder by slide.
        records: Records of the folder's finished slides, by name.
        histories: What earlier runs left of slides.
        tasks: The slides to process, largest first.
    """

    inputs: Inputs
    names: Mapping[SlideSource, str]
    records: dict[str, SlideRecord]
    histories: Histories
    tasks: list[ClassifyTask]

    def left(self) -> dict[str, Left]:
        """Return the slides that this run leaves for a later one, by name, and why."""
        return {self.names[source]: left for source, left in self.inputs.left.items()}


def prepare(spec: ClassifySpec, bundle: Bundle, inputs: Inputs, folder: ResultFiles) -> Prepared:
    """Decide what to do with each slide.

    Args:
        spec: The run.
        bundle: Its ensemble.
        inputs: Its slides and their candidates.
        folder: The output folder, which need not exist.
    """
    records = folder.records()
    names = names_in_folder(inputs.sources, inputs.openable, records)
    options = [spec.result.model_dump(mode="json"), spec.placement.device, spec.placement.backend]
    basis = basis_of(bundle.digest, RESULT_VERSION, options)
    histories = Histories(folder, spec.retries, basis, inputs.own_files)
    inputs = _with_kept(inputs, names, records)
    inputs = inputs.without({}, _waiting(spec, inputs, names, histories))
    tasks = plan_classification(
        inputs.detections, names, records, overwrite=spec.output.overwrite, regions=inputs.regions
    )
    aside = {
        task.source: Left("set_aside", reason)
        for task in tasks
        if (reason := histories.set_aside(task)) is not None
    }
    left = [histories.with_origin(task, records.get(task.name)) for task in tasks if task.source not in aside]
    return Prepared(inputs.without({}, aside), names, records, histories, left)


def _with_kept(
    inputs: Inputs, names: Mapping[SlideSource, str], records: Mapping[str, SlideRecord]
) -> Inputs:
    """Return the inputs in which no finished slide waits for candidates: its result is kept."""
    waiting = [source for source, left in inputs.left.items() if left.status == "waiting"]
    kept = [s for s in waiting if names[s] in records and s not in inputs.own_files]
    notes = [f"{names[s]}: its candidates are gone; its result is kept" for s in kept]
    return replace(
        inputs,
        left={source: left for source, left in inputs.left.items() if source not in kept},
        absent=(*inputs.absent, *kept),
        notes=(*inputs.notes, *notes),
    )


def _waiting(
    spec: ClassifySpec, inputs: Inputs, names: Mapping[SlideSource, str], histories: Histories
) -> dict[SlideSource, Left]:
    slides = {
        names[source]: source
        for source in inputs.sources
        if source not in inputs.left and source not in inputs.absent and is_regular(source.path)
    }
    seconds, now = spec.schedule.settle_seconds, datetime.now(UTC)
    reasons = waiting_slides(slides, inputs.own_files, histories.known, seconds, now)
    return {slides[name]: Left("waiting", reason) for name, reason in reasons.items()}
