"""`wsi-mitosis run`."""

from __future__ import annotations

import click

from wsi_mitosis.cli import options


@click.command()
@click.argument("pipeline", metavar="PIPELINE.toml")
@click.option(
    "--root",
    metavar="DIR",
    help="Folder that relative paths start at.  [default: the pipeline's; for a shipped one, this folder]",
)
@options.messages
def command(pipeline: str, root: str | None, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Run a classify pipeline from a file, for example by cron.

    PIPELINE is a TOML file or the name of a shipped one (nightly, smoke).

    \b
    Example:  wsi-mitosis run /etc/wsi-mitosis/nightly.toml

    The keys of the file are the options of `classify`; docs/options.md lists them.

    Exit status: that of `classify`.
    """
    from wsi_mitosis.cli.classify import run_and_render
    from wsi_mitosis.io.pipelines import read_pipeline

    return run_and_render(read_pipeline(pipeline, root), as_json=as_json, quiet=quiet, verbose=verbose)
