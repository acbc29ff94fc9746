"""Pictures for the report: of the right place, of one physical size, and no longer than they may be."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.slide_files import leica_slide, textured, tiff_of_resolution, tiff_slide
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.pages.drawing import View
from wsi_mitosis.io.pages.pictures import (
    CROP_UM,
    coloured,
    crop_side,
    crops,
    mapped_crops,
    open_classified,
    overview,
)
from wsi_mitosis.io.slides import open_native
from wsi_mitosis.units import Mpp

QUARTER = Mpp(0.25, 0.25)
PLENTY = 10**7
WHITE, RED, BLUE = (255, 255, 255), (200, 30, 30), (30, 30, 200)


def decoded(uri: str) -> NDArray[np.uint8]:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert not picture.getexif()
    return np.asarray(picture)


def plain(width: int, height: int, *boxes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """White, with red boxes (left, top, right, bottom)."""
    image = np.full((height, width, 3), WHITE, dtype=np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = RED
    return image


def reddish(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((pixels[..., 0] > 150) & (pixels[..., 2] < 130), dtype=bool)


@pytest.mark.parametrize("mpp", [0.25, 0.23, 0.5, 0.1])
def test_a_figures_picture_is_32_um_wide_with_the_figure_in_its_middle(tmp_path: Path, mpp: float) -> None:
    """A box of 8 um around (90, 70) um is a quarter of the picture on each axis, at any pixel size."""
    left, top, right, bottom = (round(um / mpp) for um in (86, 66, 94, 74))
    side = round(200 / mpp)
    path = tiff_slide(tmp_path / "a.tiff", plain(side, side, (left, top, right, bottom)), mpp)
    with open_native(path) as slide:
        (uri,) = crops(slide, Mpp(mpp, mpp), np.array([90 / mpp]), np.array([70 / mpp]), PLENTY)
    red = reddish(decoded(uri))
    assert red.shape == ((128, 128) if mpp < 0.3 else (64, 64))
    down, across = np.nonzero(red)
    for axis in (across, down):
        assert axis.max() - axis.min() + 1 == pytest.approx(len(red) / 4, abs=2)  # a blurred edge is a px
        assert (axis.max() + axis.min() + 1) / 2 / len(red) == pytest.approx(0.5, abs=0.02)


def test_pictures_come_in_the_order_of_the_figures_and_are_white_beyond_the_slide(tmp_path: Path) -> None:
    image = np.full((600, 2000, 3), BLUE, dtype=np.uint8)
    image[:, :1000] = RED
    path = tiff_slide(tmp_path / "a.tiff", image)
    with open_native(path) as slide:
        x, y = np.array([1900.0, 100.0, 1800.0, 2.0]), np.array([500.0, 100.0, 20.0, 300.0])
        pictures = [decoded(uri) for uri in crops(slide, QUARTER, x, y, PLENTY)]
    assert [bool(reddish(picture[64:, 64:]).mean() > 0.9) for picture in pictures] == [
        False,
        True,
        False,
        True,
    ]
    assert pictures[3][:, :50].min() > 240


def test_no_figure_is_no_picture(tmp_path: Path) -> None:
    with open_native(tiff_slide(tmp_path / "a.tiff", textured(300, 300))) as slide:
        assert crops(slide, QUARTER, np.array([]), np.array([]), PLENTY) == []


def test_an_overview_shows_the_slide_within_its_bounds(tmp_path: Path) -> None:
    """(left, top) of the bounds is the picture's corner, and nothing beyond them is on it."""
    image = plain(400, 300, (0, 0, 40, 30), (200, 150, 220, 160))
    path = leica_slide(tmp_path / "a.scn", image, (1000, 2000), (3000, 4000))
    with open_native(path) as slide:
        assert slide.bounds is not None
        view = View.of(slide.size_px0, tuple(slide.bounds), QUARTER)
        picture = decoded(overview(slide, view, PLENTY))
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(4 / 3, rel=0.02)
    red = reddish(picture)
    assert red[: round(0.08 * height), : round(0.08 * width)].all()
    assert red.mean() == pytest.approx((40 * 30 + 20 * 10) / (400 * 300), rel=0.15)


def test_an_overview_of_a_whole_slide_is_at_most_900_px(tmp_path: Path) -> None:
    path = tiff_slide(tmp_path / "a.tiff", textured(2000, 1000), levels=2)
    with open_native(path) as slide:
        picture = decoded(overview(slide, View.of(slide.size_px0, None, QUARTER), PLENTY))
    assert picture.shape == (450, 900, 3)


@pytest.mark.parametrize("most", [60_000, 20_000, 8_000])
def test_pictures_are_made_smaller_until_they_fit(tmp_path: Path, most: int) -> None:
    """Noise is the worst that a JPEG can meet."""
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    with open_native(tiff_slide(tmp_path / "a.tiff", noise)) as slide:
        assert len(overview(slide, View.of(slide.size_px0, None, QUARTER), most)) <= most
        places = np.linspace(100, 800, max(4, most // 13_000))
        assert sum(map(len, crops(slide, QUARTER, places, places, 4 * most))) <= 4 * most


def test_a_slide_with_two_pixel_sizes_gives_square_windows(tmp_path: Path) -> None:
    """8 um are 32 px along x and 16 px along y."""
    image = plain(800, 400, (384, 192, 416, 208))
    path = tiff_of_resolution(tmp_path / "a.tiff", image, (0.25, 0.5))
    with open_native(path) as slide:
        (uri,) = crops(slide, Mpp(0.25, 0.5), np.array([400.0]), np.array([200.0]), PLENTY)
    red = reddish(decoded(uri))
    assert red.any(axis=0).mean() == pytest.approx(0.25, abs=0.05)
    assert red.any(axis=1).mean() == pytest.approx(0.25, abs=0.05)


def test_only_the_slide_that_was_classified_is_opened(tmp_path: Path) -> None:
    path = tiff_slide(tmp_path / "a.tiff", textured(300, 300))
    with open_native(path) as slide:
        identity = slide.identity
    with open_classified(str(path), identity) as slide:
        assert slide.size_px0 == (300, 300)
    tiff_slide(path, textured(300, 300, seed=1))
    with pytest.raises(UnreadableSlideError, match="changed since"):
        open_classified(str(path), identity)
    path.unlink()
    with pytest.raises(UnreadableSlideError, match="no longer where"):
        open_classified(str(path), identity)


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_a_picture_is_of_one_physical_size_and_never_enlarged(x: float, y: float) -> None:
    mpp = Mpp(x, y)
    side, crop_mpp = crop_side(mpp)
    assert side % 2 == 0
    assert side * crop_mpp == pytest.approx(CROP_UM)
    assert 8 <= side <= 128
    if mpp.mean < 2:
        assert crop_mpp > 0.9 * mpp.mean


def orange(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(pixels[..., 0].astype(int) - pixels[..., 2] > 60, dtype=bool)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_a_map_is_drawn_where_it_is_and_beyond_it_the_crop_is_pale(row: int, column: int) -> None:
    """A map of 16 um in a crop of 32 um covers its middle half on each axis."""
    crop = np.full((128, 128, 3), (90, 60, 120), dtype=np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[row, column] = 1
    found = coloured(crop, values, 16.0)
    down, across = np.nonzero(orange(found))
    centre = (32 + 16 * row + 7.5, 32 + 16 * column + 7.5)
    assert (down.mean(), across.mean()) == pytest.approx(centre, abs=4)
    assert 32 <= down.min() <= down.max() < 96
    grey = found[..., 0] == found[..., 2]
    assert (found[:32][grey[:32]] > 180).all()
    assert grey[:32].all()
    assert found[64, 64, 0] == 90


def test_a_map_that_is_larger_than_the_crop_is_cut() -> None:
    """Of 64 um around the figure, the middle quarter is in the crop."""
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1
    found = coloured(np.full((128, 128, 3), 100, dtype=np.uint8), values, 64.0)
    assert found.shape == (128, 128, 3)
    down, across = np.nonzero(orange(found))
    assert down.mean() < 64 < across.mean()


def test_mapped_crops_are_those_of_the_figures(tmp_path: Path) -> None:
    image = np.full((600, 2000, 3), BLUE, dtype=np.uint8)
    image[:, :1000] = WHITE
    with open_native(tiff_slide(tmp_path / "a.tiff", image)) as slide:
        x, y = np.array([1900.0, 100.0]), np.array([500.0, 100.0])
        values = np.stack([np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)])
        first, second = map(decoded, mapped_crops(slide, QUARTER, x, y, values, 16.0, PLENTY))
    assert orange(first)[40:88, 40:88].all()
    assert not orange(second).any()
    assert second.min() > 240
