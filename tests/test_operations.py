"""The page for operators: its commands run, and what it names exists."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from tests.io.results.test_metrics import METRICS
from tests.reference.options import page as options_page
from tests.shell_blocks import commands, run_in_order
from tests.test_cluster_files import CLUSTER, FILES, parse
from tests.test_shipped import ROOT
from wsi_mitosis import errors
from wsi_mitosis.cli import COMMANDS
from wsi_mitosis.io.results.metrics import write_metrics
from wsi_mitosis.jobs.status import RUNNING
from wsi_mitosis.tables import Status

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
OTHERS = {
    "--wheel-dir",
    "--no-index",
    "--find-links",
    "--batch",
    "--signal",
    "--filename",
    "--now",
    "--time",
    "--to",
}
"""Options of pip, scancel, kubectl, systemctl, docker, and of a script of the reader's."""
SYSTEMS = {"No space left on device"}
"""Messages of the operating system."""


def section(title: str) -> str:
    """The text under a heading, down to the next one of the same or a higher level."""
    level, body = re.search(rf"^(#+) {re.escape(title)}\n(.*)", PAGE, re.MULTILINE | re.DOTALL).groups()  # type: ignore[union-attr]
    return re.split(rf"^#{{1,{len(level)}}} ", body, flags=re.MULTILINE)[0]


def first_cells(title: str, header: str) -> list[str]:
    """The first column of the table with that header, without back quotes."""
    table = section(title).split(f"| {header} |", 1)[1].split("\n\n")[0]
    return [row.split("|")[1].strip().strip("`") for row in table.splitlines()[2:]]


def test_the_pages_commands_run_in_their_order(tmp_path: Path) -> None:
    found = commands(PAGE)
    assert len(found) >= 7
    run_in_order(found, tmp_path)
    explained = re.findall(r"[\w.]+/?", " ".join(first_cells("The files of a run", "file")))
    for path in (tmp_path / "smoke-results").iterdir():
        assert f"{path.name}{'/' * path.is_dir()}" in explained


def test_every_command_line_and_option_on_the_page_exists() -> None:
    for command in re.findall(rf"wsi-mitosis ((?:{'|'.join(COMMANDS)})\b[^`\n|]*)", PAGE):
        try:
            parse(command)
        except click.MissingParameter:
            continue  # a mention of the command by its name
    known = options_page()
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE):
        assert name in OTHERS or f"`{name}`" in known, name


def test_every_key_of_a_pipeline_on_the_page_exists() -> None:
    known = options_page()
    table = ""
    for cell in first_cells("Prepare a night", "key"):
        for key in cell.replace("`", "").split(", "):
            table, name = key.rsplit(" ", 1) if " " in key else (table, key)
            assert f"`{table} {name}`" in known, key


def test_every_state_exit_status_and_kind_of_error_is_explained() -> None:
    assert set(first_cells("See how a run is doing", "state")) == {*get_args(Status), RUNNING}
    assert first_cells("Exit status", "status") == ["0", "1", "2", "130"]
    kinds = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.WsiMitosisError) and kind is not errors.WsiMitosisError
    }
    assert set(first_cells("Messages", "kind")) == kinds


def messages() -> str:
    """All texts in the program's sources, one a line; what is inserted into them is left out."""
    sources = sorted((ROOT / "wsi_mitosis").rglob("*.py"))
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return "\n".join(
        node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_every_message_on_the_page_is_one_that_the_program_has() -> None:
    known = messages()
    for cell in first_cells("Messages", "message"):
        for message in cell.split("`, `"):
            assert message in SYSTEMS or message in known, message


def test_every_metric_and_every_alert_is_listed(tmp_path: Path) -> None:
    write_metrics(tmp_path / "night.prom", METRICS)
    written = re.findall(r"^# HELP (\w+) ", (tmp_path / "night.prom").read_text(), re.MULTILINE)
    assert sorted(first_cells("Metrics", "metric")) == sorted(written)
    groups = yaml.safe_load((CLUSTER.parent / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert first_cells("Alerts", "alert") == alerts


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_for_clusters_is_named(path: Path) -> None:
    assert f"`{path.name}`" in section("Start it every night")


def test_links_lead_to_files_and_headings_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
    for title in re.findall(r'see "(\w+)"', PAGE, re.IGNORECASE):
        assert section(title)
