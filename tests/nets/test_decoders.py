"""The network in training, and what is left of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.networks import preact
from wsi_mitosis.io.bundles import pack_weights
from wsi_mitosis.nets.decoders import Decoder, TrainedNetwork
from wsi_mitosis.nets.members import Member, load_member, member_state


def network(width: int = 2, channels: tuple[int, int, int] | None = (8, 4, 2)) -> TrainedNetwork:
    torch.manual_seed(0)
    return TrainedNetwork(Member(preact(width)), channels)


@pytest.mark.parametrize("patch_px", [32, 64])
def test_the_heads_give_a_class_for_the_figure_and_for_each_pixel(patch_px: int) -> None:
    outputs = network()(torch.rand(2, 3, patch_px, patch_px))
    assert outputs.logits.shape == (2, 2)
    assert outputs.mask is not None
    assert outputs.mask.shape == (2, 2, patch_px, patch_px)
    assert outputs.pixels is not None
    assert outputs.pixels.shape == (2, 3, patch_px, patch_px)


def test_the_published_widths_build() -> None:
    with torch.device("meta"):
        decoder = Decoder((256, 512, 1024, 2048), (512, 256, 64), 3)
    shapes = [tuple(block.convolutions[0].weight.shape) for block in decoder.blocks]  # type: ignore[union-attr,index]
    assert shapes == [(512, 2048 + 1024, 3, 3), (256, 512 + 512, 3, 3), (64, 256 + 256, 3, 3)]


def test_each_skip_reaches_the_pixels() -> None:
    """A decoder that left one of the encoder's stages out would give it no gradient."""
    trained = network()
    encoded = trained.member.backbone(torch.rand(2, 3, 32, 32))
    features = [level.detach().requires_grad_() for level in encoded.levels]  # each on its own
    assert trained.mask is not None
    trained.mask(features).square().sum().backward()
    assert all(stage.grad is not None and stage.grad.abs().sum() > 0 for stage in features)


def test_without_decoders_there_is_the_classification_alone() -> None:
    alone = network(channels=None)
    outputs = alone(torch.rand(2, 3, 32, 32))
    assert outputs.mask is None
    assert outputs.pixels is None
    assert sum(p.numel() for p in alone.parameters()) == sum(p.numel() for p in alone.member.parameters())


def test_the_head_for_subtypes_is_beside_the_others() -> None:
    images = torch.rand(3, 3, 32, 32)
    torch.manual_seed(0)
    named = TrainedNetwork(Member(preact(2)), (8, 4, 2), subtypes=5, dropout=0.5).eval()
    outputs, without = named(images), network().eval()(images)
    assert outputs.subtypes is not None
    assert outputs.subtypes.shape == (3, 5)
    assert outputs.mask is not None
    assert without.subtypes is None
    assert torch.equal(outputs.logits, without.logits)
    assert not [name for name in member_state(named.member) if "subtypes" in name]
    outputs.subtypes.square().sum().backward()
    gradients = [parameter.grad for parameter in named.member.backbone.parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients), (
        "the encoder learns from it"
    )
    torch.manual_seed(1)
    shaken = [named.train()(images).subtypes for _ in range(2)]
    assert not torch.equal(*shaken), "its features are dropped in training"


def test_dropping_the_decoders_leaves_the_logits_as_they_are() -> None:
    trained = network().eval()
    images = torch.rand(3, 3, 32, 32)
    state = member_state(trained.member)
    assert not [name for name in state if name.startswith(("mask", "pixels"))]
    pruned = load_member(state, preact(2), "pruned").eval()
    with torch.inference_mode():
        assert torch.equal(pruned(images), trained(images).logits)


def test_the_stored_member_is_the_pruned_one_to_float16(tmp_path: object) -> None:
    from safetensors.numpy import load

    trained = network()
    state = member_state(trained.member)
    stored = load(pack_weights(state, "x"))
    assert set(stored) == set(state)
    assert all(np.array_equal(stored[name], state[name].astype(np.float16)) for name in state)
