"""A slide's figures as DICOM Microscopy Bulk Simple Annotations, a series of the slide's own study.

Figures are points in the total pixel matrix of the slide's level 0 (2D, VOLUME; PS3.3 C.37.1.2.1.1), in
double precision. In these coordinates the corner of the top left pixel is 0\\0 and its opposite corner 1\\1
(C.18.6; highdicom's `ImageToReferenceTransformer` and the viewer Slim agree), as in the figures table.
Millimetres on the slide (3D) would depend on an origin and a spacing that real headers lack or round.
"""

from __future__ import annotations

import importlib.util
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.qupath import FIGURE_COLOURS, figure_class
from wsi_mitosis.errors import SlideError, SpecError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.installing import install
from wsi_mitosis.io.slides.dicom import header_of_level0

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from highdicom.ann import AnnotationGroup, Measurements
    from highdicom.color import CIELabColor
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset

    from wsi_mitosis.core.records import SlideRecord

SCHEME = "99WSIMITOSIS"
"""Designator of this program's private codes, which must begin with 99 (PS3.16 8). DICOM's context group for
annotations on microscopy, CID 8135, has cells and nuclei but no mitotic figures, and the dictionaries (of
pydicom 3.0) have no code for typical or atypical figures or for the votes of an ensemble."""
UID_NAMESPACE = uuid.UUID("b2e1c8b0-6a75-5c0e-8f0a-3d6f6c1b7a52")
SERIES_NUMBER = 1000
"""Sorts after the series of the scanner in the same study."""
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
"""Type 2 in PS3.3 C.7.1.1 and C.7.2.1: copied from the slide, or empty if the slide does not have them."""
LONG_STRING = 64
"""Most characters of a value of representation LO. Source: PS3.5 6.2."""


def check_installed() -> None:
    """Check that highdicom is installed, before any work begins.

    Raises:
        SpecError: if it is not.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise SpecError(
            "DICOM annotations are written by highdicom, which is not installed",
            subject="--dicom",
            remedy=install("highdicom"),
        )


def is_of(path: Path, record: SlideRecord) -> bool:
    """Return whether a file exists and has the annotations of exactly this result."""
    return has_uid(path, derived_uid(record, "instance"))


def has_uid(path: Path, uid: str) -> bool:
    """Return whether a file exists and has the DICOM object of this SOPInstanceUID."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    try:
        return bool(read_file_meta_info(path).get("MediaStorageSOPInstanceUID") == uid)
    except (OSError, InvalidDicomError):
        return False


def write_dicom(path: Path, slide: Path, figures: pd.DataFrame, record: SlideRecord) -> None:
    """Write the classified figures of one DICOM slide, with one group of points for each label that occurs.

    The object has the identity of patient, study and specimen, as every object of a study does. Its UIDs are
    derived from the result, so that an archive recognises a result that it has and does not show it twice.

    Args:
        path: The file.
        slide: A file of the slide's series.
        figures: FIGURE_COLUMNS, coordinates in level-0 px, slide frame; at least one has a label.
        record: The slide's result.

    Raises:
        SlideError: if the slide's header is not sufficient.
    """
    from pydicom.config import disable_value_validation

    # Values of the slide are copied unchanged, including those that break a rule.
    with disable_value_validation():
        source = source_image(slide, record.scale.size_px0)
        try:
            annotations = _annotations(source, figures, record)
        except (AttributeError, TypeError, ValueError) as error:
            raise SlideError(
                f"annotations cannot be derived from its DICOM header: {error}",
                subject=record.name,
                stage="writing DICOM annotations",
                remedy="Repair the header, or run without --dicom",
            ) from error
        with replacing(path) as temporary:
            annotations.save_as(temporary, enforce_file_format=True)


def source_image(slide: Path, size_px0: tuple[int, int]) -> Dataset:
    """Return the header of the image that an object is about, with its optional values filled in.

    Args:
        slide: A file of the slide's series.
        size_px0: (width, height) of level 0, px.

    Raises:
        UnreadableSlideError: if the series has no such image.
    """
    source = header_of_level0(slide, size_px0)
    for keyword in MAY_BE_EMPTY:
        if keyword not in source:
            setattr(source, keyword, None)
    # Annotations refer to a whole concatenation, not to one of its parts (PS3.3 C.37.1.2.1.1).
    whole = source.get("SOPInstanceUIDOfConcatenationSource")
    if whole is not None:
        source.SOPInstanceUID = whole
    return source


def _annotations(source: Dataset, figures: pd.DataFrame, record: SlideRecord) -> Any:
    from highdicom.ann import MicroscopyBulkSimpleAnnotations
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    use = use_notice(record)
    found = [label for label in FIGURE_COLOURS if (figures["label"] == label).any()]
    groups = [
        _group(number, label, figures[figures["label"] == label], record)
        for number, label in enumerate(found, start=1)
    ]
    return MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type="2D",
        pixel_origin_interpretation="VOLUME",
        annotation_groups=groups,
        series_instance_uid=derived_uid(record, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=derived_uid(record, "instance"),
        instance_number=1,
        **equipment(record),
        content_label="MITOTIC_FIGURES",
        content_description=f"{use}: mitotic figures by label",
        content_qualification="RESEARCH",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, "wsi-mitosis")],
    )


def _group(number: int, label: str, figures: pd.DataFrame, record: SlideRecord) -> AnnotationGroup:
    """Return the group of one label's figures, in the order of the table."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import AnnotationGroup
    from pydicom.sr.codedict import codes

    # A typical mitosis is not abnormal. Categories: PS3.16 CID 7150; for the type see SCHEME.
    abnormal, normal = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.AnatomicalStructure
    algorithm = AlgorithmIdentificationSequence(
        name=f"wsi-mitosis {record.model.name}"[:LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=record.program,
        source="wsi-mitosis",
        parameters={
            "bundle": record.model.name,
            "bundle_digest": record.model.digest,
            "trained": str(record.model.trained).lower(),
            "result_key": record.key,
        },
    )
    kind = finding_code(record, label, f"{label} mitotic figure")
    return AnnotationGroup(
        number=number,
        uid=derived_uid(record, label),
        label=figure_class(label, trained=record.model.trained),
        description=f"{kind.meaning}, by vote of the ensemble. Research use only.",
        annotated_property_category=abnormal if label == "atypical" else normal,
        annotated_property_type=kind,
        graphic_type="POINT",
        graphic_data=list(figures[["x_px0", "y_px0"]].to_numpy(np.float64)[:, None, :]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        measurements=_measurements(figures),
        display_color=_display_colour(FIGURE_COLOURS[label]),
    )


def _measurements(figures: pd.DataFrame) -> list[Measurements]:
    """Return the probability and votes of each figure, which DICOM stores as float32."""
    from highdicom.ann import Measurements
    from pydicom.sr.codedict import codes

    none, counts = codes.UCUM.NoUnits, codes.UCUM.Counts
    columns = (
        ("p_atypical", "Probability that the figure is atypical", none),
        ("votes_atypical", "Members that voted atypical", counts),
        ("votes_cast", "Members that voted", counts),
    )
    return [
        Measurements(private_code(column, meaning), figures[column].to_numpy(np.float32), unit)
        for column, meaning, unit in columns
    ]


def finding_code(record: SlideRecord, value: str, meaning: str) -> CodedConcept:
    """Return a private code of something found; a search by code never finds that of an untrained bundle."""
    if record.model.trained:
        return private_code(value, meaning)
    return private_code(f"void_{value}", f"Untrained, no finding: {meaning}")


def use_notice(record: SlideRecord) -> str:
    """Return the notice with which descriptions of objects begin."""
    return "Research use only" if record.model.trained else "UNTRAINED, labels mean nothing"


def equipment(record: SlideRecord) -> dict[str, Any]:
    """Return the equipment of a series of ours, and the series' description, as highdicom's arguments."""
    return {
        "series_description": f"{use_notice(record)}: wsi-mitosis {record.model.name}"[:LONG_STRING],
        "manufacturer": "wsi-mitosis",
        "manufacturer_model_name": record.model.name[:LONG_STRING],
        "software_versions": record.program,
        "device_serial_number": record.model.digest,
    }


def private_code(value: str, meaning: str) -> CodedConcept:
    """Return a code of SCHEME."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value.upper(), SCHEME, meaning)


def _display_colour(rgb: tuple[int, int, int]) -> CIELabColor:
    """Convert a colour from sRGB to CIELab in the ICC's connection space (D50), as DICOM requires."""
    from highdicom.color import CIELabColor
    from PIL import Image, ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.new("RGB", (1, 1), rgb), srgb, lab, outputMode="LAB")
    pixel = np.asarray(converted)[0, 0]  # uint8: L of 255, then a and b in two's complement
    a, b = pixel[1:].view(np.int8)
    return CIELabColor(pixel[0] / 255 * 100, float(a), float(b))


def derived_uid(record: SlideRecord, part: str) -> str:
    """Derive a UID from the result, by way of a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, f'{record.key}:{record.program}:{part}').int}"
