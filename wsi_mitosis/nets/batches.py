"""Augmented batches of figures: made when they are asked for, or ahead of a GPU by the CPU's threads.

The randomness of a batch comes from the recipe's seed, the epoch and the number of the batch alone. It is
therefore the same whoever makes the batch, and whenever.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from wsi_mitosis.nets.augment import Crops, augment
from wsi_mitosis.nets.losses import Targets
from wsi_mitosis.nets.views import to_input

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from wsi_mitosis.recipes import RecipeSpec

WHITE = 255
AHEAD = 2
"""Batches by thread that wait for the GPU."""


@dataclass(frozen=True)
class Figures:
    """Labelled figures in memory.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, whole crops with the figure in the centre.
        masks: (N, S, S) uint8, 1 on the figure.
        has_mask: (N,) bool.
        labels: (N,) int64, 0 typical, 1 atypical.
        experts: (N,) float32, share of the experts whose label is atypical; the label if there were none.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    has_mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    experts: NDArray[np.float32]

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
    """Return figures as they are, on the CPU, with the side of their crops."""
    images = to_input(figures.images[rows], WHITE)
    labels = torch.from_numpy(figures.labels[rows])
    experts, share = torch.from_numpy(figures.experts[rows]), recipe.loss.experts_share
    masks, has_mask = torch.from_numpy(figures.masks[rows]), torch.from_numpy(figures.has_mask[rows])
    return Batch(images, Targets(labels, (1 - share) * labels + share * experts, masks, has_mask))


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """Return the batch on a device."""
    return Batch(batch.images.to(device), Targets(*(part.to(device) for part in batch.targets)))


def augmented(
    figures: Figures, recipe: RecipeSpec, epoch: int, threads: int = 0
) -> Generator[Batch, None, None]:
    """Yield the batches of an epoch in a random order of the figures. An incomplete batch is left out.

    Args:
        figures: The figures.
        recipe: The training recipe.
        epoch: Number of the epoch, from 1.
        threads: Number of threads that make batches ahead, in memory from which a GPU copies while it
            computes. With 0 each batch is made when it is asked for, by all of torch's threads.
    """
    size = recipe.optimiser.batch
    order = torch.randperm(len(figures), generator=_generator(recipe.seed, epoch)).numpy()

    def made(number: int) -> Batch:
        rows = order[number * size : (number + 1) * size]
        whole, generator = whole_crops(figures, rows, recipe), _generator(recipe.seed, epoch, number)
        crops = Crops(whole.images, whole.targets.masks)
        images, masks = augment(crops, recipe.augmentation, recipe.input.cut_px, generator)
        return Batch(images, whole.targets._replace(masks=masks))

    numbers = range(len(figures) // size)
    yield from _ahead(made, numbers, threads) if threads else map(made, numbers)


def _ahead(make: Callable[[int], Batch], numbers: range, threads: int) -> Iterator[Batch]:
    """Yield what `make` makes of the numbers, in their order; threads make those that follow meanwhile."""

    def pinned(number: int) -> Batch:
        return _pinned(make(number))

    with ThreadPoolExecutor(threads, "batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = iter(numbers)
        waiting = deque(pool.submit(pinned, number) for number in islice(coming, AHEAD * threads))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(pinned, number) for number in islice(coming, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory, where there is a GPU."""
    if not torch.cuda.is_available():
        return batch
    targets = Targets(*(tensor.pin_memory() for tensor in batch.targets))
    return Batch(batch.images.contiguous().pin_memory(), targets)


def _generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
