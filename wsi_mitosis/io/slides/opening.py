"""Opening a slide once: by the library that reads it, its pixels checked, with a stated pixel size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openslide

from wsi_mitosis.errors import MppError, UnreadableSlideError
from wsi_mitosis.io.slides.dicom import is_dicom
from wsi_mitosis.io.slides.finding import OTHER_KIND_REMEDY, other_kind
from wsi_mitosis.io.slides.identity import slide_identity
from wsi_mitosis.io.slides.openslide_backend import OpenSlideBackend
from wsi_mitosis.io.slides.pixels import (
    check_dicom,
    check_dicom_file,
    check_jpeg2000,
    check_tiff,
    check_vendor,
)
from wsi_mitosis.io.slides.scale import Statement, taken_mpp
from wsi_mitosis.io.slides.slide import MppSource, Slide
from wsi_mitosis.io.slides.tiff import is_tiff, read_tiff
from wsi_mitosis.io.slides.tifffile_backend import TifffileBackend, has_gaps
from wsi_mitosis.units import MPP_RANGE, Mpp

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.io.slides.slide import Backend
    from wsi_mitosis.io.slides.tiff import Tiff

GENERIC = "generic-tiff"
FROM_TAGS = {GENERIC, "hamamatsu", "leica"}
"""OpenSlide's formats whose pixel size it takes from the TIFF resolution tags (openslide.org/formats)."""
UNKNOWN_COMPRESSION = "Unsupported TIFF compression"
"""Part of OpenSlide's message about a file that is whole, but compressed in a way that it does not know."""
SCANNED_IN_AREAS = {"dicom", "leica", "mirax", "philips", "sakura", "ventana", "zeiss"}
"""OpenSlide's formats that ordinarily do not store what lies between the scanned areas."""
LIBRARIES = {"openslide": "OpenSlide", "tiatoolbox": "TIAToolbox", "tifffile": "tifffile"}
APERIO = "Aperio"
"""How the description of an SVS begins, in OpenSlide and in tifffile."""
RGB_SAMPLES = 3


@dataclass(frozen=True)
class _Opened:
    """A slide's library, the um/px that its file states, and what the user should know of both."""

    backend: Backend
    stated_mpp: Mpp | None
    notes: tuple[str, ...] = ()
    scanned_in_areas: bool = False


def open_slide(path: Path, *, given_mpp: float | None = None, list_mpp: float | None = None) -> Slide:
    """Open a slide by OpenSlide, or by TIAToolbox or tifffile where OpenSlide does not read it rightly.

    Args:
        path: The slide's file.
        given_mpp: um/px for a slide that states none or an absurd one; otherwise ignored with a warning.
        list_mpp: um/px that replaces what the slide states.

    Raises:
        UnreadableSlideError: where the file is missing, no library opens it, or its pixels are not 8-bit RGB.
        MppError: where no usable pixel size is stated and none is given.
    """
    opened = _open(path)
    backend = opened.backend
    try:
        stated = _usable(opened.stated_mpp)
        mpp, source, warnings = _choose_mpp(path.name, opened.stated_mpp, given_mpp, list_mpp)
        identity = slide_identity(path, backend.vendor_hash)
    except BaseException:
        backend.close()
        raise
    notes = (*opened.notes, *warnings)
    return Slide(path, backend, mpp, source, stated, backend.bounds, identity, notes, opened.scanned_in_areas)


def open_native(path: Path) -> Slide:
    """Open a slide whose level-0 pixels are taken as they are, whatever they measure.

    Its `mpp` is NaN where it states no usable pixel size.

    Raises:
        UnreadableSlideError: where the file is missing, no library opens it, or its pixels are not 8-bit RGB.
    """
    opened = _open(path)
    backend = opened.backend
    try:
        stated = _usable(opened.stated_mpp)
        identity = slide_identity(path, backend.vendor_hash)
    except BaseException:
        backend.close()
        raise
    mpp = stated or Mpp(math.nan, math.nan)
    return Slide(
        path, backend, mpp, "slide", stated, backend.bounds, identity, opened.notes, opened.scanned_in_areas
    )


def identify(path: Path) -> str:
    """The identity of a slide's content, whatever its pixel size.

    Raises:
        UnreadableSlideError: where the file is missing, no library opens it, or its pixels are not 8-bit RGB.
    """
    backend = _open(path).backend
    try:
        return slide_identity(path, backend.vendor_hash)
    finally:
        backend.close()


def _open(path: Path) -> _Opened:
    """Open a slide by the first library that reads it, and check what its pixels are."""
    _check_regular(path)
    tiff, fault = _tags(path)
    damaged = False
    try:
        backend = OpenSlideBackend(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        refusal = f"OpenSlide: {error}"
    except openslide.OpenSlideError as error:  # a format that it knows: the file is damaged or cut short
        refusal, damaged = f"OpenSlide: {error}", UNKNOWN_COMPRESSION not in str(error)
    else:
        return _opened_by_openslide(path, backend, tiff, fault)
    try:
        opened = _opened_otherwise(path, tiff, fault)
    except UnreadableSlideError:
        raise
    except Exception as error:
        library = "TIAToolbox" if tiff is None or _for_tiatoolbox(path, tiff) else "tifffile"
        second = f"{library}: {type(error).__name__}: {error}".replace("\n", " ")
        raise UnreadableSlideError(
            f"{refusal}; {second}",
            subject=path.name,
            stage="opening",
            remedy="The file is damaged, incomplete or of a format that neither library reads; "
            "`wsi-mitosis doctor` lists the formats",
        ) from error
    if not damaged:
        return opened
    library = LIBRARIES[opened.backend.name]
    refused = refusal.replace(": ", " refuses it: ", 1)
    note = f"{path.name}: read by {library} and perhaps not whole, for {refused}"
    return _Opened(opened.backend, opened.stated_mpp, (note, *opened.notes))


def _check_regular(path: Path) -> None:
    """Refuse what is not a regular file before anything opens it: a named pipe would be waited for."""
    remedy = f"Looked for {path}"
    try:
        cause = other_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a zero byte in the name
        cause = "no such file"
    except OSError as error:
        cause = error.strerror or str(error)
    else:
        remedy = OTHER_KIND_REMEDY
    if cause is not None:
        raise UnreadableSlideError(cause, subject=path.name, stage="opening", remedy=remedy)


def _tags(path: Path) -> tuple[Tiff | None, str | None]:
    """A TIFF's tags, or why they cannot be read; neither for another format."""
    if not is_tiff(path):
        return None, None
    try:
        return read_tiff(path), None
    except Exception as error:  # noqa: BLE001 - tifffile raises many kinds
        return None, f"{type(error).__name__}: {error}"


def _tags_refusal(path: Path, fault: str) -> UnreadableSlideError:
    return UnreadableSlideError(
        f"its TIFF tags cannot be read: {fault}".replace("\n", " "),
        subject=path.name,
        stage="opening",
        remedy="The file is damaged or incomplete; copy or scan it again",
    )


def _opened_by_openslide(
    path: Path, backend: OpenSlideBackend, tiff: Tiff | None, fault: str | None
) -> _Opened:
    composition = None
    size = backend.levels[0].width, backend.levels[0].height
    vendor = backend.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
    try:
        if fault is not None:
            raise _tags_refusal(path, fault)
        check_vendor(path.name, backend.properties)
        if vendor == "dicom":
            check_dicom(path, size)
        if tiff is not None:
            composition = check_tiff(path.name, tiff, size, reader="openslide", vendor=vendor)
    except BaseException:
        backend.close()
        raise
    stated, notes = taken_mpp(path.name, _statements(tiff, size, vendor, backend.stated_mpp))
    if composition is None:
        return _Opened(backend, stated, notes, vendor in SCANNED_IN_AREAS)
    backend.close()
    return _Opened(TifffileBackend(path, size, composition), stated, notes)


def _opened_otherwise(path: Path, tiff: Tiff | None, fault: str | None) -> _Opened:
    """By tifffile or TIAToolbox, their pixels checked before anything is read."""
    if tiff is None:
        _check_other(path)
        backend = _tiatoolbox(path)
        if fault is not None:
            backend.close()
            raise _tags_refusal(path, fault)
        return _Opened(backend, backend.stated_mpp)
    size = tiff.largest_page().size
    composition = check_tiff(path.name, tiff, size, reader="tifffile", vendor=GENERIC)
    stated, notes = taken_mpp(path.name, _statements(tiff, size, GENERIC, tiff.main_page(size).mpp))
    if composition is None and _for_tiatoolbox(path, tiff):
        return _Opened(_tiatoolbox(path, size), stated, notes)
    return _Opened(TifffileBackend(path, size, composition), stated, notes)


def _check_other(path: Path) -> None:
    """Check what is no TIFF and what TIAToolbox may read."""
    if is_dicom(path):
        check_dicom_file(path)
    elif path.suffix.lower() == ".jp2":
        from glymur import Jp2k  # type: ignore[import-untyped]

        check_jpeg2000(path.name, Jp2k(path).box)


def _tiatoolbox(path: Path, size_px0: tuple[int, int] | None = None) -> Backend:
    """The slide by TIAToolbox, which must take the image of that size, if it is given, for the slide."""
    from wsi_mitosis.io.slides.tiatoolbox_backend import TiatoolboxBackend

    backend = TiatoolboxBackend(path)
    taken = backend.levels[0].width, backend.levels[0].height
    if size_px0 not in {None, taken}:
        backend.close()
        raise ValueError(f"it takes an image of {taken} px for the slide, not the largest, {size_px0} px")
    return backend


def _for_tiatoolbox(path: Path, tiff: Tiff) -> bool:
    """Whether TIAToolbox reads a TIFF by its TIFFWSIReader, whole and without alpha.

    It passes others to OpenCV, which gives what it cannot decode as pixels without a word.
    """
    page = tiff.largest_page()
    known = bool(tiff.ome) or page.description.startswith(APERIO) or (len(tiff.pages) == 1 and page.tiled)
    return known and page.samples == RGB_SAMPLES and not has_gaps(path, page.size)


def _statements(
    tiff: Tiff | None, size_px0: tuple[int, int], vendor: str, library: Mpp | None
) -> list[Statement]:
    """What the file states about its pixel size, the most specific first.

    Args:
        tiff: Its tags; None for another format.
        size_px0: (width, height) of level 0, px.
        vendor: OpenSlide's name for the format.
        library: What the library that opened it makes of the file.
    """
    if tiff is None:
        return [] if library is None else [Statement(library, vendor or "the file")]
    page = tiff.main_page(size_px0)
    image = tiff.ome_image(page.size)
    tags = library if vendor in FROM_TAGS else page.mpp
    found = [
        (None if image is None else image.mpp, "OME"),
        (
            _aperio_mpp(page.description) if vendor in FROM_TAGS else library,
            vendor if vendor != GENERIC else "Aperio",
        ),
        (tags, "TIFF resolution"),
    ]
    return [Statement(mpp, source) for mpp, source in found if mpp is not None]


def _aperio_mpp(description: str) -> Mpp | None:
    """The MPP of an SVS that OpenSlide does not open."""
    found = re.search(r"\|\s*MPP\s*=\s*(\d*\.?\d+)", description) if description.startswith(APERIO) else None
    return None if found is None else Mpp(float(found[1]), float(found[1]))


def _usable(mpp: Mpp | None) -> Mpp | None:
    return mpp if mpp is not None and all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in mpp) else None


def _choose_mpp(
    name: str, stated: Mpp | None, given: float | None, listed: float | None
) -> tuple[Mpp, MppSource, tuple[str, ...]]:
    usable = _usable(stated)
    if listed is not None:
        told = f"{_text(stated)} um/px" if stated else "no pixel size"
        note = f"{name}: the slide list's {listed:g} um/px is used; the slide states {told}"
        return Mpp(listed, listed), "list", (note,)
    if usable is not None:
        ignored = given is not None and any(abs(given / value - 1) > 1e-6 for value in usable)
        note = f"{name}: --mpp {given} is ignored, the slide states {_text(usable)} um/px"
        return usable, "slide", (note,) if ignored else ()
    if given is not None:
        return Mpp(given, given), "given", ()
    low, high = MPP_RANGE
    cause = (
        "the slide states no pixel size"
        if stated is None
        else f"the slide states {_text(stated)} um/px, which is outside {low:g} to {high:g}"
    )
    raise MppError(
        cause,
        subject=name,
        stage="opening",
        remedy="Give the true size in um/px by --mpp or by the mpp column of a slide list",
    )


def _text(mpp: Mpp) -> str:
    return f"{mpp.x:g} x {mpp.y:g}" if mpp.anisotropic else f"{mpp.x:g}"
