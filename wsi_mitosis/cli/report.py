"""`wsi-mitosis report`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer
from wsi_mitosis.cli.render import note, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_mitosis.jobs.report import ReportResult
    from wsi_mitosis.jobs.trend import TrendResult

MOST_PRINTED = 20
"""Points outside that are printed, the latest ones; the page and --json have all."""


def _nights(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[date, date] | None:
    """Return the dates of `FROM..TO`."""
    if value is None:
        return None
    try:
        first, last = map(date.fromisoformat, value.split(".."))
    except ValueError as error:
        message = f"{value!r} is not of the form FROM..TO, such as 2026-01-01..2026-01-31."
        raise click.BadParameter(message, ctx, param) from error
    if last < first:
        raise click.BadParameter(f"{last} is before {first}.", ctx, param)
    return first, last


@click.command()
@click.argument("results", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--slides",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Slides to show with images, such as `case-1*.svs`; repeatable.  [default: those of the last run]",
)
@click.option(
    "--explain",
    callback=options.filled,
    metavar="BUNDLE",
    shell_complete=completer("BUNDLE"),
    help="Show where the members of this bundle look in the first figures of the review list. The bundle has "
    "to be the one that classified them.",
)
@click.option(
    "--trend", is_flag=True, help="Draw control charts over the nights instead. DIR may be several folders."
)
@click.option(
    "--by",
    type=click.Choice(("scanner", "folder")),
    help="With --trend, what slides are grouped by. A slide that states no scanner is in the group of its "
    "folder.  [default: scanner]",
)
@click.option(
    "--per",
    type=click.Choice(("auto", "slide", "night")),
    help="With --trend, what a point is. auto is a slide, or a night if a group has more than 200 slides and "
    "enough nights.  [default: auto]",
)
@click.option(
    "--reference",
    callback=_nights,
    metavar="FROM..TO",
    help="With --trend, the nights that limits are computed from, such as 2026-01-01..2026-01-31.  [default: "
    "the first 20 points of each chart]",
)
@click.option(
    "--timezone",
    callback=options.filled,
    metavar="ZONE",
    help="With --trend, the time zone of nights, such as Europe/Rome.  [default: the machine's]",
)
@options.path("--out", metavar="FILE", help="With --trend, the page.  [default: trend.html in the first DIR]")
@options.messages
def command(
    results: tuple[Path, ...],
    globs: tuple[str, ...],
    explain: str | None,
    *,
    trend: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **of_trend: Any,
) -> int:
    """Write DIR/report.html again; DIR is a folder that `classify` wrote.

    Its table has every slide of the folder. At most 200 slides are shown with images: an overview with
    figures and hotspots, and a gallery. The images are read from the slides, where `classify` found them. If
    a slide was moved, its counts are kept and the report shows the reason instead of its images.

    With --explain, up to 10 figures of each slide have a map with them: where features move the answers of
    the members most (Grad-CAM). A map says nothing about whether a label is right.

    With --trend, control charts show whether the slides of a scanner or a folder change over the nights:
    figures per slide, atypical fraction, agreement of the members, P(atypical), sharpness and excluded
    candidates. They are written to trend.html in the first DIR, with every number in trend.csv beside it.
    Points outside their limits are printed; they do not change the exit status. No slide is needed.

    \b
    Example:  wsi-mitosis report results --slides 'case-1*.svs'
              wsi-mitosis report results --trend

    Exit status: 0 written, 2 not written.
    """
    if trend:
        if globs or explain is not None:
            raise click.UsageError("--slides and --explain do not go with --trend.")
        return _trend(results, of_trend, as_json=as_json, quiet=quiet)
    if given := [name for name, value in of_trend.items() if value is not None]:
        raise click.UsageError(f"--{given[0]} goes with --trend.")
    if len(results) > 1:
        raise click.UsageError("Give one DIR. Several go with --trend.")
    return _report(results[0], globs, explain, as_json=as_json, quiet=quiet, verbose=verbose)


def _report(
    results: Path, globs: tuple[str, ...], explain: str | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    from wsi_mitosis.jobs.explanation import open_explainer
    from wsi_mitosis.jobs.report import report

    result = report(results, globs, None if explain is None else open_explainer(explain))
    if not quiet:
        for text in (*result.messages(), *(result.without_picture.values() if verbose else ())):
            note(text)
    show(lambda: _as_data(result), lambda: [_as_text(result)], as_json=as_json, quiet=quiet)
    return 0


def _trend(results: tuple[Path, ...], given: dict[str, Any], *, as_json: bool, quiet: bool) -> int:
    from wsi_mitosis.jobs.trend import draw_trend

    result = draw_trend(results, **{name: value for name, value in given.items() if value is not None})
    for text in () if quiet else result.notes:
        note(text)
    show(lambda: _trend_data(result), lambda: _trend_lines(result), as_json=as_json, quiet=quiet)
    return 0


def _as_data(result: ReportResult) -> dict[str, Any]:
    names = ("slides", "pictured", "without_picture", "notes", "size_bytes")
    return {
        "report": str(result.path),
        **{name: getattr(result, name) for name in names},
        "seconds": round(result.seconds, 3),
    }


def _as_text(result: ReportResult) -> str:
    from wsi_mitosis.errors import several

    pictured = len(result.pictured) - len(result.without_picture)
    return (
        f"{several(result.slides, 'slide')}, {pictured} with images: {result.path} "
        f"({result.size_bytes / 1e6:.1f} MB). Research use only."
    )


def _trend_data(result: TrendResult) -> dict[str, Any]:
    return {
        "report": str(result.path),
        "table": str(result.table),
        "slides": result.slides,
        "groups": {group.name: group.slides for group in result.groups},
        "outside": [signal.as_data() for signal in result.signals],
        "notes": result.notes,
        "size_bytes": result.size_bytes,
        "seconds": round(result.seconds, 3),
    }


def _trend_lines(result: TrendResult) -> Iterator[str]:
    from wsi_mitosis.errors import several

    more = len(result.rows) - MOST_PRINTED
    if more > 0:
        yield f"  {more} earlier ones are in {result.path}"
    for row in result.rows[-MOST_PRINTED:]:
        what = f"{row.quantity} {row.value}, {row.text} ({row.limits})"
        yield f"  {row.night}  {row.group}, {row.slides}: {what}"
    outside = f"{len(result.rows)} outside" if result.rows else "nothing outside"
    yield (
        f"{several(result.slides, 'slide')}, {several(len(result.groups), 'group')}, {outside}: "
        f"{result.path} ({result.size_bytes / 1e6:.1f} MB). Research use only."
    )
