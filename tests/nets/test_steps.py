"""Steps of a training: what a batch does to the weights, and the same by a CUDA graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.dataset_files import figure
from tests.training_files import tiny_recipe
from wsi_mitosis.nets.batches import Batch, Batches, Figures
from wsi_mitosis.nets.decoders import TrainedNetwork
from wsi_mitosis.nets.losses import compute_losses
from wsi_mitosis.nets.optimisers import build_optimiser
from wsi_mitosis.nets.steps import EAGER_STEPS, Trainer, total_loss
from wsi_mitosis.nets.training import build_network
from wsi_mitosis.recipes import RecipeSpec

WEIGHTS = torch.tensor([0.75, 1.5])
STEPS = EAGER_STEPS + 3


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    number = 8 * STEPS
    crops = np.stack([figure(48, seed) for seed in range(number)])
    masks = (crops[..., 0] < 120).astype(np.uint8)
    labels = np.arange(number, dtype=np.int64) % 2
    figures = Figures(crops, masks, np.arange(number) % 3 > 0, labels, labels.astype("f4"))
    return list(Batches(figures, recipe()).epoch())


def recipe() -> RecipeSpec:
    return tiny_recipe(optimiser={"head_rate": 2.0, "name": "adamw"}, loss={"mask": 2.0}, dropout=0.0)


def trained(batches: list[Batch], device: str, *, graphs: bool) -> tuple[TrainedNetwork, list[float]]:
    network = build_network(recipe()).to(device)
    optimiser = build_optimiser(network, recipe().optimiser)
    trainer = Trainer(network, optimiser, recipe(), WEIGHTS.to(device), "fp32", device, graphs=graphs)
    for batch in batches:
        trainer.step(batch)
    return network.cpu(), trainer.mean_losses().tolist()


def test_a_step_follows_the_gradient_of_the_total_loss(batches: list[Batch]) -> None:
    network = build_network(recipe())
    optimiser = build_optimiser(network, recipe().optimiser)
    losses = []
    for images, targets in batches:
        optimiser.zero_grad()
        outputs = network(images.contiguous(memory_format=torch.channels_last))
        parts = compute_losses(outputs, targets._replace(masks=targets.masks.long()), WEIGHTS, "generalised")
        total = parts.classification + 2 * parts.mask + parts.pixels
        assert total_loss(parts, recipe()).item() == pytest.approx(total.item())
        total.backward()
        optimiser.step()
        losses.append([part.item() for part in (total, *parts)])
    found, means = trained(batches, "cpu", graphs=False)
    assert means == pytest.approx(np.mean(losses, axis=0).tolist(), rel=1e-5)
    for name, weights in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weights, msg=name, rtol=1e-4, atol=1e-6)


def test_means_are_of_the_steps_since_the_last_ones(batches: list[Batch]) -> None:
    network = build_network(recipe())
    trainer = Trainer(network, build_optimiser(network, recipe().optimiser), recipe(), WEIGHTS, "fp32", "cpu")
    trainer.step(batches[0])
    first = trainer.mean_losses()
    trainer.step(batches[1])
    assert trainer.mean_losses()[0] not in (first[0], 0)
    assert not trainer.mean_losses().any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_makes_the_steps_that_eager_calls_make(batches: list[Batch]) -> None:
    eager, eager_losses = trained(batches, "cuda", graphs=False)
    recorded, losses = trained(batches, "cuda", graphs=True)
    assert losses == pytest.approx(eager_losses, rel=1e-3)
    start = build_network(recipe()).state_dict()
    for name, weights in eager.state_dict().items():
        if weights.is_floating_point() and not torch.equal(weights, start[name]):
            apart = (recorded.state_dict()[name] - weights).norm() / (weights - start[name]).norm()
            assert apart < 0.1, name
