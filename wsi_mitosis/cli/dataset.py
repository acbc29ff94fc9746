"""`wsi-mitosis dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.render import show as show_result
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.specs import DatasetSpec

if TYPE_CHECKING:
    from rich.table import Table

    from wsi_mitosis.jobs.dataset import BuildResult, Contents, DomainContents, Verification

LOG_COLUMNS = 200
"""Width of a table that is not printed to a terminal; a table takes no more than it needs."""


@click.group()
def command() -> None:
    """Build, show and verify a store of labelled figures, to train on or to test with.

    Example:  wsi-mitosis dataset show amibr.zarr
    """


@command.command()
@options.of(DatasetSpec)
@options.messages
def build(*, as_json: bool, quiet: bool, verbose: bool, **given: Any) -> int:
    """Build a store from published labels and their images.

    \b
    PATH for each source:
      midog25  the table of MIDOG 2025's atypical set; --images: its crops, or MIDOG++'s slides
      amibr    AMI-BR.csv; --images: its crops
      folder   a folder that holds Atypical/ and Normal/ (or Typical/) with crops
      csv      a table slide,x,y,label[,domain][,id] in level-0 px; --images: the slides
      reviews  a folder of results in which `recount` wrote reviewed/consensus.csv

    Crops are used whole and at their own scale, and all must be of one size; from slides, level-0 pixels
    around each centre are cut. A build that was killed continues when it is run again.

    \b
    Example:  wsi-mitosis dataset build AMI-BR.csv --source amibr --images AMi-Br/ --out amibr.zarr

    Exit status: 0 built, 2 not built, 130 interrupted.
    """
    from wsi_mitosis.cli.progress import PartsReporter
    from wsi_mitosis.workers.datasets import build_dataset

    spec = options.parse(DatasetSpec, given, "dataset build")
    with PartsReporter(quiet=quiet, verbose=verbose) as reporter:
        result = build_dataset(spec, reporter)
    show_result(lambda: _built(result), lambda: _as_lines(result, spec), as_json=as_json, quiet=quiet)
    return 0


STORE = click.argument("store", type=click.Path(path_type=Path))


@command.command()
@STORE
@options.path(
    "--sheet", metavar="FILE.png", help="Picture of some figures.  [default: STORE.png beside the store]"
)
@options.as_json
def show(store: Path, sheet: Path | None, *, as_json: bool) -> int:
    """Count a store's figures by class and domain, and draw some with their masks.

    Example:  wsi-mitosis dataset show amibr.zarr --sheet amibr.png
    """
    from wsi_mitosis.jobs.dataset import draw
    from wsi_mitosis.jobs.dataset import show as show_store

    contents = show_store(store)
    sheet = sheet or store.with_name(f"{store.name}.png")
    omitted = draw(store, sheet)
    if as_json:
        click.echo(json_text({**_described(contents), "sheet": str(sheet)}))
        return 0
    for name, value in contents.attributes.as_data().items():
        if name != "domains":
            click.echo(f"{name.replace('_', ' ') + ':':23} {_shown(value)}")
    _print(_table(contents))
    click.echo(f"Some of them in {sheet}" + (f" ({omitted} domains omitted)" if omitted else ""))
    return 0


@command.command()
@STORE
@options.path(
    "--against",
    metavar="OTHER",
    help="Second store: list the figures that both have, by image, and by slide and place.",
)
@options.as_json
def verify(store: Path, against: Path | None, *, as_json: bool) -> int:
    """Check a store's digests, and list duplicates, contradictory labels, and slides in two domains.

    Example:  wsi-mitosis dataset verify amibr.zarr --against midog25.zarr

    Exit status: 0 the store can be used (the notes list what to know), 1 damaged or not fit for folds,
    2 not a store.
    """
    from wsi_mitosis.jobs.dataset import verify as verify_store

    found = verify_store(store, against)
    show_result(lambda: _verified(found), lambda: _verified_lines(found), as_json=as_json, quiet=False)
    return found.exit_status


def _shown(value: Any) -> str:
    """An attribute of a store in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(one)}" for name, one in value.items())
    return "unknown" if value is None else str(value)


def _as_lines(result: BuildResult, spec: DatasetSpec) -> list[str]:
    typical = result.samples - result.atypical
    flags = ", ".join(f"{number} {flag}" for flag, number in result.flags.items())
    kept = f" ({result.kept_parts} of {result.parts} parts existed)" if result.kept_parts else ""
    return [
        f"{result.samples} figures: {result.atypical} atypical, {typical} typical",
        f"masks ({spec.masks}): {flags}",
        f"{result.folder}: digest {result.attributes.digest}, {result.seconds:.0f} s{kept}",
    ]


def _built(result: BuildResult) -> dict[str, Any]:
    return {
        "store": str(result.folder),
        **result.attributes.as_data(),
        "samples": result.samples,
        "atypical": result.atypical,
        "typical": result.samples - result.atypical,
        "mask_flags": result.flags,
        "parts": result.parts,
        "kept_parts": result.kept_parts,
        "seconds": round(result.seconds, 3),
    }


def _described(contents: Contents) -> dict[str, Any]:
    from dataclasses import asdict

    domains = {domain.domain: asdict(domain) for domain in contents.domains}
    for counts in (*domains.values(), total := asdict(contents.total)):
        del counts["domain"]
    attributes = contents.attributes.as_data()
    return {"store": str(contents.folder), **attributes, "domains": domains, "total": total}


def _verified(found: Verification) -> dict[str, Any]:
    from dataclasses import asdict

    overlap = None if found.overlap is None else {**asdict(found.overlap), "other": str(found.overlap.other)}
    names = ("samples", "distinct", "duplicate_groups", "contradictory_groups")
    return {
        "store": str(found.folder),
        "digest": found.attributes.digest,
        "ok": not found.faults,
        **{name: getattr(found, name) for name in names},
        "faults": list(found.faults),
        "notes": list(found.notes),
        "overlap": overlap,
    }


def _verified_lines(found: Verification) -> list[str]:
    verdict = "WRONG" if found.faults else "ok"
    attributes = found.attributes
    return [
        *(f"wrong: {fault}" for fault in found.faults),
        *(f"note: {note}" for note in found.notes),
        f"{verdict}  {attributes.name} {attributes.digest[:12]}: {found.samples} samples",
    ]


def _table(contents: Contents) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_footer=True)
    headings = ("domain", "atypical", "typical", "slides", "masks", "no mask because")
    for heading, total in zip(headings, _cells(contents.total), strict=True):
        is_text = heading in {"domain", "no mask because"}
        table.add_column(heading, total, justify="left" if is_text else "right", no_wrap=not is_text)
    for domain in contents.domains:
        table.add_row(*_cells(domain))
    return table


def _cells(counts: DomainContents) -> tuple[str, ...]:
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts.without_mask.items())
    slides = str(counts.slides) if counts.slides else "unknown"
    return counts.domain, str(counts.atypical), str(counts.typical), slides, str(counts.masks), reasons


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_COLUMNS)
    console.print(table)
