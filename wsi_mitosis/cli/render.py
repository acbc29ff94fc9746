"""Printing results and messages: results go to standard output, messages to standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def show(
    as_data: Callable[[], Any], as_lines: Callable[[], Iterable[str]], *, as_json: bool, quiet: bool
) -> None:
    """Print a result.

    Args:
        as_data: Returns it as plain data, for `--json`.
        as_lines: Returns it as lines of text, for a reader.
        as_json: Print one JSON object.
        quiet: Print no text; JSON is printed all the same.
    """
    if as_json:
        click.echo(json_text(as_data()))
    elif not quiet:
        for line in as_lines():
            click.echo(printable(line))


def message(text: str) -> None:
    """Print a message."""
    click.echo(printable(text), err=True)


def note(text: str) -> None:
    """Print something that the user should know."""
    click.secho(f"note: {printable(text)}", fg="yellow", err=True)


def failure(text: str) -> None:
    """Print why something failed."""
    click.secho(f"failed: {printable(text)}", fg="red", err=True)
