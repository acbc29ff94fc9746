"""A slide's counts and hotspots as a DICOM structured report, a series of the slide's own study.

The document is a Measurement Report (PS3.16 TID 1500) as a Comprehensive SR. One group has the counts of the
whole slide (TID 1501), and each hotspot has a group with its window (TID 1410): a closed polyline in the
total pixel matrix of level 0, in which the annotations have their points (see `dicom`). Its coordinates are
float32, which is 0.03 px at 400,000 px. The report is preliminary and not verified, because nobody has
confirmed it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import SlideError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.results.dicom import (
    LONG_STRING,
    SCHEME,
    SERIES_NUMBER,
    UID_NAMESPACE,
    derived_uid,
    equipment,
    finding_code,
    has_uid,
    source_image,
    use_notice,
)

if TYPE_CHECKING:
    from pathlib import Path

    from highdicom.sr import Measurement
    from pydicom.dataset import Dataset

    from wsi_mitosis.core.assessments import AssessedSlide
    from wsi_mitosis.core.hotspots import Hotspot
    from wsi_mitosis.core.records import SlideRecord

DECIMALS = 6
"""Of measured values, which DICOM keeps as at most 16 characters (DS, PS3.5 6.2)."""
UNITS = {
    "1": "no units",
    "{counts}": "counts",
    "mm2": "square millimeter",
    "/mm2": "per square millimeter",
}
"""The codes of UCUM that are used, and their meanings."""


def is_report_of(path: Path, assessed: AssessedSlide) -> bool:
    """Return whether a file exists and has the report of exactly this assessment."""
    return has_uid(path, _uid(assessed))


def write_dicom_report(path: Path, slide: Path, assessed: AssessedSlide) -> None:
    """Write the report of one DICOM slide, also of one without figures.

    It has the identity of patient, study and specimen, as every object of a study does. Its UIDs are derived
    from the assessment, so that an archive recognises a report that it has.

    Args:
        path: The file.
        slide: A file of the slide's series.
        assessed: The slide's record and assessment.

    Raises:
        SlideError: if the slide's header is not sufficient.
    """
    from pydicom.config import disable_value_validation

    # Values of the slide are copied unchanged, including those that break a rule.
    with disable_value_validation():
        source = source_image(slide, assessed.record.scale.size_px0)
        try:
            report = _document(source, assessed)
        except (AttributeError, TypeError, ValueError) as error:
            raise SlideError(
                f"a report cannot be derived from its DICOM header: {error}",
                subject=assessed.record.name,
                stage="writing the DICOM report",
                remedy="Repair the header, or run without --dicom",
            ) from error
        with replacing(path) as temporary:
            report.save_as(temporary, enforce_file_format=True)


def _uid(assessed: AssessedSlide) -> str:
    return derived_uid(assessed.record, f"report of {assessed.key}")


def _document(source: Dataset, assessed: AssessedSlide) -> Any:
    from highdicom.sr import ComprehensiveSR, MeasurementReport
    from pydicom.sr.codedict import codes

    record = assessed.record
    hotspots = enumerate(assessed.assessment.hotspots, start=1)
    report = MeasurementReport(
        observation_context=_context(source, record),
        procedure_reported=codes.DCM.WholeSlideImaging,
        imaging_measurements=[
            _whole_slide(source, record),
            *(_hotspot(source, assessed, rank, spot) for rank, spot in hotspots),
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = ComprehensiveSR(
        evidence=[source],
        content=report,
        series_instance_uid=derived_uid(record, f"series of the report of {assessed.key}"),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=_uid(assessed),
        instance_number=1,
        is_complete=True,
        **equipment(record),
    )
    document.CodingSchemeIdentificationSequence = _scheme()
    return document


def _scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sequence import Sequence

    return Sequence([CodingSchemeIdentificationItem(SCHEME, "wsi-mitosis")])


def _context(source: Dataset, record: SlideRecord) -> Any:
    """Who observed (the bundle) and what (the specimen on the slide, if there is exactly one)."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{uuid.uuid5(UID_NAMESPACE, record.model.digest).int}",
        name=f"wsi-mitosis {record.program}",
        manufacturer_name="wsi-mitosis",
        model_name=record.model.name,
        serial_number=record.model.digest,
    )
    observer = ObserverContext(codes.DCM.Device, device)
    return ObservationContext(observer_device_context=observer, subject_context=_subject(source))


def _subject(source: Dataset) -> Any:
    from highdicom.sr import SubjectContext, SubjectContextSpecimen
    from pydicom.sr.codedict import codes

    specimens = source.get("SpecimenDescriptionSequence") or []
    if len(specimens) != 1 or "SpecimenUID" not in specimens[0]:
        return None
    specimen = SubjectContextSpecimen(
        uid=specimens[0].SpecimenUID,
        identifier=specimens[0].get("SpecimenIdentifier"),
        container_identifier=source.get("ContainerIdentifier"),
    )
    return SubjectContext(codes.DCM.Specimen, specimen)


def _whole_slide(source: Dataset, record: SlideRecord) -> Any:
    from highdicom.sr import MeasurementsAndQualitativeEvaluations, SourceImageForMeasurementGroup

    counts = record.counts
    measurements = _counts(record, counts.classified, counts.atypical)
    if counts.atypical_fraction is not None:
        share = "atypical share of mitotic figures"
        measurements.append(_measured(record, "share", share, counts.atypical_fraction, "1"))
    return MeasurementsAndQualitativeEvaluations(
        measurements=measurements,
        source_images=[SourceImageForMeasurementGroup.from_source_image(source)],
        **_identity(record, "whole slide", record.key),
    )


def _hotspot(source: Dataset, assessed: AssessedSlide, rank: int, spot: Hotspot) -> Any:
    from highdicom.sr import ImageRegion, PlanarROIMeasurementsAndQualitativeEvaluations, SourceImageForRegion
    from pydicom.sr.codedict import codes

    record = assessed.record
    right, bottom = spot.x_px0 + spot.width_px0, spot.y_px0 + spot.height_px0
    corners = [(spot.x_px0, spot.y_px0), (right, spot.y_px0), (right, bottom), (spot.x_px0, bottom)]
    region = ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=np.array([*corners, corners[0]]),
        source_image=SourceImageForRegion.from_source_image(source),
        pixel_origin_interpretation="VOLUME",
    )
    measurements = [
        _measurement(codes.SCT.Area, spot.area_mm2, "mm2"),
        *_counts(record, spot.mitoses, spot.atypical),
        _measured(record, "density", "mitotic figures per mm2", spot.mitoses_per_mm2, "/mm2"),
    ]
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region,
        measurements=measurements,
        **_identity(record, f"hotspot {rank}", assessed.key),
    )


def _identity(record: SlideRecord, name: str, key: str) -> dict[str, Any]:
    """What every group has: its name, what was found, and the algorithm, as highdicom's arguments.

    Args:
        record: The slide's record.
        name: Of the group.
        key: Of what its numbers depend on.
    """
    from highdicom.sr import AlgorithmIdentification, TrackingIdentifier
    from pydicom.sr.codedict import codes

    model = record.model
    algorithm = AlgorithmIdentification(
        name=f"wsi-mitosis {model.name}"[:LONG_STRING],
        version=record.program,
        parameters=[
            f"use: {use_notice(record)}",
            f"bundle: {model.name}",
            f"bundle_digest: {model.digest}",
            f"trained: {str(model.trained).lower()}",
            f"result_key: {record.key}",
        ],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer="wsi-mitosis",
    )
    return {
        "tracking_identifier": TrackingIdentifier(derived_uid(record, f"{name} of {key}"), name),
        "finding_type": finding_code(record, "figures", "mitotic figures"),
        "algorithm_id": algorithm,
    }


def _counts(record: SlideRecord, figures: int, atypical: int) -> list[Measurement]:
    return [
        _measured(record, "n_figures", "number of mitotic figures", figures, "{counts}"),
        _measured(record, "n_atypical", "number of atypical mitotic figures", atypical, "{counts}"),
        _measured(record, "n_typical", "number of typical mitotic figures", figures - atypical, "{counts}"),
    ]


def _measured(record: SlideRecord, name: str, meaning: str, value: float, unit: str) -> Measurement:
    return _measurement(finding_code(record, name, meaning), value, unit)


def _measurement(name: Any, value: float, unit: str) -> Measurement:
    from highdicom.sr import CodedConcept, Measurement

    return Measurement(name, round(value, DECIMALS), CodedConcept(unit, "UCUM", UNITS[unit]))
