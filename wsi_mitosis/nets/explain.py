"""Where a member looks: class-activation maps of the last feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from wsi_mitosis.nets.members import Member


def activation_maps(member: Member, images: Tensor) -> Tensor:
    """Return Grad-CAM of the difference between the logits of atypical and typical.

    Source: Selvaraju et al., *Grad-CAM* (ICCV 2017). Each channel of the last feature map is weighted by the
    mean of the gradient over the map. A value is then, to first order and up to a factor, how far the
    difference would move if the features at that place were taken away. Absolute values are returned, because
    features that speak for either class move the answer. The gradient runs through the head alone.

    Args:
        member: In evaluation mode.
        images: (N, 3, P, P) from `network_input`.

    Returns:
        (N, h, w), 0 to 1: each map is divided by its largest value, so that members count alike.
    """
    with torch.no_grad():
        features = member.backbone(images).last
    with torch.enable_grad():
        features.requires_grad_()
        logits = member.head(features)
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return scaled((weights * features.detach()).sum(dim=1).abs())


def scaled(maps: Tensor) -> Tensor:
    """Divide each of (N, h, w) maps by its largest value; a map of zeros stays."""
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, torch.ones_like(largest))
