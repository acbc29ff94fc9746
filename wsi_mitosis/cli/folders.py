"""The working directory, which may have been removed when a job begins."""

from __future__ import annotations

import os

import click

ELSEWHERE = ("/proc", "/")
"""Folders of which the first that exists is changed to. Nothing can be created in Linux's `/proc`, nor in the
root of macOS, so that no relative path leads to a file by accident."""


def leave_removed_folder() -> None:
    """Change to another working directory if the current one does not exist any more.

    Absolute paths then work as usual. Some libraries end the process otherwise: oneMKL, for example, does
    not find its own files.
    """
    try:
        os.getcwd()  # noqa: PTH109 - pathlib would add nothing
    except OSError:
        os.chdir(next(place for place in ELSEWHERE if os.path.isdir(place)))  # noqa: PTH112
        message = "warning: the working directory does not exist any more: relative paths lead to nothing"
        click.secho(message, fg="yellow", err=True)
