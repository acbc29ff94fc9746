"""The encoder against TIAToolbox's HoVer-Net, which the published weights fit."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsi_mitosis.nets.backbone import Backbone, SameConv2d

STAGES = ("conv0", "d0", "d1", "d2", "d3")
ENCODER_TENSORS = 249


def encoder_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and statistics of conv0 and d0 to d3."""
    state = network.state_dict().items()
    return {k: t for k, t in state if k.split(".")[0] in STAGES and not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def oracle() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what TIAToolbox's dependencies warn of while they are imported
        from tiatoolbox.models.architecture.hovernet import HoVerNet
    torch.manual_seed(0)
    network = HoVerNet(mode="fast").eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.2)
            nn.init.normal_(layer.bias, 0, 0.3)
    return network


def test_names_and_shapes_are_those_of_hovernet(oracle: Any) -> None:
    theirs = {name: tensor.shape for name, tensor in encoder_state(oracle).items()}
    ours = {name: tensor.shape for name, tensor in encoder_state(Backbone()).items()}
    assert ours == theirs
    assert len(ours) == ENCODER_TENSORS
    assert {
        "conv0./.weight",
        "d0.units.1.preact/bn.weight",
        "d0.shortcut.weight",
        "d3.blk_bna.bn.bias",
    } <= set(ours)


def test_weights_go_both_ways(oracle: Any) -> None:
    ours = Backbone()
    ours.load_state_dict(encoder_state(oracle))
    refused = oracle.load_state_dict(encoder_state(ours), strict=False).unexpected_keys
    assert refused == []


def test_every_stage_gives_what_hovernets_gives(oracle: Any) -> None:
    ours = Backbone().eval()
    ours.load_state_dict(encoder_state(oracle))
    images = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        theirs = {}
        features = images
        for stage in STAGES:
            features = theirs[stage] = getattr(oracle, stage)(features)
        found = {"conv0": ours.conv0(images), **ours(images)._asdict()}
    for stage in STAGES:
        # Of the values' size: the same sums in another order.
        scale = theirs[stage].abs().max()
        torch.testing.assert_close(found[stage] / scale, theirs[stage] / scale, rtol=0, atol=1e-5)
    sizes = {stage: tuple(tensor.shape[1:]) for stage, tensor in found.items()}
    assert sizes == {
        "conv0": (64, 128, 128),
        "d0": (256, 128, 128),
        "d1": (512, 64, 64),
        "d2": (1024, 32, 32),
        "d3": (2048, 16, 16),
    }


@pytest.mark.parametrize(
    ("size", "stride", "first"),
    [
        pytest.param(8, 2, 0, id="even at stride 2: nothing above or to the left"),
        pytest.param(9, 2, 1, id="odd at stride 2: a line all around"),
        pytest.param(8, 1, 1, id="stride 1: a line all around"),
    ],
)
def test_padding_is_tensorflows(size: int, stride: int, first: int) -> None:
    layer = SameConv2d(1, 1, 3, stride)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 0, 0] = 1  # takes the top left pixel of each window
    image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
    padded = functional.pad(image, (first, 2, first, 2))
    expected = padded[..., :size:stride, :size:stride]
    assert torch.equal(layer(image), expected)


def test_padding_on_both_sides_would_shift_an_import(oracle: Any) -> None:
    """What the padding is for: `Conv2d(padding=1)` with the same weights gives something else."""
    ours = Backbone().eval()
    ours.load_state_dict(encoder_state(oracle))
    conv2 = ours.d1.units[0].conv2
    assert isinstance(conv2, SameConv2d)
    features = torch.rand(1, conv2.in_channels, 32, 32)
    trap = functional.conv2d(features, conv2.weight, stride=2, padding=1)
    assert not torch.allclose(conv2(features), trap, atol=1e-3)
    padded = oracle.d1.units[0].get_submodule("conv2/pad")(features)
    torch.testing.assert_close(conv2(features), functional.conv2d(padded, conv2.weight, stride=2))


def test_width_scales_every_stage() -> None:
    with torch.inference_mode():
        features = Backbone(3).eval()(torch.rand(1, 3, 32, 32))
    assert [tuple(tensor.shape[1:]) for tensor in features] == [
        (12, 32, 32),
        (24, 16, 16),
        (48, 8, 8),
        (96, 4, 4),
    ]
