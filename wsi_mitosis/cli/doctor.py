"""`wsi-mitosis doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer
from wsi_mitosis.cli.streams import json_text


@click.command()
@options.model
@click.option(
    "--out",
    default=".",
    show_default=True,
    metavar="DIR",
    help="Folder that results would be written to.",
    shell_complete=completer("DIR"),
)
@options.as_json
def command(model: str | None, out: str, *, as_json: bool) -> int:
    """Check that this machine is ready: each line is ok, or says what to do.

    \b
    Example:  wsi-mitosis doctor --out /data/results

    Exit status: 0 the machine is ready, 1 it is not.
    """
    from dataclasses import asdict

    from wsi_mitosis.jobs.doctor import examine
    from wsi_mitosis.workers.runtime import try_ray

    findings = []
    for finding in examine(Path(out), model, try_ray):
        findings.append(finding)
        if not as_json:
            mark = click.style("ok  ", fg="green") if finding.ok else click.style("FAIL", fg="red")
            click.echo(f"{mark} {finding.subject}: {finding.found}")
            if not finding.ok:
                click.echo(f"     {finding.remedy}")
    if as_json:
        # `told` is the name of `found` up to version 0.1
        click.echo(json_text([{**asdict(finding), "told": finding.found} for finding in findings]))
    return int(not all(finding.ok for finding in findings))
