"""What a stranger reads first: citation, changelog, conduct, security and the project's metadata."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsi_mitosis.version import __version__

ROOT = Path(__file__).parents[1]
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
"""Kinds of changes in their order. Source: keepachangelog.com, 1.1.0, "Types of changes"."""
ADVISORIES = "https://github.com/wsi-mitosis/wsi-mitosis/security/advisories/new"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text("pyproject.toml"))["project"]
    return found


def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text("CITATION.cff"))
    return found


def test_the_citation_is_of_this_version_and_project() -> None:
    found, stated = citation(), project()
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == __version__
    assert found["title"] == stated["name"]
    assert found["authors"] == stated["authors"]
    assert found["license"] == stated["license"]
    assert found["repository-code"] == stated["urls"]["Repository"]
    assert found["url"] == stated["urls"]["Documentation"]


def test_the_citation_has_the_method_and_the_data() -> None:
    method, data = citation()["references"]
    assert [author["family-names"] for author in method["authors"]] == [
        *("Percannella", "Sarno", "Tortorella", "Vento")
    ]
    assert (method["type"], method["year"]) == ("article", 2025)
    assert data["type"] == "data"
    assert "AMi-Br" in data["title"]
    for reference in (method, data):
        assert reference["url"].removeprefix("https://arxiv.org/abs/") == reference["identifiers"][0][
            "value"
        ].removeprefix("arXiv:")


def changelog() -> list[tuple[str, list[str]]]:
    """The versions of the changelog, and the kinds of changes of each, from top to bottom."""
    versions: list[tuple[str, list[str]]] = []
    for marks, title in re.findall(r"^(##+) (.*)$", text("CHANGELOG.md"), re.MULTILINE):
        if marks == "##":
            versions.append((title, []))
        else:
            assert marks == "###", title
            versions[-1][1].append(title)
    return versions


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    versions = changelog()
    assert text("CHANGELOG.md").startswith("# Changelog\n")
    assert versions[0][0] == "[Unreleased]"
    for title, kinds in versions:
        released = re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}( \[YANKED\])?", title)
        assert released or title == "[Unreleased]", title
        assert kinds == [kind for kind in KINDS if kind in kinds], (title, kinds)


def test_each_version_of_the_changelog_has_a_link() -> None:
    names = [re.match(r"\[(.*?)\]", title)[1] for title, _ in changelog()]  # type: ignore[index]
    links = re.findall(r"^\[([^\]]+)\]: (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert [name for name, _ in links] == names
    assert all(url.startswith(project()["urls"]["Repository"]) for _, url in links)


def test_a_released_version_is_the_programs_at_most() -> None:
    """The newest version of the changelog is the program's, or the program's is not released yet."""
    released = [title for title, _ in changelog() if title != "[Unreleased]"]
    assert not released or released[0].startswith(f"[{__version__}]")


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_private_reports_have_an_address(name: str) -> None:
    assert ADVISORIES in text(name)


def test_the_projects_addresses_are_of_one_repository() -> None:
    urls = project()["urls"]
    for label in ("Homepage", "Issues", "Changelog"):
        assert urls[label].startswith(urls["Repository"])
    owner, name = urls["Repository"].removeprefix("https://github.com/").split("/")
    assert urls["Documentation"] == f"https://{owner}.github.io/{name}/"


def test_the_development_extra_has_all_others() -> None:
    extras = project()["optional-dependencies"]
    assert f"{project()['name']}[docs]" in extras["dev"]
    for name in ("dicom", "remote"):
        packages = {re.split(r"[<>=\[]", line)[0] for line in extras[name]}
        assert packages - {"fsspec"} <= {re.split(r"[<>=\[]", line)[0] for line in extras["dev"]}, name
