"""Which scanner made a slide: maker and model as its file states them, and a digest of the serial number.

The number itself identifies a laboratory, and DICOM's profile of confidentiality removes it while it keeps
maker and model (PS3.15, table E.1-1: Device Serial Number). Its digest tells two scanners of one model apart.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from wsi_mitosis.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stated(NamedTuple):
    """Where a format states its scanner: its maker, and OpenSlide's properties of model and number."""

    maker: str
    models: tuple[str, ...] = ()
    number: str = ""


FORMATS = {
    "aperio": Stated("Aperio", ("aperio.ScannerType",), "aperio.ScanScope ID"),
    "dicom": Stated("", ("dicom.Manufacturer", "dicom.ManufacturerModelName"), "dicom.DeviceSerialNumber"),
    "hamamatsu": Stated("Hamamatsu", ("tiff.Make", "tiff.Model", "hamamatsu.Product"), "hamamatsu.NDP.S/N"),
    "leica": Stated("Leica", ("leica.device-model",)),
    "mirax": Stated("3DHISTECH"),
    "philips": Stated(
        "Philips",
        ("philips.DICOM_MANUFACTURER", "philips.DICOM_MANUFACTURERS_MODEL_NAME"),
        "philips.DICOM_DEVICE_SERIAL_NUMBER",
    ),
    "sakura": Stated("Sakura"),
    "trestle": Stated("Trestle"),
    "ventana": Stated("Ventana", ("ventana.ScannerModel",), "ventana.UnitNumber"),
    "zeiss": Stated("Zeiss"),
}
"""By OpenSlide's name of the format. A generic TIFF is not among them: any program may write one, and
anything into its tags. Source: the pages of the formats at https://openslide.org/formats."""
DIGITS = 6
"""Hexadecimal digits of the digest: two of ten scanners have the same once in 370,000 laboratories."""
MOST_CHARS = 120


def scanner_of(vendor: str, properties: Mapping[str, str]) -> str | None:
    """Return the name of a slide's scanner, as far as it is stated, such as `Aperio GT450 #3fa09c`.

    Args:
        vendor: OpenSlide's name of the format.
        properties: OpenSlide's properties of the slide.

    Returns:
        One line of at most MOST_CHARS characters; None if the file states nothing.
    """
    if vendor not in FORMATS:
        return None
    maker, names, place = FORMATS[vendor]
    models = (" ".join(properties.get(name, "").split()) for name in names)
    text, number = " ".join(dict.fromkeys(filter(None, models))), properties.get(place, "").strip()
    if not text.casefold().startswith(maker.casefold()):
        text = f"{maker} {text}".strip()
    text = printable(text)[: MOST_CHARS - DIGITS - 2]
    return f"{text} #{_digest(text, number)}".strip() if number else text or None


def _digest(text: str, number: str) -> str:
    return hashlib.sha256(f"{text}\n{number}".encode()).hexdigest()[:DIGITS]
