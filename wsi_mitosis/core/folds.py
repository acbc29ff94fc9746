"""Leave one domain out: which samples train, select and test each member."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

STAGE = "planning folds"
LEAST_DOMAINS = 3
"""One to test, one to select the epoch, one to train."""
SLUG_LENGTH = 60
CLASSES = ("typical", "atypical")
"""Names of the labels 0 and 1."""


@dataclass(frozen=True)
class Fold:
    """One member's data. Rows are positions in the samples' table, ascending.

    No slide and no figure (by digest) stands on two sides. A figure that does in the data is kept in the test
    before the validation before the training, so that the test sets of all folds are a partition of the data.

    Attributes:
        name: The test domain in lower case, fit for a file's name: `midog21-aperio-cs2`.
        test_domain: Seen by nothing before the test.
        validation_domain: The epoch is selected on it.
        training_domains: All others, sorted.
        training_rows: (N,) intp.
        validation_rows: (N,) intp.
        test_rows: (N,) intp.
        dropped: Rows left out of training or validation because another side has their figure.
    """

    name: str
    test_domain: str
    validation_domain: str
    training_domains: tuple[str, ...]
    training_rows: NDArray[np.intp]
    validation_rows: NDArray[np.intp]
    test_rows: NDArray[np.intp]
    dropped: int = 0


def plan_folds(samples: pd.DataFrame, validation: Mapping[str, str] = {}) -> tuple[Fold, ...]:
    """Plan a fold for each domain, in the order of their sorted names.

    The validation domain is the next one, after the last the first: the paper states that there is one and
    not which.

    Args:
        samples: A row per sample with `slide` ("" where unknown), `domain`, `label` (0 or 1) and `digest`.
        validation: Validation domain by test domain where it is to be another.

    Raises:
        SpecError: where there are fewer than three domains, a slide stands in two of them, `validation` names
            an unknown domain or the test domain itself, or a training or validation side is left without what
            it needs: both classes in training, a sample in validation.
    """
    domains = sorted(set(samples["domain"]))
    if len(domains) < LEAST_DOMAINS:
        raise SpecError(
            f"{len(domains)} domains ({', '.join(domains)}), where one tests, one selects and the rest train",
            subject="dataset",
            stage=STAGE,
            remedy=f"Build a dataset with at least {LEAST_DOMAINS} domains",
        )
    _check_slides(samples)
    _check_validation(validation, domains)
    following = dict(zip(domains, [*domains[1:], domains[0]], strict=True))
    names = dict(zip(domains, _slugs(domains), strict=True))
    return tuple(_fold(samples, names[test], test, validation.get(test, following[test])) for test in domains)


def plan_table(folds: Sequence[Fold], samples: pd.DataFrame) -> pd.DataFrame:
    """The plan to look at: a row per fold.

    Args:
        folds: As planned from `samples`.
        samples: As for `plan_folds`.

    Returns:
        `fold, test, validation, training` (names joined by commas); for each side its samples, the atypical
        ones among them and its slides (those that are known): `training_n, training_atypical,
        training_slides, validation_n, ...`; `dropped`.
    """
    import pandas as pd

    slides, labels = samples["slide"].to_numpy(), samples["label"].to_numpy()
    rows = []
    for fold in folds:
        row: dict[str, object] = {
            "fold": fold.name,
            "test": fold.test_domain,
            "validation": fold.validation_domain,
            "training": ", ".join(fold.training_domains),
        }
        for side, of_side in _sides(fold):
            row[f"{side}_n"] = len(of_side)
            row[f"{side}_atypical"] = int(labels[of_side].sum())
            row[f"{side}_slides"] = len(set(slides[of_side]) - {""})
        rows.append({**row, "dropped": fold.dropped})
    return pd.DataFrame(rows)


def plan_warnings(folds: Sequence[Fold], samples: pd.DataFrame) -> tuple[str, ...]:
    """What the user should know about a plan: sides with one class only, dropped rows, unknown slides."""
    labels = samples["label"].to_numpy()
    told = []
    for fold in folds:
        lacking = CLASSES[1 - labels[fold.test_rows[0]]] if len(set(labels[fold.test_rows])) == 1 else None
        if lacking is not None:
            told.append(
                f"domain '{fold.test_domain}' has no {lacking} figure: its balanced accuracy is undefined"
            )
        if fold.dropped:
            told.append(
                f"fold {fold.name}: {fold.dropped} samples left out of training or validation: "
                "their figure is on another side too"
            )
    if unknown := int((samples["slide"] == "").sum()):
        told.append(f"the slide of {unknown} samples is unknown: only their domain keeps slides on one side")
    return tuple(told)


def _sides(fold: Fold) -> Iterator[tuple[str, NDArray[np.intp]]]:
    yield "training", fold.training_rows
    yield "validation", fold.validation_rows
    yield "test", fold.test_rows


def _fold(samples: pd.DataFrame, name: str, test: str, validation: str) -> Fold:
    domain, digest = samples["domain"], samples["digest"]
    in_test, in_validation = (domain == test).to_numpy(), (domain == validation).to_numpy()
    tested = digest.isin(digest[in_test]).to_numpy()
    validated = digest.isin(digest[in_validation]).to_numpy()
    select = in_validation & ~tested
    train = ~in_test & ~in_validation & ~tested & ~validated
    fold = Fold(
        name=name,
        test_domain=test,
        validation_domain=validation,
        training_domains=tuple(sorted(set(domain) - {test, validation})),
        training_rows=np.flatnonzero(train),
        validation_rows=np.flatnonzero(select),
        test_rows=np.flatnonzero(in_test),
        dropped=int(np.count_nonzero(~in_test & ~select & ~train)),
    )
    _check_sides(fold, samples["label"].to_numpy())
    return fold


def _check_sides(fold: Fold, labels: NDArray[np.int64]) -> None:
    present = set(labels[fold.training_rows])
    cause = None
    if lacking := [word for label, word in enumerate(CLASSES) if label not in present]:
        cause = f"no {lacking[0]} figure is left for training"
    elif not len(fold.validation_rows):
        cause = f"no sample of '{fold.validation_domain}' is left for validation"
    if cause is not None:
        raise SpecError(
            cause,
            subject=f"fold {fold.name}",
            stage=STAGE,
            remedy="Choose other validation domains, or build the dataset with more domains or samples",
        )


def _check_slides(samples: pd.DataFrame) -> None:
    known = samples.loc[samples["slide"] != "", ["slide", "domain"]].drop_duplicates()
    twice = known["slide"][known["slide"].duplicated()]
    if len(twice):
        slide = sorted(twice)[0]
        domains = sorted(known["domain"][known["slide"] == slide])
        raise SpecError(
            f"stands in {len(domains)} domains: {', '.join(domains)}",
            subject=f"slide {slide}",
            stage=STAGE,
            remedy="Give each slide one domain: its figures must not train and test the same member",
        )


def _check_validation(validation: Mapping[str, str], domains: Sequence[str]) -> None:
    if unknown := sorted({*validation, *validation.values()} - set(domains)):
        raise SpecError(
            f"no domain of the dataset is called '{unknown[0]}'",
            subject="validation domains",
            stage=STAGE,
            remedy=f"Name one of: {', '.join(domains)}",
        )
    if same := [test for test, selecting in validation.items() if test == selecting]:
        raise SpecError(
            f"'{same[0]}' would select the epoch that it tests",
            subject="validation domains",
            stage=STAGE,
            remedy="Name another domain for its validation",
        )


def _slugs(domains: Sequence[str]) -> list[str]:
    """Lower-case ASCII names joined by hyphens; one that is taken gets a number after it."""
    slugs: list[str] = []
    for domain in domains:
        ascii_ = unicodedata.normalize("NFKD", domain).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", ascii_).strip("-")[:SLUG_LENGTH].rstrip("-") or "domain"
        wanted = itertools.chain([slug], map(f"{slug}-{{}}".format, itertools.count(2)))
        slugs.append(next(name for name in wanted if name not in slugs))
    return slugs
