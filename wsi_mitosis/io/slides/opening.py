"""Opening a slide once, with a pixel size that somebody vouches for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import openslide

from wsi_mitosis.errors import MppError, UnreadableSlideError
from wsi_mitosis.io.slides.identity import slide_identity
from wsi_mitosis.io.slides.openslide_backend import OpenSlideBackend
from wsi_mitosis.io.slides.slide import MppSource, Slide
from wsi_mitosis.units import MPP_RANGE, Mpp

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.io.slides.slide import Backend


def open_slide(path: Path, *, given_mpp: float | None = None, list_mpp: float | None = None) -> Slide:
    """Open a slide by OpenSlide, or by TIAToolbox where OpenSlide refuses it.

    Args:
        path: The slide's file.
        given_mpp: um/px for a slide that states none or an absurd one; otherwise ignored with a warning.
        list_mpp: um/px that replaces what the slide states.

    Raises:
        UnreadableSlideError: where the file is missing or no library opens it.
        MppError: where no usable pixel size is stated and none is given.
    """
    backend, opening_notes = _open_backend(path)
    try:
        stated = _usable(backend.stated_mpp)
        mpp, source, warnings = _choose_mpp(path.name, backend.stated_mpp, given_mpp, list_mpp)
        identity = slide_identity(path, backend.vendor_hash)
    except BaseException:
        backend.close()
        raise
    return Slide(path, backend, mpp, source, stated, backend.bounds, identity, (*opening_notes, *warnings))


def open_native(path: Path) -> Slide:
    """Open a slide whose level-0 pixels are taken as they are, whatever they measure.

    Its `mpp` is NaN where it states no usable pixel size.

    Raises:
        UnreadableSlideError: where the file is missing or no library opens it.
    """
    backend, notes = _open_backend(path)
    try:
        stated = _usable(backend.stated_mpp)
        identity = slide_identity(path, backend.vendor_hash)
    except BaseException:
        backend.close()
        raise
    mpp = stated or Mpp(math.nan, math.nan)
    return Slide(path, backend, mpp, "slide", stated, backend.bounds, identity, notes)


def identify(path: Path) -> str:
    """The identity of a slide's content, whatever its pixel size.

    Raises:
        UnreadableSlideError: where the file is missing or no library opens it.
    """
    backend, _ = _open_backend(path)
    try:
        return slide_identity(path, backend.vendor_hash)
    finally:
        backend.close()


def _open_backend(path: Path) -> tuple[Backend, tuple[str, ...]]:
    """The slide by whichever library opens it, and what the user should know of that."""
    if not path.exists():
        raise UnreadableSlideError(
            "no such file", subject=path.name, stage="opening", remedy=f"Looked for {path}"
        )
    notes: tuple[str, ...] = ()
    try:
        return OpenSlideBackend(path), ()
    except openslide.OpenSlideUnsupportedFormatError as error:
        refusal = f"OpenSlide: {error}"
    except openslide.OpenSlideError as error:  # a format that it knows: the file is damaged or cut short
        refusal = f"OpenSlide: {error}"
        notes = (f"{path.name}: read by TIAToolbox and perhaps not whole, for OpenSlide refuses it: {error}",)
    from wsi_mitosis.io.slides.tiatoolbox_backend import TiatoolboxBackend

    try:
        return TiatoolboxBackend(path), notes
    except Exception as error:  # noqa: BLE001 - its readers raise whatever their libraries raise
        second = f"TIAToolbox: {type(error).__name__}: {error}".replace("\n", " ")
    raise UnreadableSlideError(
        f"{refusal}; {second}",
        subject=path.name,
        stage="opening",
        remedy="The file is damaged, incomplete or of a format that neither library reads; "
        "`wsi-mitosis doctor` lists the formats",
    )


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
