"""Whether a store is what it says, fit for folds, and apart from another store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsi_mitosis.errors import DatasetError, listed
from wsi_mitosis.io.training.labels.common import store_order
from wsi_mitosis.io.training.stores import StoreDigest, open_checked_store, open_store, sample_digests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.specs import StoreAttributes

BLOCK = 256


@dataclass(frozen=True)
class Overlap:
    """What a store has in common with another one.

    Attributes:
        other: The other store.
        samples: How many of this store's samples the other has: by digest, or by slide and centre.
        by_digest: How many of them by digest.
        by_place: How many of them by slide and centre.
        contradictory: How many of them the other labels otherwise.
        slides: How many slides are in both.
        domains: How many samples of each domain the other has.
        apart: The domains that share no figure and no slide with the other: the only ones that are a test for
            a model that was trained on the other.
    """

    other: Path
    samples: int
    by_digest: int
    by_place: int
    contradictory: int
    slides: int
    domains: dict[str, int]
    apart: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        samples: How many there are.
        distinct: How many distinct figures, by digest.
        duplicate_groups: How many figures are there more than once.
        contradictory_groups: How many of those with both labels.
        faults: What is wrong: the store is damaged, or cannot be divided into folds.
        notes: What the user should know.
        overlap: Overlap with another store, if one was given.
    """

    folder: Path
    attributes: StoreAttributes
    samples: int
    distinct: int
    duplicate_groups: int
    contradictory_groups: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    overlap: Overlap | None = None

    @property
    def exit_status(self) -> int:
        """1 if something is wrong."""
        return int(bool(self.faults))


def verify(folder: Path, against: Path | None = None) -> Verification:
    """Check a store: its pixels and table against its digests, its slides, its duplicates.

    Args:
        folder: The store.
        against: Another one, such as a training set for this test set.

    Raises:
        DatasetError: if one of the two cannot be opened.
    """
    store = open_store(folder)
    samples = store.samples
    groups = sorted(_duplicates(samples), key=lambda rows: int(rows[0]))
    contradictory = [rows for rows in groups if samples["label"].iloc[rows].nunique() > 1]
    overlap = None if against is None else overlap_with(store, open_checked_store(against))
    return Verification(
        folder=folder,
        attributes=store.attributes,
        samples=len(samples),
        distinct=samples["digest"].nunique(),
        duplicate_groups=len(groups),
        contradictory_groups=len(contradictory),
        faults=(*_damage(store), *_table_faults(store), *_slides_in_two_domains(samples)),
        notes=(*_on_duplicates(samples, groups, contradictory), *_on_overlap(overlap, len(samples))),
        overlap=overlap,
    )


def _damage(store: Store) -> Iterator[str]:
    """What the pixels say against the digests and the flags."""
    samples = store.samples
    digest, readable = StoreDigest.of(store.attributes), True
    for start in range(0, len(samples), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(samples)))
        try:
            images, masks = store.images(rows), store.masks(rows)
        except DatasetError as error:
            readable = False
            yield f"samples {start} to {rows[-1]}: {error.stage}: {error.cause}"
            continue
        block = samples.iloc[rows]
        digest.add(block, images, masks)
        yield from _pixel_faults(block, images, masks)
    if readable and digest.hexdigest() != store.attributes.digest:
        yield "the digest of its content is not the one that it states"


def _pixel_faults(block: pd.DataFrame, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Iterator[str]:
    names = block["source_id"].to_numpy()
    altered = names[np.array(sample_digests(images)) != block["digest"].to_numpy()]
    if len(altered):
        yield f"{len(altered)} images do not fit their digest: {listed(altered)}"
    if len(odd := names[masks.max(axis=(1, 2)) > 1]):
        yield f"{len(odd)} masks have other values than 0 and 1: {listed(odd)}"
    if len(odd := names[masks.any(axis=(1, 2)) != block["mask_flag"].eq("ok").to_numpy()]):
        yield f"{len(odd)} masks do not fit their flag: {listed(odd)}"


def _table_faults(store: Store) -> Iterator[str]:
    samples = store.samples
    bad = ~samples["label"].isin([0, 1]) | (samples["experts_atypical"] > samples["experts_asked"])
    if bad.any():
        yield f"{bad.sum()} samples have impossible labels or votes: {listed(samples['source_id'][bad])}"
    if (domains := tuple(sorted(samples["domain"].unique()))) != store.attributes.domains:
        yield f"states the domains {listed(store.attributes.domains)} and has {listed(domains)}"
    if store_order(samples) != list(range(len(samples))):
        yield "its samples are not in the order of domain, slide and source_id"


def _slides_in_two_domains(samples: pd.DataFrame) -> Iterator[str]:
    known = samples[samples["slide"] != ""]
    domains = known.groupby("slide")["domain"].unique()
    for slide, names in domains[domains.map(len) > 1].items():
        yield f"slide {slide} is in {len(names)} domains: {listed(sorted(names))}"


def _duplicates(samples: pd.DataFrame) -> Iterator[NDArray[np.intp]]:
    """Rows of each figure that is there more than once: of one digest, or of one slide and centre."""
    figures = samples["digest"].copy()
    places = _places(samples)
    first = figures.groupby(places).transform("first")  # what is at one place is one figure
    figures = first.where(places.notna(), figures)
    codes, _ = pd.factorize(figures)
    for code in np.flatnonzero(np.bincount(codes) > 1):
        yield np.flatnonzero(codes == code)


def _places(samples: pd.DataFrame) -> pd.Series[str]:
    """Slide and whole-pixel centre of each sample as one text; missing if unknown.

    Of the slide, its file name: another store may have it under another collection's name.
    """
    x, y = (np.floor(samples[axis] + 0.5) for axis in ("x_px0", "y_px0"))
    names = samples["slide"].str.rpartition("/")[2]
    places: pd.Series[str] = names + " " + x.astype(str) + " " + y.astype(str)
    return places.where(x.notna() & y.notna() & names.ne(""))


def _on_duplicates(
    samples: pd.DataFrame, groups: list[NDArray[np.intp]], contradictory: list[NDArray[np.intp]]
) -> Iterator[str]:
    if groups:
        extra = sum(len(rows) - 1 for rows in groups)
        yield (
            f"figures that are there more than once: {len(groups)}; distinct ones: {len(samples) - extra}; "
            f"{listed(_named(samples, groups))}"
        )
    if contradictory:
        yield (
            f"of these with both labels, one of which is wrong: {len(contradictory)}; "
            f"{listed(_named(samples, contradictory))}"
        )


def _named(samples: pd.DataFrame, groups: list[NDArray[np.intp]]) -> list[str]:
    return [" = ".join(samples["source_id"].iloc[rows]) for rows in groups]


def overlap_with(store: Store, other: Store) -> Overlap:
    """What a store has in common with another one; see `Overlap`."""
    mine, theirs = store.samples, other.samples
    places, their_places = _places(mine), _places(theirs)
    by_digest = mine["digest"].isin(theirs["digest"])
    by_place = places.isin(their_places.dropna()) & places.notna()
    shared = by_digest | by_place
    same_slide = mine["slide"].isin(theirs["slide"]) & mine["slide"].ne("")
    labels = {  # the label of a figure that the other has with both is none
        key: rows.iloc[0] if rows.nunique() == 1 else -1
        for keys in (theirs["digest"], their_places)
        for key, rows in theirs["label"].groupby(keys)
    }
    their_label = mine["digest"].map(labels).fillna(places.map(labels))
    touched = (shared | same_slide).groupby(mine["domain"]).any()
    return Overlap(
        other=other.folder,
        samples=int(shared.sum()),
        by_digest=int(by_digest.sum()),
        by_place=int(by_place.sum()),
        contradictory=int((shared & their_label.ne(mine["label"])).sum()),
        slides=mine.loc[same_slide, "slide"].nunique(),
        domains={str(domain): int(number) for domain, number in shared.groupby(mine["domain"]).sum().items()},
        apart=tuple(str(domain) for domain in touched.index[~touched]),
    )


def _on_overlap(overlap: Overlap | None, number: int) -> Iterator[str]:
    if overlap is None:
        return
    name = overlap.other.name
    if not overlap.samples and not overlap.slides:
        yield f"no figure and no slide is in {name} as well"
        return
    yield (
        f"{overlap.samples} of {number} samples are in {name} as well ({overlap.by_digest} by digest, "
        f"{overlap.by_place} by slide and centre); {overlap.slides} slides are in both"
    )
    if overlap.contradictory:
        yield f"{overlap.contradictory} of them are labelled otherwise in {name}"
    if overlap.apart:
        yield f"for a model trained on {name}, only these domains are a test: {', '.join(overlap.apart)}"
    else:
        yield f"for a model trained on {name}, no whole domain is a test"
