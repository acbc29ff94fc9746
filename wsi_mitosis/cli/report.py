"""`wsi-mitosis report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer
from wsi_mitosis.cli.render import note, show

if TYPE_CHECKING:
    from wsi_mitosis.jobs.report import ReportResult


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
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
@options.messages
def command(
    results: Path, globs: tuple[str, ...], explain: str | None, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Write DIR/report.html again; DIR is a folder that `classify` wrote.

    Its table has every slide of the folder. At most 200 slides are shown with images: an overview with
    figures and hotspots, and a gallery. The images are read from the slides, where `classify` found them. If
    a slide was moved, its counts are kept and the report shows the reason instead of its images.

    With --explain, up to 10 figures of each slide have a map with them: where features move the answers of
    the members most (Grad-CAM). A map says nothing about whether a label is right.

    \b
    Example:  wsi-mitosis report results --slides 'case-1*.svs'

    Exit status: 0 written, 2 not written.
    """
    from wsi_mitosis.jobs.explanation import open_explainer
    from wsi_mitosis.jobs.report import report

    result = report(results, globs, None if explain is None else open_explainer(explain))
    if not quiet:
        for text in (*result.messages(), *(result.without_picture.values() if verbose else ())):
            note(text)
    show(lambda: _as_data(result), lambda: [_as_text(result)], as_json=as_json, quiet=quiet)
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
