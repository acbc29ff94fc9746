"""The three losses against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from wsi_mitosis.nets.decoders import Outputs
from wsi_mitosis.nets.losses import (
    HOVER_NET_SMOOTH,
    DiceName,
    Targets,
    balanced_weights,
    compute_losses,
    generalised_dice,
    hover_net_dice,
    subtype_cross_entropy,
    weighted_cross_entropy,
)


def certain(classes: torch.Tensor, number: int) -> torch.Tensor:
    """Logits (N, C, P, P) that give these classes probability 1."""
    return 1e4 * functional.one_hot(classes, number).permute(0, 3, 1, 2).float()


@given(labels=st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda found: len(set(found)) == 2))
def test_class_weights_are_scikit_learns_balanced(labels: list[int]) -> None:
    wanted = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.array(labels))
    assert balanced_weights(torch.tensor(labels)).numpy() == pytest.approx(wanted, rel=1e-6)  # float32


def test_class_weights_of_one_class_are_refused() -> None:
    with pytest.raises(ValueError, match="absent"):
        balanced_weights(torch.zeros(4, dtype=torch.int64))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), number=st.integers(1, 16))
def test_hard_labels_give_torchs_weighted_cross_entropy(seed: int, number: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((number, 2), generator=generator)
    labels = torch.randint(2, (number,), generator=generator)
    weights = torch.tensor([0.6, 2.3])
    ours = weighted_cross_entropy(logits, labels, labels.float(), weights)
    assert ours.item() == pytest.approx(functional.cross_entropy(logits, labels, weights).item(), rel=1e-5)


def test_soft_targets_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
    labels = torch.tensor([0, 1])
    ours = weighted_cross_entropy(logits, labels, torch.tensor([0.25, 1.0]), torch.tensor([1.0, 3.0]))
    first = -(0.75 * np.log(0.8) + 0.25 * np.log(0.2))
    assert ours.item() == pytest.approx((first + 3 * -np.log(0.6)) / 4, rel=1e-5)


def test_generalised_dice_by_hand() -> None:
    """Two classes of areas 3 and 1 with probabilities of the first of .9, .8, .6 and .3."""
    predicted = torch.tensor([[[[0.9, 0.8], [0.6, 0.3]], [[0.1, 0.2], [0.4, 0.7]]]])
    classes = torch.tensor([[[0, 0], [0, 1]]])
    weights = 1 / 9, 1 / 1
    overlap = weights[0] * (0.9 + 0.8 + 0.6) + weights[1] * 0.7
    total = weights[0] * (2.6 + 3) + weights[1] * (1.4 + 1)
    assert generalised_dice(predicted.log(), classes).item() == pytest.approx(
        1 - 2 * overlap / total, rel=1e-5
    )


def test_a_class_absent_from_the_batch_has_no_weight() -> None:
    classes = torch.zeros((2, 4, 4), dtype=torch.int64)
    classes[:, :2] = 1  # 2 is absent
    logits = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=1)
    overlap = sum(probabilities[:, c][classes == c].sum() / 16**2 for c in (0, 1))
    total = sum((probabilities[:, c].sum() + 16) / 16**2 for c in (0, 1))
    assert generalised_dice(logits, classes).item() == pytest.approx(
        (1 - 2 * overlap / total).item(), rel=1e-5
    )
    assert torch.isfinite(generalised_dice(logits, torch.zeros_like(classes)))


def test_areas_are_summed_over_the_batch() -> None:
    """Each image lacks a class; in the batch none is absent, and a perfect answer costs nothing."""
    classes = torch.stack([torch.ones((4, 4), dtype=torch.int64), torch.full((4, 4), 2)])
    classes[:, 0] = 0
    assert generalised_dice(certain(classes, 3), classes).item() == pytest.approx(0, abs=1e-6)
    swapped = torch.where(classes > 0, 3 - classes, classes)
    # the background's 8 px agree, the 12 px of each other class do not
    wanted = 1 - 2 * (8 / 8**2) / (16 / 8**2 + 2 * 24 / 12**2)
    assert generalised_dice(certain(swapped, 3), classes).item() == pytest.approx(wanted, rel=1e-5)


def test_hover_nets_dice_by_hand() -> None:
    predicted = torch.tensor([[[[0.9, 0.3]], [[0.1, 0.7]]]])
    classes = torch.tensor([[[0, 1]]])
    first = (2 * 0.9 + HOVER_NET_SMOOTH) / (1.2 + 1 + HOVER_NET_SMOOTH)
    second = (2 * 0.7 + HOVER_NET_SMOOTH) / (0.8 + 1 + HOVER_NET_SMOOTH)
    assert hover_net_dice(predicted.log(), classes).item() == pytest.approx(2 - first - second, rel=1e-5)


def outputs_and_targets(has_mask: list[bool]) -> tuple[Outputs, Targets]:
    generator = torch.Generator().manual_seed(3)
    number = len(has_mask)
    outputs = Outputs(
        torch.randn((number, 2), generator=generator),
        torch.randn((number, 2, 8, 8), generator=generator),
        torch.randn((number, 3, 8, 8), generator=generator),
    )
    labels = torch.arange(number) % 2
    masks = torch.randint(2, (number, 8, 8), generator=generator)
    nothing = torch.zeros((number, 0))
    return outputs, Targets(labels, labels.float(), masks, torch.tensor(has_mask), nothing)


def test_a_sample_without_a_mask_counts_for_the_classification_alone() -> None:
    weights = torch.tensor([1.0, 2.0])
    outputs, targets = outputs_and_targets([True, True, False])
    losses = compute_losses(outputs, targets, weights, "generalised")
    assert outputs.mask is not None
    wanted = generalised_dice(outputs.mask[:2], targets.masks[:2])
    assert losses.mask.item() == pytest.approx(wanted.item())
    assert outputs.pixels is not None
    classes = targets.masks[:2] * (1 + targets.labels[:2, None, None])
    assert losses.pixels.item() == pytest.approx(generalised_dice(outputs.pixels[:2], classes).item())
    whole = functional.cross_entropy(outputs.logits, targets.labels, weights)
    assert losses.classification.item() == pytest.approx(whole.item(), rel=1e-5)


def test_a_batch_without_masks_and_a_network_without_decoders_have_no_dice() -> None:
    weights = torch.ones(2)
    outputs, targets = outputs_and_targets([False, False])
    for of in (outputs, Outputs(outputs.logits)):
        losses = compute_losses(of, targets, weights, "hover-net")
        assert losses.mask.item() == losses.pixels.item() == 0
        assert losses.classification.item() > 0


@pytest.mark.parametrize("dice", ["generalised", "hover-net"])
def test_what_has_no_mask_does_not_move_the_decoders(dice: DiceName) -> None:
    outputs, targets = outputs_and_targets([True, False])
    nothing, none = outputs_and_targets([False, False])
    for (made, wanted), moved in (((outputs, targets), [True, False]), ((nothing, none), [False, False])):
        assert made.mask is not None
        logits = made.mask.requires_grad_()
        compute_losses(made, wanted, torch.ones(2), dice).mask.backward()
        assert logits.grad is not None
        assert [bool(part.any()) for part in logits.grad] == moved
        assert torch.isfinite(logits.grad).all()


def test_subtypes_are_what_experts_named() -> None:
    outputs, targets = outputs_and_targets([True, False, False])
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [3.0, 0.0, 1.0]])
    shares = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    found = compute_losses(
        outputs._replace(subtypes=logits), targets._replace(subtypes=shares), torch.ones(2), "generalised"
    )
    first = functional.cross_entropy(logits[:1], torch.tensor([1]))
    second = (
        functional.cross_entropy(logits[1:2], torch.tensor([0]))
        + functional.cross_entropy(logits[1:2], torch.tensor([2]))
    ) / 2
    assert found.subtypes.item() == pytest.approx(((first + second) / 2).item())
    without = compute_losses(outputs, targets, torch.ones(2), "generalised")
    assert without.subtypes.item() == 0
    assert found[:3] == without[:3], "they change no other loss"
    alone = Outputs(outputs.logits, subtypes=logits)
    without_decoders = compute_losses(alone, targets._replace(subtypes=shares), torch.ones(2), "generalised")
    assert without_decoders.subtypes.item() == found.subtypes.item()


def test_figures_without_subtypes_move_nothing() -> None:
    logits = torch.randn((2, 3), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = subtype_cross_entropy(logits, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_losses_are_float32_whatever_the_network_computes_in() -> None:
    outputs, targets = outputs_and_targets([True, True])
    halves = Outputs(*(part.bfloat16() for part in outputs if part is not None))
    losses = compute_losses(halves, targets, torch.ones(2), "generalised")
    assert {loss.dtype for loss in losses} == {torch.float32}
