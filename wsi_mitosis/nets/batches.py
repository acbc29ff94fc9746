"""Augmented batches of figures: made when they are asked for, or ahead of a GPU by other processes.

The randomness of a batch comes from the recipe's seed, the epoch and the number of the batch alone. It is
therefore the same whoever makes the batch, and whenever.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from wsi_mitosis.nets.augment import Crops, augment
from wsi_mitosis.nets.losses import Targets
from wsi_mitosis.nets.memory import keep_large_blocks
from wsi_mitosis.nets.views import to_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.data import Dataset

    from wsi_mitosis.recipes import RecipeSpec

WHITE = 255
AHEAD = 2
"""Batches by process that wait for the GPU."""


@dataclass(frozen=True)
class Figures:
    """Labelled figures in memory.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, whole crops with the figure in the centre.
        masks: (N, S, S) uint8, 1 on the figure.
        has_mask: (N,) bool.
        labels: (N,) int64, 0 typical, 1 atypical.
        experts: (N,) float32, share of the experts whose label is atypical; the label if there were none.
        taught: (N,) float32, P(atypical) by a teacher; None without one.
        subtypes: (N, K) float32, share of the experts who named each of K subtypes, the same K in the figures
            of training and validation; zeros if none named any. None if no subtypes are known.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    has_mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    experts: NDArray[np.float32]
    taught: NDArray[np.float32] | None = None
    subtypes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Number of figures."""
        return len(self.labels)


class Batch(NamedTuple):
    """Images and what the network should say of them.

    Attributes:
        images: (B, 3, F, F) float32 in 0..1, RGB.
        targets: Their targets; the masks are uint8 here.
    """

    images: Tensor
    targets: Targets


def whole_crops(figures: Figures, rows: NDArray[np.intp], recipe: RecipeSpec) -> Batch:
    """Return the figures of some rows, (B,), as they are: a batch on the CPU of (B, 3, S, S) images."""
    images = to_input(figures.images[rows], WHITE)
    labels = torch.from_numpy(figures.labels[rows])
    experts, share = torch.from_numpy(figures.experts[rows]), recipe.loss.experts_share
    p_atypical = (1 - share) * labels + share * experts
    if figures.taught is not None:
        p_atypical = torch.lerp(p_atypical, torch.from_numpy(figures.taught[rows]), recipe.loss.teacher_share)
    masks, has_mask = torch.from_numpy(figures.masks[rows]), torch.from_numpy(figures.has_mask[rows])
    subtypes = np.zeros((len(rows), 0), np.float32) if figures.subtypes is None else figures.subtypes[rows]
    return Batch(images, Targets(labels, p_atypical, masks, has_mask, torch.from_numpy(subtypes)))


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """Return the batch on a device."""
    return Batch(batch.images.to(device), Targets(*(part.to(device) for part in batch.targets)))


class Batches:
    """The augmented batches of all epochs of a training, each epoch in another random order of the figures.

    An incomplete batch is left out.

    Args:
        figures: The figures.
        recipe: The training recipe.
        first: The first epoch that is asked for, from 1.
        processes: Number of processes that make batches ahead, in memory from which a GPU copies while it
            computes. With 0 each batch is made when it is asked for, by all of torch's threads.

    Attributes:
        steps: Number of batches of an epoch.
    """

    def __init__(self, figures: Figures, recipe: RecipeSpec, first: int = 1, processes: int = 0) -> None:
        self.steps = len(figures) // recipe.optimiser.batch
        numbers = [(e, n) for e in range(first, recipe.optimiser.epochs + 1) for n in range(self.steps)]
        loader: DataLoader[Batch] = DataLoader(
            cast("Dataset[Batch]", _Augmented(figures, recipe)),
            batch_size=None,
            sampler=numbers,
            num_workers=processes,
            prefetch_factor=AHEAD if processes else None,
            pin_memory=processes > 0 and torch.cuda.is_available(),
            worker_init_fn=_start_process,
            generator=torch.Generator(),  # it draws a seed, which must not change what training draws
        )
        self._coming = iter(loader)

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch."""
        return islice(self._coming, self.steps)


class _Augmented:
    """Makes a batch by the number of its epoch and its own."""

    def __init__(self, figures: Figures, recipe: RecipeSpec) -> None:
        self._figures, self._recipe = figures, recipe

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, number = key
        figures, recipe, size = self._figures, self._recipe, self._recipe.optimiser.batch
        order = torch.randperm(len(figures), generator=_generator(recipe.seed, epoch)).numpy()
        whole = whole_crops(figures, order[number * size : (number + 1) * size], recipe)
        crops = Crops(whole.images, whole.targets.masks)
        generator = _generator(recipe.seed, epoch, 1 + number)
        images, masks = augment(crops, recipe.augmentation, recipe.input.cut_px, generator)
        return Batch(images.contiguous(), whole.targets._replace(masks=masks))


def _start_process(_: int) -> None:
    keep_large_blocks()


def _generator(*seeds: int) -> torch.Generator:
    """Make a generator. No seed after the first two may be 0, because `SeedSequence` drops it at the end."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
