"""Contact sheets: crops of a dataset side by side, for a pathologist's eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsi_mitosis.core.qupath import FIGURE_COLOURS
from wsi_mitosis.errors import UNWRITABLE, OutputError
from wsi_mitosis.io.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PANEL_PX = 160
"""Side of a crop as drawn: 128 px crops, and larger ones, stay legible."""
GAP_PX, MARGIN_PX = 8, 24
CAPTION_PX, HEADING_PX, TITLE_PX = 38, 40, 98
INK, FAINT, PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)
OUTLINE = (40, 255, 60)
"""Green: far from haematoxylin and eosin, and from what either turns to for the colour-blind."""
CLASS_COLOURS = (FIGURE_COLOURS["atypical"], FIGURE_COLOURS["typical"])


@dataclass(frozen=True)
class Panel:
    """One crop.

    Attributes:
        image: (P, P, 3) uint8 RGB.
        mask: (P, P) uint8; all 0 for none.
        name: First line below.
        note: Second line below.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    name: str
    note: str


@dataclass(frozen=True)
class Band:
    """One domain's crops, atypical ones on the left."""

    heading: str
    atypical: tuple[Panel, ...]
    typical: tuple[Panel, ...]


def write_sheet(path: Path, title: str, subtitle: str, bands: Sequence[Band]) -> None:
    """Draw bands below each other into a PNG.

    Raises:
        OutputError: if it cannot be written.
    """
    columns = [max(len(band.atypical) for band in bands), max(len(band.typical) for band in bands)]
    side_px = [max(n, 2) * (PANEL_PX + GAP_PX) for n in columns]
    band_px = HEADING_PX + PANEL_PX + CAPTION_PX
    width = 2 * MARGIN_PX + sum(side_px) + MARGIN_PX
    sheet = Image.new("RGB", (width, TITLE_PX + len(bands) * band_px + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 14), title, INK, ImageFont.load_default(20))
    draw.text((MARGIN_PX, 44), subtitle, FAINT, ImageFont.load_default(14))
    starts = (MARGIN_PX, 2 * MARGIN_PX + side_px[0])
    for left, name, colour in zip(starts, ("Atypical", "Typical"), CLASS_COLOURS, strict=True):
        draw.text((left, 70), name, colour, ImageFont.load_default(18))
    for row, band in enumerate(bands):
        _draw_band(sheet, band, TITLE_PX + row * band_px, starts)
    try:
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error}", subject=path, stage="drawing a sheet", remedy=UNWRITABLE
        ) from error


def _draw_band(sheet: Image.Image, band: Band, top: int, starts: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.line((MARGIN_PX, top + 2, sheet.width - MARGIN_PX, top + 2), (210, 210, 210))
    draw.text((MARGIN_PX, top + 12), band.heading, INK, ImageFont.load_default(16))
    for panels, left, colour in zip((band.atypical, band.typical), starts, CLASS_COLOURS, strict=True):
        for place, panel in enumerate(panels):
            _draw_panel(sheet, panel, left + place * (PANEL_PX + GAP_PX), top + HEADING_PX, colour)


def _draw_panel(sheet: Image.Image, panel: Panel, left: int, top: int, colour: tuple[int, int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    sheet.paste(_outlined(panel), (left, top))
    draw.rectangle((left - 1, top - 1, left + PANEL_PX, top + PANEL_PX), outline=colour, width=2)
    for line, (text, ink) in enumerate(((panel.name, INK), (panel.note, FAINT))):
        font = ImageFont.load_default(13)
        draw.text((left, top + PANEL_PX + 2 + 16 * line), _fitted(text, font), ink, font)


def _outlined(panel: Panel) -> Image.Image:
    """The crop at the size of a panel, with a thin line just outside its mask."""
    size = (PANEL_PX, PANEL_PX)
    image = Image.fromarray(panel.image).resize(size, Image.Resampling.LANCZOS)
    mask = (
        np.asarray(Image.fromarray(panel.mask * np.uint8(255)).resize(size, Image.Resampling.BILINEAR)) > 127
    )
    around = np.pad(mask, 1)
    grown = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    pixels = np.array(image)
    pixels[grown & ~mask] = OUTLINE
    return Image.fromarray(pixels)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a text that is too long for its panel: names differ in their ends."""
    if font.getlength(text) <= PANEL_PX:
        return text
    while text and font.getlength(f"…{text}") > PANEL_PX:
        text = text[1:]
    return f"…{text}"
