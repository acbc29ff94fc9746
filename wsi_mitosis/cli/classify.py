"""`wsi-mitosis classify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import failure, show
from wsi_mitosis.specs import ClassifySpec
from wsi_mitosis.tables import ALIASES

if TYPE_CHECKING:
    from wsi_mitosis.jobs.batch import BatchResult
    from wsi_mitosis.jobs.inputs import Searched

COLUMN = re.compile(r'\s*([^=,"]*?)\s*=\s*(?:"([^"]*)"|(.*?))\s*(?:,(?=\s*\w+\s*=)|\Z)', re.DOTALL)
"""`x=A` of `x=A,y=B`. A name may have commas and equals signs in it; where a comma, a word and an equals sign
follow one another, it must stand in double quotes."""


def _columns(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, str]:
    """Return `x=A,y=B` as a dictionary."""
    columns: dict[str, str] = {}
    position = 0
    while value and position < len(value):
        pair = COLUMN.match(value, position)
        if pair is None:
            raise click.BadParameter(f"{value[position:]!r} is not of the form x=A,y=B.", ctx, param)
        ours, theirs = pair[1], pair[2] if pair[2] is not None else pair[3]
        if fault := _column_fault(ours, theirs, columns):
            raise click.BadParameter(fault, ctx, param)
        columns[ours] = theirs
        position = pair.end()
    return columns


def _column_fault(ours: str, theirs: str, columns: dict[str, str]) -> str | None:
    """Return what is wrong with one pair of `--columns`, beside those read before it."""
    if not any(ours in (role, *aliases) for role, aliases in ALIASES.items()):
        return (
            f"{ours!r} is not a column of a detections table. The name before the equals sign is one of "
            f'{", ".join(ALIASES)}. Put a table\'s name in double quotes if it contains both "," and "=".'
        )
    if not theirs:
        return f"the table's name for {ours!r} is missing after the equals sign."
    if ours in columns:
        return f"{ours!r} is named twice."
    if theirs in columns.values():
        return f"the table's column {theirs!r} is named for two of ours. Name another column for {ours!r}."
    return None


RESULTS = (
    *("report.html", "summary.csv", "regions.csv", "review.csv"),
    *("geojson/", "figures/", "dicom/", "qupath/project.qpproj"),
)
"""Files and folders of a run that a user may want to open."""
EPILOG = "\b\nUsual names of a table's columns:\n" + "\n".join(
    f"  {ours}: {', '.join(theirs)}" for ours, theirs in ALIASES.items()
)


@click.command(epilog=EPILOG)
@options.of(ClassifySpec, columns={"callback": _columns})
@options.messages
def command(*, as_json: bool, quiet: bool, verbose: bool, **given: Any) -> int:
    """Classify the candidates on slides: GeoJSON for QuPath and counts per slide.

    SLIDE is a file, a folder, a quoted glob, or a .csv or .txt list of slides (slide[,mpp]).

    \b
    Example:  wsi-mitosis classify slides/*.svs --detections dets.csv --out results

    Exit status: 0 all done, 1 some slides failed, 2 nothing was started, 130 interrupted.
    """
    spec = options.parse(ClassifySpec, given, "classify")
    return run_and_render(spec, as_json=as_json, quiet=quiet, verbose=verbose)


def run_and_render(
    spec: ClassifySpec, *, as_json: bool, quiet: bool, verbose: bool, searched: Searched | None = None
) -> int:
    """Run a specification, print the result, and return the exit status."""
    from wsi_mitosis.cli.progress import Reporter
    from wsi_mitosis.workers.slides import classify_batch

    with Reporter(quiet=quiet, verbose=verbose) as reporter:
        result = classify_batch(spec, reporter, searched)
    for name in sorted(result.errors.keys() - result.statuses.keys()):  # the reporter has printed the slides'
        failure(result.errors[name])
    show(result.as_data, lambda: _as_lines(result), as_json=as_json, quiet=quiet)
    return result.exit_status


def _as_lines(result: BatchResult) -> list[str]:
    from wsi_mitosis.cli.progress import ended
    from wsi_mitosis.errors import several

    counted = [row for row in result.rows if row["slide"] in result.statuses and row["status"] == "done"]
    atypical, classified, excluded = (
        sum(row[name] for row in counted) for name in ("atypical", "classified", "excluded")
    )
    more = f"; {several(excluded, 'candidate')} excluded" if excluded else ""
    files = [name for name in RESULTS if (result.folder / name).exists()]
    return [
        *ended(result, result.folder / "run.json"),
        f"{several(classified, 'figure')}: {atypical} atypical, {classified - atypical} typical{more}",
        *([] if result.trained else ["UNTRAINED BUNDLE: these labels mean nothing"]),
        f"Results in {result.folder} ({', '.join(files)}). Research use only.",
    ]
