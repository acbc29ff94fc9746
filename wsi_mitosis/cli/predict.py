"""`wsi-mitosis predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import message, note

if TYPE_CHECKING:
    from wsi_mitosis.jobs.predict import StackResult
    from wsi_mitosis.tables import BackendChoice, Tta, Vote

INPUT_DIR, OUTPUT_DIR = Path("/input"), Path("/output")
"""Where Grand Challenge mounts a container's folders."""


@click.command()
@click.argument("stack", required=False, type=click.Path(path_type=Path), metavar="[STACK]")
@options.path("--out", metavar="FILE.json", help="File for the predictions.")
@options.model
@click.option("--grand-challenge", is_flag=True, help="Run as the container of MIDOG 2025 track 2.")
@options.path("--input-dir", help="For --grand-challenge.  [default: /input]")
@options.path("--output-dir", help="For --grand-challenge.  [default: /output]")
@options.device
@options.backend
@options.tta
@options.vote
@click.option("--json", "as_json", is_flag=True, help="Print the predictions, as they are in the file.")
@options.quiet
@options.verbose
def command(
    stack: Path | None,
    out: Path | None,
    model: str | None,
    input_dir: Path | None,
    output_dir: Path | None,
    device: str,
    backend: BackendChoice,
    tta: Tta | None,
    vote: Vote,
    *,
    grand_challenge: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Classify crops without a slide: the pages of a TIFF.

    STACK has square RGB pages of one size with the figure in the centre; pages larger than the bundle's
    patches are cut to their centre. FILE.json lists in page order a class, atypical or normal, and
    P(atypical) as "confidence"; FILE.provenance.json beside it names the bundle.

    Example:  wsi-mitosis predict crops.tiff --out crops.json
    """
    if grand_challenge == (stack is not None) or (grand_challenge and out):
        raise click.UsageError("Give a STACK with --out or --json, or --grand-challenge without either.")
    if not grand_challenge and (input_dir or output_dir):
        raise click.UsageError("--input-dir and --output-dir go with --grand-challenge.")
    if not (grand_challenge or out or as_json):
        raise click.UsageError("Give --out FILE.json, --json, or both.")

    import json

    from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
    from wsi_mitosis.jobs.predict import predict_challenge, predict_stack

    bundle = open_bundle(find_bundle(model or DEFAULT_BUNDLE))
    if not bundle.manifest.trained and not quiet:
        note(f"'{bundle.manifest.name}' is UNTRAINED: these labels mean nothing")
    if stack is None:
        result, out = predict_challenge(
            input_dir or INPUT_DIR,
            output_dir or OUTPUT_DIR,
            bundle,
            device=device,
            backend=backend,
            tta=tta,
            vote=vote,
        )
    else:
        result = predict_stack(stack, bundle, device=device, backend=backend, tta=tta, vote=vote)
        if out is not None:
            result.write(out)
    if as_json:
        click.echo(json.dumps(result.predictions))
    if not quiet:
        _summarise(result, out, verbose=verbose)
    return 0


def _summarise(result: StackResult, out: Path | None, *, verbose: bool) -> None:
    """Print what was found to standard error; standard output is for --json."""
    if verbose:
        votes = zip(result.predictions, result.votes.votes_atypical, result.votes.votes_cast, strict=True)
        for page, (prediction, atypical, cast) in enumerate(votes, start=1):
            label, p_atypical = prediction["class"], prediction["confidence"]
            message(f"page {page}: {label:8} P(atypical) {p_atypical:.3f}, {atypical} of {cast} votes")
    atypical = int(result.votes.is_atypical.sum())
    where = f" in {out}" if out is not None else ""
    message(f"{len(result.votes)} crops: {atypical} atypical{where}, on {result.device}. Research use only.")
