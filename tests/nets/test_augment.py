"""Augmentation: one geometry for image and mask, colour that survives anything, all of it seeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_mitosis.nets.augment import Crops, augment
from wsi_mitosis.recipes import AugmentationSpec

PLAIN: dict[str, Any] = {
    "rotation": "none",
    "flips": False,
    **dict.fromkeys(
        (
            "zoom",
            "stain_scale",
            "stain_shift",
            "gamma",
            "contrast",
            "saturation",
            "channel_gain",
            "sharpness",
        ),
        0,
    ),
    "noise": 0,
    "jpeg": (),
}
STRONG: dict[str, Any] = {
    "rotation": "any",
    "flips": True,
    "zoom": 0.2,
    "stain_scale": 0.25,
    "stain_shift": 0.06,
    "gamma": 0.35,
    "contrast": 0.25,
    "saturation": 0.45,
    "channel_gain": 0.08,
    "sharpness": 0.8,
    "noise": 0.03,
    "jpeg": (40, 95),
}
COLOURS = {name: value for name, value in STRONG.items() if name not in {"rotation", "flips", "zoom"}}


def spec(**changes: Any) -> AugmentationSpec:
    return AugmentationSpec.parse(PLAIN | changes, "test")


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def figures(number: int = 4, side: int = 64) -> Crops:
    """Dark irregular figures off the centre on a pale ground, and exactly their masks."""
    masks = torch.zeros((number, side, side), dtype=torch.uint8)
    for index in range(number):
        masks[index, 20 + index : 36, 26:32] = 1
        masks[index, 30:36, 26 : 44 - index] = 1
    return Crops((0.9 - 0.7 * masks[:, None].float()).repeat(1, 3, 1, 1), masks)


def test_nothing_asked_gives_the_central_patch() -> None:
    crops = Crops(
        torch.rand((3, 3, 64, 64), generator=drawn(0)), torch.randint(2, (3, 64, 64)).to(torch.uint8)
    )
    patches = augment(crops, spec(), 32, drawn(1))
    torch.testing.assert_close(patches.images, crops.images[..., 16:48, 16:48], atol=1e-5, rtol=0)  # bilinear
    assert torch.equal(patches.masks, crops.masks[:, 16:48, 16:48])


def test_right_angles_and_flips_are_the_eight_symmetries() -> None:
    crops = Crops(torch.rand((1, 3, 16, 16), generator=drawn(0)), torch.zeros((1, 16, 16), dtype=torch.uint8))
    many = Crops(crops.images.expand(200, -1, -1, -1), crops.masks.expand(200, -1, -1))
    patches = augment(many, spec(rotation="right-angles", flips=True), 16, drawn(5)).images
    turned = [torch.rot90(crops.images[0], turns, (1, 2)) for turns in range(4)]
    symmetries = torch.stack(turned + [view.flip(2) for view in turned])
    distance = (patches[:, None] - symmetries[None]).abs().amax(dim=(2, 3, 4))  # (200, 8)
    assert distance.min(dim=1).values.max() < 1e-4
    assert set(distance.argmin(dim=1).tolist()) == set(range(8))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_mask_stays_on_the_figure(seed: int) -> None:
    patches = augment(figures(), spec(rotation="any", flips=True, zoom=0.2), 48, drawn(seed))
    inside = patches.masks.bool()
    dark = patches.images[:, 0] < 0.55  # half way: an edge pixel may fall on either side
    assert (dark == inside).float().mean() > 0.98
    assert inside.any(dim=(1, 2)).all()


def test_zoom_changes_the_size_both_ways_and_within_its_reach() -> None:
    crops = figures(1)
    many = Crops(crops.images.expand(300, -1, -1, -1), crops.masks.expand(300, -1, -1))
    areas = augment(many, spec(zoom=0.2), 48, drawn(2)).masks.sum(dim=(1, 2)) / crops.masks.sum()
    assert 1 / 1.5 < areas.min() < 0.8
    assert 1.2 < areas.max() < 1.5  # 1.2 squared, and the pixels' rounding


@pytest.mark.parametrize(
    "changes", [{name: value} for name, value in COLOURS.items()], ids=lambda c: next(iter(c))
)
def test_each_colour_change_changes_colours_and_nothing_else(changes: dict[str, Any]) -> None:
    crops = Crops(
        0.2 + 0.6 * torch.rand((8, 3, 32, 32), generator=drawn(0)), figures(8, 64).masks[:, 16:48, 16:48]
    )
    patches = augment(crops, spec(**changes), 32, drawn(3))
    assert torch.equal(patches.masks, crops.masks)
    change = (patches.images - crops.images).abs().amax(dim=(1, 2, 3))
    assert (change > 1e-3).sum() >= 2  # half of the crops go through JPEG
    assert change.max() < 0.8
    assert patches.images.min() >= 0
    assert patches.images.max() <= 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), level=st.sampled_from([0.0, 1.0, 0.5]))
def test_white_and_black_patches_survive(seed: int, level: float) -> None:
    crops = Crops(torch.full((4, 3, 32, 32), level), torch.zeros((4, 32, 32), dtype=torch.uint8))
    patches = augment(crops, spec(**STRONG), 32, drawn(seed))
    assert torch.isfinite(patches.images).all()
    assert patches.images.min() >= 0
    assert patches.images.max() <= 1
    assert (patches.images.mean() - level).abs() < 0.5


def test_more_stain_is_darker_and_of_its_colour() -> None:
    """Haematoxylin's own colour, times a factor of its density, stays on the line of that stain."""
    density = torch.nn.functional.normalize(torch.tensor([0.65, 0.70, 0.29]), dim=0) * 0.8
    crops = Crops(
        torch.exp(-density).view(1, 3, 1, 1).expand(64, 3, 8, 8), torch.zeros((64, 8, 8), dtype=torch.uint8)
    )
    images = augment(crops, spec(stain_scale=0.25), 8, drawn(0)).images[:, :, 4, 4]  # (64, 3)
    scales = (-images.log()).norm(dim=1) / 0.8
    assert 0.74 < scales.min() < 0.8
    assert 1.2 < scales.max() < 1.26
    directions = torch.nn.functional.normalize(-images.log(), dim=1)
    torch.testing.assert_close(directions, (density / 0.8).expand(64, 3), atol=1e-4, rtol=0)


def test_the_same_seed_gives_the_same_batch_and_another_another() -> None:
    crops = Crops(torch.rand((4, 3, 64, 64), generator=drawn(0)), figures().masks)
    first, again, other = (augment(crops, spec(**STRONG), 32, drawn(seed)) for seed in (7, 7, 8))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, other.images)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    augment(figures(), spec(**STRONG), 32, drawn(1))
    assert torch.equal(torch.rand(3), wanted)
