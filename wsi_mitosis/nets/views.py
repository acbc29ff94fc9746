"""From uint8 crops to the network's input: the preprocessing that training and inference share."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsi_mitosis.core.geometry import resampling_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from wsi_mitosis.specs import InputSpec
    from wsi_mitosis.tables import Tta

VIEWS: dict[Tta, int] = {"none": 1, "flips": 3, "d4": 8}
"""Number of views of one crop at one zoom."""


def to_input(crops: NDArray[np.uint8], scale: float, device: str | torch.device = "cpu") -> Tensor:
    """Turn crops into a batch: divide them by `scale`, without further normalisation.

    Args:
        crops: (N, H, W, 3) uint8 RGB.
        scale: The bundle's divisor, 255 for values in 0..1.
        device: The batch's device. The bytes are copied to it, not the floats.

    Returns:
        (N, 3, H, W) float32, channels-last in memory.
    """
    # Read-only crops are copied, because torch warns of memory that it must not write to.
    owned = np.require(crops, dtype=np.uint8, requirements=["C", "W"])
    return from_bytes(torch.from_numpy(owned).to(device), scale)


def from_bytes(pixels: Tensor, scale: float) -> Tensor:
    """Turn (N, H, W, 3) uint8 on any device into what `to_input` returns."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / scale


def network_input(patches: Tensor, spec: InputSpec) -> Tensor:
    """Turn patches into what the network sees: enlarge or shrink them, then subtract the mean, divide by std.

    Args:
        patches: (N, 3, F, F), the pixel values divided by the bundle's `scale`; F = `spec.cut_px`.
        spec: The bundle's input.

    Returns:
        (N, 3, P, P), P = `spec.patch_px`, channels-last in memory.
    """
    side = int(patches.shape[-1])  # a tensor while torch traces it
    if side != spec.patch_px:
        patches = zoomed(patches, spec.patch_px / side, spec.patch_px)
    if (spec.mean, spec.std) != ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        mean, std = (_channels(values, patches.dtype, patches.device) for values in (spec.mean, spec.std))
        patches = (patches - mean) / std
    return patches.contiguous(memory_format=torch.channels_last)


def views(batch: Tensor, tta: Tta) -> Iterator[Tensor]:
    """Yield the views of a batch, one after the other, so that only one is in memory.

    Args:
        batch: (N, 3, P, P).
        tta: `none`: itself; `flips`: itself, upside down, left to right; `d4`: the square's 8 symmetries.

    Yields:
        (N, 3, P, P); the first is the batch itself.
    """
    if tta == "d4":
        for turns in range(4):
            turned = torch.rot90(batch, turns, dims=(2, 3))
            yield turned
            yield turned.flip(3)
        return
    yield batch
    if tta == "flips":
        yield batch.flip(2)
        yield batch.flip(3)


def all_views(batch: Tensor, spec: InputSpec, zooms: Iterable[float], tta: Tta) -> Iterator[Tensor]:
    """Yield what a network sees of a batch from `to_input`: (N, 3, P, P) for each zoom and view."""
    for zoom in zooms:
        yield from views(network_input(zoomed(batch, zoom, spec.cut_px), spec), tta)


def zoomed(batch: Tensor, zoom: float, patch_px: int) -> Tensor:
    """Cut the central window of side `patch_px / zoom` and resample it to `patch_px`.

    Zoom < 1 averages over areas, zoom > 1 interpolates linearly, and zoom 1 does not change the pixels.

    Args:
        batch: (N, 3, S, S), S even and at least `patch_px / zoom`.
        zoom: Magnification relative to the bundle's um/px.
        patch_px: Side of the result, px; even.

    Returns:
        (N, 3, patch_px, patch_px) of the batch's dtype.
    """
    side = int(batch.shape[-1])
    if zoom == 1:
        first = (side - patch_px) // 2
        return batch[..., first : first + patch_px, first : first + patch_px]
    weights = _weights(zoom, patch_px, side, batch.dtype, batch.device)
    return weights @ batch @ weights.T


# The arrays below are kept on their device: a copy from the CPU would wait for all that the GPU computes,
# and a CUDA graph cannot make one. They are kept for good, because graphs read them in each replay.


@cache
def _weights(zoom: float, patch_px: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # usable in training, too
        weights = resampling_weights((side - patch_px / zoom) / 2, 1 / zoom, patch_px, side)
        return torch.from_numpy(weights).to(device, dtype)


@cache
def _channels(values: tuple[float, float, float], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)
