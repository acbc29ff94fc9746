"""Leave one domain out: the samples that train, select and test each member."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

STAGE = "planning folds"
LEAST_DOMAINS = 3
"""One domain to test, one to select the epoch, one to train."""
SLUG_LENGTH = 60
CLASSES = ("typical", "atypical")
"""Names of the labels 0 and 1."""


@dataclass(frozen=True)
class Fold:
    """The data of one member. Rows are ascending positions in the table of samples.

    No slide and no figure (by digest) is on two sides, unless the validation domain is trained on too. A
    figure that is on two sides in the data is kept for the test rather than the validation, and for the
    validation rather than the training. The test sets of all folds are therefore a partition of the data.

    Attributes:
        name: The test domain in lower case, as a file name: `midog21-aperio-cs2`.
        test_domain: The domain that is used for the test alone.
        validation_domain: The domain on which the epoch is selected.
        training_domains: All other domains, sorted; the validation domain too if it is trained on.
        training_rows: (N,) intp.
        validation_rows: (N,) intp.
        test_rows: (N,) intp.
        dropped: Number of rows that are left out because another side has their figure.
    """

    name: str
    test_domain: str
    validation_domain: str
    training_domains: tuple[str, ...]
    training_rows: NDArray[np.intp]
    validation_rows: NDArray[np.intp]
    test_rows: NDArray[np.intp]
    dropped: int = 0


def plan_folds(
    samples: pd.DataFrame, validation: Mapping[str, str] = {}, *, train_on_validation: bool = False
) -> tuple[Fold, ...]:
    """Plan a fold for each domain, in the order of their sorted names.

    The validation domain is the next one in this order, and the first one after the last. The paper states
    that there is a validation domain, but not which.

    Args:
        samples: A row per sample with `slide` ("" where unknown), `domain`, `label` (0 or 1) and `digest`.
        validation: Validation domain by test domain, for those that differ.
        train_on_validation: Whether the validation domain is one of the training domains too.

    Raises:
        SpecError: If there are fewer than three domains, a slide is in two of them, `validation` has an
            unknown domain or the test domain itself, or a side lacks what it needs: both classes for
            training, a sample for validation.
    """
    domains = sorted(set(samples["domain"]))
    if len(domains) < LEAST_DOMAINS:
        raise SpecError(
            f"{len(domains)} domains ({', '.join(domains)}) are too few to test, select and train",
            subject="dataset",
            stage=STAGE,
            remedy=f"Build a dataset with at least {LEAST_DOMAINS} domains",
        )
    _check_slides(samples)
    _check_validation(validation, domains)
    following = dict(zip(domains, [*domains[1:], domains[0]], strict=True))
    names = dict(zip(domains, slugs(domains), strict=True))
    plan = [_fold(samples, names[test], test, validation.get(test, following[test])) for test in domains]
    return tuple(map(_joined, plan)) if train_on_validation else tuple(plan)


def _joined(fold: Fold) -> Fold:
    """The fold with its validation domain among the training domains."""
    return replace(
        fold,
        training_domains=tuple(sorted({*fold.training_domains, fold.validation_domain})),
        training_rows=np.union1d(fold.training_rows, fold.validation_rows),
    )


def plan_table(folds: Sequence[Fold], samples: pd.DataFrame) -> pd.DataFrame:
    """Return the plan as a table, a row per fold.

    Args:
        folds: The plan for `samples`.
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
    """Return warnings about a plan: sides with a single class, dropped rows, unknown slides."""
    labels = samples["label"].to_numpy()
    warnings = []
    for fold in folds:
        lacking = CLASSES[1 - labels[fold.test_rows[0]]] if len(set(labels[fold.test_rows])) == 1 else None
        if lacking is not None:
            warnings.append(
                f"domain '{fold.test_domain}' has no {lacking} figure: its balanced accuracy is undefined"
            )
        if fold.dropped:
            warnings.append(
                f"fold {fold.name}: {fold.dropped} samples are left out of training or validation, "
                "because their figure is on another side as well"
            )
    if unknown := int((samples["slide"] == "").sum()):
        warnings.append(
            f"the slide of {unknown} samples is unknown. Samples of one slide are on one side only by domain"
        )
    return tuple(warnings)


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
        cause = f"no {lacking[0]} figure remains for training"
    elif not len(fold.validation_rows):
        cause = f"no sample of '{fold.validation_domain}' remains for validation"
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
            f"it is in {len(domains)} domains: {', '.join(domains)}",
            subject=f"slide {slide}",
            stage=STAGE,
            remedy="Give each slide one domain, because its figures must not both train and test a member",
        )


def _check_validation(validation: Mapping[str, str], domains: Sequence[str]) -> None:
    if unknown := sorted({*validation, *validation.values()} - set(domains)):
        raise SpecError(
            f"the dataset has no domain '{unknown[0]}'",
            subject="validation domains",
            stage=STAGE,
            remedy=f"Choose one of: {', '.join(domains)}",
        )
    if same := [test for test, selecting in validation.items() if test == selecting]:
        raise SpecError(
            f"'{same[0]}' cannot both select the epoch and test it",
            subject="validation domains",
            stage=STAGE,
            remedy="Choose another domain for its validation",
        )


def slugs(domains: Sequence[str]) -> list[str]:
    """Return file names of domains: lower-case ASCII with hyphens. A name that is in use gets a number."""
    taken: list[str] = []
    for domain in domains:
        ascii_ = unicodedata.normalize("NFKD", domain).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", ascii_).strip("-")[:SLUG_LENGTH].rstrip("-") or "domain"
        wanted = itertools.chain([slug], map(f"{slug}-{{}}".format, itertools.count(2)))
        taken.append(next(name for name in wanted if name not in taken))
    return taken
