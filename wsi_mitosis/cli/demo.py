"""`wsi-mitosis demo`."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer


@click.command()
@click.argument("folder", default="demo", metavar="[DIR]", shell_complete=completer("DIR"))
@options.model
@options.quiet
def command(folder: str, model: str | None, *, quiet: bool) -> int:
    """Classify a small slide made from a real H&E image, and write the files for QuPath.

    \b
    Example:  wsi-mitosis demo demo
    """
    from wsi_mitosis.cli.classify import run_and_render
    from wsi_mitosis.jobs.demo import build_demo, finish_demo
    from wsi_mitosis.specs import ClassifySpec

    files = build_demo(Path(folder))
    spec = ClassifySpec.parse(
        {
            "model": model,
            "input": {"slides": [str(files.slide)], "detections": str(files.candidates)},
            "output": {"folder": str(files.results)},
        },
        "demo",
    )
    status = run_and_render(spec, as_json=False, quiet=quiet, verbose=False)
    if status == 0:
        finish_demo(files)
        click.echo(
            f"\nThe slide:      {files.slide}\n"
            f"Its candidates: {files.candidates} (dark nuclei, not detected mitoses)\n"
            f"The report:     {files.results / 'report.html'}\n"
            f"The figures:    {files.overview} (circles: red atypical, blue typical)\n\n"
            f"In QuPath: drag {files.slide} into the window, then drag\n"
            f"{files.results / 'geojson' / (files.slide.name + '.geojson')} onto the image."
        )
    return status
