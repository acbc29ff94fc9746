"""The scripts that train on a machine without a network: what travels, what comes back, what a bundle is."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training_files import DOMAINS, tiny_recipe, tiny_store, write_recipe
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.training.stores import open_store
from wsi_mitosis.jobs.train import figures
from wsi_mitosis.nets.members import Ensemble

TRAIN = Path(__file__).parents[2] / "train"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    recipe = tiny_recipe(selection={"training_domains": "all but test"}, optimiser={"epochs": 1})
    write_recipe(folder / "tiny.toml", recipe)
    tiny_store(folder)
    script("gpu.py", "pack", folder / "tiny.toml", folder / "store.zarr", folder / "archive.npz")
    script("gpu.sh", folder / "tiny.toml", folder / "archive.npz", folder / "members", "cpu")
    return folder


def script(name: str, *arguments: object) -> str:
    command = [TRAIN / name] if name.endswith(".sh") else [sys.executable, TRAIN / name]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    return done.stdout


def test_what_travels_is_the_store(place: Path) -> None:
    """Crops of 48 px travel whole. JPEG of quality 96 changes each pixel a little."""
    store = open_store(place / "store.zarr")
    whole = figures(store, np.arange(len(store.samples)))
    archive = np.load(place / "archive.npz")
    travelled = runpy.run_path(str(TRAIN / "gpu.py"))["figures_of"](archive)
    assert travelled.images.shape == whole.images.shape
    assert np.abs(travelled.images.astype(int) - whole.images).mean() < 3
    for part in ("masks", "has_mask", "labels", "experts"):
        np.testing.assert_array_equal(getattr(travelled, part), getattr(whole, part))
    assert list(archive["samples/domain"]) == list(store.samples["domain"])


def test_a_fold_whose_member_is_there_is_not_trained_again(place: Path) -> None:
    (place / "members" / "beta.safetensors").unlink()
    arguments = (place / "tiny.toml", place / "archive.npz", place / "members", "cpu")
    assert [line.split()[0] for line in script("gpu.sh", *arguments).splitlines()[:-1]] == ["beta"]


def test_every_fold_leaves_a_member_that_a_bundle_takes(place: Path) -> None:
    script("gpu.py", "bundle", place / "tiny.toml", place / "store.zarr", place / "members", place / "bundle")
    bundle = open_bundle(place / "bundle")
    assert [member.test_domain for member in bundle.manifest.member] == list(DOMAINS)
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    assert ensemble.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3)
