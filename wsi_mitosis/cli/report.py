"""`wsi-mitosis report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable

if TYPE_CHECKING:
    from wsi_mitosis.jobs.report import ReportResult


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--slides",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Slides to show with pictures, as `case-1*.svs`; repeatable.  [default: those of the last run]",
)
@options.as_json
@options.quiet
@options.verbose
def command(results: Path, globs: tuple[str, ...], *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Make DIR/report.html again; DIR is what `classify` wrote.

    Its table has every slide of the folder. Pictures (an overview with figures and hotspots, a gallery) are
    of at most 200 slides. They are read from the slides, where `classify` found them; a slide that is gone
    keeps its numbers.

    \b
    Example:  wsi-mitosis report results --slides 'case-1*.svs'

    Exit status: 0 written, 2 not.
    """
    from wsi_mitosis.jobs.report import report

    result = report(results, globs)
    if not quiet:
        told = list(result.without_picture.values()) if verbose else []
        for message in [*result.told(), *told]:
            click.secho(f"note: {printable(message)}", fg="yellow", err=True)
    if as_json:
        click.echo(_as_json(result))
    elif not quiet:
        click.echo(printable(_as_text(result)))
    return 0


def _as_json(result: ReportResult) -> str:
    return json_text(
        {
            "report": str(result.path),
            "slides": result.slides,
            "pictured": result.pictured,
            "without_picture": result.without_picture,
            "notes": result.notes,
            "size_bytes": result.size_bytes,
            "seconds": round(result.seconds, 3),
        }
    )


def _as_text(result: ReportResult) -> str:
    from wsi_mitosis.cli.progress import several

    pictured = len(result.pictured) - len(result.without_picture)
    return (
        f"{several(result.slides, 'slide')}, {pictured} with pictures: {result.path} "
        f"({result.size_bytes / 1e6:.1f} MB). Research use only."
    )
