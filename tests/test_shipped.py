"""What is shipped: pipelines by glob, the README's commands, the example, the package's light import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_mitosis.io.pipelines import read_pipeline
from wsi_mitosis.io.shipped import shipped

ROOT = Path(__file__).parents[1]
PIPELINES = sorted(shipped("pipelines").glob("*.toml"))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_shipped_pipeline_fits_the_schema(path: Path) -> None:
    assert read_pipeline(path.stem) == read_pipeline(str(path), root=".")


def test_the_shipped_pipelines_are_found() -> None:
    assert {path.stem for path in PIPELINES} >= {"nightly", "smoke"}


def test_relative_paths_start_at_the_pipelines_folder(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[input]\nslides = ["s/*.svs", "/abs/x.svs"]\ndetections = "d"\n')
    spec = read_pipeline(str(tmp_path / "p.toml"))
    assert spec.input.slides == (str(tmp_path / "s/*.svs"), "/abs/x.svs")
    assert spec.input.detections == str(tmp_path / "d")
    assert spec.output.folder == str(tmp_path / "wsi-mitosis-results")


def commands(readme: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readmes_commands_run_in_their_order(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "crops.tiff",
        np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), dtype=np.uint8),
        photometric="rgb",
    )
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) >= 6
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for command in found:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PATH": path, "HOME": str(tmp_path)},
        )
        if command != "wsi-mitosis doctor":  # which may rightly complain of the machine's free space
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
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
