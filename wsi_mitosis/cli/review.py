"""`wsi-mitosis review`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import failure, show
from wsi_mitosis.core.review_files import Order

if TYPE_CHECKING:
    from wsi_mitosis.core.review_files import Design
    from wsi_mitosis.jobs.review import ReviewResult


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--slides",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Slides to show, such as `case-1*.svs`; repeatable.  [default: all]",
)
@click.option(
    "--order",
    type=click.Choice(get_args(Order)),
    help="rank: the figures first whose correction could change the counts most; random; or slide: by slide "
    "and place.  [default: rank; random for --blind and --sample]",
)
@click.option(
    "--first", type=click.IntRange(min=1), metavar="N", help="Show the first N figures of the order only."
)
@click.option("--blind", is_flag=True, help="Hide everything that the ensemble and other reviewers said.")
@click.option(
    "--reviewer",
    callback=options.filled,
    metavar="NAME",
    help="Name of the reviewer.  [default: the page asks for it]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show a stratified random sample of N figures, from which `recount` estimates the counts.",
)
@click.option(
    "--disagreements",
    is_flag=True,
    help="Show the figures on which the reviewers of the last recount disagree.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="INT",
    help="Seed of the random order and of the sample.",
)
@options.messages
def command(
    results: Path,
    globs: tuple[str, ...],
    order: Order | None,
    first: int | None,
    *,
    blind: bool,
    reviewer: str | None,
    sample: int | None,
    disagreements: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Write DIR/review.html, in which figures are reviewed by keys; DIR is a folder that `classify` wrote.

    The page is one file and needs no network. It shows one figure at a time, with the tissue around it. The
    keys are A (atypical), T (typical), N (not a mitosis), U (cannot tell) and Z (undo). The work is kept in
    the browser, and the page saves it as review-<reviewer>.json, which `recount --reviewed` reads.

    A page has at most 600 figures and 40 MB; further ones are in review-2.html, review-3.html and so on.

    \b
    Example:  wsi-mitosis review results --first 100
              wsi-mitosis review results --blind --reviewer anna
              wsi-mitosis review results --sample 100 --seed 7

    Exit status: 0 written, 1 some slides could not be read, 2 not written.
    """
    from wsi_mitosis.jobs.review import review

    result = review(
        results,
        _design(order, first, blind=blind, sample=sample, disagreements=disagreements, seed=seed),
        reviewer=reviewer,
        globs=globs,
    )
    for error in result.errors.values():
        failure(error)
    show(
        lambda: _as_data(result),
        lambda: _as_lines(result, verbose=verbose),
        as_json=as_json,
        quiet=quiet,
    )
    return result.exit_status


def _design(
    order: Order | None,
    first: int | None,
    *,
    blind: bool,
    sample: int | None,
    disagreements: bool,
    seed: int,
) -> Design:
    from wsi_mitosis.core.review_files import Design

    if sample is not None and disagreements:
        raise click.UsageError("--sample and --disagreements choose different figures. Give one of them.")
    if sample is not None and first is not None:
        raise click.UsageError("--sample already says how many figures are shown. Leave out --first.")
    hidden = blind or sample is not None
    if blind and order == "rank":
        raise click.UsageError(
            "--order rank shows which labels are doubtful, so it is not blind. Use --order random or slide."
        )
    return Design(
        selection="sample" if sample is not None else "disagreements" if disagreements else "all",
        order=order or ("random" if hidden else "rank"),
        blind=blind,
        seed=seed,
        most=first,
        sample=sample,
    )


def _as_data(result: ReviewResult) -> dict[str, Any]:
    return {
        "pages": [str(path) for path in result.paths],
        "figures": result.figures,
        "slides": list(result.slides),
        "design": result.design.model_dump(mode="json"),
        "errors": dict(result.errors),
        "size_bytes": result.size_bytes,
        "exit_status": result.exit_status,
    }


def _as_lines(result: ReviewResult, *, verbose: bool) -> list[str]:
    from wsi_mitosis.errors import several

    blind = ", blind" if result.design.blind else ""
    return [
        *(f"  {path}" for path in result.paths if verbose),
        f"{several(result.figures, 'figure')} of {several(len(result.slides), 'slide')}{blind}: "
        f"{result.paths[0]}"
        + (f" and {several(len(result.paths) - 1, 'further part')}" if len(result.paths) > 1 else "")
        + f" ({result.size_bytes / 1e6:.1f} MB). Research use only.",
    ]
