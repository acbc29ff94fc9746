"""`wsi-mitosis export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import failure, note, show
from wsi_mitosis.tables import ExportFormat

if TYPE_CHECKING:
    from wsi_mitosis.jobs.export import ExportResult


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--to",
    required=True,
    type=click.Choice(get_args(ExportFormat)),
    help="Format of the files. anndata and spatialdata need wsi-mitosis[spatialdata].",
)
@click.option(
    "--slides",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Slides to export, such as `case-1*.svs`; repeatable.  [default: all]",
)
@options.path("--out", metavar="FOLDER", help="Folder of the files.  [default: DIR/exports/FORMAT]")
@options.messages
def command(
    results: Path,
    to: ExportFormat,
    globs: tuple[str, ...],
    out: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write the results in DIR for other programs; DIR is a folder that `classify` wrote.

    No format needs the slides, which may have been moved. (DICOM objects do, and `classify --dicom` writes
    them.) Every file has the classified figures only, the bundle, and the notice of research use.

    \b
      midog                   midog.json of all slides, boxes of 50 px, labels as categories
      grand-challenge         Multiple points in mm, a file per slide, for track 1 of MIDOG
      grand-challenge-labels  the same with the labels as names
      tiatoolbox              an annotation store (.db) per slide, for TIAToolbox and TIAViz
      anndata                 figures.h5ad of all slides, for scanpy and squidpy
      spatialdata             a Zarr store per slide, for SpatialData and LazySlide

    \b
    Example:  wsi-mitosis export results --to tiatoolbox

    Exit status: 0 all exported, 1 some slides were not, 2 nothing was exported.
    """
    from wsi_mitosis.jobs.export import export

    result = export(results, to, globs=globs, out=out)
    for text in () if quiet else result.notes:
        note(text)
    for error in dict.fromkeys(result.errors.values()):  # slides of one file fail together
        failure(error)
    show(
        lambda: _as_data(result),
        lambda: _as_lines(result, verbose=verbose),
        as_json=as_json,
        quiet=quiet,
    )
    return result.exit_status


def _as_data(result: ExportResult) -> dict[str, Any]:
    names = ("exit_status", "slides", "figures", "errors", "notes")
    return {
        "out": str(result.folder),
        "files": [str(path.relative_to(result.folder)) for path in result.files],
        **{name: getattr(result, name) for name in names},
    }


def _as_lines(result: ExportResult, *, verbose: bool) -> list[str]:
    from wsi_mitosis.errors import several

    failed = f", {len(result.errors)} failed" if result.errors else ""
    return [
        *(f"  {path}" for path in result.files if verbose),
        f"{several(len(result.slides), 'slide')} exported{failed}: {several(result.figures, 'figure')}",
        f"{several(len(result.files), 'file')} in {result.folder}. Research use only.",
    ]
