"""Train all folds of a recipe on one GPU, on a machine that has no network and little room for files.

usage: python train/gpu.py pack RECIPE STORE.zarr ARCHIVE.npz
       python train/gpu.py train RECIPE ARCHIVE.npz FOLDER [DEVICE]
       python train/gpu.py bundle RECIPE STORE.zarr FOLDER BUNDLE

`pack` writes the central crops of a store as JPEG, the masks, and the weights that the encoder starts from
into one file: 52 MiB for AMi-Br and `lite2`. `train` trains the folds one after the other in one process and
writes a member in half precision for each; a fold whose member is there is not trained again. It needs torch,
timm, pandas, pillow, pydantic and safetensors. `bundle` makes a bundle of the members, where the store is.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from wsi_mitosis.core.folds import plan_folds
from wsi_mitosis.io.training.runs import read_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.nets.training import Figures

CROP_PX = 104
"""Side of the crops that travel. What rotations need beyond is mirrored."""
QUALITY = 96
"""Quality of their JPEG, whose colour is not halved."""
COLUMNS = ("slide", "domain", "label", "digest")
"""What folds are planned by."""


def pack(name: str, store_folder: Path, archive: Path) -> None:
    """Write what a training needs into one file."""
    from wsi_mitosis.io.training.encoders import packaged_weights
    from wsi_mitosis.io.training.stores import open_store
    from wsi_mitosis.jobs.train import figures

    recipe, store = read_recipe(name), open_store(store_folder)
    whole = figures(store, np.arange(len(store.samples)))
    side = min(CROP_PX, whole.images.shape[1])
    start = (whole.images.shape[1] - side) // 2
    centre = slice(start, start + side)
    files = [_jpeg(crop[centre, centre]) for crop in whole.images]
    arrays: dict[str, Any] = {
        "crops": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
        "masks": np.packbits(whole.masks[:, centre, centre], axis=-1),
        "has_mask": whole.has_mask,
        "labels": whole.labels,
        "experts": whole.experts,
    }
    arrays |= {f"samples/{column}": store.samples[column].to_numpy().astype(str) for column in COLUMNS}
    if recipe.initial_weights == "package" and recipe.network.timm_name is not None:
        weights = packaged_weights(recipe.network.timm_name)
        arrays["encoder"] = np.frombuffer(weights.path.read_bytes(), np.uint8)
    np.savez_compressed(archive, **arrays)


def train(name: str, archive: Path, folder: Path, device: str = "cuda") -> None:
    """Train the folds whose members are not in the folder, and write them there."""
    from wsi_mitosis.io.bundles import pack_weights
    from wsi_mitosis.nets.checkpoints import load_encoder
    from wsi_mitosis.nets.training import train as train_member

    recipe, packed = read_recipe(name), np.load(archive)
    whole = figures_of(packed)
    samples = pd.DataFrame({column: packed[f"samples/{column}"] for column in COLUMNS})
    samples["label"] = whole.labels
    folder.mkdir(parents=True, exist_ok=True)
    encoder = None
    if "encoder" in packed:
        (folder / "encoder.pth").write_bytes(packed["encoder"].tobytes())
        encoder = load_encoder(folder / "encoder.pth", recipe.network)
        (folder / "encoder.pth").unlink()
    joined = recipe.selection.training_domains == "all but test"
    for fold in plan_folds(samples, {}, train_on_validation=joined):
        member = folder / f"{fold.name}.safetensors"
        if member.exists():
            continue
        training, validation = _rows(whole, fold.training_rows), _rows(whole, fold.validation_rows)
        lines = []
        for epoch in train_member(training, validation, recipe, device=device, encoder=encoder):
            lines.append(json.dumps({"epoch": epoch.number, "precision": epoch.precision, **epoch.metrics}))
            print(fold.name, lines[-1], flush=True)
        (folder / f"{fold.name}.jsonl").write_text("\n".join(lines) + "\n")
        member.write_bytes(pack_weights(epoch.chosen, fold.name))


def bundle(name: str, store_folder: Path, folder: Path, out: Path) -> None:
    """Make a bundle of the members."""
    from safetensors.numpy import load_file

    from wsi_mitosis.io.training.stores import open_store
    from wsi_mitosis.jobs.train import bundle_of_states

    recipe, store = read_recipe(name), open_store(store_folder)
    folds = plan_folds(store.samples, {})
    states = {fold.test_domain: load_file(folder / f"{fold.name}.safetensors") for fold in folds}
    origin = f"Trained by `{recipe.name}` on a GPU, by `train/gpu.py`."
    bundle_of_states(out, recipe, store, states, licence=store.attributes.licence, origin=origin)


def figures_of(packed: Mapping[str, NDArray[Any]]) -> Figures:
    """Return the figures of an archive."""
    from wsi_mitosis.nets.training import Figures

    files, ends = packed["crops"].tobytes(), packed["ends"]
    parts = [files[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    crops = np.stack([np.asarray(Image.open(io.BytesIO(part))) for part in parts])
    masks = np.unpackbits(packed["masks"], axis=-1)[..., : crops.shape[2]]
    return Figures(crops, masks, packed["has_mask"], packed["labels"], packed["experts"])


def _jpeg(crop: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _rows(figures: Figures, rows: NDArray[np.intp]) -> Figures:
    return replace(figures, **{part.name: getattr(figures, part.name)[rows] for part in fields(figures)})


def main(verb: str, recipe: str, *paths: str) -> None:
    """Do what the command line says."""
    if verb == "pack":
        pack(recipe, *map(Path, paths))
    elif verb == "train":
        archive, folder, *device = paths
        train(recipe, Path(archive), Path(folder), *device)
    elif verb == "bundle":
        bundle(recipe, *map(Path, paths))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
