"""What is shipped: pipelines by glob, the README's commands, the example, the package's light import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.shell_blocks import commands, run_in_order
from wsi_mitosis.io.pipelines import read_pipeline
from wsi_mitosis.io.shipped import shipped
from wsi_mitosis.io.training.runs import read_recipe

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


@pytest.mark.parametrize(("recipe", "ablation"), [("mtl", "single_task"), ("nano", "nano_single_task")])
def test_an_ablation_leaves_out_the_decoders_and_nothing_else(recipe: str, ablation: str) -> None:
    whole, without = (read_recipe(name).model_dump(exclude={"name"}) for name in (recipe, ablation))
    assert whole.pop("decoders")
    assert without.pop("decoders") is None
    assert whole == without


def test_the_papers_recipe_is_the_papers() -> None:
    """The values that Percannella et al. 2025 state."""
    recipe = read_recipe("mtl")
    assert (recipe.input.patch_px, recipe.input.mpp) == (128, 0.25)
    optimiser = recipe.optimiser
    assert (optimiser.name, optimiser.learning_rate, optimiser.batch, optimiser.epochs) == (
        "adam",
        4e-5,
        24,
        50,
    )
    assert (recipe.loss.classification, recipe.loss.mask, recipe.loss.pixels) == (1, 1, 1)
    assert (recipe.selection.epoch, recipe.selection.members) == ("best", 5)
    assert recipe.ensemble.tta == "flips"


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
    assert [path.name for path in templates] == ["report.css", "report.html.j2", "report.js"]
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
    assert len(found) >= 6
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
