"""The loop that a researcher writes: OpenSlide, a list of crops, torch."""

from __future__ import annotations

import argparse

import numpy as np
import openslide
import pandas as pd
import torch

from tests.benchmarks.peers.common import BundleModel, main


def classify(options: argparse.Namespace, model: BundleModel, table: pd.DataFrame) -> np.ndarray:
    slide, side = openslide.OpenSlide(options.slide), model.crop_px
    corners = table[["x", "y"]].to_numpy() - side // 2
    results = []
    for first in range(0, len(corners), options.batch):
        crops = [
            np.asarray(slide.read_region((int(x), int(y)), 0, (side, side)).convert("RGB"))
            for x, y in corners[first : first + options.batch]
        ]
        results.append(model(torch.from_numpy(np.stack(crops))).numpy())
    return np.concatenate(results)


if __name__ == "__main__":
    main(classify)
