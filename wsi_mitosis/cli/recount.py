"""`wsi-mitosis recount`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.notes import Notes
from wsi_mitosis.cli.render import failure, note, show
from wsi_mitosis.tables import MATCH_UM, ReviewLabel
from wsi_mitosis.units import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_mitosis.jobs.recount import RecountResult
    from wsi_mitosis.jobs.reviewers import Reviewed

_MOST_PAIRS = 3
"""Pairs of reviewers whose kappas are printed without -v: those of three reviewers."""


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return several `NAME=LABEL` as a dictionary."""
    pairs = [value.rpartition("=") for value in values]
    meanings = get_args(ReviewLabel)
    if bad := [
        value
        for value, (name, _, label) in zip(values, pairs, strict=True)
        if not name.strip() or label.strip() not in meanings
    ]:
        raise click.BadParameter(f"{bad[0]!r} is not of the form NAME={'|'.join(meanings)}.", ctx, param)
    return {name: label.strip() for name, _, label in pairs}


def _reviewed(ctx: click.Context, param: click.Parameter, values: tuple[Path, ...]) -> list[Reviewed]:
    """Return paths, of which each may have the name of a reviewer before it: `NAME=FOLDER`."""
    from wsi_mitosis.core.review_files import is_name
    from wsi_mitosis.jobs.reviewers import Reviewed

    found = []
    for value in values:
        name, equals, path = str(value).partition("=")
        if value.exists() or not equals or not is_name(name):
            found.append(Reviewed(value))
        elif path.strip():
            found.append(Reviewed(Path(path), name))
        else:
            raise click.BadParameter(f"{str(value)!r} names a reviewer and no folder.", ctx, param)
    return found


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@options.path(
    "--reviewed",
    required=True,
    multiple=True,
    callback=_reviewed,
    metavar="PATH",
    help="A review: a folder of GeoJSON exported from QuPath, a file per slide, named after it; a file that "
    "the page of `review` saved; or a folder of such files. Repeatable, for several reviewers. The reviewer "
    "of a folder of GeoJSON is named after the folder, or by NAME=FOLDER.",
)
@click.option(
    "--distance-um",
    type=click.FloatRange(min=0),
    default=MATCH_UM,
    show_default=True,
    metavar="UM",
    help="Without a matching id, an object that is nearer to a figure than this is that figure. The default "
    "is the radius of the circle that QuPath shows.",
)
@click.option(
    "--frame",
    type=click.Choice(get_args(Frame)),
    help="Frame of the reviewed coordinates.  [default: that of the slide's GeoJSON]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=LABEL",
    help="Meaning of a further class of QuPath: atypical, typical, or none (no figure); repeatable.",
)
@click.option(
    "--regions-from-review",
    is_flag=True,
    help="Count in the areas over 50 um wide that were drawn in the review, or cut them out, by their class. "
    "Without it they have no effect.",
)
@options.messages
def command(
    results: Path,
    reviewed: list[Reviewed],
    distance_um: float,
    frame: Frame | None,
    labels: dict[str, ReviewLabel],
    *,
    regions_from_review: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Count figures again after a review; DIR is a folder that `classify` wrote.

    In QuPath, correct the figures (set their class, delete wrong ones, add missing ones) and export all
    objects as GeoJSON: <slide>.geojson. Figures are matched by their ids, or else by their place. Classes
    are Mitosis: Atypical, Mitosis: Typical, Atypical, Typical, AMF, NMF; classes that end in * and Hotspot
    are not figures, and neither are areas over 50 um wide. Any other object is an error that names it, unless
    --label gives the meaning of its class.

    A page that `review` made saves the verdicts of its reviewer as JSON. Several files of one reviewer are
    one review, in which the latest verdict on a figure counts.

    Of several reviewers, a figure has the label that more than half of their votes have: atypical, typical or
    none. Without such a majority it keeps the machine's label. A reviewer who could not tell has no vote.
    A verdict on a page of `review --disagreements` decides in place of the votes.

    The results are in DIR/reviewed/: summary.csv (the reviewed counts and the machine's), changes.csv,
    verdicts.csv (what each reviewer said), consensus.csv, agreement.json (confusions and kappas of ensemble
    and reviewers, with intervals), regions.csv if slides have regions, and estimates.csv if the reviews are
    of a random sample. No other file is written.

    \b
    Example:  wsi-mitosis recount results --reviewed exported
              wsi-mitosis recount results --reviewed review-anna.json --reviewed ben=exported

    Exit status: 0 all counted, 1 some reviews could not be used, 2 nothing was started.
    """
    from wsi_mitosis.core.classes import class_key
    from wsi_mitosis.jobs.recount import recount

    notes = Notes(note, everything=verbose)
    result = recount(
        results,
        reviewed,
        distance_um=distance_um,
        frame=frame,
        labels={class_key(name): label for name, label in labels.items()},
        regions_from_review=regions_from_review,
        warn=(lambda _: None) if quiet else notes.add,
    )
    notes.end(str(result.folder / "agreement.json"))
    for name, error in result.errors.items():
        failure(error)
        if verbose and name in result.details:
            click.echo(result.details[name], err=True)
    if result.not_estimated:
        failure(result.not_estimated)
    show(lambda: _as_data(result), lambda: _as_lines(result, verbose=verbose), as_json=as_json, quiet=quiet)
    return result.exit_status


def _as_data(result: RecountResult) -> dict[str, Any]:
    names = ("exit_status", "changes", "regions", "agreement", "errors", "warnings")
    return {
        "out": str(result.folder),
        "summary": result.rows,
        "estimates": [] if result.estimates is None else list(result.estimates.rows),
        "not_estimated": result.not_estimated,
        **{name: getattr(result, name) for name in names},
    }


def _as_lines(result: RecountResult, *, verbose: bool) -> list[str]:
    from wsi_mitosis.errors import several

    agreement = result.agreement
    slides = agreement["slides"]
    kept = len(agreement["not_reviewed"])
    reviewed = [row for row in result.rows if row["reviewed"] == "true"]
    return [
        f"{several(len(slides), 'slide')} reviewed"
        + (f", {len(result.errors)} failed" if result.errors else "")
        + (f", {kept} without a review: the machine's counts are kept" if kept else ""),
        _changed(agreement),
        *((f"  {name}: {_changed(one)}" for name, one in slides.items()) if verbose else ()),
        *(
            f"{label} figures: {sum(row[label] for row in reviewed)}, by the machine "
            f"{sum(row[f'machine_{label}'] or 0 for row in reviewed)}"
            for label in ("atypical", "typical")
        ),
        f"Cohen's kappa of ensemble and {_second(agreement)}: {_kappa(agreement)}",
        *_among_reviewers(agreement, verbose=verbose),
        *(result.estimates.lines if result.estimates is not None else ()),
        *agreement["notes"],
        f"Results in {result.folder}; `wsi-mitosis report {result.folder.parent}` shows them.",
        "Research use only.",
    ]


def _changed(agreement: dict[str, int]) -> str:
    not_decided = (change for change in ("unseen", "undecided") if agreement[change])
    changes = ("kept", "relabelled", "removed", "added", *not_decided)
    return ", ".join(f"{agreement[change]} {change}" for change in changes)


def _kappa(agreement: dict[str, float | None]) -> str:
    kappa, matched = agreement["kappa"], agreement["matched"]
    return f"{'undefined' if kappa is None else format(kappa, '.3f')} on {matched} matched figures"


def _second(agreement: dict[str, Any]) -> str:
    return "reviewer" if len(agreement["reviewers"]) == 1 else "consensus"


def _among_reviewers(agreement: dict[str, Any], *, verbose: bool) -> Iterator[str]:
    """Yield what is known of several reviewers; of a single one the other lines say it."""
    reviewers = agreement["reviewers"]
    if len(reviewers) == 1:
        return
    yield f"{len(reviewers)} reviewers: {', '.join(map(_reviewer, reviewers))}"
    for one in reviewers:
        yield f"  kappa of ensemble and {one['name']}: {_with_interval(one['ensemble'])}"
    are_shown = verbose or len(agreement["pairs"]) <= _MOST_PAIRS
    if not are_shown:
        yield f"  kappas of {len(agreement['pairs'])} pairs of reviewers: see -v, or agreement.json"
    for pair in agreement["pairs"] if are_shown else ():
        yield f"  kappa of {pair['first']} and {pair['second']}: {_with_interval(pair)}"
    if agreement["fleiss"] is not None:
        yield f"  Fleiss' kappa of all reviewers: {_with_interval(agreement['fleiss'])}"
    if agreement["ties"]:
        yield f"Figures without a majority: {len(agreement['ties'])}; consensus.csv lists them"


def _reviewer(one: dict[str, Any]) -> str:
    blind = ", blind" if one["blind"] else ""
    return f"{one['name']} ({sum(one['verdicts'].values())} verdicts{blind})"


def _with_interval(agreement: dict[str, Any]) -> str:
    """A kappa, its interval, and the number of figures that it is of."""
    from wsi_mitosis.errors import several

    kappa, figures = agreement["kappa"], several(agreement["figures"], "figure")
    if kappa["value"] is None:
        return f"undefined on {figures}: {kappa['reason']}"
    low, high = kappa["ci95"]
    return f"{kappa['value']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {figures}"
