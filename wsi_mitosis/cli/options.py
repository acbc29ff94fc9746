"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from wsi_mitosis.tables import Tta, Vote

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")


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


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the help in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def filled(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty text, as a shell variable that is not set gives it: it would mean something else."""
    if value is not None and not value.strip():
        raise click.BadParameter("the value is empty. Give a name, or leave out the option.", ctx, param)
    return value


model = click.option(
    "--model",
    callback=filled,
    metavar="BUNDLE",
    help="A bundle's folder, or the name of a shipped one (see `models list`).",
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
tta = click.option(
    "--tta", type=click.Choice(get_args(Tta)), help="Views of each patch.  [default: the bundle's]"
)
vote = click.option(
    "--vote",
    type=click.Choice(get_args(Vote)),
    default="all",
    show_default=True,
    help="early: stop asking members once the majority is certain; same labels.",
)
mpp = click.option("--mpp", type=float, help="um/px for slides that state none, or an absurd one.")
recursive = click.option("--recursive", is_flag=True, help="Search folders with their sub-folders.")
overwrite = click.option("--overwrite", is_flag=True, help="Compute again what is done.")
fail_fast = click.option("--fail-fast", is_flag=True, help="Stop at the first failed slide.")
as_json = click.option("--json", "as_json", is_flag=True, help="The result as one JSON object on stdout.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Only errors.")
verbose = click.option("-v", "--verbose", is_flag=True, help="More detail.")
workers = click.option(
    "--workers",
    type=AutoNumber(int),
    default="auto",
    show_default=True,
    help="Ray workers; 0 = in this process.",
)
PLACEMENT = ("workers", "gpus_per_worker", "cpus_per_worker", "address", "device")
workers_placement = stacked(
    workers,
    click.option(
        "--gpus-per-worker",
        type=AutoNumber(float),
        default="auto",
        show_default=True,
        help="May be a fraction.",
    ),
    click.option("--cpus-per-worker", type=AutoNumber(int, 1), default="auto", show_default=True),
    click.option("--address", metavar="A", help="An existing Ray cluster, such as head:6379 or auto."),
    device,
)
placement = stacked(
    workers_placement,
    click.option(
        "--batch-size", type=AutoNumber(int, 1), default="auto", show_default=True, help="Patches per batch."
    ),
)
