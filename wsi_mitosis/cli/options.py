"""Options of the command line, made from the descriptions in `specs`; and those that all commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click

from wsi_mitosis.cli.completing import completer
from wsi_mitosis.schema import Location, OptionField, Spec, options_of
from wsi_mitosis.specs import ClassifySpec

if TYPE_CHECKING:
    from wsi_mitosis.cli.completing import Completer

Command = TypeVar("Command", bound=Callable[..., Any])
AnySpec = TypeVar("AnySpec", bound=Spec)


class AutoNumber(click.ParamType[Any]):
    """`auto`, which becomes None, or a number of at least `least`."""

    name = "auto|number"

    def __init__(self, kind: type[int] | type[float], least: float = 0) -> None:
        self._kind, self._least = kind, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Parse one value."""
        if value in (None, "auto"):
            return None
        try:
            number = self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither 'auto' nor a number", param, ctx)
        if number < self._least:
            self.fail(f"{value} is less than {self._least:g}", param, ctx)
        return number


class DescribedOption(click.Option):
    """An option made from a field; the help shows the field's default in words."""

    def __init__(self, *arguments: Any, field: OptionField, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.field = field

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return the default, the limits, and whether the option is required."""
        extra = super().get_help_extra(ctx)
        if words := self.field.option.default:
            extra["default"] = words
        return extra


class DescribedArgument(click.Argument):
    """An argument made from a field."""

    def __init__(self, *arguments: Any, field: OptionField, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.field = field


def of(spec: type[Spec], **more: dict[str, Any]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command all options of a specification, in the order of its fields.

    Args:
        spec: The specification.
        more: Further attributes of click's options, by field name: how a text becomes a dictionary.
    """
    return stacked(*(_decorator(field, more.get(field.name, {})) for field in options_of(spec)))


def one(spec: type[Spec], name: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command one option of a specification."""
    return next(_decorator(field, {}) for field in options_of(spec) if field.name == name)


def parse(spec: type[AnySpec], given: Mapping[str, Any], subject: str) -> AnySpec:
    """Return the specification with the values that click has parsed.

    Args:
        spec: The specification.
        given: Values by field name; others are ignored.
        subject: The command, for messages.

    Raises:
        SpecError: naming the options, as they are typed, that do not fit.
    """
    data: dict[str, Any] = {}
    flags = {}
    for field in options_of(spec):
        table = data.setdefault(field.table, {}) if field.table else data
        table[field.name] = given[field.name]
        flags[field.name] = field.flag

    def typed(location: Location) -> str:
        return next((flags[part] for part in reversed(location) if part in flags), "")

    return spec.parse(data, subject, typed)


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return several options as one decorator; the help shows them in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def filled(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty text, which a shell variable that is not set gives: it would mean something else.

    Raises:
        click.BadParameter: If the text is empty.
    """
    if value is not None and not value.strip():
        raise click.BadParameter("the value is empty. Give a name, or leave out the option.", ctx, param)
    return value


def _decorator(field: OptionField, more: Mapping[str, Any]) -> Callable[[Command], Command]:
    option, info = field.option, field.info
    shared: dict[str, Any] = {"field": field, "required": info.is_required()}
    if option.positional:
        several = get_origin(info.annotation) is tuple
        completed = completer(option.metavar)
        shared |= {"metavar": option.metavar, "nargs": -1 if several else 1, "shell_complete": completed}
        return click.argument(field.name, cls=DescribedArgument, **shared)
    metavar = option.metavar or option.unit.upper() or None
    shared |= {"help": option.help, "metavar": metavar, "show_default": True}
    return click.option(field.flag, field.name, cls=DescribedOption, **shared | _value(field) | dict(more))


def _value(field: OptionField) -> dict[str, Any]:
    """Return the attributes of click's option that follow from a field's type, default and limits."""
    kind, default = _without_none(field.info.annotation), field.default
    if kind is bool:
        return {"is_flag": True, "flag_value": not default, "default": default, "show_default": False}
    if get_origin(kind) is tuple:
        return {"multiple": True}
    known = {} if default in (None, {}) else {"default": default}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind)), **known}
    if kind is str:
        return {"callback": filled, "shell_complete": _completer(field), **known}
    return {"type": _number(kind, field), **known} if kind in (int, float) else known


def _completer(field: OptionField) -> Completer | None:
    """Return what completes an option's value. The name of a new bundle is none of those that exist."""
    metavar = field.option.metavar
    return completer("DIR" if (field.flag, metavar) == ("--out", "BUNDLE") else metavar)


def _without_none(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


def _number(kind: type[int] | type[float], field: OptionField) -> click.ParamType[Any]:
    limits = {
        name: getattr(limit, name)
        for limit in field.info.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(limit, name)
    }
    if not limits:
        return click.FLOAT if kind is float else click.INT
    if field.option.default == "auto":
        return AutoNumber(kind, limits.get("ge", 0))
    range_type = click.IntRange if kind is int else click.FloatRange
    return range_type(
        min=limits.get("ge", limits.get("gt")),
        max=limits.get("le", limits.get("lt")),
        min_open="gt" in limits,
        max_open="lt" in limits,
    )


path = partial(click.option, type=click.Path(path_type=Path))
"""Decorator of an option whose value is a path."""
model = one(ClassifySpec, "model")
device = one(ClassifySpec, "device")
backend = one(ClassifySpec, "backend")
tta = one(ClassifySpec, "tta")
vote = one(ClassifySpec, "vote")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Print more detail.")
messages = stacked(as_json, quiet, verbose)
