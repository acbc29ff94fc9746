"""Make one bundle of members of several bundles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_mitosis.errors import BundleError, InputError, listed, several
from wsi_mitosis.io.bundles import (
    Bundle,
    check_unused,
    find_bundle,
    open_bundle,
    write_bundle_of_files,
)
from wsi_mitosis.jobs.cards import combined_card
from wsi_mitosis.specs import BUNDLE_NAME, MemberTrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wsi_mitosis.specs import BundleManifest, InputSpec, MemberSpec, NetworkSpec

STAGE = "combining bundles"


@dataclass(frozen=True)
class Selection:
    """Members that are taken from a bundle.

    Attributes:
        bundle: The bundle.
        positions: Their positions among the bundle's members, from 0, in the order in which they are taken.
    """

    bundle: Bundle
    positions: tuple[int, ...]

    @property
    def members(self) -> list[MemberSpec]:
        """The members as they are in the bundle's manifest."""
        return [self.bundle.manifest.member[position] for position in self.positions]

    @property
    def networks(self) -> list[NetworkSpec]:
        """The members' networks."""
        return [self.bundle.manifest.network_of(member) for member in self.members]

    @property
    def fields_px(self) -> list[int]:
        """The sides of the members' fields, px."""
        return [self.bundle.manifest.input_of(member).cut_px for member in self.members]

    @property
    def origins(self) -> list[MemberTrainingSpec | None]:
        """Where the members come from; None for untrained ones."""
        return [member.training or self._origin for member in self.members]

    @property
    def _origin(self) -> MemberTrainingSpec | None:
        manifest = self.bundle.manifest
        if manifest.training is None:
            return None
        origin = manifest.training.model_dump(exclude={"samples", "samples_sha256"})
        return MemberTrainingSpec(
            bundle=manifest.name, bundle_digest=self.bundle.digest, licence=manifest.licence, **origin
        )


def select(text: str) -> Selection:
    """Open a bundle and select members by position.

    Args:
        text: The folder of a bundle or the name of a shipped one, for all members; followed by a colon and
            positions, such as `my-bundle:0,2,4`, for some of them.

    Raises:
        BundleError: If there is no such bundle, or its files do not match its manifest.
        InputError: If it has no such member.
    """
    folder, numbers = _found(text)
    bundle = open_bundle(folder)
    number = len(bundle.manifest.member)
    known = {str(position): position for position in range(number)}
    if numbers is None:
        return Selection(bundle, tuple(known.values()))
    if unknown := [part for part in numbers.split(",") if part not in known]:
        raise InputError(
            f"'{bundle.manifest.name}' has no member '{unknown[0]}'",
            subject=text,
            stage=STAGE,
            remedy=f"Give positions from 0 to {number - 1}, separated by commas, after the colon",
        )
    return Selection(bundle, tuple(known[part] for part in numbers.split(",")))


def _found(text: str) -> tuple[Path, str | None]:
    """Return the folder of a bundle, and what follows the colon; None if the whole text is its name."""
    name, colon, numbers = text.rpartition(":")
    try:
        return find_bundle(text), None
    except BundleError:
        if not colon:
            raise
    return find_bundle(name), numbers


def select_without(text: str, test_domain: str) -> Selection:
    """Open a bundle and select the members that were trained without a domain.

    Args:
        text: The folder of a bundle, or the name of a shipped one.
        test_domain: The domain.

    Raises:
        BundleError: If there is no such bundle, or its files do not match its manifest.
        InputError: If the bundle has no such member.
    """
    bundle = open_bundle(find_bundle(text))
    domains = [member.test_domain for member in bundle.manifest.member]
    positions = tuple(index for index, domain in enumerate(domains) if domain == test_domain)
    if not positions:
        known = listed(sorted({domain for domain in domains if domain}), most=len(domains))
        raise InputError(
            f"no member was trained without the domain '{test_domain}'",
            subject=text,
            stage=STAGE,
            remedy=f"Leave out this bundle, or name a domain that its members left out: {known or 'none'}",
        )
    return Selection(bundle, positions)


def combine(selections: Sequence[Selection], out: Path, name: str | None = None, *, least: int = 2) -> Bundle:
    """Write a bundle of the selected members. Their files are copied byte for byte.

    Calibrations of the bundles are not taken over: a temperature is that of an ensemble as a whole.
    The classes are the same in every bundle, so that members vote together if their bundles have the same
    input, but for the field, and the same rule of voting. The new bundle has the largest of the fields, and
    a member with a smaller one sees the centre of it.

    Args:
        selections: Members of one or more bundles, in the order in which they are written.
        out: The folder of the new bundle. It must not exist, or be empty.
        name: The name of the new bundle; the folder's if None.
        least: The fewest members that are accepted. The member that has not seen a domain may stand alone.

    Returns:
        The bundle, as read back from disk.

    Raises:
        InputError: If the members cannot vote together, if what they were trained on is contradictory, or if
            the name cannot be a bundle's.
        BundleError: If a file is missing or altered.
        OutputError: If the folder is in use or cannot be written.
    """
    check_unused(out)
    name = name or out.name
    if not re.fullmatch(BUNDLE_NAME, name):
        raise InputError(
            f"'{name}' cannot be the name of a bundle",
            subject=out,
            stage=STAGE,
            remedy="Use letters, digits, '.', '_' and '-' only, in the folder's name or in --name",
        )
    _check_members(selections, least)
    _check_rules(selections)
    samples, fields = _samples(selections), _fields(selections, name)
    taken = [(one.bundle, position) for one in selections for position in one.positions]
    card = combined_card(fields, taken)
    return write_bundle_of_files(
        out,
        fields,
        (one.bundle.read_file(member) for one in selections for member in one.members),
        card,
        samples=samples,
    )


def _check_members(selections: Sequence[Selection], least: int) -> None:
    """Check that there are enough members, and each once."""
    members = [
        (f"{one.bundle.folder}:{position}", one.bundle.manifest.member[position])
        for one in selections
        for position in one.positions
    ]
    if len(members) < least:
        raise InputError(
            f"{several(len(members), 'member')} selected, but an ensemble needs two or more",
            subject=listed(one.bundle.manifest.name for one in selections),
            stage=STAGE,
            remedy="Name further bundles, or more members of these",
        )
    first: dict[str, str] = {}
    for place, member in members:
        if (earlier := first.setdefault(member.sha256, place)) is not place:
            raise InputError(
                f"the member has the same weights as {earlier} (SHA-256 {member.sha256[:12]})",
                subject=place,
                stage=STAGE,
                remedy="Select each member once: a copy would double its vote",
            )


def _check_rules(selections: Sequence[Selection]) -> None:
    """Check that the bundles have the same input and vote, and are all trained or all untrained."""
    first, *others = bundles = [one.bundle for one in selections]
    for bundle in bundles:
        calibration = bundle.manifest.calibration
        if calibration is not None and calibration.fitted_on == "own figures":
            parent = bundle.manifest.parent
            raise InputError(
                "its threshold was fitted together with its calibration, which holds for it alone",
                subject=bundle.folder,
                stage=STAGE,
                remedy=f"Combine members of {listed([parent.name]) if parent else 'the bundle before it'}, "
                "from which it was derived, and calibrate the result",
            )
    for other in others:
        for difference in _differences(first.manifest, other.manifest):
            raise InputError(
                f"{difference}, so that their members cannot vote together",
                subject=other.folder,
                stage=STAGE,
                remedy="Combine bundles whose [ensemble] is the same, and whose [input] is but for field_px",
            )
        if first.manifest.trained != other.manifest.trained:
            untrained = other if first.manifest.trained else first
            raise InputError(
                "it is untrained, and its votes would spoil those of trained members",
                subject=untrained.folder,
                stage=STAGE,
                remedy="Leave it out",
            )


def _differences(first: BundleManifest, other: BundleManifest) -> Iterator[str]:
    for table in ("input", "ensemble"):
        ours, theirs = (getattr(one, table).model_dump(exclude={"field_px"}) for one in (first, other))
        yield from (
            f"its {key} in [{table}] is {theirs[key]}, but that of '{first.name}' is {value}"
            for key, value in ours.items()
            if theirs[key] != value
        )


def _samples(selections: Sequence[Selection]) -> list[str]:
    """Return the lines of the list of all samples that any of the bundles lists."""
    bundles = {one.bundle.digest: one.bundle for one in selections if one.bundle.manifest.trained}.values()
    lists = [(bundle, bundle.read_samples()) for bundle in bundles]
    silent = [bundle for bundle, recorded in lists if not recorded]
    if silent and len(silent) < len(lists):
        raise InputError(
            "it does not list the samples that it was trained on, but another bundle does",
            subject=silent[0].folder,
            stage=STAGE,
            remedy="Leave it out: samples that its members have seen would count as unseen",
        )
    union: dict[str, tuple[Bundle, frozenset[str]]] = {}
    for bundle, recorded in lists:
        for digest, domains in recorded.items():
            first, known = union.setdefault(digest, (bundle, domains))
            if domains != known:
                raise InputError(
                    f"sample {digest[:12]} has {_domains(domains)}, but in {first.folder} {_domains(known)}",
                    subject=bundle.folder,
                    stage=STAGE,
                    remedy="Combine bundles that were trained on data sets with the same domains: otherwise "
                    "it cannot be said which member has not seen the sample",
                )
    return sorted(
        f"{digest} {domain}".strip() for digest, (_, domains) in union.items() for domain in domains or ("",)
    )


def _domains(names: frozenset[str]) -> str:
    return f"the domain {listed(sorted(names))}" if names else "no domain"


def _widest(selections: Sequence[Selection]) -> InputSpec:
    """Return the input with the largest field, of which members with another field see the centre."""
    return max((one.bundle.manifest.input for one in selections), key=lambda spec: spec.cut_px)


def _common_sharpness(selections: Sequence[Selection]) -> dict[str, Any] | None:
    """Return the table [sharpness] of the bundles with the largest field; None if they differ in it."""
    field_px = _widest(selections).cut_px
    manifests = [one.bundle.manifest for one in selections]
    first, *others = (one.sharpness for one in manifests if one.input.cut_px == field_px)
    if first is None or any(other != first for other in others):
        return None
    return first.model_dump()


def _fields(selections: Sequence[Selection], name: str) -> dict[str, Any]:
    """The manifest, as `io.bundles.write_bundle` takes it."""
    first, network, widest = selections[0].bundle.manifest, selections[0].networks[0], _widest(selections)
    licences = (
        origin.licence if origin else one.bundle.manifest.licence
        for one in selections
        for origin in one.origins
    )
    fields = {
        "name": name,
        "version": "1",
        "licence": "; ".join(dict.fromkeys(licences)),
        "intended_use": " ".join(dict.fromkeys(one.bundle.manifest.intended_use for one in selections)),
        "trained": first.trained,
        "input": widest.model_dump(),
        "network": network.model_dump(),
        "ensemble": first.ensemble.model_dump(),
        "sharpness": _common_sharpness(selections),
        "member": [
            _member(*parts, network, widest)
            for one in selections
            for parts in zip(one.members, one.networks, one.fields_px, one.origins, strict=True)
        ],
    }
    return {**fields, "training": {}} if first.trained else fields


def _member(
    member: MemberSpec,
    network: NetworkSpec,
    field_px: int,
    origin: MemberTrainingSpec | None,
    shared: NetworkSpec,
    widest: InputSpec,
) -> dict[str, Any]:
    """The table of one member; `shared` is the bundle's network, and `widest` its input."""
    own = {
        "network": None if network == shared else network,
        "field_px": None if field_px == widest.cut_px else field_px,
        "training": origin,
    }
    return member.model_copy(update=own).model_dump(exclude={"file", "sha256"})
