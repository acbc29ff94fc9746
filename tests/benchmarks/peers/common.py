"""What the peers share: their command line, and a bundle's members as modules of torch.

The loop around the members is each peer's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.voting import ATYPICAL, tally
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.nets.members import load_member
from wsi_mitosis.nets.views import all_views, from_bytes


class BundleModel(nn.Module):
    """All members and views of a bundle.

    Args:
        folder: The bundle.

    Attributes:
        crop_px: Side of the crops that it classifies, px at 0.25 um/px.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        bundle = open_bundle(folder)
        self.manifest = bundle.manifest
        members = zip(self.manifest.member, bundle.read_members(), strict=True)
        self.members = nn.ModuleList(
            load_member(state, self.manifest.network_of(spec), spec.file) for spec, state in members
        )
        self.crop_px = read_px(self.manifest.input.cut_px, self.manifest.ensemble.zooms)

    def forward(self, crops: Tensor) -> Tensor:
        """Return (N, M) P(atypical) by member, the mean over the views, of (N, S, S, 3) uint8 crops."""
        ensemble = self.manifest.ensemble
        batch = from_bytes(crops, self.manifest.input.scale)
        inputs = [self.manifest.input_of(spec) for spec in self.manifest.member]
        seen = {spec: list(all_views(batch, spec, ensemble.zooms, ensemble.tta)) for spec in set(inputs)}
        by_member = [
            torch.stack([member(view).double().softmax(1)[:, ATYPICAL] for view in seen[spec]]).mean(dim=0)
            for member, spec in zip(self.members, inputs, strict=True)
        ]
        return torch.stack(by_member, dim=1)

    def atypical(self, probabilities: np.ndarray) -> np.ndarray:
        """Return (N,) bool, the labels that (N, M) results of `forward` give by the bundle's vote."""
        found = calibrated(probabilities, self.manifest.temperature)
        return tally(found, self.manifest.ensemble.threshold).is_atypical


def main(peer: Callable[[argparse.Namespace, BundleModel, pd.DataFrame], np.ndarray]) -> None:
    """Classify the candidates of one slide, and write x, y and label of each to `--out`.

    Args:
        peer: Returns the (N, M) probabilities of the candidates, from the options, the model and x, y.
    """
    parser = argparse.ArgumentParser()
    for name in ("--slide", "--detections", "--bundle", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--loaders", type=int, default=0)
    options = parser.parse_args()
    table = pd.read_csv(options.detections)
    model = BundleModel(options.bundle).eval()
    with torch.inference_mode():
        probabilities = peer(options, model, table)
    table["atypical"] = model.atypical(probabilities)
    table.to_csv(options.out, index=False)
