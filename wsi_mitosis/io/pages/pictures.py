"""Small pictures of a slide as data URIs, for a page without other files. Only the pyramid is read."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.remote import is_url
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.io.slides.patches import plan_patches, stream_patches
from wsi_mitosis.specs import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
"""Pixel size of these pictures, um/px."""
CROP_QUALITIES = (82, 72, 60, 45, 30)
SQUARE_QUALITIES = (*((quality, 1) for quality in CROP_QUALITIES), (45, 2), (30, 4))
"""(JPEG quality, by how much a picture is reduced); the first one that is short enough is used."""
WHITE = 255
MAP_COLOUR = (255, 120, 0)
MAP_OPACITY = 0.75
"""Share of the colour where a map is 1."""
PALENESS = 0.6
"""How far grey goes towards white where there is no map."""
BATCH = 16
THREADS = 2
STAGE = "making pictures"


@dataclass(frozen=True)
class Square:
    """What a picture shows: a square around the figure.

    Attributes:
        side_um: Its side, um.
        mpp: Pixel size of the picture, um/px. A coarser slide keeps its own: enlarging adds no detail.
    """

    side_um: float
    mpp: float


GALLERY = Square(CROP_UM, CROP_MPP)


def open_classified(place: str, identity: str) -> Slide:
    """Open the slide whose figures are shown.

    Args:
        place: Its path when it was classified, or its URL.
        identity: Its identity then.

    Raises:
        UnreadableSlideError: if it is missing, cannot be read, was changed, or is at a URL.
    """
    path = Path(place)
    if is_url(place):
        raise UnreadableSlideError(
            "the slide is at a URL, and its copy was removed",
            subject=path.name,
            stage=STAGE,
            remedy="Its URL is in run.json",
        )
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
    return _encoded(_read_crops(slide, mpp, x_px0, y_px0), most_chars)


def mapped_crops(
    slide: Slide,
    mpp: Mpp,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    maps: NDArray[np.float32],
    window_um: float,
    most_chars: int,
) -> list[str]:
    """Return the same pictures as `crops`, in grey, with a map in colour on each.

    Args:
        slide: As for `crops`.
        mpp: As for `crops`.
        x_px0: As for `crops`.
        y_px0: As for `crops`.
        maps: (N, h, w), 0 to 1, in the orientation of the slide.
        window_um: Side of the square around the figure that a map covers, um.
        most_chars: As for `crops`.

    Raises:
        UnreadableSlideError: if the slide's pixels cannot be decoded.
    """
    pictures = _read_crops(slide, mpp, x_px0, y_px0)
    return _encoded([coloured(*pair, window_um) for pair in zip(pictures, maps, strict=True)], most_chars)


def coloured(crop: NDArray[np.uint8], values: NDArray[np.float32], window_um: float) -> NDArray[np.uint8]:
    """Return a crop in grey with a map in colour in its middle; what the map does not cover is pale.

    Args:
        crop: (S, S, 3), CROP_UM wide.
        values: (h, w), 0 to 1. They are interpolated linearly.
        window_um: Side of what the map covers, um; more than CROP_UM if its edges are not in the crop.

    Returns:
        (S, S, 3).
    """
    side = len(crop)
    window = max(2, 2 * round(side * window_um / CROP_UM / 2))
    enlarged = np.asarray(Image.fromarray(values).resize((window, window), Image.Resampling.BILINEAR))
    covered = np.full((max(side, window),) * 2, np.nan, np.float32)
    first, inset = (len(covered) - window) // 2, (len(covered) - side) // 2
    covered[first : first + window, first : first + window] = enlarged
    strength = covered[inset : inset + side, inset : inset + side, None]
    grey = crop.mean(axis=2, keepdims=True)
    inside = grey + MAP_OPACITY * strength * (np.array(MAP_COLOUR) - grey)
    outside = grey + PALENESS * (WHITE - grey)
    return np.asarray(np.where(np.isnan(strength), outside, inside).clip(0, WHITE), dtype=np.uint8)


def squares(
    slide: Slide,
    mpp: Mpp,
    x_px0: NDArray[np.float64],
    y_px0: NDArray[np.float64],
    square: Square,
    most_chars: int,
) -> list[str]:
    """Return a picture of each place as a JPEG in a data URI; only a few are in memory as pixels.

    Args:
        slide: An open slide.
        mpp: um per level-0 px.
        x_px0: (N,) centres along x, level-0 px, slide frame.
        y_px0: (N,) centres along y.
        square: What each shows.
        most_chars: Greatest length of each URI; a picture is made coarser until it fits.

    Raises:
        UnreadableSlideError: if the slide's pixels cannot be decoded.
    """
    pixels = _stream(slide, mpp, x_px0, y_px0, square)
    made = {row: _short(Image.fromarray(one), most_chars) for row, one in pixels}
    return [made[row] for row in range(len(x_px0))]


def _read_crops(
    slide: Slide, mpp: Mpp, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64]
) -> list[NDArray[np.uint8]]:
    by_row = dict(_stream(slide, mpp, x_px0, y_px0, GALLERY))
    return [by_row[row] for row in range(len(x_px0))]


def _stream(
    slide: Slide, mpp: Mpp, x_px0: NDArray[np.float64], y_px0: NDArray[np.float64], square: Square
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number of each place and its pixels, in the order in which they are read."""
    side, picture_mpp = crop_side(mpp, square)
    spec = InputSpec(patch_px=side, mpp=picture_mpp, mpp_tolerance=0, pad_value=WHITE, scale=1)
    plan = plan_patches(slide.path.name, slide.levels, mpp, spec, side)
    for batch in stream_patches(slide, plan, x_px0, y_px0, batch_size=BATCH, threads=THREADS):
        yield from zip(batch.rows.tolist(), batch.pixels, strict=True)


def _encoded(pictures: Iterable[NDArray[np.uint8]], most_chars: int) -> list[str]:
    images = list(map(Image.fromarray, pictures))

    def encoded(quality: int) -> list[str]:
        return [_jpeg(image, quality) for image in images]

    return _first_fitting(encoded, CROP_QUALITIES, lambda uris: sum(map(len, uris)), most_chars)


def _short(picture: Image.Image, most_chars: int) -> str:
    """Return a picture as a data URI that is short enough."""
    return _first_fitting(
        lambda attempt: _jpeg(picture.reduce(attempt[1]), attempt[0]), SQUARE_QUALITIES, len, most_chars
    )


def crop_side(mpp: Mpp, square: Square = GALLERY) -> tuple[int, float]:
    """Return the side of a picture in px, and its um/px; their product is the square's side.

    Args:
        mpp: um per level-0 px of the slide.
        square: What the picture shows.
    """
    side = 2 * max(4, round(square.side_um / max(square.mpp, mpp.mean) / 2))
    return side, square.side_um / side


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
