"""The command line. Commands are loaded when they are used; what is heavy, inside their bodies."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

import wsi_mitosis.cli.completing  # noqa: F401 - it makes itself known to click
from wsi_mitosis.cli.folders import leave_removed_folder
from wsi_mitosis.cli.signals import (
    INTERRUPTED,
    end_at_once,
    end_despite_hanging_threads,
    exit_status,
    on_ending_signals,
    termination_interrupts,
)
from wsi_mitosis.cli.streams import prepare_streams, use_utf8_names
from wsi_mitosis.errors import WsiMitosisError, printable
from wsi_mitosis.io.interrupts import allowing_interrupts, holding_interrupts
from wsi_mitosis.io.surroundings import private_caches
from wsi_mitosis.nets.memory import keep_freed_memory
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "detect",
    "classify",
    "report",
    "review",
    "recount",
    "export",
    "predict",
    "evaluate",
    "run",
    "status",
    "verify",
    "models",
    "dataset",
    "train",
    "doctor",
    "demo",
    "completion",
)
REFUSED_BY_MACHINE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
    }
)
"""Errors of the operating system that no program can prevent: no room, no permission, no resources."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Program(click.Group):
    """The top-level group: finds commands by name and turns errors into exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Every command, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"wsi_mitosis.cli.{cmd_name}").command
        return command

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the program on streams that are safe to print to."""
        prepare_streams()
        leave_removed_folder()
        if args is not None:
            return super().main(args, *more, **options)
        use_utf8_names()  # of the command line's own arguments
        on_ending_signals(end_at_once)  # until the program can be interrupted
        try:
            with termination_interrupts(), holding_interrupts():  # `invoke` allows them
                return super().main(args, *more, **options)
        except SystemExit as end:
            on_ending_signals(signal.SIG_IGN)  # Python's end would be cut short, and the status lost
            end_despite_hanging_threads(exit_status(end))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it returns is the exit status."""
        try:
            keep_freed_memory()
            with termination_interrupts(), allowing_interrupts(), private_caches():
                status = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except WsiMitosisError as error:
            click.secho(f"error: {printable(str(error))}", fg="red", err=True)
            status = 2
        except OSError as error:
            if error.errno not in REFUSED_BY_MACHINE:
                raise
            click.secho(f"error: {printable(_refusal(error))}", fg="red", err=True)
            status = 2
        except KeyboardInterrupt:
            click.secho("interrupted", fg="red", err=True)
            status = INTERRUPTED
        ctx.exit(status or 0)


def _refusal(error: OSError) -> str:
    """One line about what the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = "Make room or permit it, and run the same command again; finished slides are kept"
    return f"{where}{error.strerror or error}. {remedy}"


@click.group(cls=Program, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="wsi-mitosis")
def main() -> None:
    """Typical or atypical: classify mitotic figures on whole-slide images.

    From candidate coordinates to GeoJSON for QuPath and counts per slide. Research use only.

    \b
    Try it:   wsi-mitosis demo
    Use it:   wsi-mitosis classify slides/*.svs --detections dets.csv
    """
