"""Slides as DICOM whole-slide series, whole enough for `dciodvfy` to find no error in them."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, VLWholeSlideMicroscopyImageStorage, generate_uid

TILE_PX = 256
MM_PER_UM = 1e-3


def dicom_slide(
    folder: Path, image: NDArray[np.uint8], mpp: float = 0.25, levels: int = 2, seed: str = "slide"
) -> Path:
    """One series, a file per level, each level half of the one before; lossless.

    The file of level 0 is not the first by its name, nor is any file named after its level.

    Args:
        folder: Made if needed.
        image: (height, width, 3) uint8 RGB, level 0.
        mpp: um/px at level 0.
        levels: Of the pyramid.
        seed: All UIDs follow from it.

    Returns:
        The series' first file by name, by which the program calls the slide.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for level in range(levels):
        height, width = (max(1, side >> level) for side in image.shape[:2])
        pixels = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
        path = folder / f"{seed}-{levels - level}.dcm"
        _write(path, pixels, mpp * image.shape[1] / width, level, seed)
        paths.append(path)
    return min(paths)


def complaints(path: Path) -> list[str]:
    """The errors that `dciodvfy` of Debian's dicom3tools finds; skips where it is not installed.

    One is left out where it is false: version 20220618 reports a CommonZCoordinateValue in every group of 2D
    coordinates, whether there is one or not (its template asks for the coordinates' type alone).
    """
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    told = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True).stderr
    assert told.strip(), "dciodvfy says which kind of object it looked at"
    errors = [line for line in told.splitlines() if line.startswith("Error")]
    groups = pydicom.dcmread(path, stop_before_pixels=True).get("AnnotationGroupSequence", [])
    if any("CommonZCoordinateValue" in group for group in groups):
        return errors
    return [error for error in errors if "CommonZCoordinateValue" not in error]


def _write(path: Path, pixels: NDArray[np.uint8], mpp: float, level: int, seed: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEG2000Lossless
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(seed, f"level {level}")
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for part in (_identity(seed, level), _specimen(seed), _optics(), _matrix(pixels, mpp, level, seed)):
        data.update(part)
    frames = list(_frames(pixels))
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def _uid(*parts: str) -> UID:
    return generate_uid(entropy_srcs=list(parts))


CONSTANTS = dict(
    line.split(": ")
    for line in """\
SpecificCharacterSet: ISO_IR 192
PatientName: Müller^Änne
PatientID: P-1
PatientBirthDate: 19500203
PatientSex: F
StudyDate: 20200101
StudyTime: 120000
StudyID: S-1
AccessionNumber: A-1
Modality: SM
PositionReferenceIndicator: SLIDE_CORNER
Manufacturer: wsi-mitosis tests
ManufacturerModelName: generated
DeviceSerialNumber: 1
SoftwareVersions: 1
ContentDate: 20200101
ContentTime: 120000
AcquisitionDateTime: 20200101120000""".splitlines()
) | {"ReferringPhysicianName": ""}


def _identity(seed: str, level: int) -> Dataset:
    """Patient, study, series, frame of reference, equipment, instance."""
    data = _dataset(
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        SOPInstanceUID=_uid(seed, f"level {level}"),
        StudyInstanceUID=_uid(seed, "study"),
        SeriesInstanceUID=_uid(seed, "series"),
        FrameOfReferenceUID=_uid(seed, "frame"),
        **CONSTANTS,
    )
    data.SeriesNumber, data.InstanceNumber, data.AcquisitionContextSequence = 1, level + 1, []
    return data


def _specimen(seed: str) -> Dataset:
    specimen = _dataset(
        SpecimenIdentifier="SP-1",
        SpecimenUID=_uid(seed, "specimen"),
        IssuerOfTheSpecimenIdentifierSequence=[],
        SpecimenPreparationSequence=[],
    )
    return _dataset(
        ContainerIdentifier="C-1",
        IssuerOfTheContainerIdentifierSequence=[],
        ContainerTypeCodeSequence=[_code("433466003", "SCT", "Microscope slide")],
        SpecimenDescriptionSequence=[specimen],
    )


def _optics() -> Dataset:
    path = _dataset(
        OpticalPathIdentifier="1",
        IlluminationTypeCodeSequence=[_code("111744", "DCM", "Brightfield illumination")],
        IlluminationColorCodeSequence=[_code("414298005", "SCT", "Full Spectrum")],
        ICCProfile=_srgb(),
    )
    return _dataset(NumberOfOpticalPaths=1, OpticalPathSequence=[path])


def _matrix(pixels: NDArray[np.uint8], mpp: float, level: int, seed: str) -> Dataset:
    """The image and how it lies on the slide."""
    height, width = pixels.shape[:2]
    spacing = round(mpp * MM_PER_UM, 9)
    kind = ["DERIVED" if level else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if level else "NONE"]
    measures = _dataset(PixelSpacing=[spacing, spacing], SliceThickness=0.001)
    shared = _dataset(
        PixelMeasuresSequence=[measures],
        WholeSlideMicroscopyImageFrameTypeSequence=[_dataset(FrameType=kind)],
        OpticalPathIdentificationSequence=[_dataset(OpticalPathIdentifier="1")],
    )
    # the corner of all levels lies at (20, 40) mm, and what is stated is the centre of the first pixel
    first = {axis: round(corner - spacing / 2, 9) for axis, corner in (("X", 20), ("Y", 40))}
    origin = _dataset(**{f"{axis}OffsetInSlideCoordinateSystem": offset for axis, offset in first.items()})
    organization = _dataset(DimensionOrganizationUID=_uid(seed, "dimensions"))
    return _dataset(
        ImageType=kind,
        ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        TotalPixelMatrixOriginSequence=[origin],
        TotalPixelMatrixColumns=width,
        TotalPixelMatrixRows=height,
        TotalPixelMatrixFocalPlanes=1,
        ImagedVolumeWidth=width * spacing,
        ImagedVolumeHeight=height * spacing,
        ImagedVolumeDepth=0.001,
        DimensionOrganizationType="TILED_FULL",
        DimensionOrganizationSequence=[organization],
        SharedFunctionalGroupsSequence=[shared],
        Rows=TILE_PX,
        Columns=TILE_PX,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        VolumetricProperties="VOLUME",
        FocusMethod="AUTO",
        ExtendedDepthOfField="NO",
        SpecimenLabelInImage="NO",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
    )


def _frames(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Tiles row by row, white beyond the edges, as JPEG 2000 code streams; equal ones are coded once."""
    coded: dict[bytes, bytes] = {}
    for top in range(0, pixels.shape[0], TILE_PX):
        for left in range(0, pixels.shape[1], TILE_PX):
            tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
            part = pixels[top : top + TILE_PX, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            if tile.tobytes() not in coded:
                stream = io.BytesIO()
                Image.fromarray(tile).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=0)
                coded[tile.tobytes()] = stream.getvalue()
            yield coded[tile.tobytes()]


def _srgb() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _dataset(**values: Any) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data
