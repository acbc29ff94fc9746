"""The recipe's losses: cross-entropy of the figure and of its subtypes, and a Dice loss for each decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsi_mitosis.nets.decoders import Outputs

DiceName = Literal["generalised", "hover-net"]
HOVER_NET_SMOOTH = 1e-3
"""`smooth` of HoVer-Net's `dice_loss` (vqdang/hover_net, models/hovernet/utils.py)."""


class Targets(NamedTuple):
    """The targets of a batch.

    Attributes:
        labels: (N,) int64, 0 typical, 1 atypical.
        p_atypical: (N,) float32, target of the cross-entropy: the label, or a value between the label and the
            share of the experts.
        masks: (N, P, P) int64, 1 on the figure.
        has_mask: (N,) bool.
        subtypes: (N, K) float32, share of the experts who named each subtype; zeros if none named any. K is 0
            if no subtypes are learnt.
    """

    labels: Tensor
    p_atypical: Tensor
    masks: Tensor
    has_mask: Tensor
    subtypes: Tensor

    @property
    def pixel_classes(self) -> Tensor:
        """(N, P, P) int64: 0 background, 1 typical, 2 atypical."""
        return self.masks * (1 + self.labels)[:, None, None]


class Losses(NamedTuple):
    """Scalars before weighting. The loss of a part that is not trained is 0."""

    classification: Tensor
    mask: Tensor
    pixels: Tensor
    subtypes: Tensor


def compute_losses(outputs: Outputs, targets: Targets, class_weights: Tensor, dice: DiceName) -> Losses:
    """Compute all losses of one batch, in float32.

    A sample without a mask counts for the classification alone.

    Args:
        outputs: The outputs of the network.
        targets: The targets of the same batch.
        class_weights: (2,) weights of typical and atypical.
        dice: Name of the Dice loss.
    """
    classification = weighted_cross_entropy(
        outputs.logits.float(), targets.labels, targets.p_atypical, class_weights
    )
    nothing = torch.zeros((), device=classification.device)
    subtypes = nothing
    if outputs.subtypes is not None:
        subtypes = subtype_cross_entropy(outputs.subtypes.float(), targets.subtypes)
    if outputs.mask is None or outputs.pixels is None:
        return Losses(classification, nothing, nothing, subtypes)
    # No shape depends on the number of masks, so that a CUDA graph can hold this.
    masked, measure = targets.has_mask, DICE[dice]
    mask = measure(outputs.mask.float(), targets.masks, masked)
    pixels = measure(outputs.pixels.float(), targets.pixel_classes, masked)
    any_mask = masked.any()
    return Losses(
        classification,
        torch.where(any_mask, mask, nothing),
        torch.where(any_mask, pixels, nothing),
        subtypes,
    )


def subtype_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Compute the cross-entropy of subtypes, a scalar: the mean over the figures of which subtypes are known.

    Args:
        logits: (N, K).
        shares: (N, K) as `Targets.subtypes`.
    """
    known = shares.sum().clamp(min=1)  # the shares of a figure add up to 1, or are all 0
    return -(shares * logits.log_softmax(dim=1)).sum() / known


def balanced_weights(labels: Tensor) -> Tensor:
    """Compute class weights inverse to frequency: N / (2 n_c), as scikit-learn's `balanced`.

    Args:
        labels: (N,) int64 of one fold's training domains.

    Returns:
        (2,) float32.

    Raises:
        ValueError: where a class is absent.
    """
    counts = torch.bincount(labels, minlength=2)
    if not bool((counts > 0).all()):
        raise ValueError("a class is absent from the training domains")
    return len(labels) / (2 * counts.float())


def weighted_cross_entropy(
    logits: Tensor, labels: Tensor, p_atypical: Tensor, class_weights: Tensor
) -> Tensor:
    """Compute the cross-entropy, weighted by the class of each label. The mean weight is 1 in each batch.

    With `p_atypical` equal to the labels this is torch's `cross_entropy` with `weight`.

    Args:
        logits: (N, 2) float32.
        labels: (N,) int64; they determine the weights.
        p_atypical: (N,) float32, the target.
        class_weights: (2,) float32.
    """
    target = torch.stack([1 - p_atypical, p_atypical], dim=1)
    each = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)
    weights = class_weights[labels]
    return (weights * each).sum() / weights.sum()


def generalised_dice(logits: Tensor, classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Compute the generalised Dice loss (Sudre et al. 2017, arXiv 1707.03237, eq. 1, weights 1 / area^2).

    The areas are summed over the batch, and a class that is absent from it has weight 0: each image lacks one
    of the foreground classes, for which a weight by image would be infinite (our choice).

    Args:
        logits: (N, C, P, P) float32.
        classes: (N, P, P) int64 in 0..C-1.
        counted: (N,) bool, the images that count; all if None.

    Returns:
        A scalar: 1 if no image counts.
    """
    predicted, true = _by_class(logits, classes, counted)  # each (C, pixels)
    area = true.sum(dim=1)
    weights = torch.where(area > 0, 1 / area.clamp(min=1).square(), torch.zeros_like(area))
    overlap = (weights * (predicted * true).sum(dim=1)).sum()
    total = (weights * (predicted + true).sum(dim=1)).sum()
    return 1 - 2 * overlap / total.clamp(min=torch.finfo(total.dtype).tiny)


def hover_net_dice(logits: Tensor, classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """Compute HoVer-Net's Dice loss: 1 - Dice, summed over the classes.

    Source: vqdang/hover_net, models/hovernet/utils.py.

    Args:
        logits: (N, C, P, P) float32.
        classes: (N, P, P) int64 in 0..C-1.
        counted: (N,) bool, the images that count; all if None.

    Returns:
        A scalar: 0 if no image counts.
    """
    predicted, true = _by_class(logits, classes, counted)
    overlap = (predicted * true).sum(dim=1)
    total = predicted.sum(dim=1) + true.sum(dim=1)
    return (1 - (2 * overlap + HOVER_NET_SMOOTH) / (total + HOVER_NET_SMOOTH)).sum()


DICE: dict[DiceName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "generalised": generalised_dice,
    "hover-net": hover_net_dice,
}


def _by_class(logits: Tensor, classes: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, each (C, N * P * P); 0 where the image does not count."""
    number = logits.shape[1]
    predicted = logits.softmax(dim=1)
    true = functional.one_hot(classes, number).permute(0, 3, 1, 2).to(predicted)
    if counted is not None:
        share = counted.to(predicted)[:, None, None, None]
        predicted, true = share * predicted, share * true
    return predicted.transpose(0, 1).reshape(number, -1), true.transpose(0, 1).reshape(number, -1)
