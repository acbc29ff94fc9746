"""The check of a slide's pixels when it is opened.

A slide has three 8-bit colour channels, and optionally an alpha channel. Anything else is refused, because a
library may convert it to pixels that differ from those on which the models were evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsi_mitosis.errors import UnreadableSlideError, listed
from wsi_mitosis.io.limits import MOST_SEGMENT_BYTES, MOST_SIDE_PX
from wsi_mitosis.io.slides.dicom import header_of_level0

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydicom.dataset import Dataset

    from wsi_mitosis.io.slides.tiff import OmeChannel, OmeImage, Tiff, TiffPage

STAGE = "checking the pixels"
EXPORT = (
    "Export it as 8-bit RGB, for example with QuPath, with `bfconvert` of Bio-Formats or with `vips tiffsave`"
)
SMALL_TILES = "Save it in tiles of at most 4096 px, for example with `vips tiffsave --tile --pyramid`"
BYTES_PER_PIXEL = 4
"""OpenSlide decodes to ARGB."""
ONE_PLANE = "Export the one plane that is in focus as an 8-bit RGB slide, for example with QuPath"
ONE_IMAGE = "Export the one image to be classified as a slide of its own, for example with QuPath"
UPRIGHT = "Turn it upright, for example with `vips autorot`, and take its detections from the new file"

GREYS = {0: "grey (white is 0)", 1: "grey"}
PALETTE, RGB, YCBCR = 3, 2, 6
COLOURS = {
    4: "a transparency mask",
    5: "CMYK",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "a raw colour filter array",
    32844: "LogL",
    32845: "LogLuv",
}
"""PhotometricInterpretation: TIFF 6.0, its supplements and libtiff's `tiff.h`."""
FORMATS = {2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
UNSIGNED = {1, 4}
"""SampleFormat: unsigned, and undefined, which readers take for unsigned."""
ALPHA = {1, 2}
"""ExtraSamples: associated and unassociated alpha."""
JPEG = {6, 7}
APERIO_YCBCR, APERIO_RGB = 33003, 33005
"""JPEG 2000 of Aperio, as YCbCr or RGB whatever the photometric tag says; OpenSlide knows both."""
SRGB = 16
ENUMERATED = {17: "grey", 18: "sYCC"}
"""Enumerated colour spaces of JPEG 2000 (ISO 15444-1, I.5.3.3)."""
ORIENTATIONS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 270 degrees",
    8: "turned by 270 degrees",
}
PRIMARIES = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}
WHITE = (255, 255, 255)
UNNAMED = re.compile(r"|(channel|ch|c)?[\s:_-]*\d+(:\d+)*", re.IGNORECASE)
NAMED = re.compile(r"(r|red|g|green|b|blue)([\s_-]?channel)?", re.IGNORECASE)

DICOM_TAGS = (
    "ImageType",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
)

Reader = Literal["openslide", "tifffile"]


@dataclass(frozen=True)
class Composition:
    """Three 8-bit channels that together are an RGB image.

    Attributes:
        order: The channels of red, green and blue.
    """

    order: tuple[int, int, int]


def check_tiff(
    name: str, tiff: Tiff, size_px0: tuple[int, int], *, reader: Reader, vendor: str
) -> Composition | None:
    """Refuse a TIFF whose pixels are not 8-bit RGB.

    Args:
        name: The slide, for messages.
        tiff: Its tags.
        size_px0: (width, height) of level 0, px.
        reader: The library that will read the pixels.
        vendor: OpenSlide's name for the format; "generic-tiff" for what it does not read.

    Returns:
        How to compose its channels where each is an image of its own; None for an RGB slide.

    Raises:
        UnreadableSlideError: if they are something else. It describes the pixels.
    """
    page = tiff.main_page(size_px0)
    image = tiff.ome_image(page.size)
    _refuse_huge(name, tiff, size_px0)
    _refuse_stack(name, tiff, page, image, vendor)
    if page.orientation != 1:
        turned = ORIENTATIONS.get(page.orientation, "not a known one")
        raise _refusal(name, f"its Orientation tag is {page.orientation} ({turned})", UPRIGHT)
    _refuse_samples(name, page)
    if image is not None and image.size_c == 3 and _may_be_composed(page):
        order = _order(name, image.channels)
        _refuse_further_pages(name, tiff, page, vendor, pages=3 if page.samples == 1 else 1)
        return Composition(order)
    _refuse_colours(name, page, image, reader)
    if image is not None and image.size_c > max(page.samples, 3):
        raise _refusal(name, f"it has {image.size_c} channels{_names(image.channels)}", EXPORT)
    _refuse_further_pages(name, tiff, page, vendor)
    for level in tiff.pages:
        if level.reduced and level.tiled and vendor == "generic-tiff":
            _refuse_samples(name, level)
            _refuse_colours(name, level, None, reader)
    return None


def check_dicom(path: Path, size_px0: tuple[int, int]) -> None:
    """Refuse a DICOM series whose level 0 is not 8-bit RGB in one focal plane.

    Raises:
        UnreadableSlideError: saying what the pixels are, or if the series has no such level.
    """
    _refuse_dicom(path.name, header_of_level0(path, size_px0, tags=DICOM_TAGS))


def check_dicom_file(path: Path) -> None:
    """Refuse a DICOM file that OpenSlide does not open and that holds a level which is not 8-bit RGB.

    Raises:
        UnreadableSlideError: if they are something else. It describes the pixels.
    """
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, specific_tags=[*DICOM_TAGS])
    if "VOLUME" in header.get("ImageType", ()):
        _refuse_dicom(path.name, header)


def check_jpeg2000(name: str, boxes: Sequence[Any]) -> None:
    """Refuse a JPEG 2000 image that is not 8-bit RGB.

    Args:
        name: The slide, for messages.
        boxes: The file's boxes as glymur reads them; empty for a raw codestream.

    Raises:
        UnreadableSlideError: if they are something else. It describes the pixels.
    """
    inside = [box for top in boxes if top.box_id == "jp2h" for box in top.box]
    header = next((box for box in inside if box.box_id == "ihdr"), None)
    if header is None:
        raise _refusal(name, "it is a JPEG 2000 codestream that states no colour space", EXPORT)
    if header.bits_per_component != 8 or header.signed:
        kind = "signed" if header.signed else "unsigned"
        cause = f"its pixels are {header.bits_per_component}-bit {kind} numbers, not 8-bit RGB"
        raise _refusal(name, cause, EXPORT)
    palette = any(box.box_id == "pclr" for box in inside)
    if header.num_components != 3 or palette:
        number = header.num_components
        what = "in a palette" if palette else f"of {number} channel{'' if number == 1 else 's'}"
        raise _refusal(name, f"its pixels are {what}, not RGB", EXPORT)
    for box in inside:
        if (fault := _jpeg2000_colour_fault(box)) is not None:
            raise _refusal(name, f"its pixels are {fault}, which would be read as RGB", EXPORT)


def _jpeg2000_colour_fault(box: Any) -> str | None:
    """The colours that a box of the JP2 header states, if they are not red, green and blue in this order."""
    if box.box_id == "cdef":
        order = dict(zip(box.index, box.association, strict=True))
        return None if order == {0: 1, 1: 2, 2: 3} else "channels in another order than red, green and blue"
    if box.box_id != "colr" or box.colorspace == SRGB:
        return None
    if box.colorspace is not None:
        return ENUMERATED.get(box.colorspace, f"of colour space {box.colorspace}")
    profile = box.icc_profile
    is_rgb = profile is None or bytes(profile[16:20]) == b"RGB "
    return None if is_rgb else "of an ICC colour space other than RGB"


def check_vendor(name: str, properties: Mapping[str, str]) -> None:
    """Refuse slides whose OpenSlide properties show more than 8 bits per channel or several focal planes.

    OpenSlide reads 48-bit CZI by dropping the lower bits; it refuses CZI with several channels, planes or
    times itself (`read_dim_entry` in its `src/openslide-vendor-zeiss.c`).

    Raises:
        UnreadableSlideError: if they are something else. It describes the pixels.
    """
    stated = properties.get("zeiss.Information.Image.PixelType", "")
    if properties.get("openslide.vendor") == "zeiss" and stated.lower() not in {"", "bgr24"}:
        raise _refusal(name, f"its pixels are {stated}, not 8-bit RGB (Bgr24)", EXPORT)
    layers = properties.get("ventana.Z-layers", "1")
    if layers.isdecimal() and int(layers) > 1:
        raise _refusal(name, f"it is a stack of {layers} focal planes", ONE_PLANE)


def _refusal(name: str, cause: str, remedy: str) -> UnreadableSlideError:
    return UnreadableSlideError(cause, subject=name, stage=STAGE, remedy=remedy)


def _refuse_stack(name: str, tiff: Tiff, page: TiffPage, image: OmeImage | None, vendor: str) -> None:
    """Refuse focal planes and time series, because it is unknown which plane is in focus."""
    planes, times = page.depth, 1
    if image is not None:
        planes, times = max(planes, image.size_z), image.size_t
    if page.description.startswith("ImageJ="):
        stated = dict(re.findall(r"^(slices|frames|channels|images)=(\d+)", page.description, re.MULTILINE))
        planes, times = max(planes, int(stated.get("slices", 1))), int(stated.get("frames", 1))
        if planes == times == 1 and int(stated.get("images", 1)) > 1:
            raise _refusal(
                name,
                f"it is an ImageJ stack of {stated['images']} images",
                "In ImageJ, save the one image that is to be classified, or make one of three channels by "
                "Image > Type > RGB Color",
            )
    if vendor == "hamamatsu":
        planes = max(planes, len({found.focus_nm for found in tiff.pages if found.focus_nm is not None}))
    if vendor == "leica":
        numbers = set(re.findall(r"<dimension\b[^>]*\sz=\"(\d+)\"", _descriptions(tiff)))
        planes = max(planes, len(numbers))
    if times > 1:
        raise _refusal(name, f"it is a time series of {times} images", ONE_IMAGE)
    if planes > 1:
        raise _refusal(name, f"it is a stack of {planes} focal planes", ONE_PLANE)


def _refuse_huge(name: str, tiff: Tiff, size_px0: tuple[int, int]) -> None:
    """Refuse sizes that no slide has, and tiles that cannot be decoded in the memory of a usual machine."""
    refuse_size(name, size_px0)
    for page in tiff.pages:
        width, height = page.segment_px
        if width * height * max(page.samples, BYTES_PER_PIXEL) > MOST_SEGMENT_BYTES:
            kind = "tiles" if page.tiled else "strips"
            cause = (
                f"its {kind} of {width} x {height} px unpack to more than {MOST_SEGMENT_BYTES >> 30} GiB each"
            )
            raise _refusal(name, cause, SMALL_TILES)


def refuse_size(name: str, size_px0: tuple[int, int]) -> None:
    """Refuse a slide that is wider or higher than glass can be.

    Raises:
        UnreadableSlideError: if it has no pixels, or more than MOST_SIDE_PX on an axis.
    """
    if not all(0 < side <= MOST_SIDE_PX for side in size_px0):
        cause = (
            f"it states a size of {size_px0[0]} x {size_px0[1]} px, and at most {MOST_SIDE_PX} are possible"
        )
        raise _refusal(name, cause, "The file is damaged; copy or scan it again")


def _descriptions(tiff: Tiff) -> str:
    """The descriptions of all pages, one after the other."""
    return "\n".join(page.description for page in tiff.pages)


def _refuse_samples(name: str, page: TiffPage) -> None:
    """Refuse samples that are not unsigned and of 8 bits."""
    kinds = {FORMATS.get(number, f"of format {number}") for number in {*page.formats} - UNSIGNED}
    if not kinds and set(page.bits) == {8}:
        return
    width = " or ".join(f"{number}-bit" for number in sorted(set(page.bits)))
    kind = " and ".join(sorted(kinds)) or "unsigned"
    raise _refusal(name, f"its pixels are {width} {kind} numbers{_type(page)}, not 8-bit RGB", EXPORT)


def _type(page: TiffPage) -> str:
    """NumPy's name for the samples, in brackets; nothing where they have none."""
    kind = {1: "uint", 2: "int", 3: "float"}.get(page.formats[0])
    bits = page.bits[0]
    return f" ({kind}{bits})" if kind and bits in {8, 16, 32, 64} else ""


def _may_be_composed(page: TiffPage) -> bool:
    """Whether a page holds one of three channels, or all three as samples that are not tagged as colours."""
    return page.photometric == 1 and page.samples in {1, 3}


def _order(name: str, channels: Sequence[OmeChannel]) -> tuple[int, int, int]:
    """The channels of red, green and blue.

    Raises:
        UnreadableSlideError: if the channels have other names or colours.
    """
    colours = [_colour_of(channel) for channel in channels]
    if not channels or all(colour == "" for colour in colours):
        return 0, 1, 2
    if sorted(colours) != ["blue", "green", "red"]:
        raise _refusal(name, f"its channels are not red, green and blue{_names(channels)}", EXPORT)
    return colours.index("red"), colours.index("green"), colours.index("blue")


def _colour_of(channel: OmeChannel) -> str:
    """The colour that a channel states: "red", "green", "blue" or "other"; "" if it states none."""
    by_name = ""
    if not UNNAMED.fullmatch(channel.name):
        found = NAMED.fullmatch(channel.name)
        first = found[1][0].lower() if found else ""
        by_name = {"r": "red", "g": "green", "b": "blue"}.get(first, "other")
    by_colour = ""
    if channel.colour is not None and channel.colour != WHITE:
        by_colour = PRIMARIES.get(channel.colour, "other")
    if channel.fluorescent or (by_name and by_colour and by_name != by_colour):
        return "other"
    return by_name or by_colour


def _names(channels: Sequence[OmeChannel]) -> str:
    names = [channel.name for channel in channels if channel.name]
    return f": {listed(names)}" if names else ""


def _refuse_colours(name: str, page: TiffPage, image: OmeImage | None, reader: Reader) -> None:
    """Refuse pixels that are not RGB, or that the reader would convert to RGB incorrectly."""
    channels = _names(image.channels) if image is not None else ""
    if page.photometric in COLOURS:
        raise _refusal(name, f"its pixels are {COLOURS[page.photometric]}, not RGB", EXPORT)
    if page.photometric in GREYS:
        number = page.samples if image is None else max(page.samples, image.size_c)
        many = f"{number} channels{channels}" if number > 1 else "one channel"
        raise _refusal(name, f"its pixels are {GREYS[page.photometric]} ({many}), not RGB", EXPORT)
    if page.photometric == PALETTE and page.samples == 1:
        return
    if page.photometric not in {RGB, YCBCR, None} or page.samples < 3:
        raise _refusal(name, f"its pixels have {page.samples} channels of no known colour", EXPORT)
    converted = JPEG | ({APERIO_YCBCR, APERIO_RGB} if reader == "openslide" else set())
    if (page.photometric == YCBCR or page.compression == APERIO_YCBCR) and page.compression not in converted:
        cause = f"its pixels are YCbCr in compression {page.compression}, which would not be read exactly"
        raise _refusal(name, cause, EXPORT)
    if page.samples > 4:
        raise _refusal(name, f"its pixels have {page.samples} channels, not 3 colours", EXPORT)
    if page.samples == 4 and (not page.extra or page.extra[0] not in ALPHA):
        raise _refusal(name, "its pixels have a fourth channel that is not alpha", EXPORT)


def _refuse_further_pages(name: str, tiff: Tiff, page: TiffPage, vendor: str, pages: int = 1) -> None:
    """Refuse several full-size pages. Smaller levels, labels and overviews are not counted."""
    if vendor in {"hamamatsu", "leica", "ventana"}:  # their own tags and XML distinguish areas and planes
        return
    own = vendor != "generic-tiff"
    full = [other for other in tiff.pages if other.is_full and (other.tiled or not own)]
    if (found := sum(other.size == page.size for other in full)) > pages:
        raise _refusal(
            name, f"it has {found} pages of full size: several images, planes or channels", ONE_IMAGE
        )
    area = page.width * page.height
    if not own and any(other.width * other.height > area for other in full):
        raise _refusal(name, "a further page is larger than the one that would be read", ONE_IMAGE)


def _refuse_dicom(name: str, header: Dataset) -> None:
    if (planes := header.get("TotalPixelMatrixFocalPlanes") or 1) > 1:
        raise _refusal(name, f"it is a stack of {planes} focal planes", ONE_PLANE)
    if (cause := _dicom_fault(header)) is not None:
        raise _refusal(name, cause, EXPORT)


def _dicom_fault(header: Dataset) -> str | None:
    allocated, stored = header.get("BitsAllocated"), header.get("BitsStored")
    if allocated != 8 or stored != 8 or header.get("PixelRepresentation", 0) != 0:
        signed = "signed" if header.get("PixelRepresentation", 0) else "unsigned"
        return f"its pixels are {stored}-bit {signed} numbers in {allocated} bits, not 8-bit RGB"
    colours = str(header.get("PhotometricInterpretation"))
    samples = header.get("SamplesPerPixel")
    if samples != 3 or not colours.startswith(("RGB", "YBR_")):
        return f"its pixels are {colours} of {samples} channel{'' if samples == 1 else 's'}, not RGB"
    if (paths := header.get("NumberOfOpticalPaths") or 1) > 1:
        return f"it has {paths} optical paths, which are channels of their own"
    return None
