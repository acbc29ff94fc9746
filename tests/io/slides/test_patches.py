from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.slide_files import textured, tiff_of_resolution, tiff_slide
from wsi_mitosis.errors import MppError, UnreadableSlideError
from wsi_mitosis.io.slides import Level, Slide, open_slide
from wsi_mitosis.io.slides.patches import (
    MOST_ENLARGING,
    WARN_ENLARGING,
    Batch,
    PatchPlan,
    ReadingTimes,
    plan_patches,
    read_patch,
    reading_order,
    stream_patches,
)
from wsi_mitosis.io.slides.slide import BYTES_PER_CACHED_PIXEL, PixelRegion, cache_bytes
from wsi_mitosis.specs import InputSpec
from wsi_mitosis.units import Mpp

SPEC = InputSpec(patch_px=64, mpp=0.25, mpp_tolerance=0.10, pad_value=255, scale=255)
ONE_LEVEL = (Level(10_000, 10_000, 1.0, (256, 256)),)
ROUNDED = 0.5 + 1e-3
"""A result is rounded to whole grey levels; float32 sums may tip a value that lies at the half."""


def plan_for(slide: Slide, size_px: int = 64, spec: InputSpec = SPEC) -> PatchPlan:
    return plan_patches(slide.path.name, slide.levels, slide.mpp, spec, size_px)


def plan_at(
    x_um: float, y_um: float, levels: tuple[Level, ...] = ONE_LEVEL, spec: InputSpec = SPEC
) -> PatchPlan:
    return plan_patches("a.svs", levels, Mpp(x_um, y_um), spec, 64)


def pyramid(*downsamples: float) -> tuple[Level, ...]:
    return tuple(Level(int(8192 / d), int(8192 / d), d, (256, 256)) for d in downsamples)


def box_average(image: np.ndarray, left: float, top: float, width: float, height: float) -> np.ndarray:
    """The mean over a box with fractions of border pixels, summed pixel by pixel."""
    total, area = np.zeros(3), 0.0
    for y in range(int(np.floor(top)), int(np.ceil(top + height))):
        for x in range(int(np.floor(left)), int(np.ceil(left + width))):
            part = (min(x + 1, left + width) - max(x, left)) * (min(y + 1, top + height) - max(y, top))
            total += part * image[y, x]
            area += part
    return total / area


# --- pixels as they are


@pytest.mark.parametrize(
    ("x", "y", "left", "top"),
    [
        (200, 150, 136, 86),  # an integer centre: x - 64 to x + 64
        (200.5, 150.5, 137, 87),  # half pixels go up
        (200.49, 150.51, 136, 87),
        (199.5, 149.5, 136, 86),
    ],
)
def test_a_native_patch_is_a_slice_of_the_slide(
    tmp_path: Path, x: float, y: float, left: int, top: int
) -> None:
    image = textured(500, 400)
    with open_slide(tiff_slide(tmp_path / "a.tiff", image)) as slide:
        plan = plan_for(slide, size_px=128)
        assert plan.native
        assert np.array_equal(read_patch(slide, plan, x, y), image[top : top + 128, left : left + 128])


def test_a_native_patch_over_an_edge_is_padded_on_the_true_side(tmp_path: Path) -> None:
    image = textured(500, 400)
    padded = np.pad(image, ((64, 64), (64, 64), (0, 0)), constant_values=SPEC.pad_value)
    with open_slide(tiff_slide(tmp_path / "a.tiff", image)) as slide:
        for x, y in ((0, 0), (499, 0), (0, 399), (499, 399), (250, 10)):
            patch = read_patch(slide, plan_for(slide), x, y)
            assert np.array_equal(patch, padded[y + 32 : y + 96, x + 32 : x + 96])


@pytest.mark.parametrize(
    ("x_um", "y_um", "native"),
    [
        (0.25, 0.25, True),
        (0.225, 0.225, True),  # 10 % finer: on the edge is inside
        (0.275, 0.275, True),  # 10 % coarser
        (0.2249, 0.2249, False),
        (0.2751, 0.2751, False),
        (0.23, 0.27, True),  # each axis inside
        (0.25, 0.29, False),  # one axis outside
        (0.22, 0.25, False),
    ],
)
def test_inside_the_tolerance_pixels_are_taken_as_they_are(x_um: float, y_um: float, native: bool) -> None:
    plan = plan_at(x_um, y_um)
    assert plan.native is native
    assert (plan.step == (1.0, 1.0)) is native
    assert native or plan.step == pytest.approx((0.25 / x_um, 0.25 / y_um))


def test_a_tolerance_of_nothing_takes_only_the_bundles_own_size_as_it_is() -> None:
    exact = SPEC.model_copy(update={"mpp_tolerance": 0.0})
    assert plan_at(0.25, 0.25, spec=exact).native
    assert not plan_at(0.2501, 0.2501, spec=exact).native


# --- off-centre figures, worked by hand
#
# A bundle of 64 px at 0.25 um/px sees 16 um. A single bright pixel marks a figure beside the centre.


def test_an_off_centre_figure_on_a_slide_of_half_a_micron(tmp_path: Path) -> None:
    # 16 um are 32 px of 0.5 um. The centre (100.0, 80.0) is the corner between four pixels, so the window is
    # [84, 116) x [64, 96), and one patch px is half a slide px. The marked pixel (107, 70) covers
    # [107, 108) x [70, 71), its middle is (107.5, 70.5): 23.5 slide px = 47 patch px from the left edge and
    # 6.5 = 13 from the top. Enlarging interpolates between middles, which lie at odd patch edges, so the mark
    # peaks evenly on the patch pixels on both sides of (47, 13): columns 46 and 47, rows 12 and 13, each a
    # quarter of a slide px from its middle on each axis: (1 - 0.25)^2 = 0.5625 of the contrast.
    image = np.zeros((200, 200, 3), np.uint8)
    image[70, 107] = 200
    with open_slide(tiff_slide(tmp_path / "a.tiff", image, mpp=0.5)) as slide:
        plan = plan_for(slide)
        assert (plan.native, plan.step, plan.enlarging) == (False, (0.5, 0.5), 2.0)
        patch = read_patch(slide, plan, 100.0, 80.0)[..., 0].astype(int)
    peak = np.argwhere(patch == patch.max()).tolist()
    assert peak == [[12, 46], [12, 47], [13, 46], [13, 47]]
    assert patch.max() == pytest.approx(0.5625 * 200, abs=ROUNDED)
    # a slide px is four patch px, whose interpolation weights add up to it
    assert patch.sum() == pytest.approx(4 * 200, abs=16 * ROUNDED)


def test_an_off_centre_figure_on_a_slide_of_0_2425_um_taken_as_it_is(tmp_path: Path) -> None:
    # 0.2425 / 0.25 = 0.97: inside 10 %, level-0 pixels are taken. The centre 100.3 rounds to 100, 80.7 to 81;
    # the window is [68, 132) x [49, 113), and pixel (107, 70) lies in column 107 - 68 = 39, row 70 - 49 = 21.
    image = np.zeros((200, 200, 3), np.uint8)
    image[70, 107] = 200
    with open_slide(tiff_slide(tmp_path / "a.tiff", image, mpp=0.2425)) as slide:
        plan = plan_for(slide)
        assert plan.native
        patch = read_patch(slide, plan, 100.3, 80.7)
    assert np.argwhere(patch[..., 0]).tolist() == [[21, 39]]


def test_an_off_centre_figure_on_a_slide_of_0_2425_um_resampled(tmp_path: Path) -> None:
    # With a tolerance of 1 % the slide is resampled by 0.25 / 0.2425 = 1.030928 slide px per patch px. The
    # 64 patch px are 65.979381 slide px, so the left edge lies at 100.3 - 32.989691 = 67.310309 and the top
    # at 80.7 - 32.989691 = 47.710309. The pixel [107, 108) starts 39.689691 slide px = 38.499 patch px from
    # the left and ends 40.689691 = 39.469: half in column 38 (0.501 of a px), half in 39. The pixel [70, 71)
    # starts 22.289691 = 21.621 from the top and ends 23.289691 = 22.591: 0.379 in row 21, 0.591 in row 22.
    image = np.zeros((200, 200, 3), np.uint8)
    image[70, 107] = 200
    strict = SPEC.model_copy(update={"mpp_tolerance": 0.01})
    with open_slide(tiff_slide(tmp_path / "a.tiff", image, mpp=0.2425)) as slide:
        plan = plan_for(slide, spec=strict)
        assert plan.step == pytest.approx((1.030928, 1.030928), abs=1e-6)
        patch = read_patch(slide, plan, 100.3, 80.7)[..., 0].astype(float)
    expected = np.outer([0.379, 0.591], [0.501, 0.469]) * 200
    assert patch[21:23, 38:40] == pytest.approx(expected, abs=0.5 + 0.2)  # 0.2: three digits kept above
    patch[21:23, 38:40] = 0
    assert not patch.any()


def test_the_same_tissue_lies_in_the_same_place_at_any_pixel_size(tmp_path: Path) -> None:
    # one picture scanned at three sizes, the figure at (60, 44) um each time; a smooth blob, so that the
    # differences of resampling are small: less than 3 of 255 grey levels
    patches = []
    for mpp in (0.125, 0.25, 0.5):
        x, y = np.meshgrid((np.arange(int(100 / mpp)) + 0.5) * mpp, (np.arange(int(90 / mpp)) + 0.5) * mpp)
        blob = 220 * np.exp(-((x - 62) ** 2 + (y - 45.5) ** 2) / (2 * 3.0**2))
        image = np.repeat(np.rint(blob)[..., None], 3, axis=2).astype(np.uint8)
        with open_slide(tiff_slide(tmp_path / f"{mpp}.tiff", image, mpp=mpp)) as slide:
            patches.append(read_patch(slide, plan_for(slide), 60 / mpp, 44 / mpp).astype(int))
    assert abs(patches[0] - patches[1]).max() < 3
    assert abs(patches[2] - patches[1]).max() < 3


# --- resampling


@pytest.mark.parametrize(
    ("levels", "level", "tolerance"),
    [
        (1, 0, ROUNDED),
        (2, 1, 3 * ROUNDED),  # Pillow rounded level 1 twice before: along x and along y
    ],
)
@pytest.mark.parametrize(("x", "y"), [(256.0, 200.0), (257.0, 203.0), (255.25, 200.75)])
def test_a_finer_slide_is_averaged_over_exactly_the_area(
    tmp_path: Path, levels: int, level: int, tolerance: float, x: float, y: float
) -> None:
    # 0.125 um/px: a patch px of 0.25 um covers 2 x 2 level-0 px, whatever level it is read from
    image = np.repeat(textured(512, 400, seed=3)[..., :1], 3, axis=2)
    with open_slide(tiff_slide(tmp_path / "a.tiff", image, mpp=0.125, levels=levels)) as slide:
        plan = plan_for(slide)
        assert plan.level == level
        patch = read_patch(slide, plan, x, y).astype(float)
    aligned = float(x / 2).is_integer() and float(y / 2).is_integer()
    for row in range(0, 64, 7):
        for column in range(0, 64, 7):
            left, top = x - 64 + 2 * column, y - 64 + 2 * row
            if level == 0 or aligned:
                expected = box_average(image, left, top, 2, 2)
            else:  # level 1's pixels are themselves averages of 2 x 2, and the box covers parts of them
                halves = image.reshape(200, 2, 256, 2, 3).mean(axis=(1, 3))
                expected = box_average(halves, left / 2, top / 2, 1, 1)
            assert patch[row, column] == pytest.approx(expected, abs=tolerance), (row, column)


def test_the_coarsest_level_that_is_fine_enough_is_read() -> None:
    levels = pyramid(1, 2, 4, 8)
    assert plan_at(0.25, 0.25, levels).level == 0
    assert plan_at(0.125, 0.125, levels).level == 1
    assert plan_at(0.0625, 0.0625, levels).level == 2
    assert plan_at(0.08, 0.08, levels).level == 1  # 3.125 level-0 px per patch px
    assert plan_at(0.5, 0.5, levels).level == 0
    assert plan_at(0.0625, 0.125, levels).level == 1  # the axis that needs more detail decides


def test_a_level_whose_downsample_is_rounded_still_counts() -> None:
    assert plan_at(0.0625, 0.0625, pyramid(1, 4.0008)).level == 1
    assert plan_at(0.0625, 0.0625, pyramid(1, 4.1)).level == 0


def test_level_zero_is_read_when_it_is_taken_as_it_is_though_others_would_fit() -> None:
    assert plan_at(0.25, 0.25, pyramid(1, 1.0005)).level == 0


@pytest.mark.parametrize("levels", [1, 2])
def test_a_pixel_size_per_axis_is_resampled_per_axis(tmp_path: Path, levels: int) -> None:
    # 0.125 x 0.5 um/px: a patch px covers 2 columns and half a row
    columns, rows = np.meshgrid(np.arange(400), np.arange(200))
    image = np.stack([columns // 2, rows, rows], axis=-1).clip(0, 255).astype(np.uint8)
    below = (image[::2, ::2],) if levels == 2 else ()
    with open_slide(tiff_of_resolution(tmp_path / "a.tiff", image, (0.125, 0.5), below)) as slide:
        plan = plan_for(slide)
        assert (plan.level, plan.step) == (0, pytest.approx((2.0, 0.5), rel=1e-6))
        patch = read_patch(slide, plan, 200.0, 100.0).astype(float)
    # column 200 is the middle: patch px i covers columns 136 + 2i and 137 + 2i, both of which hold 68 + i
    assert patch[..., 0] == pytest.approx(np.broadcast_to(68.0 + np.arange(64), (64, 64)), abs=ROUNDED)
    # the middle of patch row j lies at 84 + (j + 0.5) / 2, and row r's value r at r + 0.5
    down = 84 + (np.arange(64) + 0.5) / 2 - 0.5
    assert patch[..., 1] == pytest.approx(np.broadcast_to(down[:, None], (64, 64)), abs=ROUNDED)


@pytest.mark.parametrize("mpp", [0.125, 0.4, 0.5])
def test_a_resampled_patch_over_an_edge_is_padded_on_the_true_side(tmp_path: Path, mpp: float) -> None:
    image = np.full((300, 300, 3), 40, np.uint8)
    with open_slide(tiff_slide(tmp_path / "a.tiff", image, mpp=mpp, levels=2)) as slide:
        plan = plan_for(slide)
        # the edge lies in the middle of the patch; up to two px on each side of it may mix
        for x, y, inside, outside in (
            (0, 150, np.s_[:, 34:], np.s_[:, :30]),
            (300, 150, np.s_[:, :30], np.s_[:, 34:]),
            (150, 0, np.s_[34:], np.s_[:30]),
            (150, 300, np.s_[:30], np.s_[34:]),
        ):
            patch = read_patch(slide, plan, x, y)
            assert (patch[inside] == 40).all()
            assert (patch[outside] == SPEC.pad_value).all()


def test_all_levels_give_the_patch_of_one_place(tmp_path: Path) -> None:
    # sides that do not halve evenly, so that a level's downsample is no whole number
    x, y = np.meshgrid(np.arange(1501), np.arange(1301))
    image = np.stack([x * 255 // 1501, y * 255 // 1301, (x + y) * 255 // 2802], axis=-1).astype(np.uint8)
    patches = []
    for levels in (1, 3):
        path = tiff_slide(tmp_path / f"{levels}.tiff", image, mpp=0.0625, levels=levels)
        with open_slide(path) as slide:
            plan = plan_for(slide)
            assert plan.level == levels - 1
            patches.append(read_patch(slide, plan, 701.3, 502.8).astype(int))
    # the ramps rise by less than 0.2 per level-0 px; a level's rounding of its own size shifts it by up to a
    # px or two of those, and both patches are rounded
    assert abs(patches[0] - patches[1]).max() <= 1


# --- enlarging


@pytest.mark.parametrize(
    ("mpp", "enlarging"),
    [(0.25, 1.0), (0.125, 0.5), (0.3, 1.2), (0.3125, WARN_ENLARGING), (0.5, 2), (1.0, 4)],
)
def test_the_enlargement_is_told(mpp: float, enlarging: float) -> None:
    assert plan_at(mpp, mpp).enlarging == pytest.approx(enlarging)


def test_the_larger_of_the_axes_enlargements_is_told() -> None:
    assert plan_at(0.25, 0.5).enlarging == 2.0
    assert plan_at(0.5, 0.25).enlarging == 2.0


@pytest.mark.parametrize("mpp", [1.001, 28.97])
def test_more_than_fourfold_enlargement_is_refused_by_name(mpp: float) -> None:
    assert MOST_ENLARGING == 4
    with pytest.raises(MppError, match=r"^a\.svs: planning patches: .*Scan at 1 um/px or finer"):
        plan_at(mpp, mpp)


def test_axes_that_differ_by_rounding_only_are_read_as_one_scale() -> None:
    plan = plan_at(0.5, 0.501)
    assert plan.step[0] == plan.step[1]


# --- pixels that the slide does not have


def holed(path: Path, left: int, top: int, width: int, height: int, mpp: float, levels: int = 1) -> Path:
    """A grey slide of 400 x 400 px with a transparent rectangle."""
    image = np.full((400, 400, 4), 90, np.uint8)
    image[..., 3] = 255
    image[top : top + height, left : left + width, 3] = 0
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(
                image[:: 2**level, :: 2**level],
                tile=(256, 256),
                photometric="rgb",
                extrasamples=["unassalpha"],
                resolution=(1e4 / mpp / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
    return path


@pytest.mark.parametrize(
    ("hole", "blank"),
    [
        ((0, 0, 1, 1), False),  # somewhere else
        ((200, 200, 1, 1), True),  # a single pixel in the centre
        ((184, 184, 1, 1), True),  # the first of the central 32 x 32 px of [168, 232)
        ((183, 200, 1, 1), False),
        ((215, 215, 1, 1), True),  # the last of them
        ((216, 216, 1, 1), False),
        ((168, 168, 64, 6), False),  # 6 of 64 rows: 9.4 %
        ((168, 168, 64, 7), True),  # 10.9 %
        ((0, 0, 400, 174), False),  # a seam
    ],
)
def test_a_patch_is_blank_without_its_centre_or_a_tenth_of_it(
    tmp_path: Path, hole: tuple[int, int, int, int], blank: bool
) -> None:
    with open_slide(holed(tmp_path / "a.tiff", *hole, 0.25)) as slide:
        plan = plan_for(slide)
        assert plan.native
        (batch,) = blank_batch(slide, plan, 200.0, 200.0)
    assert batch.blank.tolist() == [blank]
    assert (batch.pixels == 255).any() == (hole != (0, 0, 1, 1))  # a hole shows the background


def blank_batch(slide: Slide, plan: PatchPlan, x: float, y: float) -> list[Batch]:
    return list(stream_patches(slide, plan, np.array([x]), np.array([y]), batch_size=4, threads=1))


@pytest.mark.parametrize(("mpp", "levels"), [(0.5, 1), (0.125, 1), (0.125, 2)])
def test_resampled_patches_are_blank_by_the_same_rule(tmp_path: Path, mpp: float, levels: int) -> None:
    # the patch is 16 um wide; its centre lies at (200, 200) px0, and its central half is 8 um wide
    scale = 0.25 / mpp  # level-0 px per patch px
    central, whole = round(16 * scale), round(32 * scale)
    holes = {
        "in the centre": ((200, 200, 2, 2), True),
        "inside the central half": ((200 - central, 200, 2, 2), True),
        "outside the central half": ((200 - central - 6, 200, 2, 2), False),
        "a twentieth": ((0, 0, 400, 200 - whole + round(3.2 * scale)), False),
        "a fifth": ((0, 0, 400, 200 - whole + round(12.8 * scale)), True),
        "outside the patch": ((0, 0, 400, 200 - whole - 4), False),
    }
    for name, (hole, blank) in holes.items():
        with open_slide(holed(tmp_path / f"{name}.tiff", *hole, mpp, levels)) as slide:
            plan = plan_for(slide)
            assert (plan.native, plan.level) == (False, levels - 1)
            (batch,) = blank_batch(slide, plan, 200.0, 200.0)
        assert batch.blank.tolist() == [blank], name


@pytest.mark.parametrize("mpp", [0.25, 0.125, 0.5])
def test_a_patch_over_the_slides_edge_is_not_blank(tmp_path: Path, mpp: float) -> None:
    with open_slide(holed(tmp_path / "a.tiff", 399, 399, 1, 1, mpp)) as slide:
        (batch,) = blank_batch(slide, plan_for(slide), 0.0, 0.0)
    assert batch.blank.tolist() == [False]


# --- the order of reading

CACHED_TILES = cache_bytes((256, 256)) // (256 * 256 * BYTES_PER_CACHED_PIXEL)


def tiles_of(plan: PatchPlan, x: float, y: float) -> Iterator[tuple[int, int]]:
    """The tiles under one window as `read_patch` reads it, in the order in which OpenSlide paints them."""
    corners, ends = [], []
    for centre, step in ((x, plan.step[0]), (y, plan.step[1])):
        if plan.native:
            first = int(np.floor(centre + 0.5)) - plan.size_px // 2
            corners.append(first)
            ends.append(first + plan.size_px)
        else:
            start = centre / plan.downsample - plan.size_px * step / 2
            corners.append(int(np.floor(start)) - 1)
            ends.append(int(np.ceil(start + plan.size_px * step)) + 2)
    across, down = plan.tile_px
    for row in range(max(corners[1] // down, 0), (ends[1] - 1) // down + 1):
        for column in range(max(corners[0] // across, 0), (ends[0] - 1) // across + 1):
            yield column, row


def loads(plan: PatchPlan, x: np.ndarray, y: np.ndarray, order: np.ndarray) -> tuple[int, int]:
    """How many tiles a cache of CACHED_TILES loads (least recently used go first), and how many exist."""
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    loaded, seen = 0, set()
    for index in order:
        for tile in tiles_of(plan, x[index], y[index]):
            seen.add(tile)
            if tile in cache:
                cache.move_to_end(tile)
                continue
            loaded += 1
            cache[tile] = None
            if len(cache) > CACHED_TILES:
                cache.popitem(last=False)
    return loaded, len(seen)


def scattered(width: int, height: int, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.uniform(200, width - 200, number), generator.uniform(200, height - 200, number)


@pytest.mark.parametrize("size_px", [64, 128, 300])
@pytest.mark.parametrize("mpp", [0.25, 0.125, 0.5])
def test_each_tile_of_a_wide_slide_is_decoded_once(size_px: int, mpp: float) -> None:
    levels = (Level(60_000, 60_000, 1.0, (256, 256)),)
    plan = plan_patches("a.svs", levels, Mpp(mpp, mpp), SPEC, size_px)
    # narrow enough for one stripe, and far more tiles than the cache holds (256)
    width = 10_000 if size_px == 300 else 20_000
    x, y = scattered(width, 45_000, 12_000)
    order = reading_order(plan, x, y)
    loaded, tiles = loads(plan, x, y, order)
    assert tiles > 5 * CACHED_TILES
    assert loaded == tiles
    shuffled, _ = loads(plan, x, y, np.random.default_rng(1).permutation(len(x)))
    assert shuffled > 1.2 * tiles


def test_of_a_slide_wider_than_the_cache_only_the_stripes_borders_are_decoded_twice() -> None:
    levels = (Level(200_000, 60_000, 1.0, (256, 256)),)
    plan = plan_patches("a.svs", levels, Mpp(0.25, 0.25), SPEC, 128)
    x, y = scattered(200_000, 12_000, 60_000)
    loaded, tiles = loads(plan, x, y, reading_order(plan, x, y))
    # 782 columns in stripes of 85 (256 cached tiles, two rows under a window and one to come): nine borders
    # of 47 rows of tiles
    assert tiles <= loaded <= tiles + 9 * 47
    rows_first = np.lexsort((x, y // 256))
    assert loads(plan, x, y, rows_first)[0] > loaded


@given(
    st.lists(st.tuples(st.floats(-100, 50_000), st.floats(-100, 50_000)), max_size=60),
    st.sampled_from([0.125, 0.25, 0.5]),
)
def test_the_order_holds_each_candidate_once(centres: list[tuple[float, float]], mpp: float) -> None:
    points = np.array(centres, dtype=np.float64).reshape(-1, 2)
    order = reading_order(plan_at(mpp, mpp), points[:, 0], points[:, 1])
    assert sorted(order.tolist()) == list(range(len(points)))


def test_tiles_too_large_for_the_cache_are_read_one_column_at_a_time() -> None:
    levels = (Level(60_000, 60_000, 1.0, (8192, 8192)),)
    plan = plan_patches("a.svs", levels, Mpp(0.25, 0.25), SPEC, 64)
    x, y = scattered(60_000, 60_000, 500)
    columns = ((x - 32) // 8192).astype(int)[reading_order(plan, x, y)]
    assert (np.diff(columns) >= 0).all()


# --- streaming


class Stub:
    """A backend that counts its reads, waits for leave after some of them, and fails after some."""

    name = "stub"
    levels = ONE_LEVEL
    stated_mpp = Mpp(0.25, 0.25)
    bounds = None
    vendor_hash = None

    def __init__(self, fails_at: int | None = None, waits_at: int | None = None) -> None:
        self.leave = threading.Event()
        self.waits_at = waits_at
        self.lock = threading.Lock()
        self.reads = 0
        self.fails_at = fails_at

    def read(self, _level: int, x: int, y: int, width: int, height: int) -> PixelRegion:
        with self.lock:
            self.reads += 1
            waits = self.waits_at is not None and self.reads > self.waits_at
            if self.fails_at is not None and self.reads > self.fails_at:
                raise UnreadableSlideError("torn", subject="stub.svs")
        assert not waits or self.leave.wait(60)
        pixels = np.full((height, width, 3), (x + y) % 251, np.uint8)
        return PixelRegion(pixels, (float(x), float(y)))

    def close(self) -> None: ...


def stub_slide(backend: Stub) -> Slide:
    return Slide(Path("stub.svs"), backend, Mpp(0.25, 0.25), "slide", None, None, "identity")


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 50])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_gives_each_candidate_once_with_the_pixels_of_its_patch(
    tmp_path: Path, number: int, threads: int
) -> None:
    x, y = scattered(900, 700, number)
    x[: number // 3] -= 200  # some reach over the slide's edge
    with open_slide(tiff_slide(tmp_path / "a.tiff", textured(900, 700))) as slide:
        plan = plan_for(slide)
        batches = list(stream_patches(slide, plan, x, y, batch_size=8, threads=threads))
        assert [len(batch.rows) for batch in batches[:-1]] == [8] * (len(batches) - 1)
        rows = [int(row) for batch in batches for row in batch.rows]
        assert rows == reading_order(plan, x, y).tolist()
        assert sorted(rows) == list(range(number))
        for batch in batches:
            assert batch.pixels.shape == (len(batch.rows), 64, 64, 3)
            for row, pixels in zip(batch.rows, batch.pixels, strict=True):
                assert np.array_equal(pixels, read_patch(slide, plan, x[row], y[row]))


def test_reading_runs_ahead_through_a_bounded_buffer() -> None:
    backend = Stub()
    x, y = scattered(9000, 9000, 400)
    slide = stub_slide(backend)
    stream = stream_patches(slide, plan_for(slide), x, y, batch_size=4, threads=2)
    for taken, _ in enumerate(stream, start=1):
        # beside the batches that were taken, two per thread are read or being read
        assert backend.reads <= 4 * (taken + 2 * 2)
    assert backend.reads == 400


def test_reading_goes_on_while_the_model_works() -> None:
    backend = Stub()
    x, y = scattered(9000, 9000, 100)
    slide = stub_slide(backend)
    stream = stream_patches(slide, plan_for(slide), x, y, batch_size=10, threads=2)
    next(stream)
    for _ in range(6000):  # a minute at most; the consumer takes nothing meanwhile
        if backend.reads == 50:
            break
        threading.Event().wait(0.01)
    assert backend.reads == 50  # one batch taken, four ahead
    stream.close()


def test_a_consumer_that_stops_early_leaves_no_reading_behind() -> None:
    backend = Stub()
    x, y = scattered(9000, 9000, 1000)
    slide = stub_slide(backend)
    before = threading.active_count()
    stream = stream_patches(slide, plan_for(slide), x, y, batch_size=10, threads=3)
    next(stream)
    stream.close()
    assert threading.active_count() == before
    reads = backend.reads
    assert reads <= 10 * (1 + 2 * 3)


def test_what_waits_to_be_read_is_given_up_when_the_consumer_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Stub(waits_at=10)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            backend.leave.set()
            super().shutdown(wait, cancel_futures=cancel_futures)

    monkeypatch.setattr("wsi_mitosis.io.slides.patches.ThreadPoolExecutor", Pool)
    x, y = scattered(9000, 9000, 1000)
    slide = stub_slide(backend)
    stream = stream_patches(slide, plan_for(slide), x, y, batch_size=10, threads=1)
    next(stream)
    stream.close()
    # the first batch, and the second where its reading had begun; never the third, which waited
    assert backend.reads <= 20


@pytest.mark.parametrize("fails_at", [0, 25])
def test_an_error_of_reading_reaches_the_consumer(fails_at: int) -> None:
    backend = Stub(fails_at)
    x, y = scattered(9000, 9000, 200)
    slide = stub_slide(backend)
    before = threading.active_count()
    stream = stream_patches(slide, plan_for(slide), x, y, batch_size=10, threads=2)
    with pytest.raises(UnreadableSlideError, match=r"^stub\.svs: torn"):
        list(stream)
    assert threading.active_count() == before


def test_times_are_added_up() -> None:
    times = ReadingTimes()
    slide = stub_slide(Stub())
    x, y = scattered(9000, 9000, 40)
    for _ in stream_patches(slide, plan_for(slide), x, y, batch_size=8, threads=2, times=times):
        pass
    assert times.reading > 0
    assert times.waiting > 0
