"""Augmented batches: the same whoever makes them, whenever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.dataset_files import figure
from tests.training_files import PATCH_PX, tiny_recipe
from wsi_mitosis.nets.batches import Batch, Batches, Figures, whole_crops

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
    batches = Batches(figures, recipe, first, processes)
    return [list(batches.epoch()) for _ in range(first, EPOCHS + 1)]


def same(first: Batch, second: Batch) -> bool:
    pairs = zip((first.images, *first.targets), (second.images, *second.targets), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_batch_does_not_depend_on_who_makes_it_or_when(figures: Figures) -> None:
    alone = epochs(figures)
    assert [len(batches) for batches in alone] == [STEPS] * EPOCHS
    for others in (epochs(figures, processes=2), [[], *epochs(figures, first=2)]):
        for mine, theirs in zip(alone[1:], others[1:], strict=True):
            assert all(map(same, mine, theirs))


def test_each_epoch_and_each_seed_has_other_batches(figures: Figures) -> None:
    first, second, _ = epochs(figures)
    other, *_ = epochs(figures, seed=1)
    for one, another in itertools.combinations((first[0], first[1], second[0], other[0]), 2):
        assert not torch.equal(one.images, another.images)


def test_an_epoch_has_no_figure_twice(figures: Figures) -> None:
    for batches in epochs(figures):
        experts = torch.cat([batch.targets.p_atypical for batch in batches]).tolist()
        assert len(set(experts)) == 8 * STEPS


def test_images_keep_their_targets(figures: Figures) -> None:
    """The targets of these figures name them, because no two have the same share of the experts."""
    whole = whole_crops(figures, np.arange(NUMBER), tiny_recipe())
    rows = {share: row for row, share in enumerate(whole.targets.p_atypical.tolist())}
    dark_share = figures.masks.mean(axis=(1, 2))
    for batch in epochs(figures)[0]:
        assert batch.images.shape == (8, 3, PATCH_PX, PATCH_PX)
        found = [rows[share] for share in batch.targets.p_atypical.tolist()]
        np.testing.assert_array_equal(batch.targets.labels, figures.labels[found])
        np.testing.assert_array_equal(batch.targets.has_mask, figures.has_mask[found])
        # A patch shows more of the figure than the whole crop; more of it for figures that are larger.
        shown = batch.targets.masks.float().mean(dim=(1, 2)).numpy()
        assert np.corrcoef(shown, dark_share[found])[0, 1] > 0.5


def test_the_global_generator_is_left_alone(figures: Figures) -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    epochs(figures)
    assert torch.equal(torch.rand(3), wanted)
