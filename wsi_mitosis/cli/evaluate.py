"""`wsi-mitosis evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import message, note
from wsi_mitosis.cli.streams import json_text

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.tables import BackendChoice, Tta


@click.command()
@options.model
@options.path("--dataset", required=True, metavar="STORE.zarr", help="Store that `dataset build` made.")
@options.path(
    "--out",
    metavar="DIR",
    help="Folder for evaluation.json and .md, roc.png, calibration.png and predictions.csv.",
)
@click.option(
    "--allow-overlap",
    is_flag=True,
    help='Evaluate on training data as well, with "training data" beside every value.',
)
@click.option("--card", is_flag=True, help="Write the results into the bundle's CARD.md as well.")
@options.device
@options.backend
@options.tta
@options.messages
def command(
    model: str | None,
    dataset: Path,
    out: Path | None,
    device: str,
    backend: BackendChoice,
    tta: Tta | None,
    *,
    allow_overlap: bool,
    card: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Evaluate a bundle on a labelled dataset: balanced accuracy, sensitivity, specificity, AUROC.

    The ensemble and its members are evaluated with and without the extra views; intervals are by bootstrap
    over slides. P(atypical) is scored before and after calibration: expected calibration error, Brier score.

    Samples that the bundle was trained on are found by their pixels, their place or their look. Then each
    member is evaluated on its own test domain, which it has not seen (their mean and sd: leave one domain
    out), and the ensemble only on samples that no member has seen, if there are any. If there are none at
    all, nothing is evaluated.

    \b
    Example:  wsi-mitosis evaluate --model my-bundle --dataset amibr.zarr --out figures
    """
    from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
    from wsi_mitosis.io.training.evaluation import as_markdown, prepare_folder, write_evaluation
    from wsi_mitosis.io.training.stores import open_checked_store
    from wsi_mitosis.jobs.cards import add_to_card
    from wsi_mitosis.jobs.evaluate import evaluate

    bundle, store = open_bundle(find_bundle(model or DEFAULT_BUNDLE)), open_checked_store(dataset)
    if out is not None:
        prepare_folder(out)

    def progress(member: str, done: int, samples: int) -> None:
        if not quiet and (verbose or not done):
            message(f"{member}: {done} of {samples} samples")

    found = evaluate(
        bundle,
        store,
        device=device,
        backend=backend,
        tta=tta,
        allow_overlap=allow_overlap,
        on_progress=progress,
    )
    if out is not None:
        write_evaluation(out, found.report, found.predictions, found.curves)
    if card:
        add_to_card(bundle, found.report)
    if as_json:
        click.echo(json_text(found.report.as_json()))
    elif not quiet:
        click.echo(as_markdown(found.report), nl=False)
    if not quiet:
        for text in found.report.notes if as_json else ():
            note(text)
        message(f"{len(store.samples)} samples{f'; files in {out}' if out else ''}. {found.report.use}")
    return 0
