"""The files of `.github/`: they parse, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_cluster_files import checked, parse, tool
from wsi_mitosis.cli import COMMANDS

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FILES = sorted(path for path in GITHUB.rglob("*") if path.is_file())
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
REPOSITORY = "https://github.com/wsi-mitosis/wsi-mitosis"
WRITTEN_BY_TARGETS = {"dist/", "coverage.xml", "site/"}
"""Paths that do not exist before a target of the Makefile has run."""
BODY = {"markdown", "input", "textarea", "dropdown", "checkboxes"}
"""Kinds of elements of a form. Source: docs.github.com, "Syntax for GitHub's form schema"."""


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text(encoding="utf-8"))
    return found


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in workflow(path.name)["jobs"].items():
            yield path.name, name, job


def steps() -> Iterator[dict[str, Any]]:
    for _, _, job in jobs():
        yield from job["steps"]


def commands() -> str:
    return "\n".join(step["run"] for step in steps() if "run" in step)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_files_are_there() -> None:
    assert {path.relative_to(GITHUB).as_posix() for path in FILES} == {
        "dependabot.yml",
        "pull_request_template.md",
        *(f"workflows/{name}.yml" for name in ("ci", "docs", "release")),
        *(f"ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "config", "feature", "wrong_result")),
    }


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix == ".yml"], ids=lambda path: path.name
)
def test_every_yaml_file_is_a_table(path: Path) -> None:
    assert isinstance(yaml.safe_load(text_of(path)), dict)


def test_actionlint_finds_nothing() -> None:
    checked(tool("actionlint"), *WORKFLOWS)


def test_the_tests_run_on_the_versions_of_python_that_the_classifiers_state() -> None:
    prefix = "Programming Language :: Python :: "
    stated = [
        name.removeprefix(prefix) for name in project()["classifiers"] if name.startswith(f"{prefix}3.")
    ]
    assert workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == stated
    assert project()["requires-python"] == f">={stated[0]}"
    others = {
        step["with"]["python-version"] for step in steps() if "setup-python" in step.get("uses", "")
    } - {"${{ matrix.python }}"}
    assert others <= set(stated)


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert phony is not None
    assert targets == set(phony[1].split())
    documents = [commands(), text_of(GITHUB / "pull_request_template.md")]
    used = {name for text in documents for name in re.findall(r"\bmake ([a-z]+)", text)}
    assert {"lint", "test", "coverage", "docs", "wheel"} <= used <= targets


def test_every_path_that_is_named_exists() -> None:
    path_like = r"(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.(?:toml|py|md|xml)\b|pipelines/[\w/]+)"
    named = {match for path in FILES for match in re.findall(path_like, text_of(path))}
    assert {"pyproject.toml", "pipelines/cluster/Dockerfile", "tests/slide_files.py"} <= named
    assert {name for name in named - WRITTEN_BY_TARGETS if not (ROOT / name).exists()} == set()
    kept = {step["with"]["path"] for step in steps() if "artifact" in step.get("uses", "")}
    assert kept <= WRITTEN_BY_TARGETS
    for name in kept:
        ignored = subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name


def test_every_command_of_the_program_exists() -> None:
    found = re.findall(rf"\bwsi-mitosis ((?:{'|'.join(COMMANDS)})\b[^`\n]*)", commands())
    assert {command.split()[0] for command in found} == {"doctor", "demo"}
    for command in found:
        parse(command)


def test_every_action_has_a_version() -> None:
    for step in steps():
        if (name := step.get("uses")) is not None:
            assert re.fullmatch(r"actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1", name), name


def test_no_job_may_do_more_than_it_needs() -> None:
    may_write = {
        (file, name): job["permissions"] for file, name, job in jobs() if job.get("permissions") is not None
    }
    assert may_write == {
        ("release.yml", "publish"): {"id-token": "write"},
        ("docs.yml", "deploy"): {"pages": "write", "id-token": "write"},
    }
    for path in WORKFLOWS:
        found = workflow(path.name)
        assert found["permissions"] == {"contents": "read"}
        assert found["concurrency"]["group"]
    assert all("timeout-minutes" in job for _, _, job in jobs())
    checkouts = [step for step in steps() if "actions/checkout" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    assert "secrets." not in "".join(map(text_of, WORKFLOWS))


def test_a_release_is_of_its_tag_and_is_what_was_tested() -> None:
    found = workflow("release.yml")
    assert found[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as true
    publish = found["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["environment"]["name"] == "pypi"
    script = next(step["run"] for step in found["jobs"]["build"]["steps"] if "GITHUB_REF_NAME" in str(step))
    version = text_of(ROOT / "wsi_mitosis/version.py").split('__version__ = "')[1].split('"')[0]
    for tag, status in ((f"v{version}", 0), (version, 1), (f"v{version}.1", 1)):
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env={**_environment(), "GITHUB_REF_NAME": tag}
        )
        assert done.returncode == status, tag


def _environment() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_asks_of_it(path: Path) -> None:
    form = yaml.safe_load(text_of(path))
    assert {"name", "description", "body"} <= set(form)
    ids = [element["id"] for element in form["body"] if "id" in element]
    assert len(ids) == len(set(ids))
    for element in form["body"]:
        assert element["type"] in BODY
        assert element["type"] == "markdown" or (element["id"] and element["attributes"]["label"])


@pytest.mark.parametrize("name", ["bug", "wrong_result"])
def test_a_report_asks_for_the_version_and_the_machine_and_wants_no_patient_data(name: str) -> None:
    text = text_of(GITHUB / f"ISSUE_TEMPLATE/{name}.yml")
    required = {
        element["id"]
        for element in yaml.safe_load(text)["body"]
        if element.get("validations", {}).get("required")
        or any(isinstance(o, dict) and o.get("required") for o in element["attributes"].get("options", []))
    }
    assert {"version", "doctor", "privacy"} <= required
    assert "wsi-mitosis --version" in text
    assert "wsi-mitosis doctor" in text
    assert "No patient data" in text


def test_questions_and_holes_go_elsewhere() -> None:
    config = yaml.safe_load(text_of(GITHUB / "ISSUE_TEMPLATE/config.yml"))
    urls = {link["url"] for link in config["contact_links"]}
    assert urls == {f"{REPOSITORY}/discussions", f"{REPOSITORY}/security/advisories/new"}
    assert config["blank_issues_enabled"] is False


def test_dependabot_looks_after_actions_and_packages() -> None:
    updates = yaml.safe_load(text_of(GITHUB / "dependabot.yml"))["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}
