"""The scripts that train on a machine without a network: what travels, what comes back, what a bundle is."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training_files import CROP_PX, DOMAINS, PATCH_PX, tiny_recipe, tiny_store, write_recipe
from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.training.stores import open_store
from wsi_mitosis.jobs.train import figures
from wsi_mitosis.nets.ensembles import Ensemble

pytestmark = pytest.mark.long
TRAIN = Path(__file__).parents[2] / "train"


PLAN = """
[[training]]
name = "pairs"
recipe = "{recipe}"
left_out = 2

[[training]]
name = "taught"
recipe = "{recipe}"
seed = 1
epochs = 2
taught_by = ["pairs"]
"""
TRAINED = {
    "pairs": ("alpha+beta", "alpha+gamma", "beta+gamma"),
    "taught": DOMAINS,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    recipe = tiny_recipe(
        selection={"training_domains": "all but test"}, optimiser={"epochs": 1}, loss={"subtypes": 0.5}
    )
    write_recipe(folder / "tiny.toml", recipe)
    (folder / "plan.toml").write_text(PLAN.format(recipe=folder / "tiny.toml"))
    tiny_store(folder, subtypes=True)
    script("gpu.py", "pack", folder / "plan.toml", folder / "store.zarr", folder / "archive.npz")
    script("gpu.sh", folder / "plan.toml", folder / "archive.npz", folder / "trained", "cpu", "inf", 2)
    script("gpu.py", "collect", folder / "trained", folder / "back", "taught")
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


def functions() -> dict[str, Any]:
    return runpy.run_path(str(TRAIN / "gpu.py"))


def test_what_travels_is_the_store(place: Path) -> None:
    """Crops of 48 px travel whole. JPEG of quality 96 changes each pixel a little."""
    store = open_store(place / "store.zarr")
    whole = figures(store, np.arange(len(store.samples)))
    archive = np.load(place / "archive.npz")
    travelled = functions()["figures_of"](archive)
    assert travelled.images.shape == whole.images.shape
    assert np.abs(travelled.images.astype(int) - whole.images).mean() < 3
    for part in ("masks", "has_mask", "labels", "experts", "subtypes"):
        np.testing.assert_array_equal(getattr(travelled, part), getattr(whole, part))
    assert list(archive["domains"]) == list(store.samples["domain"])


def test_each_member_answers_for_all_that_it_has_not_seen(place: Path) -> None:
    domains = open_store(place / "store.zarr").samples["domain"].to_numpy()
    answers = np.load(place / "back" / "answers.npz")
    for training, members in TRAINED.items():
        for member in members:
            rows = answers[f"{training}/{member}/rows"]
            np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(domains, member.split("+"))))
            p_atypical = answers[f"{training}/{member}/p_atypical"]
            assert p_atypical.shape == (len(rows), 8)
            assert ((p_atypical > 0) & (p_atypical < 1)).all()


def test_what_is_trained_is_not_trained_again(place: Path) -> None:
    (place / "trained" / "taught" / "beta.safetensors").unlink()
    arguments = (place / "plan.toml", place / "archive.npz", place / "trained", "cpu")
    lines = [line for line in script("gpu.sh", *arguments).splitlines() if "AUROC" in line]
    assert [line.split()[:2] for line in lines] == [["taught", "beta"]]


def test_no_member_is_begun_when_the_time_is_up(place: Path) -> None:
    arguments = (place / "plan.toml", place / "archive.npz", place / "late", "cpu", -1)
    assert "AUROC" not in script("gpu.sh", *arguments)


def test_teachers_answer_for_domains_that_they_have_not_seen(place: Path) -> None:
    """For the member without alpha, those without alpha and beta answer for beta."""
    gpu = functions()
    whole, domains = (
        gpu["figures_of"](np.load(place / "archive.npz")),
        np.load(place / "archive.npz")["domains"],
    )
    training = gpu["read_plan"](str(place / "plan.toml"))[1]
    taught = gpu["_taught"](training, whole, domains, ("alpha",), place / "trained")
    assert training.spec().loss.teacher_share == 0.5
    assert np.isnan(taught.taught[domains == "alpha"]).all()
    for domain in ("beta", "gamma"):
        answers = np.load(place / "trained" / "pairs" / f"alpha+{domain}.npz")
        told = answers["p_atypical"][domains[answers["rows"]] == domain].mean(axis=1)
        np.testing.assert_allclose(taught.taught[domains == domain], told, atol=1e-6)


def test_every_fold_leaves_a_member_that_a_bundle_takes(place: Path) -> None:
    arguments = (place / "plan.toml", "taught", place / "store.zarr", place / "back", place / "bundle")
    script("gpu.py", "bundle", *arguments)
    bundle = open_bundle(place / "bundle")
    assert [member.test_domain for member in bundle.manifest.member] == list(DOMAINS)
    assert bundle.manifest.training.seed == 1
    archive, back = np.load(place / "archive.npz"), np.load(place / "back" / "answers.npz")
    middle = slice((CROP_PX - PATCH_PX) // 2, (CROP_PX + PATCH_PX) // 2)
    crops = functions()["figures_of"](archive).images[back["taught/alpha/rows"], middle, middle]
    answers = calibrated(back["taught/alpha/p_atypical"].mean(axis=1), bundle.manifest.temperature)
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu", tta="d4")
    np.testing.assert_allclose(ensemble.predict(crops)[:, 0], answers, atol=1e-4)
