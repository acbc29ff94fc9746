"""`wsi-mitosis train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import show
from wsi_mitosis.specs import TrainSpec

if TYPE_CHECKING:
    from wsi_mitosis.jobs.train import TrainResult


def _pairs(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return several `TEST=DOMAIN` as a dictionary."""
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not of the form TEST=DOMAIN.", ctx, param)
    return dict(text.split("=", 1) for text in texts)


@click.command()
@options.of(TrainSpec, validation={"multiple": True, "callback": _pairs})
@options.messages
def command(*, as_json: bool, quiet: bool, verbose: bool, **given: Any) -> int:
    """Train an ensemble, leaving one domain out at a time, and write it as a bundle.

    RECIPE is a TOML file or the name of a shipped one (mtl, single_task, nano, ...). A training that was
    killed continues from its last epochs when it is run again, and finished folds are not trained again. The
    bundle is written when all folds are finished.

    With --from, the members of a bundle are trained further on figures of your own, in small steps. Each
    member leaves out some slides, on which it is compared with the one that it started from. That takes at
    least 25 figures of each class, from at least 5 slides.

    \b
    Example:  wsi-mitosis train nano --dataset amibr.zarr --out my-bundle
              wsi-mitosis train lite2 --from amibr-lite2 --dataset own.zarr --out mine

    Exit status: 0 all selected folds are trained, 1 some folds failed, 2 nothing was started,
    130 interrupted.
    """
    from wsi_mitosis.cli.progress import TrainReporter
    from wsi_mitosis.nets.memory import keep_large_blocks
    from wsi_mitosis.workers.folds import train_ensemble

    spec = options.parse(TrainSpec, given, "train")
    keep_large_blocks()
    with TrainReporter(quiet=quiet, verbose=verbose) as reporter:
        result = train_ensemble(spec, reporter)
    show(lambda: _as_data(result), lambda: _as_lines(result), as_json=as_json, quiet=quiet)
    return result.exit_status


def _as_data(result: TrainResult) -> dict[str, Any]:
    return {
        "work": str(result.work),
        "folds": [record.model_dump(mode="json") for record in result.records],
        "failed": result.failed,
        "waiting": list(result.waiting),
        "bundle": None if result.bundle is None else str(result.bundle.folder),
        "bundle_digest": None if result.bundle is None else result.bundle.digest,
        "gain": None if result.gain is None else result.gain.as_json(),
    }


def _as_lines(result: TrainResult) -> list[str]:
    lines = []
    for record in () if result.gain is not None else result.records:
        accuracy = record.validation_balanced_accuracy
        text = "undefined" if accuracy is None else f"{accuracy:.3f}"
        lines.append(f"{record.fold}: balanced accuracy {text} on {record.validation_domain} (validation)")
    if result.gain is not None:
        lines += result.gain.lines()
    if result.bundle is not None:
        folder, members = result.bundle.folder, len(result.bundle.manifest.member)
        lines.append(f"{folder}: {members} members. Research use only.")
        lines.append(f"Evaluate it:  wsi-mitosis evaluate --model {folder} --dataset ...")
    elif remaining := (*result.failed, *result.waiting):
        lines.append(f"The bundle is not written yet. Folds to train: {', '.join(remaining)}")
    return lines
