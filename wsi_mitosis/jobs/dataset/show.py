"""What a store holds: counts by domain, and a contact sheet to look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.io.training.sheets import Band, Panel, write_sheet
from wsi_mitosis.io.training.stores import open_store

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.specs import StoreAttributes

PER_CLASS = 6
MOST_DOMAINS = 40
"""On a sheet, which would be too long to open with more."""
CLASSES = ("typical", "atypical")


@dataclass(frozen=True)
class DomainContents:
    """One domain's samples, or those of all.

    Attributes:
        slides: How many slides are known; 0 if none is.
        masks: How many samples have a mask.
        without_mask: How many have none, by reason.
    """

    domain: str
    atypical: int
    typical: int
    slides: int
    masks: int
    without_mask: dict[str, int]


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes:
        domains: Sorted by name.
        total: Of all domains.
    """

    folder: Path
    attributes: StoreAttributes
    domains: tuple[DomainContents, ...]
    total: DomainContents


def show(folder: Path) -> Contents:
    """Count a store's samples.

    Raises:
        DatasetError: if it cannot be opened.
    """
    store = open_store(folder)
    samples = store.samples
    domains = tuple(_counted(str(domain), rows) for domain, rows in samples.groupby("domain"))
    return Contents(folder, store.attributes, domains, _counted("all", samples))


def _counted(domain: str, rows: pd.DataFrame) -> DomainContents:
    flags = Counter(rows["mask_flag"])
    return DomainContents(
        domain=domain,
        atypical=int((rows["label"] == 1).sum()),
        typical=int((rows["label"] == 0).sum()),
        slides=len(set(rows["slide"]) - {""}),
        masks=flags.pop("ok", 0),
        without_mask=dict(sorted(flags.items())),
    )


def draw(folder: Path, sheet: Path) -> int:
    """Draw some atypical and typical samples of each domain, with their masks' outlines.

    Which samples is decided by the store alone: they are evenly spread over a domain's rows.

    Args:
        folder: The store.
        sheet: The PNG to write.

    Returns:
        How many domains are left out, beyond MOST_DOMAINS.

    Raises:
        DatasetError: if the store cannot be opened or read.
        OutputError: if the sheet cannot be written.
    """
    store = open_store(folder)
    contents = show(folder)
    shown = contents.domains[:MOST_DOMAINS]
    bands = [_band(store, domain) for domain in shown]
    attributes = store.attributes
    title = f"{attributes.name}: {len(store.samples)} figures, digest {attributes.digest[:12]}"
    experts = "; below a figure: how many of the experts said atypical"
    known = experts if store.samples["experts_asked"].any() else ""
    write_sheet(sheet, title, f"Green: outline of the mask by {attributes.mask_provider}{known}", bands)
    return len(contents.domains) - len(shown)


def _band(store: Store, domain: DomainContents) -> Band:
    in_domain = (store.samples["domain"] == domain.domain).to_numpy()
    panels = []
    for label in (1, 0):
        rows = np.flatnonzero(in_domain & (store.samples["label"] == label).to_numpy())
        panels.append(_panels(store, rows[_spread(len(rows))]))
    heading = f"{domain.domain}   {domain.atypical} atypical, {domain.typical} typical"
    return Band(heading, tuple(panels[0]), tuple(panels[1]))


def _spread(number: int) -> NDArray[np.intp]:
    """Return PER_CLASS positions spread evenly over a number of rows; all rows if there are fewer."""
    return np.unique(np.linspace(0, number - 1, min(PER_CLASS, number)).round().astype(np.intp))


def _panels(store: Store, rows: NDArray[np.intp]) -> list[Panel]:
    pairs = zip(store.images(rows), store.masks(rows), strict=True)
    samples = store.samples.iloc[rows]
    columns = ("source_id", "experts_atypical", "experts_asked", "mask_flag")
    panels = []
    for (image, mask), name, atypical, experts, flag in zip(
        pairs, *(samples[c] for c in columns), strict=True
    ):
        votes = f"{atypical} of {experts} atypical" if experts else ""
        panels.append(Panel(image, mask, name, votes if flag == "ok" else f"no mask: {flag}"))
    return panels
