"""The samples that train, select and test each member: by domain, or by slide for further training."""

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
LEAST_SLIDES = 2
"""One to train further on, one to test."""
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


def plan_further(samples: pd.DataFrame, members: int, parts: int) -> tuple[Fold, ...]:
    """Plan a fold for each member of a bundle that is trained further on a laboratory's figures.

    Whole slides are dealt into parts. Member k leaves out part k, and the first part follows the last one. A
    fold has no validation of its own: its validation rows are its test rows, on which nothing is selected.

    Args:
        samples: As for `plan_folds`; the slide of each is known.
        members: Number of members.
        parts: Number of parts; fewer if there are fewer slides.

    Returns:
        Folds `member-0`, `member-1`, ...

    Raises:
        SpecError: If the slide of a sample is unknown, there is a single slide, or a member would learn from
            one class only.
    """
    labels, slides = samples["label"].to_numpy(np.int64), samples["slide"].tolist()
    cause = None
    if "" in slides:
        cause = f"the slide of {slides.count('')} figures is unknown"
    elif len(set(slides)) < LEAST_SLIDES:
        cause = "it has a single slide"
    if cause is not None:
        raise SpecError(
            f"{cause}, so that no figures of other slides can be left out for the test",
            subject="dataset",
            stage=STAGE,
            remedy="Train on figures of several slides, all of which are named",
        )
    parts = min(parts, len(set(slides)))
    part_of = slide_parts(labels, slides, parts)
    return tuple(_left_out(samples, part_of, member, parts) for member in range(members))


def _left_out(samples: pd.DataFrame, part_of: NDArray[np.intp], member: int, parts: int) -> Fold:
    """The fold of a member: its part is the test, and no figure of it is in the training as well."""
    part = member % parts
    tested = part_of == part
    copies = samples["digest"].isin(samples["digest"][tested]).to_numpy() & ~tested
    training = np.flatnonzero(~tested & ~copies)
    if len(set(samples["label"].iloc[training])) < len(CLASSES):
        raise SpecError(
            "without the slides that it leaves out, figures of one class only remain for training",
            subject=f"fold member-{member}",
            stage=STAGE,
            remedy="Label figures of both classes on more slides",
        )
    return Fold(
        name=f"member-{member}",
        test_domain=f"part {part + 1} of {parts}",
        validation_domain=f"part {part + 1} of {parts}",
        training_domains=("the other slides",),
        training_rows=training,
        validation_rows=np.flatnonzero(tested),
        test_rows=np.flatnonzero(tested),
        dropped=int(copies.sum()),
    )


def slide_parts(labels: NDArray[np.int64], slides: Sequence[str], folds: int) -> NDArray[np.intp]:
    """Deal out whole slides, those with the most atypical figures first, each to the part with the fewest.

    Args:
        labels: (N,) 0 typical, 1 atypical.
        slides: (N,) the figures' slides, "" where unknown: such a figure is a slide of its own.
        folds: Number of parts. None is empty unless there are fewer slides.

    Returns:
        (N,) the part of each figure, from 0.
    """
    units = np.unique([slide or f"\0{row}" for row, slide in enumerate(slides)], return_inverse=True)[1]
    atypical, figures = np.bincount(units, labels), np.bincount(units)
    part_of = np.zeros(len(figures), dtype=np.intp)
    has = np.zeros((folds, 2))  # atypical figures, all figures
    for unit in np.lexsort((-figures, -atypical)):
        part_of[unit] = np.lexsort((has[:, 1], has[:, 0]))[0]
        has[part_of[unit]] += atypical[unit], figures[unit]
    return part_of[units]


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
