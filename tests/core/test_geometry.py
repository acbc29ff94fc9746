from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.geometry import cut_centres, native_origin, read_px, resample, resampling_weights
from wsi_mitosis.errors import InputError

FLOAT32 = 2e-6
"""Sums of a few float32 weights, each right to 6e-8."""
ROUNDED = 0.5 + 1e-3
"""A result is rounded to whole grey levels; float32 sums may tip a value that lies at the half."""


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_average(
    image: np.ndarray, start: tuple[float, float], step: tuple[float, float], fine: int
) -> np.ndarray:
    """The mean of a (height, width, 3) image over one box, by counting points on a grid of 1/fine px.

    Exact where start and step are whole multiples of 1/fine.
    """
    grown = np.repeat(np.repeat(image.astype(np.float64), fine, axis=0), fine, axis=1)
    x0, y0 = (round(s * fine) for s in start)
    x1, y1 = (round((s + d) * fine) for s, d in zip(start, step, strict=True))
    return grown[y0:y1, x0:x1].mean(axis=(0, 1))


@pytest.mark.parametrize(
    ("centre", "size", "first"),
    [
        (1336, 128, 1272),  # AMi-Br: pixels x - 64 to x + 64
        (1336.49, 128, 1272),
        (1336.5, 128, 1273),  # half pixels go up
        (1335.5, 128, 1272),
        (0, 128, -64),
        (-0.5, 128, -64),  # up, not to the even number or towards zero
        (-1.5, 128, -65),
        (10, 64, -22),
    ],
)
def test_native_window_follows_the_published_crops(centre: float, size: int, first: int) -> None:
    assert native_origin(centre, size) == first


@given(st.integers(-(10**6), 10**6), st.integers(4, 512).map(lambda half: 2 * half))
def test_a_native_window_moves_with_its_centre(centre: int, size: int) -> None:
    assert native_origin(centre, size) == centre - size // 2
    assert native_origin(centre + 0.499, size) == native_origin(centre, size)
    assert native_origin(centre + 0.5, size) == native_origin(centre + 1, size)


@pytest.mark.parametrize(
    ("patch", "zooms", "side"),
    [(64, (1.0,), 64), (64, (1.0, 1.5), 64), (64, (1.0, 0.5), 128), (64, (0.75,), 86)],
)
def test_one_window_holds_every_zoomed_view(patch: int, zooms: tuple[float, ...], side: int) -> None:
    assert read_px(patch, zooms) == side
    assert all(read_px(patch, zooms) >= patch / zoom for zoom in zooms)


@given(
    start=st.floats(-20, 60),
    step=st.floats(0.05, 9),
    size=st.integers(1, 40),
    available=st.integers(1, 50),
)
def test_weights_are_averages(start: float, step: float, size: int, available: int) -> None:
    weights = resampling_weights(start, step, size, available)
    assert weights.shape == (size, available)
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(1, abs=FLOAT32 * available)


@given(size=st.integers(1, 40), first=st.integers(0, 20))
def test_whole_pixels_at_scale_one_are_taken_as_they_are(size: int, first: int) -> None:
    weights = resampling_weights(first, 1.0, size, first + size)
    assert np.array_equal(weights, np.eye(first + size, dtype=np.float32)[first:])


def test_identity_changes_no_pixel() -> None:
    image = noise(23, 17)
    assert np.array_equal(resample(image, (0.0, 0.0), (1.0, 1.0), (23, 17)), image)


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ((0.0, 0.0), (2.0, 2.0)),
        ((0.25, 0.75), (2.0, 2.0)),  # a sub-pixel origin
        ((1.125, 0.5), (2.375, 1.25)),  # a scale per axis, no whole ratio
        ((3.0, 2.5), (1.0, 1.5)),
    ],
)
def test_shrinking_averages_exactly_the_box(start: tuple[float, float], step: tuple[float, float]) -> None:
    image = noise(40, 40)
    size = (6, 5)
    got = resample(image, start, step, size)
    for row in range(size[1]):
        for column in range(size[0]):
            corner = (start[0] + column * step[0], start[1] + row * step[1])
            expected = box_average(image, corner, step, fine=8)  # all numbers are multiples of 1/8
            assert got[row, column] == pytest.approx(expected, abs=ROUNDED), (row, column)


@pytest.mark.parametrize("step", [0.5, 0.3, 0.8])
def test_enlarging_keeps_a_ramp_straight(step: float) -> None:
    ramp = 4.0 * np.arange(50)
    weights = resampling_weights(3.2, step, 20, 50)
    # the middle of output pixel i lies at 3.2 + (i + 0.5) * step, and the value of pixel j at j + 0.5
    expected = 4.0 * (3.2 + (np.arange(20) + 0.5) * step - 0.5)
    assert weights @ ramp == pytest.approx(expected, abs=200 * FLOAT32)


def test_enlarging_keeps_a_ramp_of_an_image_on_both_axes() -> None:
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    image = np.stack([4 * columns, 4 * rows, 2 * columns + 2 * rows], axis=-1).astype(np.uint8)
    got = resample(image, (5.0, 7.0), (0.5, 0.25), (12, 16)).astype(float)
    x = 5.0 + (np.arange(12) + 0.5) * 0.5 - 0.5
    y = 7.0 + (np.arange(16) + 0.5) * 0.25 - 0.5
    assert got[..., 0] == pytest.approx(np.broadcast_to(4 * x, (16, 12)), abs=ROUNDED)
    assert got[..., 1] == pytest.approx(np.broadcast_to(4 * y[:, None], (16, 12)), abs=ROUNDED)
    assert got[..., 2] == pytest.approx(2 * x + 2 * y[:, None], abs=ROUNDED)


@given(
    step=st.floats(0.2, 5),
    start=st.floats(0, 3).map(lambda value: round(value * 64) / 64),
    shift=st.integers(1, 12),
)
def test_a_shift_by_whole_source_pixels_shifts_the_weights(step: float, start: float, shift: int) -> None:
    size, available = 5, 60
    here = resampling_weights(start, step, size, available)
    there = resampling_weights(start + shift, step, size, available)
    # past the first pixel, where the border's repetition plays no part
    reach = slice(1, available - shift)
    assert there[:, 1 + shift :] == pytest.approx(here[:, reach], abs=FLOAT32)


def test_a_shift_by_a_whole_output_pixel_shifts_the_image() -> None:
    image = noise(64, 64, seed=1)
    here = resample(image, (4.5, 3.25), (2.5, 2.5), (12, 12))
    there = resample(image, (4.5 + 2.5, 3.25 + 2 * 2.5), (2.5, 2.5), (11, 10))
    assert np.array_equal(here[2:, 1:], there)


def test_the_axes_are_not_swapped() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[4, 21] = 200  # x = 21, y = 4
    got = resample(image, (20.0, 3.0), (1.0, 1.0), (5, 3))
    assert got.shape == (3, 5, 3)
    assert np.argwhere(got[..., 0]).tolist() == [[1, 1]]


@pytest.mark.parametrize("step", [2.0, 0.5])
def test_beyond_the_border_its_pixel_is_repeated(step: float) -> None:
    line = np.array([10.0, 20.0, 30.0])
    before = resampling_weights(-10 * step, step, 4, 3) @ line
    after = resampling_weights(3 + step, step, 4, 3) @ line
    assert before.tolist() == [10] * 4
    assert after.tolist() == [30] * 4


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_the_centre_pixel_stays_the_centre_of_what_is_cut(height: int, width: int, side: int) -> None:
    crops = np.zeros((2, height, width, 3), np.uint8)
    crops[:, height // 2, width // 2] = 1
    if side > min(height, width):
        with pytest.raises(InputError, match=f"{width} x {height} px, smaller than the {side} px that 'x'"):
            cut_centres(crops, side, "x")
        return
    cut = cut_centres(crops, side, "x")
    assert cut.shape == (2, side, side, 3)
    assert np.argwhere(cut[1, ..., 2]).tolist() == [[side // 2, side // 2]]
