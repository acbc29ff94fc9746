"""TIAToolbox's documented route for given points: `PointsPatchExtractor`, then `PatchPredictor`."""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC
from tiatoolbox.tools.patchextraction import get_patch_extractor

from tests.benchmarks.peers.common import BundleModel, main


class Model(ModelABC):
    """A bundle as TIAToolbox wants its models."""

    def __init__(self, model: BundleModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.model(crops)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        return model(batch_data.to(device).to(torch.uint8)).cpu().numpy()


def classify(options: argparse.Namespace, model: BundleModel, table: pd.DataFrame) -> np.ndarray:
    side = model.crop_px
    points = table[["x", "y"]] - 1  # of an even number of pixels, the extractor's centre is the one before
    extractor = get_patch_extractor(
        "point", input_img=options.slide, locations_list=points.to_numpy(), patch_size=(side, side),
        resolution=0, units="level",
    )  # fmt: skip
    patches = np.stack(list(extractor))
    predictor = PatchPredictor(Model(model), batch_size=options.batch, num_workers=options.loaders)
    output = predictor.run(
        patches,
        patch_mode=True,
        patch_input_shape=(side, side),
        input_resolutions=[{"units": "baseline", "resolution": 1.0}],
        return_probabilities=True,
        output_type="dict",
    )
    return np.asarray(output["probabilities"])


if __name__ == "__main__":
    main(classify)
