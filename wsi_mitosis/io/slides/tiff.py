"""The tags of the pages of a TIFF, which tifffile reads without any pixels."""

from __future__ import annotations

import logging
import math
import re
import threading
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.limits import MOST_XML_BYTES, LimitError, parse_xml
from wsi_mitosis.units import Mpp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    from tifffile import TiffFile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF and a BigTIFF, in both byte orders."""
MOST_PAGES = 40
"""Pages whose tags are read. Slides have fewer, and they are enough to recognise a stack."""
UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""ResolutionUnit of TIFF 6.0: inch and centimetre."""
METRIC = (
    *("Y 24", "Z 21", "E 18", "P 15", "T 12", "G 9", "M 6", "k 3", "h 2", "da 1", " 0"),
    *("d -1", "c -2", "m -3", "μ -6", "u -6", "n -9", "p -12", "f -15", "a -18", "z -21", "y -24"),
)
"""Prefixes of the metre and their powers of ten."""
UM_PER_OME_UNIT = {
    **{f"{prefix}m": float(f"1e{int(power) + 6}") for prefix, power in (name.split(" ") for name in METRIC)},
    "micron": 1.0,
    "Å": 1e-4,
    "thou": 25.4,
    "li": 25_400 / 12,
    "pt": 25_400 / 72,
    "in": 25_400.0,
    "inch": 25_400.0,
    "ft": 304_800.0,
    "yd": 914_400.0,
    "mi": 1_609_344_000.0,
    "ua": 1.495978707e17,
    "ly": 9.4607304725808e21,
    "pc": 3.0856775814913673e22,
}
"""The lengths of OME's schema 2016-06 (`UnitsLength`) in um, after NFKC, which turns the micro sign into a
Greek mu. `pixel` and `reference frame` are not lengths. `um`, `micron` and `inch` are other spellings."""


@dataclass(frozen=True)
class TiffPage:
    """The tags of one page.

    Attributes:
        width, height: px.
        bits: BitsPerSample, per sample.
        formats: SampleFormat, per sample; 1 is unsigned.
        samples: SamplesPerPixel.
        photometric, compression, orientation: The tags of these names.
        extra: ExtraSamples: 0 unspecified, 1 and 2 alpha.
        depth: ImageDepth, more than 1 for a volume.
        reduced: Whether it is a smaller version of another page.
        mask: Whether it is the transparency mask of another page.
        tiled: Whether it is stored in tiles.
        segment_px: (width, height) of its tiles or strips, px.
        description: ImageDescription.
        mpp: The pixel size that XResolution and YResolution state; None if they state none.
        focus_nm: Hamamatsu's z offset; None if there is none.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    samples: int
    photometric: int | None
    compression: int
    orientation: int
    extra: tuple[int, ...]
    depth: int
    reduced: bool
    mask: bool
    tiled: bool
    segment_px: tuple[int, int]
    description: str
    mpp: Mpp | None
    focus_nm: int | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        return self.width, self.height

    @property
    def is_full(self) -> bool:
        """Whether it is an image of its own, and not a smaller version or a mask of another."""
        return not self.reduced and not self.mask


@dataclass(frozen=True)
class OmeChannel:
    """A channel that OME-XML describes; `colour` is (red, green, blue), None if it is not stated."""

    name: str
    colour: tuple[int, int, int] | None
    fluorescent: bool


@dataclass(frozen=True)
class OmeImage:
    """An image that OME-XML describes: its size along each axis, its channels and its pixel size."""

    size: tuple[int, int]
    size_c: int
    size_z: int
    size_t: int
    channels: tuple[OmeChannel, ...]
    mpp: Mpp | None


@dataclass(frozen=True)
class Tiff:
    """The first pages of a TIFF and the images that its OME-XML describes."""

    pages: tuple[TiffPage, ...]
    ome: tuple[OmeImage, ...]

    def main_page(self, size: tuple[int, int]) -> TiffPage:
        """Return the page of level 0, which has `size` (width, height) px, or else the largest one."""
        same = [page for page in self.pages if page.size == size]
        tiled = [page for page in self.pages if page.tiled]
        return same[0] if same else max(tiled or self.pages, key=lambda page: page.width * page.height)

    def largest_page(self) -> TiffPage:
        """Return the first of the largest pages that are not smaller versions of others."""
        full = [page for page in self.pages if page.is_full]
        return max(full or self.pages, key=lambda page: page.width * page.height)

    def ome_image(self, size: tuple[int, int]) -> OmeImage | None:
        """Return the OME image of (width, height) px; None if the file describes none."""
        return next((image for image in self.ome if image.size == size), None)


def is_tiff(path: Path) -> bool:
    """Return whether a file begins like a TIFF or a BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Do not print what tifffile logs in this thread about damaged files, because an error follows."""
    logger, thread = logging.getLogger("tifffile"), threading.get_ident()

    def of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(of_another_thread)
    try:
        yield
    finally:
        logger.removeFilter(of_another_thread)


def read_tiff(path: Path) -> Tiff:
    """Read the tags of the first pages.

    Raises:
        UnreadableSlideError: if its OME-XML is beyond the limits or has a document type, whose entities can
            unpack to any size or name other files.
        Exception: of many kinds, if tifffile cannot read the first page's tags.
    """
    from tifffile import TiffFile

    with quiet_tifffile(), TiffFile(path) as file:
        pages = tuple(_pages(file))
    return Tiff(pages, _ome_images(path, pages[0].description))


def _pages(file: TiffFile) -> Iterator[TiffPage]:
    yield _page(file.pages.first.tags)
    for index in range(1, MOST_PAGES):
        try:
            tags = file.pages[index].aspage().tags
            page = _page(tags)
        except Exception:  # noqa: BLE001 - the end, or a damaged page, which is an error when it is read
            return
        yield page


def _page(tags: Any) -> TiffPage:
    def value(code: int, default: Any) -> Any:
        tag = tags.get(code)
        return default if tag is None or tag.value is None else tag.value

    samples = int(value(277, 1))
    subfile = int(value(254, 0))
    description = value(270, "")
    return TiffPage(
        width=int(value(256, 0)),
        height=int(value(257, 0)),
        bits=_numbers(value(258, 1)),
        formats=_numbers(value(339, 1)),
        samples=samples,
        photometric=None if tags.get(262) is None else int(value(262, 0)),
        compression=int(value(259, 1)),
        orientation=int(value(274, 1)),
        extra=_numbers(value(338, ())),
        depth=int(value(32997, 1)),
        reduced=bool(subfile & 0b001) or int(value(255, 1)) == 2,  # TIFF 6.0: NewSubfileType, SubfileType
        mask=bool(subfile & 0b100),
        tiled=tags.get(322) is not None,
        segment_px=_segment_px(value),
        description=description if isinstance(description, str) else "",
        mpp=_resolution(value(282, None), value(283, None), int(value(296, 2))),
        focus_nm=None if tags.get(65424) is None else int(value(65424, 0)),
    )


def _segment_px(value: Callable[[int, Any], Any]) -> tuple[int, int]:
    """TIFF 6.0: TileWidth and TileLength, or ImageWidth and RowsPerStrip, by default one strip."""
    if (width := value(322, None)) is not None:
        return int(width), int(value(323, width))
    length = int(value(257, 0))
    return int(value(256, 0)), min(length, int(value(278, length)))


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(item) for item in value) if isinstance(value, tuple | list) else (int(value),)


def _resolution(x: Any, y: Any, unit: int) -> Mpp | None:
    if unit not in UM_PER_UNIT or not (isinstance(x, tuple) and isinstance(y, tuple)):
        return None
    if not all((*x, *y)):
        return None
    return Mpp(*(UM_PER_UNIT[unit] * below / above for above, below in (x, y)))


def _ome_images(path: Path, description: str) -> tuple[OmeImage, ...]:
    if "<OME" not in description and ":OME" not in description:
        return ()
    try:
        root = parse_xml(description, MOST_XML_BYTES, "its OME-XML")
    except LimitError as error:
        raise _ome_refusal(path, str(error)) from error
    except ValueError:
        return ()
    return tuple(_ome_image(node) for node in root.iter() if _tag(node) == "Pixels")


def _ome_refusal(path: Path, cause: str) -> UnreadableSlideError:
    return UnreadableSlideError(
        cause,
        subject=path.name,
        stage="opening",
        remedy="No microscope writes such files. Check where it is from, and export the slide again",
    )


def _tag(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _ome_image(pixels: Element) -> OmeImage:
    def size(axis: str) -> int:
        stated = pixels.attrib.get(f"Size{axis}", "1")
        return int(stated) if stated.strip().isdecimal() else 1

    channels = tuple(_ome_channel(node.attrib) for node in pixels if _tag(node) == "Channel")
    lengths = [_ome_length(pixels.attrib, f"PhysicalSize{axis}") for axis in "XY"]
    x, y = (
        lengths[0] or lengths[1],
        lengths[1] or lengths[0],
    )  # a single one is used for both, as in TIAToolbox
    mpp = None if x is None or y is None else Mpp(x, y)
    return OmeImage((size("X"), size("Y")), size("C"), size("Z"), size("T"), channels, mpp)


def _ome_length(attributes: dict[str, str], name: str) -> float | None:
    unit = unicodedata.normalize("NFKC", attributes.get(f"{name}Unit", "µm")).strip()
    try:
        length = float(attributes[name]) * UM_PER_OME_UNIT[unit]
    except (KeyError, ValueError):
        return None
    return length if math.isfinite(length) and length > 0 else None


def _ome_channel(attributes: dict[str, str]) -> OmeChannel:
    colour = attributes.get("Color", "")
    known = re.fullmatch(r"-?\d+", colour.strip())
    rgba = int(colour) & 0xFFFFFFFF if known else None
    fluorescent = (
        "Fluor" in attributes
        or "EmissionWavelength" in attributes
        or attributes.get("ContrastMethod") == "Fluorescence"
        or attributes.get("IlluminationType") == "Epifluorescence"
    )
    rgb = None if rgba is None else (rgba >> 24, rgba >> 16 & 255, rgba >> 8 & 255)
    return OmeChannel(attributes.get("Name", "").strip(), rgb, fluorescent)
