"""Slides with figures at known places, and a network that sees them: KongNet's own code around a stub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.slide_files import tiff_of_resolution
from wsi_mitosis.nets.detector import DetectorModel
from wsi_mitosis.nets.tiatoolbox import quietly

GLASS = 235
MODEL = DetectorModel("stub", Path("/no/file.pth"), "0" * 64, 512, 0.5, 21, 0.4)
Spots = Sequence[tuple[float, float, float]]
"""x, y in um from the slide's corner, and how dark, 0..1."""


def spotted_slide(
    path: Path,
    size_um: tuple[float, float],
    spots: Spots,
    mpp: tuple[float, float] = (0.25, 0.25),
    *,
    sigma_um: float = 3.0,
    stated: bool = True,
) -> Path:
    """A generic TIFF of round dark spots on glass, which may leave out the pixel size."""
    x, y = ((np.arange(round(length / step)) + 0.5) * step for length, step in zip(size_um, mpp, strict=True))
    light = np.full((len(y), len(x)), float(GLASS))
    for across, down, dark in spots:
        shape = np.exp(-((y[:, None] - down) ** 2 + (x - across) ** 2) / (2 * sigma_um**2))
        light -= dark * GLASS * shape
    image = np.repeat(light.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    return tiff_of_resolution(path, image, mpp if stated else None)


def stub_network(*_: object) -> Any:
    """Takes how dark a px is for the probability of a figure there."""
    with quietly():
        from tiatoolbox.models.architecture.kongnet import KongNet

    class Dark(KongNet):  # type: ignore[misc]
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.target_channels, self.min_distance, self.threshold_abs = [0], 21, 0.4

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            mean, std = torch.tensor([0.485, 0.229])
            light = batch[:, :1] * std + mean  # of the red channel, as KongNet's `preproc` scales it
            return torch.logit(1 - light, eps=1e-4)

    return Dark()
