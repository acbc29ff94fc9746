"""What looks like a mistake in a table of labelled figures. Only a person can tell whether it is one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsi_mitosis.errors import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd

NO_DOMAIN = frozenset(("", "nan", "none", "null", "na", "n/a", "unknown", "-", "?"))
"""What spreadsheets and programs write into a cell of which nothing is known."""


def doubts(samples: pd.DataFrame) -> Iterator[str]:
    """Yield what looks like a mistake, a sentence each, with its number and the first three by name.

    Args:
        samples: Rows of tables.SAMPLE_COLUMNS; `digest` may be missing.
    """
    yield from _domains(samples["domain"])
    yield from _votes(samples)
    if "digest" in samples:
        yield from _repeated(samples)


def same_slides(identities: Mapping[Path, str]) -> Iterator[str]:
    """Yield which slides have the same content under several names.

    Args:
        identities: Identity of the content, by the slide's path.
    """
    names: dict[str, list[str]] = {}
    for path, identity in identities.items():
        names.setdefault(identity, []).append(path.name)
    for alike in names.values():
        if len(alike) > 1:
            yield f"{len(alike)} slides have the same content: {listed(sorted(alike))}"


def _domains(domains: pd.Series[str]) -> Iterator[str]:
    spellings: dict[str, list[str]] = {}
    for name in sorted(domains.unique()):
        spellings.setdefault(_plain(name), []).append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            yield f"{len(alike)} domains that are spelt alike count as different ones: {listed(alike)}"
    for name, number in domains.value_counts(sort=False).items():
        if str(name).strip().casefold() in NO_DOMAIN:
            yield f"domain '{name}', which is no name, of {_samples(int(number))}"


def _plain(name: str) -> str:
    """Return a name without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _votes(samples: pd.DataFrame) -> Iterator[str]:
    """Compare labels with the votes of their experts, where more than half of them agree."""
    atypical, asked = samples["experts_atypical"], samples["experts_asked"]
    for label, votes, name, other in (
        (1, asked - atypical, "atypical", "typical"),
        (0, atypical, "typical", "atypical"),
    ):
        against = (samples["label"] == label) & (2 * votes > asked)
        if against.any():
            yield (
                f"{_samples(int(against.sum()))} labelled {name}, of which most experts say {other}: "
                f"{listed(samples['source_id'][against])}"
            )


def _repeated(samples: pd.DataFrame) -> Iterator[str]:
    """Find the same pixels in several samples."""
    groups = [rows for _, rows in samples.groupby("digest", sort=False) if len(rows) > 1]
    both = [rows for rows in groups if rows["label"].nunique() > 1]
    if both:
        yield f"{_figures(len(both))} with both labels, one of which is wrong: {listed(_names(both))}"
    if once := [rows for rows in groups if rows["label"].nunique() == 1]:
        yield f"{_figures(len(once))} more than once: {listed(_names(once))}"


def _names(groups: Iterable[pd.DataFrame]) -> list[str]:
    return [" = ".join(rows["source_id"]) for rows in groups]


def _samples(number: int) -> str:
    return "1 sample" if number == 1 else f"{number} samples"


def _figures(number: int) -> str:
    return "1 figure is there" if number == 1 else f"{number} figures are there"
