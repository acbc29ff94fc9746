"""Augmented batches: the same whoever makes them, whenever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.dataset_files import figure
from tests.nets.test_augment import PLAIN
from tests.training_files import PATCH_PX, tiny_recipe
from wsi_mitosis.nets import batches
from wsi_mitosis.nets.batches import Batch, Batches, Figures

NUMBER, EPOCHS = 21, 3
STEPS = 2  # of 8 figures; five are left out


@pytest.fixture(scope="module")
def figures() -> Figures:
    crops = np.stack([figure(48, seed) for seed in range(NUMBER)])
    masks = (crops[..., 0] < 120).astype(np.uint8)
    labels = np.arange(NUMBER, dtype=np.int64) % 2
    return Figures(crops, masks, np.arange(NUMBER) % 3 > 0, labels, np.linspace(0, 1, NUMBER, dtype="f4"))


def epochs(figures: Figures, *, first: int = 1, processes: int = 0, seed: int = 0) -> list[list[Batch]]:
    recipe = tiny_recipe(seed=seed, optimiser={"epochs": EPOCHS})
    coming = Batches(figures, recipe, first, processes)
    return [list(coming.epoch()) for _ in range(first, EPOCHS + 1)]


def same(first: Batch, second: Batch) -> bool:
    pairs = zip((first.images, *first.targets), (second.images, *second.targets), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_batch_does_not_depend_on_who_makes_it_or_when(figures: Figures) -> None:
    alone = epochs(figures)
    assert [len(epoch) for epoch in alone] == [STEPS] * EPOCHS
    for others in (epochs(figures, processes=2), [[], *epochs(figures, first=2)]):
        for mine, theirs in zip(alone[1:], others[1:], strict=True):
            assert all(map(same, mine, theirs))


def test_each_epoch_and_each_seed_has_other_batches(figures: Figures) -> None:
    first, second, _ = epochs(figures)
    other, *_ = epochs(figures, seed=1)
    for one, another in itertools.combinations((first[0], first[1], second[0], other[0]), 2):
        assert not torch.equal(one.images, another.images)


def test_the_order_and_each_batch_draw_from_seeds_of_their_own(
    figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], batches._generator

    def spy(*seeds: int) -> torch.Generator:
        made.append(make(*seeds))
        return made[-1]

    monkeypatch.setattr(batches, "_generator", spy)
    epochs(figures)
    assert len({generator.initial_seed() for generator in made}) == EPOCHS * (1 + STEPS)


def test_an_epoch_has_no_figure_twice(figures: Figures) -> None:
    for epoch in epochs(figures):
        experts = torch.cat([batch.targets.p_atypical for batch in epoch]).tolist()
        assert len(set(experts)) == 8 * STEPS


def test_images_keep_their_targets(figures: Figures) -> None:
    """Without augmentation an image is the middle of its crop. The share of the experts names the figure."""
    recipe = tiny_recipe(augmentation=PLAIN, loss={"experts_share": 1.0})
    rows = {share: row for row, share in enumerate(figures.experts.tolist())}
    first = (figures.images.shape[1] - PATCH_PX) // 2
    middle = slice(first, first + PATCH_PX)
    for batch in Batches(figures, recipe).epoch():
        found = [rows[share] for share in batch.targets.p_atypical.tolist()]
        crops = figures.images[found][:, middle, middle].transpose(0, 3, 1, 2) / 255
        np.testing.assert_allclose(batch.images, crops, atol=1e-3)
        np.testing.assert_array_equal(batch.targets.masks, figures.masks[found][:, middle, middle])
        np.testing.assert_array_equal(batch.targets.labels, figures.labels[found])
        np.testing.assert_array_equal(batch.targets.has_mask, figures.has_mask[found])


def test_the_global_generator_is_left_alone(figures: Figures) -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    epochs(figures)
    assert torch.equal(torch.rand(3), wanted)
