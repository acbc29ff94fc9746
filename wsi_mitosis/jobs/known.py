"""What a bundle knows the figures of its training by, and which samples it knows again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.overlap import LOOK, Overlap, find_overlap, identifiers
from wsi_mitosis.core.signatures import BITS, SIGHT_PX, as_text, from_texts, nearest, signatures
from wsi_mitosis.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store

SAMPLES_AT_ONCE = 256


def sample_lines(store: Store) -> list[str]:
    """Return the lines of a bundle's list of samples: an identifier, a blank and a domain each.

    Args:
        store: What it was trained on, at its scale.
    """
    return sorted({f"{key} {domain}" for key, domain in all_identifiers(store)})


def known_with(bundle: Bundle, store: Store | None) -> dict[str, set[str]]:
    """Return the domains of each identifier that a bundle lists, or that a store has.

    What the bundle lists without a domain stays without one: all members may have seen it.

    Args:
        bundle: The bundle whose members or answers a new bundle is trained from.
        store: What the new bundle was trained on beside it, at its scale; None for nothing.
    """
    known = {key: set(domains) for key, domains in bundle.read_samples().items()}
    for key, domain in () if store is None else all_identifiers(store):
        if key not in known or known[key]:
            known.setdefault(key, set()).add(domain)
    return known


def as_lines(known: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the lines of a list of samples: an identifier and a domain each, or an identifier without one.

    Args:
        known: The domains of each identifier.
    """
    lines = ([f"{key} {domain}" for domain in domains] or [key] for key, domains in known.items())
    return sorted(itertools.chain.from_iterable(lines))


def all_identifiers(store: Store) -> Iterator[tuple[str, str]]:
    """Yield what the figures of a store are known by, each with the figure's domain.

    They are pixels and places (`core.overlap.identifiers`) and, in crops that are large enough, the look of
    each figure (`core.signatures`).
    """
    yield from identifiers(store.samples)
    if has_looks(store):
        looks = map(as_text, _looks(store))
        yield from zip((f"{LOOK}{look}" for look in looks), store.samples["domain"], strict=True)


def has_looks(store: Store) -> bool:
    """Return whether the crops of a store are large enough for signatures."""
    return store.attributes.patch_px >= SIGHT_PX


def overlap_of(bundle: Bundle, store: Store) -> Overlap:
    """Find the samples that a bundle was trained or calibrated on.

    Args:
        bundle: The bundle.
        store: The samples, at the bundle's scale.

    Raises:
        BundleError: if the bundle's list of samples is malformed.
    """
    recorded = bundle.read_samples()
    test_domains = [member.test_domain for member in bundle.manifest.member]
    return find_overlap(store.samples, recorded, test_domains, alike=_alike(bundle, recorded, store))


def _alike(bundle: Bundle, recorded: Mapping[str, frozenset[str]], store: Store) -> dict[int, str]:
    """Return the recorded look that samples have, by their rows; without samples that are like none."""
    known = [key for key in recorded if key.startswith(LOOK)]
    if not known or not has_looks(store):
        return {}
    try:
        theirs = from_texts(key.removeprefix(LOOK) for key in known)
    except ValueError as error:
        raise BundleError(
            f"its list of samples is malformed: {error}",
            subject=bundle.folder,
            stage="reading samples",
            remedy="Take the bundle from its source again",
        ) from error
    found = nearest(_looks(store), theirs)
    return {int(row): known[found[row]] for row in np.flatnonzero(found >= 0)}


def _looks(store: Store) -> NDArray[np.bool_]:
    """(N, BITS) signatures of all samples, of which a part is in memory at a time."""
    rows = np.arange(len(store.samples))
    parts = [
        signatures(store.images(rows[start : start + SAMPLES_AT_ONCE]))
        for start in range(0, len(rows), SAMPLES_AT_ONCE)
    ]
    return np.concatenate([np.zeros((0, BITS), np.bool_), *parts])
