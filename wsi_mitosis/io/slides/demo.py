"""The demo's slide, made from a real H&E image, and its overview."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from wsi_mitosis.core.qupath import FIGURE_COLOURS, FIGURE_UM
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.atomic import replacing
from wsi_mitosis.io.installing import install, install_again

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.io.slides import Slide

UM_PER_CM = 10_000
TILE_PX = 256


def he_image() -> NDArray[np.uint8]:
    """Return the H&E image of TIAToolbox (`tiatoolbox/data/target_image.png`), without importing TIAToolbox.

    Raises:
        InputError: if TIAToolbox or its image is missing.
    """
    found = importlib.util.find_spec("tiatoolbox")
    path = Path(found.origin).parent / "data" / "target_image.png" if found and found.origin else None
    if path is None or not path.is_file():
        raise InputError(
            "TIAToolbox's H&E image is missing",
            subject=path,
            stage="building the demo",
            remedy=install("tiatoolbox") if found is None else install_again("tiatoolbox"),
        )
    return np.asarray(Image.open(path).convert("RGB"))


def write_slide(path: Path, image: NDArray[np.uint8], mpp: float, levels: int = 3) -> None:
    """Write a tiled, pyramidal, lossless TIFF that OpenSlide and QuPath open as a slide.

    Args:
        path: The file.
        image: (height, width, 3) uint8 RGB, level 0.
        mpp: um/px at level 0, stored as the TIFF's resolution.
        levels: Levels of the pyramid, each half the size of the one before.
    """
    with replacing(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for level in range(levels):
            height, width = (max(1, side >> level) for side in image.shape[:2])
            pixels = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
            tiff.write(
                pixels,
                tile=(TILE_PX, TILE_PX),
                compression="deflate",
                photometric="rgb",
                resolution=(UM_PER_CM / (mpp * 2**level),) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )


def draw_overview(path: Path, slide: Slide, figures: pd.DataFrame, max_px: int = 1600) -> None:
    """Write a PNG of the slide in which classified figures are circled in the colour of their class.

    Args:
        path: The PNG.
        slide: An open slide.
        figures: FIGURE_COLUMNS, coordinates in level-0 px, slide frame.
        max_px: Largest length of the image's longer side, px.
    """
    image = Image.fromarray(slide.thumbnail(max_px))
    scale = image.width / slide.size_px0[0]
    draw = ImageDraw.Draw(image)
    radius = max(6.0, FIGURE_UM / 2 / slide.mpp.mean * scale)
    drawn = figures[figures["label"].notna()]
    centres = drawn[["x_px0", "y_px0"]].to_numpy(np.float64) * scale
    for (x, y), label in zip(centres.tolist(), drawn["label"], strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=FIGURE_COLOURS[label], width=3)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
