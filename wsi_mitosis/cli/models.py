"""`wsi-mitosis models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsi_mitosis.cli import options
from wsi_mitosis.cli.streams import json_text

if TYPE_CHECKING:
    from wsi_mitosis.io.bundles import Bundle


@click.group()
def command() -> None:
    """List, show and verify bundles: the ensembles that classify figures.

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
            f"{fact['name']:24} {_trained(fact)}; {fact['patch_px']} px at {fact['mpp_um']} um/px, "
            f"{fact['members']} members; {fact['licence']}"
        )
    return 0


@command.command()
@click.argument("bundle", required=False)
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
        click.echo(f"{name + ':':14} {value}")
    click.echo(f"\n{found.read_card()}")
    return 0


@command.command()
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@options.as_json
def verify(bundles: tuple[str, ...], *, as_json: bool) -> int:
    """Check a bundle's files against its manifest, and build its networks; by default of all shipped bundles.

    Example:  wsi-mitosis models verify my-bundle/

    Exit status: 0 all can be used, 2 one cannot, and is named.
    """
    from wsi_mitosis.io.shipped import names
    from wsi_mitosis.nets.members import Ensemble

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
        "backbone": manifest.network.backbone,
        "width": manifest.network.width,
        "members": len(manifest.member),
        "tta": manifest.ensemble.tta,
        "zooms": list(manifest.ensemble.zooms),
        "licence": manifest.licence,
        "intended_use": manifest.intended_use,
        "digest": bundle.digest,
        "folder": str(bundle.folder),
    }


def _trained(facts: dict[str, Any]) -> str:
    return "trained" if facts["trained"] else "UNTRAINED, its labels mean nothing"
