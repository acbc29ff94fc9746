"""Batches of fixed size on a GPU: one call launches a whole batch while the next one is copied.

A CUDA graph is captured once for each batch size and replayed for each batch. It saves the time in which
Python launches hundreds of kernels one by one. A graph always computes the same number of crops in the same
memory, so the last batch is padded, and crops go through buffers in pinned memory, which a GPU can copy from
by itself.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.cuda.graphs import _POOL_HANDLE  # type: ignore[attr-defined]  # not in its list of exports

BATCH_SIZES = (32, 256)
"""Crops of a captured batch: few figures on a slide need not be padded to a batch that fills a GPU."""
WARM_UPS = 2
"""Runs before a capture: libraries choose algorithms and allocate in the first ones."""
IN_FLIGHT = 2
"""Batches that are on their way at a time: one is computed while the next is copied."""


class Part(NamedTuple):
    """Consecutive crops that are computed as one batch.

    Attributes:
        start: First crop.
        stop: One past the last crop.
        size: Size of the batch, at least `stop - start`.
    """

    start: int
    stop: int
    size: int


def split(number: int, sizes: Sequence[int]) -> Iterator[Part]:
    """Split crops into batches of fixed sizes: the largest while they are full, then the smallest that fits.

    Args:
        number: Number of crops.
        sizes: The sizes that a batch can have, ascending.
    """
    start = 0
    while start < number:
        rest = number - start
        size = next((size for size in sizes if size >= rest), sizes[-1])
        yield Part(start, min(start + size, number), size)
        start += size


def side_by_side(tasks: Sequence[Callable[[], Tensor]], streams: Sequence[torch.cuda.Stream]) -> list[Tensor]:
    """Run tasks that do not depend on each other, each on a stream of its own.

    Only for a capture: memory that tasks share is not freed while they run, because the graph keeps it.

    Args:
        tasks: Called in their order.
        streams: One for each task; if empty, all run on the current stream.

    Returns:
        The tasks' results, which the current stream can use.
    """
    if not streams:
        return [task() for task in tasks]
    current, results = torch.cuda.current_stream(streams[0].device), []
    for task, stream in zip(tasks, streams, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results.append(task())
    for stream in streams:
        current.wait_stream(stream)
    return results


class FixedBatches:
    """Computes crops in batches of fixed sizes. Each size is captured when the first batch of it comes.

    On a CPU nothing is captured, and the batches are computed one after the other.

    Args:
        compute: From (B, S, S, 3) uint8 to (B, M) float64, both on the device. A row depends on its own crop
            alone, and nothing may wait for the device or come from the memory of the host.
        device: `cpu`, `cuda` or `cuda:N`.
        crop_px: Side S of a crop, px.
        members: Number M of values by crop.
        sizes: Sizes B of a batch, ascending.
    """

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        *,
        device: str,
        crop_px: int,
        members: int,
        sizes: Sequence[int] = BATCH_SIZES,
    ) -> None:
        self._compute, self._device = compute, torch.device(device)
        self._shape, self._members = (crop_px, crop_px, 3), members
        self._sizes = tuple(sizes)
        self._captured: dict[int, _Captured] = {}
        # Batches of different sizes do not run at the same time, so that they can share their memory
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        self._slots: list[_Slot] | None = None

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute (N, S, S, 3) crops; return (N, M) values."""
        values = np.empty((len(crops), self._members))
        parts = list(split(len(crops), self._sizes))
        batches = ((part.size, crops[part.start : part.stop]) for part in parts)
        for part, found in zip(parts, self._stream(batches), strict=True):
            values[part.start : part.stop] = found
        return values

    def _stream(self, batches: Iterable[tuple[int, NDArray[np.uint8]]]) -> Iterator[NDArray[np.float64]]:
        """Yield the values of each batch in order; the batch after it is already on its way."""
        with _on_device(self._device):
            waiting: list[_Slot] = []
            for index, (size, crops) in enumerate(batches):
                slot = self._slot(index % IN_FLIGHT)
                slot.send(crops, size)
                slot.start(self._at_size(size))
                waiting.append(slot)
                if len(waiting) == IN_FLIGHT:
                    yield waiting.pop(0).take()
            for slot in waiting:
                yield slot.take()

    def _slot(self, index: int) -> _Slot:
        if self._slots is None:
            on_gpu = self._device.type == "cuda"
            copying = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]  # missing in torch's stubs
            largest = self._sizes[-1]
            self._slots = [
                _Slot(largest, self._shape, self._members, self._device, copying) for _ in range(IN_FLIGHT)
            ]
            if copying is not None:  # the buffers' memory may still be in use by what had it before
                copying.wait_stream(torch.cuda.current_stream())
        return self._slots[index]

    def _at_size(self, size: int) -> _Captured:
        if size not in self._captured:
            pixels = torch.zeros((size, *self._shape), dtype=torch.uint8, device=self._device)
            self._captured[size] = _Captured(self._compute, pixels, self._pool)
        return self._captured[size]


class _Captured:
    """The computation of one batch size, in memory of its own.

    Args:
        compute: As for `FixedBatches`.
        pixels: (B, S, S, 3) uint8, from which each run computes.
        pool: Where a graph has its memory; None on a CPU, which captures nothing.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], pixels: Tensor, pool: _POOL_HANDLE | None
    ) -> None:
        self._pixels, self._compute = pixels, compute
        self._graph = None if pool is None else self._capture(pool)

    def _capture(self, pool: _POOL_HANDLE) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture the computation; return it with the values that each replay writes."""
        aside = torch.cuda.Stream(self._pixels.device)  # type: ignore[no-untyped-call]  # missing in torch's stubs
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._compute(self._pixels)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may lock memory meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            values = self._compute(self._pixels)
        return graph, values

    def run(self, pixels: Tensor) -> Tensor:
        """Compute a batch; return (B, M) float64, which the next run overwrites."""
        self._pixels.copy_(pixels)
        if self._graph is None:
            return self._compute(self._pixels)
        graph, values = self._graph
        graph.replay()
        return values


class _Slot:
    """The buffers of one batch on its way: crops to the device, values back.

    Args:
        largest: Crops of the largest batch.
        shape: Shape of a crop.
        members: Values by crop.
        device: The device.
        copying: The stream on which crops are copied; None on a CPU.
    """

    def __init__(
        self,
        largest: int,
        shape: tuple[int, ...],
        members: int,
        device: torch.device,
        copying: torch.cuda.Stream | None,
    ) -> None:
        pinned = copying is not None
        self._sent = torch.empty((largest, *shape), dtype=torch.uint8, pin_memory=pinned)
        self._arrived = torch.empty((largest, *shape), dtype=torch.uint8, device=device)
        self._values = torch.empty((largest, members), dtype=torch.float64, pin_memory=pinned)
        self._copying = copying
        self._done = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]  # missing in torch's stubs
        self._crops = self._size = 0

    def send(self, crops: NDArray[np.uint8], size: int) -> None:
        """Begin to copy a batch of at most `size` crops to the device; it is padded with black crops."""
        self._crops, self._size = len(crops), size
        sent = self._sent[:size].numpy()
        sent[: len(crops)] = crops
        sent[len(crops) :] = 0
        with torch.cuda.stream(self._copying) if self._copying else contextlib.nullcontext():
            self._arrived[:size].copy_(self._sent[:size], non_blocking=True)

    def start(self, captured: _Captured) -> None:
        """Begin to compute the batch once its crops have arrived, and to copy the values back."""
        if self._copying is not None:
            torch.cuda.current_stream().wait_stream(self._copying)
        values = captured.run(self._arrived[: self._size])
        self._values[: self._size].copy_(values, non_blocking=True)
        if self._done is not None:
            self._done.record()

    def take(self) -> NDArray[np.float64]:
        """Wait for the values of the batch and return those of its crops."""
        if self._done is not None:
            self._done.synchronize()
        return self._values[: self._crops].numpy().copy()


def _on_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one, whose streams and graphs are then used."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
