"""Sharpness: of a crop, of a slide, and the limit that slides of several domains give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.slide_files import textured
from wsi_mitosis.core import sharpness
from wsi_mitosis.core.sharpness import (
    MOST_FIGURES,
    SharpnessLimit,
    SlideSharpness,
    crop_sharpness,
    find_limit,
    measured_rows,
    slide_sharpness,
)


def by_hand(crop: NDArray[np.uint8]) -> float:
    """The sharpness of one crop, pixel by pixel."""
    size = len(crop)
    density = [
        [sum(-math.log((int(value) + 1) / 256) for value in crop[y, x]) / 3 for x in range(size)]
        for y in range(size)
    ]
    detail = [
        4 * density[y][x] - density[y - 1][x] - density[y + 1][x] - density[y][x - 1] - density[y][x + 1]
        for y in range(1, size - 1)
        for x in range(1, size - 1)
    ]
    return float(np.std(detail) / np.std(density))


def crops(number: int = 4, side: int = 32) -> NDArray[np.uint8]:
    return np.stack([textured(side, side, seed) for seed in range(number)])


def test_a_crops_sharpness_is_that_of_each_pixel_by_hand() -> None:
    several = crops(3, 9)
    assert crop_sharpness(several) == pytest.approx([by_hand(crop) for crop in several], rel=1e-5)


def test_a_crop_without_contrast_has_none() -> None:
    flat = np.full((1, 8, 8, 3), 240, dtype=np.uint8)
    assert np.isnan(crop_sharpness(flat)).all()
    assert crop_sharpness(flat[:0]).shape == (0,)


def test_a_mirrored_or_turned_crop_is_as_sharp() -> None:
    for view in (crops()[:, ::-1], crops()[:, :, ::-1], np.rot90(crops(), 1, (1, 2))):
        assert crop_sharpness(view) == pytest.approx(crop_sharpness(crops()), rel=1e-6)


def test_blur_takes_sharpness_and_the_strength_of_a_stain_does_not() -> None:
    sharp = crops()
    blurred = [gaussian_filter(sharp, (0, sigma, sigma, 0)) for sigma in (1, 2)]
    assert (crop_sharpness(blurred[0]) < 0.5 * crop_sharpness(sharp)).all()
    assert (crop_sharpness(blurred[1]) < 0.5 * crop_sharpness(blurred[0])).all()
    half = (256 * ((sharp.astype(float) + 1) / 256) ** 0.5 - 1).round().astype(np.uint8)  # half the density
    assert crop_sharpness(half) == pytest.approx(crop_sharpness(sharp), rel=0.01)  # 0.01: rounded to 8 bits


def test_the_sharpness_of_a_slide_is_the_median_of_figures_that_have_one() -> None:
    assert slide_sharpness(np.array([9.0, 0.1, np.nan, 0.3, 0.2, 0.0])) == 0.2
    assert slide_sharpness(np.array([0.1, 0.2, 0.3, 0.4, np.nan])) is None


@given(st.permutations(range(MOST_FIGURES + 50)))
def test_the_same_figures_are_measured_in_any_order(order: list[int]) -> None:
    rows = np.array(order)
    x, y = (7.0 * rows) % 31, (rows // 5).astype(float)
    chosen = measured_rows(x, y)
    assert len(set(chosen.tolist())) == MOST_FIGURES
    in_order = measured_rows((7.0 * np.arange(len(rows))) % 31, (np.arange(len(rows)) // 5).astype(float))
    assert rows[chosen].tolist() == in_order.tolist()


def test_few_figures_are_all_measured() -> None:
    assert sorted(measured_rows(np.array([5.0, 1.0, 3.0]), np.zeros(3)).tolist()) == [0, 1, 2]
    assert measured_rows(np.empty(0), np.empty(0)).tolist() == []


def test_the_limit_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "LEAST_SLIDES", 4)
    monkeypatch.setattr(sharpness, "QUANTILE", 1.0)
    of_slides = [math.exp(value) for value in (-1.0, -2.0, -3.0, -5.0)]
    # the domain a is compared with b: mean -4, sd 1; b with a: mean -1.5, sd 0.5; all: mean -2.75, sd 1.479
    farthest = (-1.5 - -5.0) / 0.5
    lowest = math.exp(-2.75 - farthest * np.std([-1.0, -2.0, -3.0, -5.0]))
    assert find_limit(of_slides, ["a", "a", "b", "b"]) == SharpnessLimit(pytest.approx(lowest), 4)


def test_a_domain_far_below_the_others_lowers_the_limit() -> None:
    values = np.exp(np.random.default_rng(0).normal(-1, 0.1, 40))
    near, far = values.copy(), values.copy()
    far[30:] *= 0.5
    domains = ["a"] * 15 + ["b"] * 15 + ["c"] * 10
    ordinary, wide = (find_limit(of.tolist(), domains) for of in (near, far))
    assert ordinary is not None
    assert wide is not None
    assert wide.lowest < 0.5 * ordinary.lowest
    assert wide.lowest < far.min()


@pytest.mark.parametrize(
    ("of_slides", "domains"),
    [
        ([0.3, 0.4] * 9, ["a", "b"] * 9),
        ([0.3, 0.4] * 20, ["a"] * 40),
        ([0.3] * 20 + [0.3, 0.4] * 10, ["a"] * 20 + ["b"] * 20),
        ([], []),
    ],
    ids=["too few slides", "one domain", "others do not differ", "nothing"],
)
def test_without_a_basis_there_is_no_limit(of_slides: list[float], domains: list[str]) -> None:
    assert find_limit(of_slides, domains) is None


@pytest.mark.parametrize(
    ("value", "verdict", "text"),
    [
        (0.19, "low", "0.190, low (limit 0.200)"),
        (0.2, "not low", "0.200, not low (limit 0.200)"),
        (None, "too few figures", "too few figures (limit 0.200)"),
    ],
)
def test_a_value_is_compared_with_the_limit(value: float | None, verdict: str, text: str) -> None:
    found = SlideSharpness(value=value, lowest=0.2)
    assert (found.verdict, found.text) == (verdict, text)
