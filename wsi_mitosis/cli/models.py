"""`wsi-mitosis models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.completing import completer
from wsi_mitosis.cli.render import message
from wsi_mitosis.cli.render import show as show_result
from wsi_mitosis.cli.streams import json_text
from wsi_mitosis.errors import several

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import BackendChoice


bundles_or_folders = completer("BUNDLE")
new_folder = options.path("--out", required=True, metavar="DIR", help="Folder of the new bundle.")
new_name = click.option(
    "--name", callback=options.filled, help="Name of the new bundle.  [default: the folder's name]"
)


@click.group()
def command() -> None:
    """List, show, verify, calibrate and combine bundles: the ensembles that classify figures.

    Example:  wsi-mitosis models list
    """


@command.command("list")
@options.as_json
def list_(*, as_json: bool) -> int:
    """List the shipped bundles.

    Example:  wsi-mitosis models list
    """
    from wsi_mitosis.io.shipped import names

    facts = [_facts(_opened(name)) for name in names("models")]
    if as_json:
        click.echo(json_text({"bundles": facts}))
        return 0
    for fact in facts:
        click.echo(
            f"{fact['name']:24} {_trained(fact)}; {_fields(fact)} px at {fact['mpp_um']} um/px, "
            f"{fact['members']} members; {fact['licence']}"
        )
    return 0


@command.command()
@click.argument("bundle", required=False, shell_complete=bundles_or_folders)
@options.as_json
def show(bundle: str | None, *, as_json: bool) -> int:
    """Show a bundle's properties and its card.

    BUNDLE is a folder or the name of a shipped bundle; by default the one that `classify` uses.

    Example:  wsi-mitosis models show untrained-tiny
    """
    found = _opened(bundle)
    if as_json:
        manifest = found.manifest.model_dump(mode="json", by_alias=True)
        click.echo(json_text({**_facts(found), "manifest": manifest}))
        return 0
    for name, value in _facts(found).items():
        if value is not None:
            click.echo(f"{name + ':':14} {value}")
    click.echo(f"\n{found.read_card()}")
    return 0


@command.command()
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...", shell_complete=bundles_or_folders)
@options.as_json
def verify(bundles: tuple[str, ...], *, as_json: bool) -> int:
    """Check a bundle's files against its manifest, and build its networks; by default of all shipped bundles.

    Example:  wsi-mitosis models verify my-bundle/

    Exit status: 0 all can be used, 2 one cannot, and is named.
    """
    from wsi_mitosis.io.shipped import names
    from wsi_mitosis.nets.ensembles import Ensemble

    verified = []
    for name in bundles or names("models"):
        bundle = _opened(name)
        Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
        verified.append({"name": bundle.manifest.name, "folder": str(bundle.folder), "digest": bundle.digest})
        if not as_json:
            click.echo(
                f"ok  {bundle.manifest.name} {bundle.digest[:12]}: {len(bundle.manifest.member)} members"
            )
    if as_json:
        click.echo(json_text({"verified": verified}))
    return 0


@command.command()
@click.argument("bundle", shell_complete=bundles_or_folders)
@options.path("--dataset", required=True, metavar="STORE.zarr", help="Your labelled figures.")
@new_folder
@new_name
@options.device
@options.backend
@options.messages
def calibrate(
    bundle: str,
    dataset: Path,
    out: Path,
    name: str | None,
    device: str,
    backend: BackendChoice,
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Derive a bundle from BUNDLE whose temperature and threshold fit your own labelled figures.

    BUNDLE is the folder of a trained bundle, or the name of a shipped one. It stays as it is. The new bundle
    has the same weights, and states which bundle it was derived from. What it gains is measured by
    cross-validation over slides, with an interval. That takes at least 25 figures of each class, from at
    least 5 slides.

    \b
    Example:  wsi-mitosis models calibrate amibr-lite2 --dataset own.zarr --out my-bundle
    """
    from wsi_mitosis.io.training.stores import open_checked_store
    from wsi_mitosis.jobs.calibrate import calibrate as calibrate_bundle
    from wsi_mitosis.jobs.calibrate import gain_lines

    def progress(member: str, done: int, samples: int) -> None:
        if not quiet and (verbose or not done):
            message(f"{member}: {done} of {samples} samples")

    found = calibrate_bundle(
        _opened(bundle),
        open_checked_store(dataset),
        out,
        name=name,
        device=device,
        backend=backend,
        on_progress=progress,
    )
    lines = (
        f"{found.parent.name}: temperature {found.parent.temperature:.3f}, "
        f"threshold {found.parent.ensemble.threshold:.3f}",
        f"{found.bundle.manifest.name}: temperature {found.bundle.manifest.temperature:.3f}, "
        f"threshold {found.bundle.manifest.ensemble.threshold:.3f}",
        *gain_lines(found.gain),
        f"{found.bundle.folder}: digest {found.bundle.digest}",
    )
    show_result(found.as_json, lambda: lines, as_json=as_json, quiet=quiet)
    return 0


@command.command()
@click.argument(
    "bundles",
    nargs=-1,
    required=True,
    metavar="BUNDLE[:N,N...]...",
    shell_complete=bundles_or_folders,
)
@new_folder
@new_name
@click.option(
    "--test-domain",
    callback=options.filled,
    metavar="NAME",
    help="Take the members of each bundle that were trained without this domain.",
)
@options.path(
    "--dataset",
    metavar="STORE.zarr",
    help="The samples that the members were trained on: calibrate and score the bundle on the domains that "
    "each member left out.",
)
@options.as_json
def combine(
    bundles: tuple[str, ...],
    out: Path,
    name: str | None,
    test_domain: str | None,
    dataset: Path | None,
    *,
    as_json: bool,
) -> int:
    """Make a bundle of members of several bundles, which may have different networks and fields.

    BUNDLE is a folder or the name of a shipped bundle. All of its members are taken, or those whose
    positions, counted from 0, follow a colon. With --test-domain those are taken that were trained without
    this domain; `evaluate` scores the new ensemble on it, because none of its members has seen it.

    The bundles must have the same [ensemble], the same [input] but for field_px, and the same domains of the
    samples that several of them list. The new bundle has the largest field; members with a smaller one see
    its centre. The calibrations and the scores of the bundles do not hold for the new one: --dataset gives it
    its own. It keeps the limit of sharpness of those with the largest field if they have the same.

    Any number of members above one is legal; with --test-domain one is enough. The majority decides; where an
    even number of members is divided into halves, their mean P(atypical) decides at the threshold of the
    bundle.

    \b
    Example:  wsi-mitosis models combine lite2:0,2,4 lite0 --out mixed
    """
    from wsi_mitosis.io.training.stores import open_checked_store
    from wsi_mitosis.jobs import combine as job
    from wsi_mitosis.jobs.calibrate import calibrate_and_score

    if test_domain is None:
        selections = [job.select(bundle) for bundle in bundles]
    else:
        selections = [job.select_without(bundle, test_domain) for bundle in bundles]
    store = None if dataset is None else open_checked_store(dataset)
    combined = job.combine(selections, out, name, least=2 if test_domain is None else 1)
    if store is not None:
        combined = calibrate_and_score(combined, store)
    if as_json:
        click.echo(json_text(_facts(combined)))
        return 0
    for network, number in combined.manifest.networks.items():
        click.echo(f"{several(number, 'member')} of {network.text}")
    scored = "It has not been evaluated yet." if store is None else "Its card has its scores."
    click.echo(f"{combined.manifest.name} {combined.digest[:12]} in {out}. {scored}")
    return 0


def _opened(bundle: str | None) -> Bundle:
    from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle

    return open_bundle(find_bundle(DEFAULT_BUNDLE if bundle is None else bundle))


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "trained": manifest.trained,
        "patch_px": manifest.input.patch_px,
        "mpp_um": manifest.input.mpp,
        "fields_px": [manifest.input_of(member).cut_px for member in manifest.member],
        **_networks(manifest),
        "members": len(manifest.member),
        "threshold": manifest.ensemble.threshold,
        "temperature": manifest.temperature,
        "tta": manifest.ensemble.tta,
        "zooms": list(manifest.ensemble.zooms),
        "bf16": _bfloat16(manifest),
        "licence": manifest.licence,
        "intended_use": manifest.intended_use,
        "digest": bundle.digest,
        "folder": str(bundle.folder),
        "parent": None if (parent := manifest.parent) is None else f"{parent.name} {parent.digest}",
    }


def _networks(manifest: BundleManifest) -> dict[str, Any]:
    """The network of the members; of different ones their names, with the number of members of each."""
    if len(manifest.networks) == 1:
        network = manifest.network_of(manifest.member[0])
        return {"backbone": network.backbone, "width": network.width}
    text = "; ".join(f"{number} x {network.text}" for network, number in manifest.networks.items())
    return {"backbone": text, "width": None}


def _bfloat16(manifest: BundleManifest) -> str | None:
    """How labels in bfloat16 compare with those in float32; None if `--precision bf16` is not offered."""
    if (found := manifest.bfloat16) is None:
        return None
    return f"offered; {found.changed} of {found.figures} labels differ from those in float32"


def _fields(facts: dict[str, Any]) -> str:
    """The sides of what the members see of a slide, px."""
    return " or ".join(map(str, dict.fromkeys(facts["fields_px"])))


def _trained(facts: dict[str, Any]) -> str:
    return "trained" if facts["trained"] else "UNTRAINED, its labels mean nothing"
