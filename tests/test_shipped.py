"""What is shipped: pipelines by glob, the README's commands, the example, the package's light import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from tests.shell_blocks import commands, run_in_order
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.pipelines import read_pipeline
from wsi_mitosis.io.shipped import shipped
from wsi_mitosis.io.training.runs import read_recipe
from wsi_mitosis.nets.training import build_network
from wsi_mitosis.specs import BundleManifest

ROOT = Path(__file__).parents[1]
RECIPES = sorted(shipped("train").glob("*.toml"))
PIPELINES = sorted(shipped("pipelines").glob("*.toml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_shipped_pipeline_fits_the_schema(path: Path) -> None:
    assert read_pipeline(path.stem) == read_pipeline(str(path), root=".")


def test_the_shipped_pipelines_are_found() -> None:
    assert {path.stem for path in PIPELINES} >= {"nightly", "smoke"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_fits_the_schema_and_says_where_its_values_are_from(path: Path) -> None:
    recipe = read_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe == read_recipe(str(path))
    for line in path.read_text(encoding="utf-8").splitlines():
        if "=" in line.split("#")[0] and not line.startswith("name"):
            assert re.search(r"# .*\[(paper|container|choice)\]|# \[(paper|container|choice)\]", line), line


@pytest.mark.parametrize(
    ("recipe", "ablation", "teacher_share"),
    [("mtl", "single_task", 0), ("nano", "nano_single_task", 0), ("lite0", "lite0_taught", 0.5)],
)
def test_an_ablation_leaves_out_the_decoders_and_nothing_else(
    recipe: str, ablation: str, teacher_share: float
) -> None:
    whole, without = (read_recipe(name).model_dump(exclude={"name"}) for name in (recipe, ablation))
    assert whole.pop("decoders")
    assert without.pop("decoders") is None
    assert (whole["loss"].pop("teacher_share"), without["loss"].pop("teacher_share")) == (0, teacher_share)
    assert whole == without


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_operations_and_the_size_of_a_recipe_are_those_of_its_network(path: Path) -> None:
    """The table of train/README.md, computed without weights: a step costs three forward passes."""
    readme = (ROOT / "train" / "README.md").read_text(encoding="utf-8")
    row = rf"^\| `{path.stem}` \| .* \| ([\d.]+) GFLOP \| ([\d.]+) M"
    [(operations, parameters)] = re.findall(row, readme, re.MULTILINE)
    recipe = read_recipe(path.stem)
    network = build_network(recipe).to("meta").train()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(2, 3, recipe.input.patch_px, recipe.input.patch_px, device="meta"))
    assert float(operations) == pytest.approx(3 * counter.get_total_flops() / 2e9, rel=0.01, abs=0.05)
    size = sum(weight.numel() for weight in network.member.parameters())
    assert float(parameters) == pytest.approx(size / 1e6, rel=0.005)


PAPER = {
    "initial_weights": "given",
    "input.patch_px": 128,
    "input.mpp": 0.25,
    "network.backbone": "preact-resnet50",
    "network.width": 64,
    "network.head": "gap-fc3",
    "decoders.channels": (512, 256, 64),
    "loss.class_weights": "balanced",
    "loss.classification": 1,
    "loss.mask": 1,
    "loss.pixels": 1,
    "optimiser.name": "adam",
    "optimiser.learning_rate": 4e-5,
    "optimiser.batch": 24,
    "optimiser.epochs": 50,
    "augmentation.rotation": "any",
    "augmentation.flips": True,
    "augmentation.zoom": 0,
    "augmentation.stain_scale": 0.05,
    "augmentation.gamma": 0,
    "augmentation.contrast": 0,
    "augmentation.saturation": 0,
    "augmentation.channel_gain": 0,
    "augmentation.sharpness": 0,
    "augmentation.noise": 0,
    "augmentation.jpeg": (),
    "selection.epoch": "best",
    "selection.members": 5,
    "ensemble.vote": "majority",
    "ensemble.threshold": 0.5,
    "ensemble.tta": "flips",
}
"""What Percannella et al. 2025 or the changes of their challenge container state."""


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = read_recipe("mtl")
    assert {key: reduce(getattr, key.split("."), recipe) for key in PAPER} == PAPER


def _keys_of_the_paper() -> tuple[set[str], set[str]]:
    """The keys of `mtl.toml` whose values are stated, and those whose values are ours."""
    stated: set[str] = set()
    ours: set[str] = set()
    table = ""
    for line in (ROOT / "train" / "mtl.toml").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\[(\w+)\]", line):
            table = f"{match[1]}."
        elif match := re.match(r"(\w+) = [^#]*# \[(\w+)\]", line):
            (ours if match[2] == "choice" else stated).add(table + match[1])
    return stated, ours


def test_the_table_of_the_papers_choices_is_whole() -> None:
    """Each value of the recipe is in the table or among ours, and each test of the table exists."""
    text = (ROOT / "train" / "README.md").read_text(encoding="utf-8")
    section = text.split("## The paper's choices")[1].split("\n## ")[0]
    lines = section.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")][1:]
    stated, ours = _keys_of_the_paper()
    keys = {key for row in rows for key in re.findall(r"`([a-z_.]+)`", row[1])}
    assert keys == set(PAPER)
    assert stated <= keys
    prose = " ".join(line for line in lines if not line.startswith("|"))
    assert ours - keys <= set(re.findall(r"`([a-z_.]+)`", prose))
    tests = [re.findall(r"`(tests/\S+\.py)::(\w+)`", row[2]) for row in rows]
    assert all(tests)
    for file, name in (test for row in tests for test in row):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_recipe_is_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    recipes = {name for name in included if name.startswith("train/")}
    assert recipes == {f"train/{path.name}" for path in (ROOT / "train").glob("*.toml")}


def test_the_reports_template_is_installed_with_the_package() -> None:
    """Hatch takes all of a package but what git ignores, unless it is told otherwise."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["wsi_mitosis"]
    assert set(wheel) == {"packages", "force-include"}
    templates = sorted((ROOT / "wsi_mitosis/io/pages/templates").iterdir())
    names = [f"report.{kind}" for kind in ("css", "html.j2", "js")]
    names += [f"review.{kind}" for kind in ("css", "html.j2", "js")] + ["trend.css", "trend.html.j2"]
    assert [path.name for path in templates] == names
    ignored = subprocess.run(["git", "check-ignore", *templates], cwd=ROOT, capture_output=True, check=False)
    assert ignored.stdout == b""


def test_relative_paths_start_at_the_pipelines_folder(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[input]\nslides = ["s/*.svs", "/abs/x.svs"]\ndetections = "d"\n')
    (tmp_path / "r.toml").write_text(
        '[input]\nslides = ["s"]\ndetections = "d"\n[output]\nregions = "r"\nhotspot_aspect = "1:1"\n'
    )
    output = read_pipeline(str(tmp_path / "r.toml")).output
    assert (output.regions, output.assessment.hotspot_sides) == (str(tmp_path / "r"), (1, 1))
    spec = read_pipeline(str(tmp_path / "p.toml"))
    assert spec.input.slides == (str(tmp_path / "s/*.svs"), "/abs/x.svs")
    assert spec.input.detections == str(tmp_path / "d")
    assert spec.output.folder == str(tmp_path / "wsi-mitosis-results")
    assert spec.output.regions is None


def test_the_readmes_commands_run_in_their_order(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "crops.tiff",
        np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), dtype=np.uint8),
        photometric="rgb",
    )
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (128, 128, 3), dtype=np.uint8)
        folder = tmp_path / "crops" / ("Normal", "Atypical")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) >= 4
    run_in_order(found, tmp_path)
    example = [
        sys.executable,
        str(ROOT / "examples/classify_one_slide.py"),
        "demo/slides/demo.tiff",
        "demo/candidates.csv",
    ]
    done = subprocess.run(example, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "have another within 50 um" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, wsi_mitosis; print([m for m in ('torch', 'ray', 'pandas', 'numpy') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


@pytest.mark.parametrize(
    "folder", sorted(shipped("models").glob("*/manifest.toml")), ids=lambda path: path.parent.name
)
def test_a_shipped_manifest_survives_as_data(folder: Path) -> None:
    """A derived bundle is checked as the data of its parent's manifest with another name."""
    manifest = open_bundle(folder.parent).manifest
    assert BundleManifest.parse(manifest.model_dump(by_alias=True), "a copy") == manifest
