"""Members that were never trained, to run the program without weights. Their labels mean nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsi_mitosis.core.geometry import resampling_weights
from wsi_mitosis.core.voting import ATYPICAL
from wsi_mitosis.nets.members import Member, member_state
from wsi_mitosis.nets.views import to_input
from wsi_mitosis.specs import NetworkSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE_CROPS = 64
BRANCH_GAIN = 0.25
"""Gain of each unit's last convolution. Without it 16 units would add up, as batch norm has no statistics."""
STEP = 1 / 16
"""The last layer's biases are multiples of this, and its factor is a power of two. Rounding then has no
effect, and the same seed gives the same bytes on every CPU."""
HIDDEN_LAYERS = ("head.fc1.weight", "head.fc2.weight")
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
"""Optical densities of the stains in R, G, B (Ruifrok & Johnston 2001)."""
HAEMATOXYLIN_MEAN, EOSIN_MEAN = 0.6, 0.3
"""Mean densities of the noise, which give it about the brightness of real crops."""


def untrained_states(
    members: int, width: int, patch_px: int, scale: float
) -> list[dict[str, NDArray[np.float32]]]:
    """Make seeded random weights of members, each of which finds half of some noise atypical.

    Args:
        members: Number of members; their seeds are 0, 1, ...
        width: Width of the encoder.
        patch_px: Side of the noise crops that the last layer is centred on, px.
        scale: Pixel values are divided by it.

    Returns:
        One dictionary per member: float32 arrays by name, their values those of float16.
    """
    crops = to_input(stained_noise(NOISE_CROPS, patch_px), scale)
    return [_state(seed, width, crops) for seed in range(members)]


def stained_noise(number: int, side_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make noise in the colours of H&E with a dark blob of varying size in the centre.

    Args:
        number: Number of crops.
        side_px: Side of a crop, px.
        seed: Seed of the noise.

    Returns:
        (number, side_px, side_px, 3) uint8 RGB.
    """
    random = np.random.default_rng(seed)
    stretch = resampling_weights(0, 9 / side_px, side_px, 9)
    cloud = stretch @ random.random((2, number, 9, 9)) @ stretch.T * (0.5 + random.random((2, number, 1, 1)))
    haematoxylin, eosin = 2 * HAEMATOXYLIN_MEAN * cloud[0], 2 * EOSIN_MEAN * cloud[1]
    offset = (np.arange(side_px) + 0.5) / side_px - 0.5
    distance = np.hypot(offset[:, None], offset[None, :])
    haematoxylin += 1.5 * (distance < 0.1 + 0.1 * random.random((number, 1, 1)))
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.asarray(np.rint(255 * np.exp(-density)), dtype=np.uint8)


def _state(seed: int, width: int, crops: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    with torch.random.fork_rng(devices=[]):  # the start values are replaced below
        member = Member(NetworkSpec(backbone="preact-resnet50", width=width, head="gap-fc3")).eval()
    state = _drawn(member_state(member), np.random.default_rng(seed))
    _load(member, state)
    with torch.inference_mode():
        odds = np.diff(member(crops).double().numpy(), axis=1)[
            :, 0
        ]  # (N,) logit of atypical less that of typical
    factor = 2.0 ** round(math.log2(1 / odds.std()))
    weight, bias = state["head.fc3.weight"], state["head.fc3.bias"]
    weight *= factor
    bias[ATYPICAL] = -round(float(np.median(odds)) * factor / STEP) * STEP
    return state


def _drawn(
    state: dict[str, NDArray[np.float32]], random: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Draw weights after He et al. 2015, uniform; biases are 0, and batch norm's values are kept.

    NumPy draws them, because torch's generator gives different bits on different CPUs.
    """
    drawn = {}
    for name, values in state.items():
        if values.ndim < 2:
            drawn[name] = np.zeros_like(values) if "fc" in name else values.copy()
            continue
        bound = math.sqrt(6 / math.prod(values.shape[1:])) * (BRANCH_GAIN if "conv3" in name else 1)
        # Without negative weights in the hidden layers, a narrow head is not dead for every image.
        lowest = 0 if name in HIDDEN_LAYERS else -1
        weights = bound * (lowest + (1 - lowest) * random.random(values.shape))
        drawn[name] = weights.astype(np.float16).astype(np.float32)
    return drawn


def _load(member: Member, state: dict[str, NDArray[np.float32]]) -> None:
    member.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
