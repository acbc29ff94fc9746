"""`wsi-mitosis train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.streams import json_text

if TYPE_CHECKING:
    from wsi_mitosis.jobs.train import TrainResult


@click.command()
@click.argument("recipe", metavar="RECIPE.toml")
@click.option("--dataset", required=True, metavar="STORE.zarr", help="A store of `dataset build`.")
@click.option("--out", required=True, metavar="BUNDLE", help="Folder of the bundle that is made.")
@click.option(
    "--work", metavar="DIR", help="Checkpoints, metrics, curves.  [default: BUNDLE.training, beside it]"
)
@click.option("--fold", "folds", multiple=True, metavar="NAME", help="Train these folds only (repeatable).")
@click.option(
    "--validation",
    multiple=True,
    metavar="TEST=DOMAIN",
    help="The fold that tests on TEST selects on DOMAIN (repeatable).  [default: the next domain]",
)
@click.option("--encoder-weights", metavar="PATH", help="For a recipe that starts from a checkpoint.")
@click.option("--name", help="Of the bundle.  [default: its folder's]")
@click.option("--licence", metavar="TEXT", help="Of the weights.  [default: the dataset's]")
@options.workers_placement
@options.as_json
@options.quiet
@options.verbose
def command(
    recipe: str, validation: tuple[str, ...], *, as_json: bool, quiet: bool, verbose: bool, **given: Any
) -> int:
    """Train an ensemble, leaving one domain out at a time, and write it as a bundle.

    RECIPE is a TOML file or the name of a shipped one (mtl, single_task, nano, ...). A training that was
    killed goes on from its last epochs when it is run again; a fold that is done is not trained again. The
    bundle is written once all folds are done.

    \b
    Example:  wsi-mitosis train nano --dataset amibr.zarr --out my-bundle

    Exit status: 0 all that was asked is trained, 1 some folds failed, 2 nothing was started,
    130 interrupted.
    """
    from wsi_mitosis.cli.progress import TrainReporter
    from wsi_mitosis.cli.signals import termination_interrupts
    from wsi_mitosis.specs import TrainSpec
    from wsi_mitosis.workers import train_ensemble

    placement = {name: given.pop(name) for name in options.PLACEMENT}
    data = {"recipe": recipe, "validation": _pairs(validation), "placement": placement, **given}
    with termination_interrupts(), TrainReporter(quiet=quiet, verbose=verbose) as reporter:
        result = train_ensemble(TrainSpec.parse(data, "options"), reporter)
    if as_json:
        click.echo(json_text(_as_json(result)))
    elif not quiet:
        _tell(result)
    return result.exit_status


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not TEST=DOMAIN", param_hint="--validation")
    return dict(text.split("=", 1) for text in texts)


def _as_json(result: TrainResult) -> dict[str, Any]:
    return {
        "work": str(result.work),
        "folds": [record.model_dump(mode="json") for record in result.records],
        "failed": result.failed,
        "waiting": list(result.waiting),
        "bundle": None if result.bundle is None else str(result.bundle.folder),
        "bundle_digest": None if result.bundle is None else result.bundle.digest,
    }


def _tell(result: TrainResult) -> None:
    for record in result.records:
        accuracy = record.validation_balanced_accuracy
        told = "undefined" if accuracy is None else f"{accuracy:.3f}"
        click.echo(f"{record.fold}: balanced accuracy {told} on {record.validation_domain} (validation)")
    if result.bundle is not None:
        click.echo(
            f"{result.bundle.folder}: {len(result.bundle.manifest.member)} members. Research use only."
        )
        click.echo(f"Score it:  wsi-mitosis evaluate --model {result.bundle.folder} --dataset ...")
    elif left := (*result.failed, *result.waiting):
        click.echo(f"No bundle yet; to be trained: {', '.join(left)}")
