"""The optimisers of recipes: torch's own, and Muon with AdamW as one optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsi_mitosis.recipes import OptimiserSpec

ENCODER = "member.backbone."
"""Start of the names of the encoder's weights in the network."""
OUTERMOST = ("conv0./.weight", "classify.weight")
"""The first and the last convolutions, which are not hidden and therefore not trained by Muon."""


def build_optimiser(network: nn.Module, spec: OptimiserSpec) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe.

    Args:
        network: The network, on its device and channels-last. Later changes of its weights must be in place.
        spec: The recipe's optimiser.
    """
    if spec.name == "muon":
        return MuonWithAdamW(network, spec.learning_rate, spec.weight_decay)
    kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    named = list(network.named_parameters())
    encoder = [parameter for name, parameter in named if name.startswith(ENCODER)]
    others = [parameter for name, parameter in named if not name.startswith(ENCODER)]
    rates = spec.learning_rate, spec.head_rate * spec.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": part, "lr": rate} for part, rate in zip((encoder, others), rates, strict=True)
    ]
    if not named[0][1].is_cuda:
        return kind(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    for group in groups:  # as arrays, so that a schedule can change them in a CUDA graph
        group["lr"] = torch.tensor(group["lr"], device=named[0][1].device)
    return kind(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay, capturable=True, fused=True)


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the hidden convolutions, AdamW for everything else.

    Muon's step is the momentum of a weight matrix with its singular values made about equal (Jordan et al.
    2024, kellerjordan.github.io/posts/muon, also for the choice of weights). The matrix of a convolution has
    a row for each output channel. The step is scaled to the size of AdamW's, so that both have one
    learning rate and one weight decay (Liu et al. 2025, arXiv 2502.16982, section 2.2).

    Args:
        network: As for `build_optimiser`.
        learning_rate: Learning rate of both; a schedule changes both.
        weight_decay: Decoupled weight decay of both.

    Raises:
        RuntimeError: If a convolution's weights are not channels-last.
    """

    def __init__(self, network: nn.Module, learning_rate: float, weight_decay: float) -> None:
        hidden = {
            name: parameter
            for name, parameter in network.named_parameters()
            if parameter.ndim == 4 and not name.endswith(OUTERMOST)
        }
        others = [parameter for name, parameter in network.named_parameters() if name not in hidden]
        super().__init__(others, lr=learning_rate, weight_decay=weight_decay)
        self._hidden = list(hidden.values())
        self._matrices = [
            nn.Parameter(_rows(weights.detach()).view(len(weights), -1)) for weights in self._hidden
        ]
        self._muon = torch.optim.Muon(
            self._matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step of both, with the current learning rate of AdamW's group."""
        for matrix, weights in zip(self._matrices, self._hidden, strict=True):
            matrix.grad = None if weights.grad is None else _rows(weights.grad).flatten(1)
        self._muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._muon.step()  # type: ignore[no-untyped-call]
        loss: float | None = super().step(closure)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all weights."""
        super().zero_grad(set_to_none)
        for weights in self._hidden:
            weights.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return super().state_dict() | {"muon": self._muon.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both."""
        self._muon.load_state_dict(state_dict["muon"])
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "muon"})


def _rows(weights: torch.Tensor) -> torch.Tensor:
    """View (out, in, height, width) as (out, height, width, in), the order of channels-last weights."""
    return weights.permute(0, 2, 3, 1)
