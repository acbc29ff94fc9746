"""The page of all options, made from their descriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from tests.reference.markdown import line
from wsi_mitosis.cli import main, options
from wsi_mitosis.io.detections.formats import REGISTRY
from wsi_mitosis.schema import KINDS, OptionField

PIPELINES = "classify"
"""The command whose options are the keys of a pipeline file."""
NUMBERS = (type(click.FLOAT), type(click.INT), click.FloatRange, click.IntRange)
SHARED = {"as_json": options.as_json, "quiet": options.quiet, "verbose": options.verbose}
"""The options of all commands that print a result; the page describes them once."""
INTRODUCTION = """\
# Options

`make docs` writes this page from the descriptions in `wsi_mitosis/specs.py`.

A *key* is that of a pipeline file, which `wsi-mitosis run` reads. Relative paths in it start at its folder.

What an option *changes*:

"""


def page() -> str:
    """Return the page."""
    kinds = "".join(f"- *{kind}*: {meaning}.\n" for kind, meaning in KINDS.items())
    shared = click.Command("shared", params=[_parameter(option) for option in SHARED.values()])
    lines = ["\nCommands that print a result have these options:\n", *table("", shared)]
    options_of_commands = "".join(map(section, commands(main)))
    return INTRODUCTION + kinds + "\n".join(lines) + "\n" + options_of_commands + formats()


def formats() -> str:
    """Return the section of the formats of detections."""
    head = [line(["format", "what it is", "names of files in a folder"]), line(["---"] * 3)]
    rows = [
        line([f"`{item.name}`", item.about, ", ".join(f"`{ending}`" for ending in item.endings)])
        for item in REGISTRY
    ]
    return "\n".join(["\n## Formats of detections\n", *head, *rows]) + "\n"


def _parameter(decorator: Callable[[click.Command], click.Command]) -> click.Parameter:
    return decorator(click.Command("one")).params[0]


def commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is not a group, with its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def section(named: tuple[str, click.Command]) -> str:
    """Return the section of one command."""
    name, command = named
    return (
        "\n".join([f"\n## `{name}`\n", f"{command.get_short_help_str(200)}\n", *table(name, command)]) + "\n"
    )


def table(name: str, command: click.Command) -> list[str]:
    """Return the table of a command's options, without the shared ones and without empty columns."""
    shared = {key: _help(_parameter(option)) for key, option in SHARED.items()}
    params = [p for p in command.params if not name or _help(p) != shared.get(str(p.name))]
    rows = [cells(parameter, command) for parameter in params]
    if name != PIPELINES:
        rows = [row | {"key": ""} for row in rows]
    if not all(row["changes"] for row in rows):
        rows = [row | {"changes": ""} for row in rows]
    columns = [column for column in rows[0] if any(row[column] for row in rows)] if rows else []
    body = [line(row[column] for column in columns) for row in rows]
    return [line(columns), line(["---"] * len(columns)), *body] if rows else []


def cells(parameter: click.Parameter, command: click.Command) -> dict[str, str]:
    """Return what the page says of one option, by column."""
    field: OptionField | None = getattr(parameter, "field", None)
    extra = _extra(parameter, command)
    meaning, _, default = _help(parameter).removesuffix("]").partition("  [default: ")
    return {
        "option": ", ".join(f"`{name}`" for name in _names(parameter)),
        "key": f"`{field.key}`" if field else "",
        "value": _value(parameter, field, extra.get("range", "")),
        "default": "(required)" if parameter.required else extra.get("default", default),
        "changes": field.option.changes if field else "",
        "meaning": meaning,
    }


def _help(parameter: click.Parameter) -> str:
    field: OptionField | None = getattr(parameter, "field", None)
    return field.option.help if field else getattr(parameter, "help", None) or ""


def _names(parameter: click.Parameter) -> list[str]:
    if isinstance(parameter, click.Argument):
        return [parameter.metavar or str(parameter.name).upper()]
    return list(parameter.opts)


def _extra(parameter: click.Parameter, command: click.Command) -> dict[str, Any]:
    if isinstance(parameter, click.Option):
        return dict(parameter.get_help_extra(click.Context(command)))
    return {"default": parameter.default} if isinstance(parameter.default, str) else {}


def _value(parameter: click.Parameter, field: OptionField | None, limits: str) -> str:
    kind = parameter.type
    if isinstance(parameter, click.Argument):
        return ""
    if getattr(parameter, "is_flag", False):
        return f"flag: `{str(not field.default).lower()}`" if field else "flag"
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, options.AutoNumber):
        return "`auto` or a number"
    if isinstance(kind, NUMBERS):
        unit = field.option.unit if field else ""
        return ", ".join(filter(None, [f"number {unit}".strip(), limits]))
    return f"`{parameter.metavar}`" if parameter.metavar else "text"
