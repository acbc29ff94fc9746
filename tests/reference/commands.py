"""The page of the command line: the help of every command."""

from __future__ import annotations

import click

from tests.reference.options import commands
from wsi_mitosis.cli import main

WIDTH = 100
INTRODUCTION = """\
# Commands

`make docs` writes this page from the help of the commands. [Options](options.md) describes each option in more detail: its
key in a pipeline file, its unit, and what it changes.

## Exit status

| status | meaning |
| --- | --- |
| 0 | The command did everything. |
| 1 | A part failed, and everything else is complete: for `classify`, some slides failed; for `doctor` and `verify`, something is wrong. |
| 2 | Nothing was started, because an option or an input cannot be used. |
| 130 | The command was interrupted by SIGINT, SIGTERM or SIGHUP. Finished slides are kept. |

[Operations](../operations.md#exit-status) says what to do for each status, and [Messages](messages.md) lists the messages.

"""


def page() -> str:
    """Return the page."""
    helps = [
        f"\n## `wsi-mitosis {name}`\n\n```text\n{_help(name, one)}\n```\n" for name, one in commands(main)
    ]
    return INTRODUCTION + f"```text\n{_help('', main)}\n```\n" + "".join(helps)


def _help(name: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=f"wsi-mitosis {name}".strip(), terminal_width=WIDTH, max_content_width=WIDTH
    )
    return command.get_help(context).rstrip()
