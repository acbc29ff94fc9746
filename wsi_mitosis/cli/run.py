"""`wsi-mitosis run`."""

from __future__ import annotations

import click

from wsi_mitosis.cli import options


@click.command()
@click.argument("pipeline", metavar="PIPELINE.toml")
@click.option(
    "--root",
    metavar="DIR",
    help="Where the pipeline's relative paths start.  [default: the file's folder; for a shipped one, here]",
)
@options.as_json
@options.quiet
@options.verbose
def command(pipeline: str, root: str | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Do a classify run that is written down in a file, so that cron can call it.

    PIPELINE is a TOML file or the name of a shipped one (nightly, smoke).

    \b
    Example:  wsi-mitosis run /etc/wsi-mitosis/nightly.toml

    Exit status: as `classify`.
    """
    from wsi_mitosis.cli.classify import run_and_render
    from wsi_mitosis.io.pipelines import read_pipeline

    return run_and_render(read_pipeline(pipeline, root), as_json=as_json, quiet=quiet, verbose=verbose)
