"""The package as a stranger installs it: built from the source distribution, and run where no checkout is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pytest

from wsi_mitosis import __version__

ROOT = Path(__file__).parents[1]
NAME = f"wsi_mitosis-{__version__}"
MOST_MB = 100.0
"""What PyPI takes of one file, MB, unless a project asks for more (docs.pypi.org, "Storage limits")."""
BESIDE_THE_WHEEL = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml"}
BY_HATCH = {".gitignore", "PKG-INFO"}


def tracked(*paths: str) -> set[str]:
    """The files below some paths, also new ones, except those that git ignores or that are removed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in found if (ROOT / name).exists()}


def data() -> set[str]:
    """The files that are installed below `wsi_mitosis/shipped/`."""
    return tracked("models", "pipelines") | {
        name for name in tracked("train") if PurePosixPath(name).match("train/*.toml")
    }


def hatchling(folder: Path, target: str, out: Path) -> Path:
    """Build one distribution, in this environment and without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.iterdir())


def given(pattern: str) -> Path | None:
    """A distribution in the folder WSI_MITOSIS_DIST, which is to be published: it is tested and not built."""
    folder = os.environ.get("WSI_MITOSIS_DIST")
    return next((ROOT / folder).glob(pattern)) if folder else None


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given("*.tar.gz") or hatchling(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution alone, as `python -m build` does."""
    if (found := given("*.whl")) is not None:
        return found
    sources = tmp_path_factory.mktemp("sources")
    with tarfile.open(sdist) as archive:
        archive.extractall(sources, filter="data")
    return hatchling(sources / NAME, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and, by a path, this environment's dependencies.

    A `.pth` file in a folder that is named by a `.pth` file is not read (docs.python.org, module `site`).
    Therefore the checkout, which is installed here by such a file, is not visible there.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, *install], check=True)
    own = next((folder / "lib").glob("python*/site-packages"))
    dependencies = [path for path in sys.path if Path(path).name == "site-packages"]
    (own / "dependencies.pth").write_text("\n".join(dependencies) + "\n", encoding="utf-8")
    return python.parent


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in a folder, with nothing that leads to the checkout."""
    program, *arguments = command
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [installed / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_source_distribution_has_what_the_wheel_needs_and_no_more(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {PurePosixPath(name).relative_to(NAME).as_posix() for name in archive.getnames()}
    assert found - BY_HATCH == tracked("wsi_mitosis") | data() | BESIDE_THE_WHEEL


def test_the_wheel_has_the_package_its_data_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    described = {name for name in found if name.startswith(f"{NAME}.dist-info/")}
    assert found - described == tracked("wsi_mitosis") | {f"wsi_mitosis/shipped/{name}" for name in data()}
    names = {name.removeprefix(f"{NAME}.dist-info/") for name in described}
    assert names == {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}
    for name in (
        "py.typed",
        "io/pages/templates/report.html.j2",
        "io/results/import_geojson.groovy",
        "shipped/models/untrained-tiny/manifest.toml",
        "shipped/pipelines/cluster/Dockerfile",
        "shipped/train/mtl.toml",
    ):
        assert f"wsi_mitosis/{name}" in found


def test_the_wheel_has_nothing_twice_and_fits_the_index(
    wheel: Path, sdist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = defaultdict(list)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            same[hashlib.sha256(archive.read(name)).digest()].append(name)
    twice = [names for names in same.values() if len(names) > 1]
    # each bundle can be copied alone, so it lists its samples itself; 0.15 MB in the wheel
    assert all({PurePosixPath(name).name for name in names} == {"samples.txt"} for names in twice), twice
    sizes = {path.name: path.stat().st_size / 1e6 for path in (wheel, sdist)}
    with capsys.disabled():
        print("", *(f"{name}: {size:.1f} MB" for name, size in sizes.items()), sep="\n")
    assert max(sizes.values()) < MOST_MB


def test_the_metadata_are_those_of_the_project(wheel: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"{NAME}.dist-info/METADATA").decode().splitlines()
    assert f"Version: {__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    assert "Author: The wsi-mitosis authors" in lines
    for label, url in project["urls"].items():
        assert f"Project-URL: {label}, {url}" in lines
    for extra in project["optional-dependencies"]:
        assert f"Provides-Extra: {extra}" in lines


def test_the_installed_package_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import wsi_mitosis; print(wsi_mitosis.__file__)"
    done = run(installed, tmp_path, "python", "-c", code)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stderr


def test_version_and_help_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    version = run(installed, tmp_path, "wsi-mitosis", "--version")
    assert version.stdout == f"wsi-mitosis, version {__version__}\n", version.stderr
    printed = run(installed, tmp_path, "wsi-mitosis", "--help")
    assert printed.returncode == 0
    assert "classify" in printed.stdout


def test_bundles_recipes_and_pipelines_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "wsi-mitosis", "models", "list", "--json")
    bundles = json.loads(listed.stdout)["bundles"]
    assert {f"models/{fact['name']}/manifest.toml" for fact in bundles} == {
        name for name in data() if name.endswith("manifest.toml")
    }
    assert all(Path(fact["folder"]).is_relative_to(installed.parent) for fact in bundles)
    code = (
        "from wsi_mitosis.io.shipped import names; from wsi_mitosis.io.pipelines import read_pipeline; "
        "from wsi_mitosis.io.training.runs import read_recipe; "
        "[read_pipeline(name) for name in names('pipelines')]; "
        "[read_recipe(name) for name in names('train')]; "
        "print(*names('pipelines'), *names('train'))"
    )
    read = run(installed, tmp_path, "python", "-c", code)
    assert read.stdout.split() == sorted(
        PurePosixPath(name).stem for name in data() if PurePosixPath(name).match("pipelines/*.toml")
    ) + sorted(PurePosixPath(name).stem for name in data() if name.startswith("train/")), read.stderr


def test_doctor_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "wsi-mitosis", "doctor", "--json", "--model", "untrained-tiny")
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert found["bundle"]["ok"], found["bundle"]
    assert found["Ray"]["ok"], found["Ray"]
    assert found["program"]["found"].startswith(f"wsi-mitosis {__version__}")


def test_the_demo_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "wsi-mitosis", "demo", "demo", "--model", "untrained-tiny", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("report.html", "summary.csv", "geojson/demo.tiff.geojson", "figures/demo.tiff.parquet"):
        assert (tmp_path / "demo" / "results" / name).stat().st_size > 0
