"""Small pictures of a slide as data URIs, for a page without other files. Only the pyramid is read."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.slides.patches import plan_patches, stream_patches
from wsi_mitosis.specs import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsi_mitosis.io.pages.drawing import View
    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.units import Mpp

Attempt = TypeVar("Attempt")
Made = TypeVar("Made")

OVERVIEW_PX = 900
"""Longest side of an overview, px."""
MOST_THUMBNAIL_PX = 4096
"""Longest side of the thumbnail from which an overview is cut, px."""
OVERVIEW_QUALITIES = ((900, 82), (900, 70), (720, 70), (560, 70), (430, 70), (320, 65), (240, 60), (160, 50))
"""(longer side in px, JPEG quality); the first one that is short enough is used."""
CROP_UM = 32.0
"""Side of a picture in the gallery, um: a figure and its neighbouring nuclei."""
CROP_MPP = 0.25
"""Pixel size of these pictures, um/px. A coarser slide keeps its own pixel size: enlarging adds no detail."""
CROP_QUALITIES = (82, 72, 60, 45, 30)
WHITE = 255
BATCH = 16
THREADS = 2
STAGE = "making pictures"


def open_classified(path: Path, identity: str) -> Slide:
    """Open the slide whose figures are shown.

    Args:
        path: Where it was classified.
        identity: Its identity then.

    Raises:
        UnreadableSlideError: if it is missing, cannot be read, or was changed.
    """
    if not path.exists():
        raise UnreadableSlideError(
            "the slide is no longer where it was classified",
            subject=path.name,
            stage=STAGE,
            remedy="Its path is in run.json",
        )
    slide = open_native(path)
    if slide.identity != identity:
        slide.close()
        raise UnreadableSlideError(
            "the slide has changed since it was classified",
            subject=path.name,
            stage=STAGE,
            remedy="Run `classify` again",
        )
    return slide


def overview(slide: Slide, view: View, most_chars: int) -> str:
    """Return a part of the slide as a JPEG in a data URI.

    Args:
        slide: An open slide.
        view: The part.
        most_chars: Greatest length of the URI; the picture is made smaller until it fits.

    Raises:
        UnreadableSlideError: if the slide cannot be decoded, or not in bounded time.
    """
    width, height = slide.size_px0
    enlarged = OVERVIEW_PX * max(width, height) / max(view.width, view.height)
    whole = slide.thumbnail(min(round(enlarged), MOST_THUMBNAIL_PX))
    across, down = whole.shape[1] / width, whole.shape[0] / height
    part = whole[
        round(view.top * down) : max(round((view.top + view.height) * down), 1),
        round(view.left * across) : max(round((view.left + view.width) * across), 1),
    ]

    def encoded(attempt: tuple[int, int]) -> str:
        picture = Image.fromarray(part)
        picture.thumbnail((attempt[0], attempt[0]))
        return _jpeg(picture, attempt[1])

    return _first_fitting(encoded, OVERVIEW_QUALITIES, len, most_chars)


def crops(
    slide: Slide, mpp: Mpp, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64], most_chars: int
) -> list[str]:
    """Return pictures of figures, each CROP_UM wide, as JPEGs in data URIs.

    Args:
        slide: An open slide.
        mpp: um per level-0 px.
        x_px0: (N,) centres along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
        most_chars: Greatest length of all URIs together; their quality is lowered until they fit.

    Raises:
        UnreadableSlideError: if the slide's pixels cannot be decoded.
    """
    side, crop_mpp = crop_side(mpp)
    spec = InputSpec(patch_px=side, mpp=crop_mpp, mpp_tolerance=0, pad_value=WHITE, scale=1)
    plan = plan_patches(slide.path.name, slide.levels, mpp, spec, side)
    batches = stream_patches(slide, plan, x_px0, y_px0, batch_size=BATCH, threads=THREADS)
    by_row = {int(row): crop for batch in batches for row, crop in zip(batch.rows, batch.pixels, strict=True)}
    pictures = [Image.fromarray(by_row[row]) for row in range(len(x_px0))]

    def encoded(quality: int) -> list[str]:
        return [_jpeg(picture, quality) for picture in pictures]

    return _first_fitting(encoded, CROP_QUALITIES, lambda uris: sum(map(len, uris)), most_chars)


def crop_side(mpp: Mpp) -> tuple[int, float]:
    """Return the side of a gallery's picture in px, and its um/px; their product is CROP_UM.

    Args:
        mpp: um per level-0 px of the slide.
    """
    side = 2 * max(4, round(CROP_UM / max(CROP_MPP, mpp.mean) / 2))
    return side, CROP_UM / side


def _first_fitting(
    make: Callable[[Attempt], Made], attempts: Iterable[Attempt], length: Callable[[Made], int], most: int
) -> Made:
    """Return the first result that is short enough, or else the last."""
    for attempt in attempts:
        made = make(attempt)
        if length(made) <= most:
            break
    return made


def _jpeg(picture: Image.Image, quality: int) -> str:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
