"""`wsi-mitosis verify`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_mitosis.jobs.verify import Verification


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.messages
def command(folder: Path, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Check whether results were changed since they were written.

    A pathologist's correction of figures in a GeoJSON file is no fault; it is named.

    \b
    Example:  wsi-mitosis verify results

    Exit status: 0 nothing was changed, 1 a file was changed or is missing, 2 no results.
    """
    from wsi_mitosis.jobs.verify import verify

    result = verify(folder)
    show(lambda: _as_data(result), lambda: _as_lines(result, verbose=verbose), as_json=as_json, quiet=quiet)
    return result.exit_status


def _as_data(result: Verification) -> dict[str, Any]:
    findings = [finding._asdict() for finding in result.findings]
    return {"folder": str(result.folder), "exit_status": result.exit_status, "files": findings}


def _as_lines(result: Verification, *, verbose: bool) -> Iterator[str]:
    from wsi_mitosis.errors import several
    from wsi_mitosis.jobs.verify import MEANING

    for finding in result.findings:
        if verbose or finding.verdict != "intact":
            detail = f" ({finding.detail})" if finding.detail else ""
            yield f"{finding.verdict:9}  {finding.file}{detail}"
    counts = Counter(finding.verdict for finding in result.findings)
    numbers = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MEANING if counts[verdict])
    yield f"{several(len(result.findings), 'file')}: {numbers or 'none'}"
