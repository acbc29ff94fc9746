"""The files of a run as a whole: the QuPath project, the report, and warnings about many slides at once."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.errors import OutputError, listed
from wsi_mitosis.io.interrupts import allowing_interrupts
from wsi_mitosis.io.results.folder import EXPORTS
from wsi_mitosis.io.results.project import project_path, write_project
from wsi_mitosis.jobs.export import export_slides
from wsi_mitosis.jobs.report import FILE as REPORT
from wsi_mitosis.jobs.report import make_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.results.folder import ResultFolder
    from wsi_mitosis.jobs.ledger import Ledger
    from wsi_mitosis.units import Frame


def missing_hotspots(states: Sequence[SlideState], area_mm2: float) -> list[str]:
    """Return a warning about slides without a hotspot; one for all, because small slides are common.

    Args:
        states: The slides of this run.
        area_mm2: Area of a hotspot, mm^2.
    """
    assessed = [state for state in states if state.assessment is not None]
    missing = {state.name: reason for state in assessed if (reason := state.no_hotspot) is not None}
    if len(missing) > 1:
        return [
            f"{len(missing)} of {len(assessed)} slides have no hotspot of {area_mm2:g} mm^2; "
            "run.json says why"
        ]
    return [f"{name}: no hotspot: {reason}" for name, reason in missing.items()]


def missing_dicom(states: Iterable[SlideState], dicom: Iterable[str]) -> list[str]:
    """Return warnings about done slides without DICOM annotations.

    Args:
        states: The slides of this run.
        dicom: The names of the DICOM slides among them.
    """
    done = [state for state in states if state.status == "done"]
    figures = {s.name: s.counts.classified for s in done if s.name in set(dicom) and s.counts is not None}
    others, empty = len(done) - len(figures), list(figures.values()).count(0)
    reasons = ((others, "no DICOM slides"), (empty, "no figures on them"))
    return [
        f"no DICOM annotations for {number} of {len(done)} slides: {why}" for number, why in reasons if number
    ]


def write_qupath_project(
    folder: ResultFolder,
    slides: Mapping[str, Path],
    unusable: Iterable[str],
    frame: Frame,
    families: Iterable[bool],
    ledger: Ledger,
) -> None:
    """Write the QuPath project; a failure is entered in the ledger.

    Args:
        folder: The output folder.
        slides: Path of every slide by name, also of those without figures.
        unusable: Names of the slides that must not be opened.
        frame: Frame of the GeoJSON files.
        families: Whether the bundles are trained whose labels are in the folder, once or more each.
        ledger: The run's ledger.
    """
    unusable = set(unusable)
    usable = {name: path for name, path in slides.items() if name not in unusable}
    try:
        absent = write_project(folder.folder, usable, frame, families)
    except (OutputError, OSError) as failure:  # it changed since `check_project`, or the disk is full
        name = str(project_path(Path()))
        ledger.fail(name, str(failure) if isinstance(failure, OutputError) else f"{name}: writing: {failure}")
        return
    if missing := sorted({*absent, *unusable}):
        ledger.warn(f"not in the QuPath project, because they cannot be opened: {listed(missing)}")


def write_tiatoolbox(folder: ResultFolder, states: Iterable[SlideState], ledger: Ledger) -> None:
    """Write an annotation store for TIAToolbox of each slide of this run; failures go to the ledger.

    A slide that failed loses its earlier store. Its failure is in the ledger already.
    """
    exported = {state.name: state for state in states}
    try:
        errors = export_slides(folder, "tiatoolbox", exported).errors
    except OutputError as failure:
        ledger.fail(f"{EXPORTS}/tiatoolbox", str(failure))
        return
    for name, error in errors.items():
        if exported[name].record is not None:
            ledger.fail(f"{EXPORTS}/tiatoolbox/{name}", error)


def write_report(folder: ResultFolder, ledger: Ledger, *, requested: bool) -> Path | None:
    """Write the report, or remove an earlier one whose numbers `summary.csv` may not have any more.

    It is the last file that a run writes: it can take minutes, and if it fails every other result is already
    on disk. A failure is entered in the ledger.

    Returns:
        The report; None if there is none.
    """
    path = folder.folder / REPORT
    try:
        path.unlink(missing_ok=True)
        if ledger.result.interrupted or not requested:
            return None
        ledger.info(f"making {REPORT}")
        with allowing_interrupts():
            made = make_report(folder)
    except KeyboardInterrupt:
        ledger.result.interrupted = True
        return None
    except Exception as failure:  # noqa: BLE001 - every other result is on disk; the traceback is kept
        remedy = f"`wsi-mitosis report {path.parent}` makes it"
        ledger.fail(
            REPORT, f"{REPORT}: {type(failure).__name__}: {failure}. {remedy}", traceback.format_exc()
        )
        return None
    ledger.log("report", seconds=made.seconds, size_bytes=made.size_bytes)
    for message in made.messages():
        ledger.warn(message)
    return path
