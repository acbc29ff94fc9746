"""The command line. Commands are loaded when they are used; what is heavy, inside their bodies."""

from __future__ import annotations

import importlib
from typing import Any

import click

from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.version import __version__

COMMANDS = (
    "detect",
    "classify",
    "report",
    "recount",
    "predict",
    "evaluate",
    "run",
    "models",
    "dataset",
    "train",
    "doctor",
    "demo",
)
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

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it returns is the exit status."""
        try:
            status = super().invoke(ctx)
        except WsiMitosisError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            status = 2
        except KeyboardInterrupt:
            click.secho("interrupted", fg="red", err=True)
            status = 130
        ctx.exit(status or 0)


@click.group(cls=Program, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="wsi-mitosis")
def main() -> None:
    """Typical or atypical: classify mitotic figures on whole-slide images.

    From candidate coordinates to GeoJSON for QuPath and counts per slide. Research use only.

    \b
    Try it:   wsi-mitosis demo
    Use it:   wsi-mitosis classify slides/*.svs --detections dets.csv
    """
