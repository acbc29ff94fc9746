"""`wsi-mitosis recount`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.notes import Notes
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable
from wsi_mitosis.tables import MATCH_UM, ReviewLabel
from wsi_mitosis.units import Frame

if TYPE_CHECKING:
    from wsi_mitosis.jobs.recount import RecountResult


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Several `NAME=LABEL` as a dictionary."""
    pairs = [value.rpartition("=") for value in values]
    meanings = get_args(ReviewLabel)
    if bad := [
        value
        for value, (name, _, label) in zip(values, pairs, strict=True)
        if not name.strip() or label.strip() not in meanings
    ]:
        raise click.BadParameter(f"{bad[0]!r}: wants NAME={'|'.join(meanings)}", ctx, param)
    return {name: label.strip() for name, _, label in pairs}


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--reviewed",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="GeoJSON exported from QuPath, a file per slide, named after it.",
)
@click.option(
    "--distance-um",
    type=click.FloatRange(min=0),
    default=MATCH_UM,
    show_default=True,
    help="An object this near to a figure is that figure, if its id does not say so. The default is the "
    "radius of the circle that QuPath shows.",
)
@click.option(
    "--frame",
    type=click.Choice(get_args(Frame)),
    help="Of the reviewed coordinates.  [default: that in which classify drew the slide]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=LABEL",
    help="What a further class of QuPath means: atypical, typical, or none (no figure); repeatable.",
)
@options.as_json
@options.quiet
@options.verbose
def command(
    results: Path,
    reviewed: Path,
    distance_um: float,
    frame: Frame | None,
    labels: dict[str, ReviewLabel],
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Count again after a review in QuPath; DIR is what `classify` wrote.

    In QuPath, correct the figures (set their class, delete what is none, add what is missing) and export all
    objects as GeoJSON: <slide>.geojson. Figures are known by their ids, else by their place. Classes are
    Mitosis: Atypical, Mitosis: Typical, Atypical, Typical, AMF, NMF; classes that end in * and Hotspot are no
    figures, and neither are areas over 50 um wide. Any other object is an error that names it, until --label
    says what its class means.

    DIR/reviewed/ gets summary.csv (the numbers as reviewed, the machine's beside them), changes.csv,
    agreement.json (Cohen's kappa and the confusion between ensemble and reviewer) and, where slides have
    regions, regions.csv. Nothing else is written.

    \b
    Example:  wsi-mitosis recount results --reviewed exported

    Exit status: 0 all counted, 1 some reviews could not be used, 2 nothing was started.
    """
    from wsi_mitosis.core.recount import class_key
    from wsi_mitosis.jobs.recount import recount

    def show(message: str) -> None:
        click.secho(f"note: {printable(message)}", fg="yellow", err=True)

    notes = Notes(show, everything=verbose)
    result = recount(
        results,
        reviewed,
        distance_um=distance_um,
        frame=frame,
        labels={class_key(name): label for name, label in labels.items()},
        tell=(lambda _: None) if quiet else notes.add,
    )
    notes.end(str(result.folder / "agreement.json"))
    for name, error in result.errors.items():
        click.secho(f"failed: {printable(error)}", fg="red", err=True)
        if verbose and name in result.details:
            click.echo(result.details[name], err=True)
    if as_json:
        click.echo(_as_json(result))
    elif not quiet:
        click.echo("\n".join(printable(line) for line in _as_lines(result, verbose=verbose)))
    return result.exit_status


def _as_json(result: RecountResult) -> str:
    return json_text(
        {
            "out": str(result.folder),
            "exit_status": result.exit_status,
            "summary": result.rows,
            "changes": result.changes,
            "regions": result.regions,
            "agreement": result.agreement,
            "errors": result.errors,
            "warnings": result.warnings,
        }
    )


def _as_lines(result: RecountResult, *, verbose: bool) -> list[str]:
    from wsi_mitosis.cli.progress import several

    agreement = result.agreement
    slides = agreement["slides"]
    kept = len(agreement["not_reviewed"])
    reviewed = [row for row in result.rows if row["reviewed"] == "true"]
    return [
        f"{several(len(slides), 'slide')} reviewed"
        + (f", {len(result.errors)} failed" if result.errors else "")
        + (f", {kept} without a review: the machine's numbers stand" if kept else ""),
        _changed(agreement),
        *((f"  {name}: {_changed(one)}" for name, one in slides.items()) if verbose else ()),
        *(
            f"{label} figures: {sum(row[label] for row in reviewed)}, by the machine "
            f"{sum(row[f'machine_{label}'] for row in reviewed)}"
            for label in ("atypical", "typical")
        ),
        f"Cohen's kappa of ensemble and reviewer: {_kappa(agreement)}",
        *agreement["notes"],
        f"Results in {result.folder}; `wsi-mitosis report {result.folder.parent}` shows them.",
        "Research use only.",
    ]


def _changed(agreement: dict[str, int]) -> str:
    return ", ".join(f"{agreement[change]} {change}" for change in ("kept", "relabelled", "removed", "added"))


def _kappa(agreement: dict[str, float | None]) -> str:
    kappa, matched = agreement["kappa"], agreement["matched"]
    return f"{'undefined' if kappa is None else format(kappa, '.3f')} on {matched} matched figures"
