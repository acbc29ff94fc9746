"""`wsi-mitosis classify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable
from wsi_mitosis.tables import ALIASES, DecimalSign, DetectionFormat
from wsi_mitosis.units import Frame, LengthUnit

if TYPE_CHECKING:
    from wsi_mitosis.jobs.batch import BatchResult
    from wsi_mitosis.specs import ClassifySpec


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


OUTPUT = (
    *("objects", "geojson_frame", "report", "qupath_project", "overwrite", "fail_fast"),
    *("hotspot_area", "hotspot_aspect", "hotspots", "regions", "dicom"),
)
RESULTS = (
    *("report.html", "summary.csv", "regions.csv", "review.csv"),
    *("geojson/", "figures/", "dicom/", "qupath/project.qpproj"),
)
"""What a run may leave in its folder for the user to open."""
EPILOG = "\b\nColumn names that a table may use:\n" + "\n".join(
    f"  {ours}: {', '.join(theirs)}" for ours, theirs in ALIASES.items()
)


@click.command(epilog=EPILOG)
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@click.option(
    "--detections",
    required=True,
    callback=options.filled,
    metavar="PATH",
    help="One file, or a folder with a file per slide.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(DetectionFormat)),
    default="auto",
    show_default=True,
    help="Of the detections; auto looks at the content.",
)
@click.option("--columns", callback=_columns, metavar="x=A,y=B,...", help="Names of a table's columns.")
@click.option(
    "--decimal",
    type=click.Choice(get_args(DecimalSign)),
    help="The decimal sign in a table; the other one separates thousands.  [default: decided by its columns]",
)
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="A class that is a candidate; repeatable."
)
@click.option(
    "--units", type=click.Choice(get_args(LengthUnit)), help="Of the coordinates.  [default: the format's]"
)
@click.option(
    "--frame", type=click.Choice(get_args(Frame)), help="Of the coordinates.  [default: the format's]"
)
@click.option("--min-score", type=float, help="Leave out candidates below.")
@click.option(
    "--merge-um", type=float, help="Candidates nearer than this are one; the highest score is kept."
)
@options.model
@click.option(
    "--out",
    default="wsi-mitosis-results",
    show_default=True,
    callback=options.filled,
    metavar="DIR",
    help="Results.",
)
@options.mpp
@options.recursive
@options.vote
@options.tta
@click.option(
    "--objects",
    type=click.Choice(["detections", "annotations"]),
    default="detections",
    show_default=True,
    help="What figures are in QuPath: detections are fast, annotations can be edited.",
)
@click.option("--geojson-frame", type=click.Choice(get_args(Frame)), default="qupath", show_default=True)
@click.option(
    "--hotspot-area",
    type=click.FloatRange(0, 1000),
    default=2.0,
    show_default=True,
    metavar="MM2",
    help="Of the window with the most mitotic figures, mm^2; 0 = none.",
)
@click.option(
    "--hotspot-aspect",
    default="4:3",
    show_default=True,
    metavar="W:H",
    help="Its shape; the turned one is tried as well.",
)
@click.option(
    "--hotspots",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="K",
    help="How many that do not overlap.",
)
@click.option(
    "--regions",
    callback=options.filled,
    metavar="PATH",
    help="GeoJSON of regions from QuPath, a file or a folder with one per slide: counted each, and "
    "hotspots are sought inside them only.",
)
@click.option(
    "--dicom", is_flag=True, help="For DICOM slides also annotations as DICOM; wants wsi-mitosis[dicom]."
)
@click.option(
    "--qupath-project",
    is_flag=True,
    help="Write a QuPath project with the slides, the class colours, and a script that imports the figures.",
)
@click.option(
    "--no-report", "report", is_flag=True, flag_value=False, default=True, help="Leave out report.html."
)
@options.placement
@options.overwrite
@options.fail_fast
@options.as_json
@options.quiet
@options.verbose
def command(slides: tuple[str, ...], **given: Any) -> int:
    """Classify the candidates on slides: GeoJSON for QuPath and counts per slide.

    SLIDE is a file, a folder, a quoted glob, or a .csv or .txt list of slides (slide[,mpp]).

    \b
    Example:  wsi-mitosis classify slides/*.svs --detections dets.csv --out results

    Exit status: 0 all done, 1 some slides failed, 2 nothing was started, 130 interrupted.
    """
    from wsi_mitosis.specs import ClassifySpec

    data = {
        "model": given["model"],
        "input": {
            "slides": slides,
            "detections": given["detections"],
            "format": given["format_"],
            **{name: given[name] for name in ("columns", "decimal", "units", "frame", "recursive")},
        },
        "result": {name: given[name] for name in ("mpp", "classes", "min_score", "merge_um", "vote", "tta")},
        "output": {
            "folder": given["out"],
            **{name: given[name] for name in OUTPUT},
        },
        "placement": {
            name: given[name]
            for name in ("workers", "gpus_per_worker", "cpus_per_worker", "address", "device", "batch_size")
        },
    }
    spec = ClassifySpec.parse(data, "classify")
    return run_and_render(spec, **{name: given[name] for name in ("as_json", "quiet", "verbose")})


def run_and_render(spec: ClassifySpec, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Do a run, show it, and return its exit status."""
    from wsi_mitosis.cli.progress import Reporter
    from wsi_mitosis.cli.signals import termination_interrupts
    from wsi_mitosis.workers import classify_batch

    with termination_interrupts(), Reporter(quiet=quiet, verbose=verbose) as reporter:
        result = classify_batch(spec, reporter)
    for name in sorted(result.errors.keys() - result.statuses.keys()):  # the reporter has printed the slides'
        click.secho(f"failed: {printable(result.errors[name])}", fg="red", err=True)
    if as_json:
        click.echo(_as_json(result))
    elif not quiet:
        click.echo("\n".join(printable(line) for line in _as_lines(result)))
    return result.exit_status


def _as_json(result: BatchResult) -> str:
    return json_text(
        {
            "out": str(result.folder),
            "exit_status": result.exit_status,
            "bundle": result.bundle,
            "bundle_digest": result.bundle_digest,
            "trained": result.trained,
            "statuses": result.statuses,
            "kept": sorted(result.kept),
            "errors": result.errors,
            "warnings": result.warnings,
            "summary": result.rows,
        }
    )


def _as_lines(result: BatchResult) -> list[str]:
    from wsi_mitosis.cli.progress import ended, several

    counted = [row for row in result.rows if row["slide"] in result.statuses and row["status"] == "done"]
    atypical, classified, excluded = (
        sum(row[name] for row in counted) for name in ("atypical", "classified", "excluded")
    )
    left_out = f"; {several(excluded, 'candidate')} excluded" if excluded else ""
    files = [name for name in RESULTS if (result.folder / name).exists()]
    return [
        *ended(result, result.folder / "run.json"),
        f"{several(classified, 'figure')}: {atypical} atypical, {classified - atypical} typical{left_out}",
        *([] if result.trained else ["UNTRAINED BUNDLE: these labels mean nothing"]),
        f"Results in {result.folder} ({', '.join(files)}). Research use only.",
    ]
