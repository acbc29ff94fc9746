"""`wsi-mitosis detect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import show
from wsi_mitosis.specs import DetectSpec

if TYPE_CHECKING:
    from wsi_mitosis.jobs.detect import DetectResult


@click.command()
@options.of(DetectSpec)
@options.messages
def command(*, as_json: bool, quiet: bool, verbose: bool, **given: Any) -> int:
    """Find mitotic figures on slides: candidates for classify.

    SLIDE is a file, a folder, a quoted glob, or a .csv or .txt list of slides (slide[,mpp]).

    \b
    Example:  wsi-mitosis detect slides/*.svs --weights KongNet_Det_MIDOG_1.pth --out dets.csv
              wsi-mitosis classify slides/*.svs --detections dets.csv

    Exit status: 0 all done, 1 some slides failed, 2 nothing was started, 130 interrupted.
    """
    from wsi_mitosis.cli.progress import Reporter
    from wsi_mitosis.workers.slides import detect_batch

    spec = options.parse(DetectSpec, given, "detect")
    with Reporter(quiet=quiet, verbose=verbose, unit="tiles") as reporter:
        result = detect_batch(spec, reporter)
    show(lambda: _as_data(result), lambda: _as_lines(result), as_json=as_json, quiet=quiet)
    return result.exit_status


def _as_data(result: DetectResult) -> dict[str, Any]:
    names = ("exit_status", "model", "weights_sha256", "statuses", "candidates")
    return {
        "out": str(result.out),
        **{name: getattr(result, name) for name in names},
        "kept": sorted(result.kept),
        **{name: getattr(result, name) for name in ("errors", "reasons", "warnings", "interrupted")},
    }


def _as_lines(result: DetectResult) -> list[str]:
    from wsi_mitosis.cli.progress import ended
    from wsi_mitosis.errors import several

    parts = result.out.with_name(f"{result.out.name}.parts")
    candidates = several(sum(result.candidates.values()), "candidate")
    return [*ended(result, parts / "run.json"), f"{candidates} in {result.out}. Research use only."]
