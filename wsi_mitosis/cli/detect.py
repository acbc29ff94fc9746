"""`wsi-mitosis detect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import printable

if TYPE_CHECKING:
    from wsi_mitosis.jobs.detect import DetectResult

RUN = ("out", "weights", "min_score", "mpp", "recursive", "overwrite", "fail_fast")


@click.command()
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@click.option(
    "--out",
    default="dets.csv",
    show_default=True,
    callback=options.filled,
    metavar="CSV",
    help="Candidates of all slides.",
)
@click.option("--model", metavar="NAME", help="TIAToolbox's detector.  [default: KongNet_Det_MIDOG_1]")
@click.option(
    "--weights",
    callback=options.filled,
    metavar="PATH",
    help="Its checkpoint, or hub to fetch it; nothing else goes online.  [default: what was fetched before]",
)
@click.option("--min-score", type=float, help="Least probability.  [default: the detector's, 0.99]")
@options.mpp
@options.recursive
@options.placement
@options.overwrite
@options.fail_fast
@options.as_json
@options.quiet
@options.verbose
def command(slides: tuple[str, ...], **given: Any) -> int:
    """Find mitotic figures on slides: candidates for classify.

    SLIDE is a file, a folder, a quoted glob, or a .csv or .txt list of slides (slide[,mpp]).

    \b
    Example:  wsi-mitosis detect slides/*.svs --weights KongNet_Det_MIDOG_1.pth --out dets.csv
              wsi-mitosis classify slides/*.svs --detections dets.csv

    Exit status: 0 all done, 1 some slides failed, 2 nothing was started, 130 interrupted.
    """
    from wsi_mitosis.cli.progress import Reporter
    from wsi_mitosis.cli.signals import termination_interrupts
    from wsi_mitosis.specs import DetectSpec
    from wsi_mitosis.workers import detect_batch

    data = {
        "slides": slides,
        **({} if given["model"] is None else {"model": given["model"]}),
        **{name: given[name] for name in RUN},
        "placement": {name: given[name] for name in (*options.PLACEMENT, "batch_size")},
    }
    spec = DetectSpec.parse(data, "detect")
    quiet = given["quiet"]
    reporter = Reporter(quiet=quiet, verbose=given["verbose"], unit="tiles")
    with termination_interrupts(), reporter:
        result = detect_batch(spec, reporter)
    if given["as_json"]:
        click.echo(_as_json(result))
    elif not quiet:
        click.echo("\n".join(printable(line) for line in _as_lines(result)))
    return result.exit_status


def _as_json(result: DetectResult) -> str:
    fields = {**asdict(result), "out": str(result.out), "kept": sorted(result.kept)}
    return json_text({**fields, "exit_status": result.exit_status})


def _as_lines(result: DetectResult) -> list[str]:
    from wsi_mitosis.cli.progress import ended, several

    parts = result.out.with_name(f"{result.out.name}.parts")
    candidates = several(sum(result.candidates.values()), "candidate")
    return [*ended(result, parts / "run.json"), f"{candidates} in {result.out}. Research use only."]
