"""The steps of a training: from a batch to changed weights. On a GPU they are one CUDA graph.

A small network has hundreds of short kernels a step, which a GPU computes faster than Python can start them.
A graph starts all of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from wsi_mitosis.nets.batches import WHITE, Batch, moved
from wsi_mitosis.nets.losses import Losses, compute_losses
from wsi_mitosis.nets.views import network_input

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from wsi_mitosis.nets.decoders import TrainedNetwork
    from wsi_mitosis.recipes import RecipeSpec

Precision = Literal["fp32", "bf16"]
EAGER_STEPS = 3
"""Steps before a graph is recorded: libraries choose their algorithms and optimisers make their state
(as in "Whole-network capture" of torch's notes on CUDA)."""
CAPTURABLE = ("adam", "adamw")
"""Optimisers whose step a graph can hold."""


class Trainer:
    """Makes the steps of one training.

    Args:
        network: The network, on its device, in training mode when steps are made.
        optimiser: Its optimiser. For graphs it was built by `nets.optimisers.build_optimiser` on the GPU.
        recipe: The training recipe.
        class_weights: (2,) float32 on the device.
        precision: Precision of the forward pass.
        device: `cpu`, `cuda` or `cuda:N`.
        graphs: Whether the steps are a CUDA graph; if None, where there is a GPU and the optimiser allows it.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        optimiser: torch.optim.Optimizer,
        recipe: RecipeSpec,
        class_weights: Tensor,
        precision: Precision,
        device: str,
        *,
        graphs: bool | None = None,
    ) -> None:
        self._network, self._optimiser, self._recipe = network, optimiser, recipe
        self._class_weights, self._precision, self._device = class_weights, precision, torch.device(device)
        able = self._device.type == "cuda" and recipe.optimiser.name in CAPTURABLE
        self._graphs = able if graphs is None else graphs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._totals = torch.zeros(1 + len(Losses._fields), dtype=torch.float64, device=self._device)
        self._steps = self._eager_steps = 0
        self._batch: Batch | None = None

    def step(self, batch: Batch) -> None:
        """Change the weights by one batch, which may be on the CPU."""
        self._steps += 1
        if not self._graphs:
            self._compute(moved(batch, self._device))
            return
        batch = self._copied(batch)
        if self._graph is not None:
            self._graph.replay()
        elif self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            self._on_another_stream(batch)
        else:
            self._record(batch)

    def mean_losses(self) -> NDArray[np.float64]:
        """Return (5,) means since the last call: the total, and each of `Losses`."""
        means = (self._totals / max(self._steps, 1)).cpu().numpy()
        self._totals.zero_()
        self._steps = 0
        return np.asarray(means, dtype=np.float64)

    def _compute(self, batch: Batch) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        targets = batch.targets._replace(masks=batch.targets.masks.long())
        # Without the cache of weights in half precision, which would outlive a graph.
        with autocast(self._device.type, self._precision, cache=not self._graphs):
            outputs = self._network(scaled(batch.images, self._recipe))
        losses = compute_losses(outputs, targets, self._class_weights, self._recipe.loss.dice)  # fp32
        total = total_loss(losses, self._recipe)
        total.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._totals += torch.stack([part.detach() for part in (total, *losses)])

    def _copied(self, batch: Batch) -> Batch:
        """Copy the batch to where the graph expects it."""
        if self._batch is None:
            self._batch = moved(batch, self._device)
            return self._batch
        for there, here in zip(_tensors(self._batch), _tensors(batch), strict=True):
            there.copy_(here, non_blocking=True)
        return self._batch

    def _on_another_stream(self, batch: Batch) -> None:
        """Make a step as torch asks for before a recording."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._compute(batch)
        current.wait_stream(stream)

    def _record(self, batch: Batch) -> None:
        """Record a step, which does not make it, and make it."""
        self._optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # Other threads may lock memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._compute(batch)
        self._graph = graph
        graph.replay()


def scaled(images: Tensor, recipe: RecipeSpec) -> Tensor:
    """Turn (N, 3, F, F) images in 0..1 into the input of the network."""
    parts = images if recipe.input.scale == WHITE else images * (WHITE / recipe.input.scale)
    return network_input(parts, recipe.input)


def total_loss(losses: Losses, recipe: RecipeSpec) -> Tensor:
    """Add the losses by the recipe's weights, to a scalar."""
    spec = recipe.loss
    weights = spec.classification, spec.mask, spec.pixels, spec.subtypes
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def autocast(device: str, precision: Precision, *, cache: bool = True) -> AbstractContextManager[Any]:
    """Compute in a precision.

    Args:
        device: Type of the device.
        precision: `fp32` changes nothing.
        cache: Whether weights in half precision are kept from one use to the next.
    """
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cache)


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return batch.images, *batch.targets
