"""Open a slide: choose the library that reads it, check its pixels, and determine its pixel size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import openslide

from wsi_mitosis.errors import MppError, UnreadableSlideError
from wsi_mitosis.io.slides.dicom import DICOM_ENDING, is_deflated, is_dicom
from wsi_mitosis.io.slides.finding import OTHER_KIND_REMEDY, other_kind
from wsi_mitosis.io.slides.identity import slide_identity
from wsi_mitosis.io.slides.openslide_backend import OpenSlideBackend, centre_offset, stated_scanner
from wsi_mitosis.io.slides.pixels import (
    check_dicom,
    check_dicom_file,
    check_jpeg2000,
    check_tiff,
    check_vendor,
    refuse_size,
)
from wsi_mitosis.io.slides.scale import Statement, taken_mpp
from wsi_mitosis.io.slides.slide import MppSource, Slide
from wsi_mitosis.io.slides.tiff import is_tiff, read_tiff
from wsi_mitosis.io.slides.tifffile_backend import TifffileBackend, has_gaps
from wsi_mitosis.units import MPP_RANGE, Mpp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsi_mitosis.io.slides.slide import Backend
    from wsi_mitosis.io.slides.tiff import Tiff

GENERIC = "generic-tiff"
FROM_TAGS = {GENERIC, "hamamatsu", "leica"}
"""OpenSlide's formats whose pixel size comes from the TIFF resolution tags (openslide.org/formats)."""
UNKNOWN_COMPRESSION = "Unsupported TIFF compression"
"""Part of OpenSlide's message about an undamaged file whose compression it does not support."""
SCANNED_IN_AREAS = {"dicom", "leica", "mirax", "philips", "sakura", "ventana", "zeiss"}
"""OpenSlide's formats that usually store no pixels between the scanned areas."""
LIBRARIES = {"openslide": "OpenSlide", "tiatoolbox": "TIAToolbox", "tifffile": "tifffile"}
APERIO = "Aperio"
"""Start of the description of an SVS file."""
RGB_SAMPLES = 3


@dataclass(frozen=True)
class _Opened:
    """A slide's library, and what `Slide` has of its file: um/px, notes, place on the glass, scanner."""

    backend: Backend
    stated_mpp: Mpp | None
    notes: tuple[str, ...] = ()
    scanned_in_areas: bool = False
    centre_offset_um: tuple[float, float] | None = None
    scanner: str | None = None


def open_slide(path: Path, *, given_mpp: float | None = None, list_mpp: float | None = None) -> Slide:
    """Open a slide with OpenSlide, or with TIAToolbox or tifffile if OpenSlide does not read it correctly.

    Args:
        path: The slide's file.
        given_mpp: um/px for a slide that states none or an impossible one; otherwise ignored with a warning.
        list_mpp: um/px that replaces the one that the slide states.

    Raises:
        UnreadableSlideError: if the file is missing, no library opens it, or its pixels are not 8-bit RGB.
        MppError: if no usable pixel size is stated, and none is given.
    """
    return _slide(path, lambda stated: _choose_mpp(path.name, stated, given_mpp, list_mpp))


def open_native(path: Path) -> Slide:
    """Open a slide whose level-0 pixels are used as they are, whatever their size is.

    Its `mpp` is NaN if it states no usable pixel size.

    Raises:
        UnreadableSlideError: if the file is missing, no library opens it, or its pixels are not 8-bit RGB.
    """
    return _slide(path, lambda stated: (_usable(stated) or Mpp(math.nan, math.nan), "slide", ()))


def identify(path: Path) -> str:
    """Return the identity of a slide's content, which does not depend on its pixel size.

    Raises:
        UnreadableSlideError: if the file is missing, no library opens it, or its pixels are not 8-bit RGB.
    """
    with open_native(path) as slide:
        return slide.identity


def _slide(path: Path, choose_mpp: Callable[[Mpp | None], tuple[Mpp, MppSource, tuple[str, ...]]]) -> Slide:
    """Open a slide whose pixel size `choose_mpp` chooses, given the stated one."""
    opened = _open(path)
    backend = opened.backend
    try:
        refuse_size(path.name, (backend.levels[0].width, backend.levels[0].height))
        mpp, source, warnings = choose_mpp(opened.stated_mpp)
        identity = slide_identity(path, backend.vendor_hash)
    except BaseException:
        backend.close()
        raise
    return Slide(
        path,
        backend,
        mpp,
        source,
        _usable(opened.stated_mpp),
        backend.bounds,
        identity,
        (*opened.notes, *warnings),
        opened.scanned_in_areas,
        opened.centre_offset_um,
        opened.scanner,
    )


def _open(path: Path) -> _Opened:
    """Open a slide with the first library that reads it, and check its pixels."""
    _check_regular(path)
    _check_packing(path)
    tiff, tags_error = _tags(path)
    try:
        backend = OpenSlideBackend(path)
    except openslide.OpenSlideError as refusal:
        opened = _opened_by_another(path, tiff, tags_error, refusal)
        return _with_refusal(path.name, opened, refusal) if _says_damaged(refusal) else opened
    return _opened_by_openslide(path, backend, tiff, tags_error)


def _says_damaged(refusal: openslide.OpenSlideError) -> bool:
    """Whether OpenSlide knows the file's format, and so refuses a file that is damaged or incomplete."""
    is_unknown = isinstance(refusal, openslide.OpenSlideUnsupportedFormatError)
    return not is_unknown and UNKNOWN_COMPRESSION not in str(refusal)


def _with_refusal(name: str, opened: _Opened, refusal: openslide.OpenSlideError) -> _Opened:
    library = LIBRARIES[opened.backend.name]
    note = f"{name}: read by {library} and perhaps not whole, because OpenSlide refuses it: {refusal}"
    return replace(opened, notes=(note, *opened.notes))


def _opened_by_another(
    path: Path, tiff: Tiff | None, tags_error: str | None, refusal: openslide.OpenSlideError
) -> _Opened:
    """Open a slide that OpenSlide refuses, or raise an error that names both libraries' reasons."""
    try:
        return _opened_otherwise(path, tiff, tags_error)
    except UnreadableSlideError:
        raise
    except Exception as error:
        library = "TIAToolbox" if tiff is None or _for_tiatoolbox(path, tiff) else "tifffile"
        second = f"{library}: {type(error).__name__}: {error}".replace("\n", " ")
        raise UnreadableSlideError(
            f"OpenSlide: {refusal}; {second}",
            subject=path.name,
            stage="opening",
            remedy="The file is damaged, incomplete or of a format that neither library reads; "
            "`wsi-mitosis doctor` lists the formats",
        ) from error


def _check_regular(path: Path) -> None:
    """Refuse what is not a regular file before a library opens it, because a named pipe would block."""
    remedy = f"Looked for {path}"
    try:
        cause = other_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        cause = "no such file"
    except OSError as error:
        cause = error.strerror or str(error)
    else:
        remedy = OTHER_KIND_REMEDY
    if cause is not None:
        raise UnreadableSlideError(cause, subject=path.name, stage="opening", remedy=remedy)


def _check_packing(path: Path) -> None:
    """Refuse a DICOM file that is compressed as a whole before a library unpacks it."""
    if path.suffix.lower() == DICOM_ENDING and is_deflated(path):
        raise UnreadableSlideError(
            "the DICOM file is compressed as a whole (deflated), as slides are not",
            subject=path.name,
            stage="opening",
            remedy="Export the slide again in another transfer syntax",
        )


def _tags(path: Path) -> tuple[Tiff | None, str | None]:
    """A TIFF's tags, or the reason why they cannot be read; (None, None) for another format."""
    if not is_tiff(path):
        return None, None
    try:
        return read_tiff(path), None
    except UnreadableSlideError:
        raise
    except Exception as error:  # noqa: BLE001 - tifffile raises many kinds
        return None, f"{type(error).__name__}: {error}"


def _tags_refusal(path: Path, reason: str) -> UnreadableSlideError:
    return UnreadableSlideError(
        f"its TIFF tags cannot be read: {reason}".replace("\n", " "),
        subject=path.name,
        stage="opening",
        remedy="The file is damaged or incomplete; copy or scan it again",
    )


def _opened_by_openslide(
    path: Path, backend: OpenSlideBackend, tiff: Tiff | None, tags_error: str | None
) -> _Opened:
    composition = None
    size = backend.levels[0].width, backend.levels[0].height
    vendor = backend.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
    try:
        if tags_error is not None:
            raise _tags_refusal(path, tags_error)
        check_vendor(path.name, backend.properties)
        if vendor == "dicom":
            check_dicom(path, size)
        if tiff is not None:
            composition = check_tiff(path.name, tiff, size, reader="openslide", vendor=vendor)
    except BaseException:
        backend.close()
        raise
    stated, notes = taken_mpp(path.name, _statements(tiff, size, vendor, backend.stated_mpp))
    scanner = stated_scanner(backend.properties)
    if composition is None:
        in_areas, offset = vendor in SCANNED_IN_AREAS, centre_offset(backend.properties)
        return _Opened(backend, stated, notes, in_areas, offset, scanner)
    backend.close()
    return _Opened(TifffileBackend(path, size, composition), stated, notes, scanner=scanner)


def _opened_otherwise(path: Path, tiff: Tiff | None, tags_error: str | None) -> _Opened:
    """Check a slide's pixels, and open it with tifffile or TIAToolbox."""
    if tiff is None:
        _check_other(path)
        backend = _tiatoolbox(path)
        if tags_error is not None:
            backend.close()
            raise _tags_refusal(path, tags_error)
        return _Opened(backend, backend.stated_mpp)
    size = tiff.largest_page().size
    composition = check_tiff(path.name, tiff, size, reader="tifffile", vendor=GENERIC)
    stated, notes = taken_mpp(path.name, _statements(tiff, size, GENERIC, tiff.main_page(size).mpp))
    if composition is None and _for_tiatoolbox(path, tiff):
        return _Opened(_tiatoolbox(path, size), stated, notes)
    return _Opened(TifffileBackend(path, size, composition), stated, notes)


def _check_other(path: Path) -> None:
    """Check a file that is not a TIFF and that TIAToolbox may read."""
    if is_dicom(path):
        check_dicom_file(path)
    elif path.suffix.lower() == ".jp2":
        from glymur import Jp2k  # type: ignore[import-untyped]

        check_jpeg2000(path.name, Jp2k(path).box)


def _tiatoolbox(path: Path, size_px0: tuple[int, int] | None = None) -> Backend:
    """Open a slide with TIAToolbox, and refuse it if TIAToolbox reads an image of another size."""
    from wsi_mitosis.io.slides.tiatoolbox_backend import TiatoolboxBackend

    backend = TiatoolboxBackend(path)
    taken = backend.levels[0].width, backend.levels[0].height
    if size_px0 not in {None, taken}:
        backend.close()
        raise ValueError(f"it reads an image of {taken} px, not the largest, which has {size_px0} px")
    return backend


def _for_tiatoolbox(path: Path, tiff: Tiff) -> bool:
    """Whether TIAToolbox reads a TIFF with its TIFFWSIReader, completely and without alpha.

    It passes other files to OpenCV, which returns pixels without a warning for what it cannot decode.
    """
    page = tiff.largest_page()
    known = bool(tiff.ome) or page.description.startswith(APERIO) or (len(tiff.pages) == 1 and page.tiled)
    return known and page.samples == RGB_SAMPLES and not has_gaps(path, page.size)


def _statements(
    tiff: Tiff | None, size_px0: tuple[int, int], vendor: str, library: Mpp | None
) -> list[Statement]:
    """The file's statements of its pixel size, the most specific first.

    Args:
        tiff: Its tags; None for another format.
        size_px0: (width, height) of level 0, px.
        vendor: OpenSlide's name for the format.
        library: The pixel size that the library reports which opened the file.
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
    """The MPP in the description of an SVS file that OpenSlide does not open."""
    found = re.search(r"\|\s*MPP\s*=\s*(\d*\.?\d+)", description) if description.startswith(APERIO) else None
    return None if found is None else Mpp(float(found[1]), float(found[1]))


def _usable(mpp: Mpp | None) -> Mpp | None:
    return mpp if mpp is not None and all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in mpp) else None


def _choose_mpp(
    name: str, stated: Mpp | None, given: float | None, listed: float | None
) -> tuple[Mpp, MppSource, tuple[str, ...]]:
    usable = _usable(stated)
    if listed is not None:
        own = f"{_text(stated)} um/px" if stated else "no pixel size"
        note = f"{name}: the slide list's {listed:g} um/px is used; the slide states {own}"
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
        remedy="Pass the true size in um/px with --mpp, or in the mpp column of a slide list",
    )


def _text(mpp: Mpp) -> str:
    return f"{mpp.x:g} x {mpp.y:g}" if mpp.anisotropic else f"{mpp.x:g}"
