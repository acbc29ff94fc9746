"""Maps of where members look: of the right place, for every network, and as they are defined."""

from __future__ import annotations

from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.evaluations import FIELDS
from tests.networks import preact, timm_network
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.explain import activation_maps
from wsi_mitosis.nets.members import Member, member_state
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.nets.views import network_input, to_input
from wsi_mitosis.specs import BundleManifest, NetworkSpec

CORNERS = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
HASH = "0" * 64


def manifest(
    *networks: NetworkSpec,
    zooms: tuple[float, ...] = (1.0,),
    fields_px: tuple[int | None, ...] = (),
    **input_: Any,
) -> BundleManifest:
    members = [
        {"file": f"m{n}.safetensors", "sha256": HASH, "network": network.model_dump(), "field_px": field_px}
        for n, (network, field_px) in enumerate(zip_longest(networks, fields_px))
    ]
    fields = {key: value for key, value in FIELDS.items() if key != "training"} | {"trained": False}
    return BundleManifest.parse(
        {
            "schema": 1,
            **fields,
            "input": {**FIELDS["input"], **input_},
            "ensemble": {**FIELDS["ensemble"], "tta": "flips", "zooms": zooms},
            "member": members,
        },
        "test",
    )


def ensemble(*networks: NetworkSpec, **options: Any) -> tuple[Ensemble, list[Member]]:
    """An ensemble of random members, and the same members unfolded."""
    torch.manual_seed(1)
    members = [Member(network).eval() for network in networks]
    for member in members:
        for layer in member.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
    return Ensemble(manifest(*networks, **options), list(map(member_state, members)), device="cpu"), members


class Bright(nn.Module):
    """A member whose last feature map is how bright each square of 4 px is; `seen` is the one that counts."""

    def __init__(self, seen: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.seen = seen
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))

    def backbone(self, images: Tensor) -> Any:
        squares = nn.functional.avg_pool2d(images, 4).mean(dim=1, keepdim=True)
        if self.seen is not None:
            mask = torch.zeros_like(squares)
            mask[..., self.seen[0], self.seen[1]] = 1
            squares = squares * mask
        return SimpleNamespace(last=squares)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize(
    "input_", [{"patch_px": 32}, {"patch_px": 48, "field_px": 32}, {"patch_px": 16, "field_px": 32}]
)
def test_a_network_that_sees_one_corner_alone_has_its_maximum_there(
    corner: tuple[int, int], input_: dict[str, int]
) -> None:
    found, _ = ensemble(preact(2), **input_)
    found._members.networks = [Bright(seen=corner)]
    (values,) = found.explain(stained_noise(1, 32, seed=3))
    assert values.shape == (input_["patch_px"] // 4,) * 2
    assert values[corner] == 1
    assert np.count_nonzero(values) == 1


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("zooms", [(1.0,), (0.8, 1.0), (2.0, 0.8)])
@pytest.mark.parametrize("input_", [{"patch_px": 32}, {"patch_px": 64, "field_px": 32}])
def test_a_map_has_the_orientation_of_the_crop_and_covers_what_the_members_see(
    corner: tuple[int, int], zooms: tuple[float, ...], input_: dict[str, int]
) -> None:
    """A white square in a corner of the window; what lies outside of the window is white as well."""
    found, _ = ensemble(preact(2), zooms=zooms, **input_)
    found._members.networks = [Bright()]
    side, first = found.read_px, (found.read_px - 32) // 2
    assert side == (40 if 0.8 in zooms else 32)
    window = 16 if zooms[0] == 2 else 32
    first = (side - window) // 2
    crop = np.full((side, side, 3), 255, np.uint8)
    part = crop[first : first + window, first : first + window]
    part[:] = 20
    quarter = slice(0, window // 4), slice(-(window // 4), None)
    part[quarter[corner[0]], quarter[corner[1]]] = 255
    (values,) = found.explain(crop[None])
    assert values[corner] == values.max() == 1
    quarters = values.shape[0] // 4
    bright = values > 0.5
    assert bright.sum() == quarters**2
    assert bright[:quarters, :].any() == (corner[0] == 0)
    assert bright[:, :quarters].any() == (corner[1] == 0)


@pytest.mark.parametrize("network", [preact(2), timm_network()], ids=["preact", "timm"])
def test_a_map_is_grad_cam_of_the_last_feature_map(network: NetworkSpec) -> None:
    """By hand, with unfolded members: float32 sums in another order, so not to the last digit."""
    found, (member,) = ensemble(network, patch_px=64)
    crops = stained_noise(3, 64, seed=5)
    images = network_input(to_input(crops, 255), manifest(network, patch_px=64).input)
    with torch.no_grad():
        features = member.backbone(images).last
    pooled = features.mean(dim=(2, 3)).requires_grad_()
    logits = member.head[2:](pooled)
    (weights,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), pooled)
    expected = torch.einsum("nc,nchw->nhw", weights, features).abs().numpy()
    expected /= expected.max(axis=(1, 2), keepdims=True)
    values = found.explain(crops)
    assert values.dtype == np.float32
    assert expected.std(axis=(1, 2)).min() > 0.01, "a map without structure tests nothing"
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_members_count_alike_and_maps_of_two_sizes_are_averaged() -> None:
    """The second member answers a thousand times as strongly, and has a map of a quarter of the sides."""
    found, _ = ensemble(preact(2), preact(2))
    near, far = Bright(seen=(0, 0)), Bright(seen=(-1, -1))
    far.head[2].weight.data *= 1000
    coarse = nn.Module()
    coarse.head = far.head
    coarse.backbone = lambda images: far.backbone(nn.functional.avg_pool2d(images, 4))  # type: ignore[assignment]
    found._members.networks = [near, coarse]
    (values,) = found.explain(np.full((1, 32, 32, 3), 200, np.uint8))
    assert values.shape == (8, 8)
    assert values[0, 0] == values[-1, -1] == 1
    assert values[0, 0] > values[0, 1] == 0


@pytest.mark.parametrize("zooms", [(1.0,), (2.0,)])
def test_the_map_of_a_smaller_field_has_its_place_in_the_map_of_the_whole(zooms: tuple[float, ...]) -> None:
    """Of two members that look into the same corner of what they see, one sees the central half."""
    found, _ = ensemble(preact(2), preact(2), fields_px=(None, 16), zooms=zooms)
    found._members.networks = [Bright(seen=(0, -1)), Bright(seen=(0, -1))]
    (values,) = found.explain(np.full((1, 32, 32, 3), 200, np.uint8))
    assert values.shape == (8, 8)
    assert values[0, -1] == values.max() == 1
    assert set(zip(*np.nonzero(values), strict=True)) >= {(0, 7), (2, 5)}
    outside = np.ones((8, 8), np.bool_)
    outside[2:-2, 2:-2] = False
    assert np.count_nonzero(values[outside]) == 1


@pytest.mark.parametrize("field_px", [None, 24, 16])
def test_whatever_its_field_a_member_looks_at_the_same_place(field_px: int | None) -> None:
    found, _ = ensemble(preact(2), fields_px=(field_px,))
    found._members.networks = [Bright()]
    crop = np.full((32, 32, 3), 20, np.uint8)
    crop[8:12, 20:24] = 255
    (values,) = found.explain(crop[None])
    assert np.unravel_index(values.argmax(), values.shape) == (2, 5)
    assert np.count_nonzero(values > 0.6) == 1


def test_a_member_whose_answer_nothing_moves_has_an_empty_map() -> None:
    member = Bright()
    member.head[2].weight.data[:] = 1
    maps = activation_maps(member, torch.rand(2, 3, 32, 32))  # type: ignore[arg-type]
    assert maps.shape == (2, 8, 8)
    assert (maps == 0).all()


def test_explaining_changes_no_answer() -> None:
    found, _ = ensemble(preact(2), preact(3))
    crops = stained_noise(4, 32, seed=6)
    before = found.predict(crops)
    found.explain(crops)
    np.testing.assert_array_equal(found.predict(crops), before)
