"""Encoders of timm in the recipe's network, and the paper's beside them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import nn

from tests.networks import preact, timm_network
from wsi_mitosis.errors import InputError, SpecError
from wsi_mitosis.io.bundles import pack_weights
from wsi_mitosis.nets import eager
from wsi_mitosis.nets.checkpoints import load_encoder
from wsi_mitosis.nets.decoders import TrainedNetwork
from wsi_mitosis.nets.encoders import build_encoder, largest_map
from wsi_mitosis.nets.members import Member, load_member, member_state
from wsi_mitosis.nets.views import network_input
from wsi_mitosis.specs import InputSpec, NetworkSpec

LITE = "tf_efficientnet_lite0"
LITE_CHANNELS = (24, 40, 112, 320)
"""Of timm's tf_efficientnet_lite0 at strides 4, 8, 16 and 32."""


def spread(member: Member) -> Member:
    """Give batch norms statistics, as training does."""
    torch.manual_seed(1)
    for layer in member.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, 0, 0.3)
            if layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
    return member


@pytest.fixture(scope="module")
def member() -> Member:
    torch.manual_seed(0)
    return spread(Member(timm_network(LITE))).eval()


def test_an_encoder_of_timm_gives_the_classifiers_map_and_four_levels(member: Member) -> None:
    with torch.inference_mode():
        encoded = member.backbone(torch.rand(2, 3, 64, 64))
    assert encoded.last.shape == (2, 1280, 2, 2)
    assert [tuple(level.shape[1:]) for level in encoded.levels] == [
        (channels, side, side) for channels, side in zip(LITE_CHANNELS, (16, 8, 4, 2), strict=True)
    ]
    assert member.backbone.level_channels == LITE_CHANNELS
    assert [layer.out_features for layer in member.head if isinstance(layer, nn.Linear)] == [256, 64, 2]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("no_such_network", "no encoder of this name"),
        ("vit_tiny_patch16_224", "does not take images of every size"),
        ("densenet121", "without drop path"),
    ],
)
def test_what_is_no_such_encoder_is_refused(name: str, cause: str) -> None:
    with pytest.raises(SpecError, match=cause), torch.device("meta"):
        build_encoder(timm_network(name), drop_path=0.1 if name == "densenet121" else 0.0)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_100"])
def test_encoders_of_other_families_fit_as_well(name: str) -> None:
    with torch.device("meta"):
        network = TrainedNetwork(Member(timm_network(name)), (8, 4, 2), mask_px=48)
        outputs = network(torch.zeros(2, 3, 96, 96))
    assert outputs.mask is not None
    assert (outputs.logits.shape, outputs.mask.shape) == ((2, 2), (2, 2, 48, 48))


def test_the_decoders_give_a_class_for_each_pixel_of_the_field() -> None:
    network = TrainedNetwork(Member(timm_network(LITE)), (8, 4, 2), mask_px=40)
    outputs = network(torch.rand(2, 3, 64, 64))
    assert outputs.mask is not None
    assert outputs.pixels is not None
    assert (outputs.logits.shape, outputs.mask.shape, outputs.pixels.shape) == (
        (2, 2), (2, 2, 40, 40), (2, 3, 40, 40)
    )  # fmt: skip


def test_drop_path_skips_branches_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(timm_network(LITE), drop_path=0.5)
    images = torch.rand(2, 3, 64, 64)
    network = cast("nn.Module", encoder).eval()
    with torch.inference_mode():
        assert torch.equal(encoder(images).last, encoder(images).last)
        for layer in network.modules():
            layer.training = type(layer).__name__ == "DropPath"
        assert not torch.equal(encoder(images).last, encoder(images).last)


def test_folding_keeps_what_batch_norm_and_activation_do(member: Member) -> None:
    folded = eager.folded(copy.deepcopy(member))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    images = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), member(images), rtol=1e-3, atol=1e-4)


def test_a_channels_last_network_is_stored_in_the_order_of_its_axes(member: Member) -> None:
    """safetensors writes an array in the order of its memory, which is another one for channels-last."""
    turned = copy.deepcopy(member).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = member_state(turned)
    assert not all(array.flags["C_CONTIGUOUS"] for array in state.values())
    stored = load(pack_weights(state, "x"))
    for name, array in member_state(member).items():
        np.testing.assert_array_equal(stored[name], array.astype(np.float16))
    back = load_member(stored, timm_network(LITE), "test")
    images = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        expected = member(images)
        apart = (back(images) - expected).abs().max() / expected.std()
    assert 0 < apart < 0.05, "float16 rounds, and does no more"


@pytest.mark.parametrize("spec", [preact(3), timm_network(LITE)])
def test_the_largest_map_is_found(spec: NetworkSpec) -> None:
    expected = 4 * 3 * 32 * 32 if spec.timm_name is None else 96 * 16 * 16
    assert largest_map(Member(spec).eval(), 32) == expected


def test_weights_of_a_package_have_other_names_in_the_same_order(tmp_path: Path) -> None:
    import timm

    body = timm.create_model(LITE, pretrained=False)
    state = {k: v for k, v in body.state_dict().items() if v.is_floating_point()}
    for name, content in {
        "timm.pth": body.state_dict(),
        "other.pth": {f"layer{number}": tensor for number, tensor in enumerate(state.values())},
        "half.pth": {name: tensor.half() for name, tensor in state.items()},
    }.items():
        torch.save(content, tmp_path / name)
        found = load_encoder(tmp_path / name, timm_network(LITE))
        assert set(found) == {f"body.{name}" for name in state if not name.startswith("classifier")}
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, state[key.removeprefix("body.")], rtol=1e-3, atol=1e-4)
    torch.save(dict(list(state.items())[1:]), tmp_path / "cut.pth")
    with pytest.raises(InputError, match=r"1 of the encoder's \d+ tensors are missing"):
        load_encoder(tmp_path / "cut.pth", timm_network(LITE))


def test_the_input_is_enlarged_and_normalised() -> None:
    spec = InputSpec(
        patch_px=16, mpp=0.25, mpp_tolerance=0.1, pad_value=0, scale=255, field_px=8, mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.25, 2.0),
    )  # fmt: skip
    patches = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    larger = nn.functional.interpolate(patches, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network_input(patches, spec), (larger - mean) / std, rtol=1e-5, atol=1e-6)
    plain = InputSpec(patch_px=8, mpp=0.25, mpp_tolerance=0.1, pad_value=0, scale=255)
    assert torch.equal(network_input(patches, plain), patches)
    assert (spec.cut_px, plain.cut_px) == (8, 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "timm:tf_efficientnet_lite0", "width": 4},
        {"backbone": "preact-resnet50"},
        {"backbone": "resnet50", "width": 4},
        {"backbone": "timm:../x"},
    ],
)
def test_a_backbone_has_either_a_width_or_a_name(fields: dict) -> None:
    with pytest.raises(SpecError):
        NetworkSpec.parse({"head": "gap-fc3", **fields}, "test")
