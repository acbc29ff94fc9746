"""WSInfer's way: a DataLoader whose dataset reads one patch after the other with OpenSlide.

WSInfer's own command takes no points: it tiles the tissue. This is its loop over patches
(`wsinfer/modellib/data.py` and `run_inference.py`), given ours.
"""

from __future__ import annotations

import argparse

import numpy as np
import openslide
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.peers.common import BundleModel, main


class SlidePatches(Dataset[torch.Tensor]):
    def __init__(self, path: str, corners: np.ndarray, side: int) -> None:
        self.path, self.corners, self.side = path, corners, side
        self.slide: openslide.OpenSlide | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.slide is None:  # each loading process opens the slide itself
            self.slide = openslide.OpenSlide(self.path)
        x, y = self.corners[row]
        patch = self.slide.read_region((int(x), int(y)), 0, (self.side, self.side)).convert("RGB")
        return torch.from_numpy(np.array(patch))


def classify(options: argparse.Namespace, model: BundleModel, table: pd.DataFrame) -> np.ndarray:
    corners = table[["x", "y"]].to_numpy() - model.crop_px // 2
    patches = SlidePatches(str(options.slide), corners, model.crop_px)
    loader = DataLoader(patches, batch_size=options.batch, num_workers=options.loaders)
    return np.concatenate([model(batch).numpy() for batch in loader])


if __name__ == "__main__":
    main(classify)
