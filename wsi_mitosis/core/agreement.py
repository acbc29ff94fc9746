"""How far reviewers agree with each other and with the ensemble: confusions and kappas, with intervals.

An interval is that between the 2.5th and the 97.5th percentile of `RESAMPLES` bootstrap draws, seeded with
`SEED` (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). Figures are drawn, each by
itself: if those of one slide are alike, the interval is too narrow. A draw of n figures with replacement
gives counts that are multinomial, so that counts are drawn in place of figures. Draws in which kappa is
undefined are left out.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

CATEGORIES = ("atypical", "typical", "none")
"""What a figure can be called. A reviewer who could not tell called it nothing."""
RESAMPLES = 2000
SEED = 0
LEAST_FIGURES = 2
"""Figures without which a kappa is not stated."""
TOO_FEW = f"fewer than {LEAST_FIGURES} figures have a label of all of them"
ONE_LABEL = "all of them gave all figures the same label"
_NO_LABEL = -1


class Kappa(Spec):
    """Agreement beyond chance.

    Attributes:
        value: 1 for full agreement, 0 for that which chance gives; None where it is undefined.
        ci95: Lower and upper end of its 95 % interval; None likewise.
        draws: Bootstrap draws that the interval is computed from: those in which kappa is defined.
        reason: Why it is undefined; empty otherwise.
    """

    value: float | None = None
    ci95: tuple[float, float] | None = None
    draws: int = 0
    reason: str = ""


class Agreement(Spec):
    """How far two agree, over the ensemble's figures that both called atypical, typical or none.

    Attributes:
        figures: How many these are.
        agreed: The share of them with the same label; None without any.
        confusion: Their numbers, by the first one's label and then the second one's.
        kappa: Cohen's kappa.
    """

    figures: int
    agreed: float | None
    confusion: dict[str, dict[str, int]]
    kappa: Kappa


class ReviewerPair(Agreement):
    """How far two reviewers agree.

    Attributes:
        first: Name of a reviewer.
        second: Name of another one, later in the alphabet.
    """

    first: str
    second: str


class CountedFile(Spec):
    """A file with verdicts that were counted.

    Attributes:
        file: Its path in the folder of exports, or its name.
        sha256: Its SHA-256.
    """

    file: str
    sha256: str


class ReviewerSummary(Spec):
    """A reviewer of a recount.

    Attributes:
        name: The name.
        files: The files with verdicts that were counted.
        blind: Whether the ensemble's labels were hidden for all of these verdicts.
        verdicts: Number of verdicts by label: atypical, typical, none, unsure; with those on added figures.
        ensemble: Agreement of the ensemble, which comes first, and this reviewer.
    """

    name: str
    files: tuple[CountedFile, ...] = ()
    blind: bool
    verdicts: dict[str, int]
    ensemble: Agreement


class FleissAgreement(Spec):
    """How far three reviewers or more agree, over the ensemble's figures that each of them called something.

    Attributes:
        reviewers: Number of reviewers.
        figures: Number of these figures.
        unanimous: The share of them with one label only; None without any.
        kappa: Fleiss' kappa.
    """

    reviewers: int
    figures: int
    unanimous: float | None
    kappa: Kappa


class Tie(Spec):
    """A figure without a majority.

    Attributes:
        slide: Name of its slide.
        figure_id: Its id.
        label_machine: The ensemble's label, which it keeps; None for an added figure, which is not counted.
        atypical: Reviewers who said atypical.
        typical: Reviewers who said typical.
        none: Reviewers who said that it is none; of an added figure, those who could have added it, and did
            not.
    """

    slide: str
    figure_id: str
    label_machine: str | None
    atypical: int
    typical: int
    none: int


class ReviewersAgreement(Spec):
    """How far reviewers agree with each other and with the ensemble.

    Figures that reviewers added are in none of the kappas.

    Attributes:
        reviewers: The reviewers, by name.
        pairs: Every two of them.
        fleiss: Fleiss' kappa of all of them; None for fewer than three.
        ties: The figures without a majority.
    """

    reviewers: tuple[ReviewerSummary, ...] = ()
    pairs: tuple[ReviewerPair, ...] = ()
    fleiss: FleissAgreement | None = None
    ties: tuple[Tie, ...] = ()


def cohens_kappas(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Cohen's kappa, (p_o - p_e) / (1 - p_e), of each confusion.

    Source: Cohen 1960, A coefficient of agreement for nominal scales, Educational and Psychological
    Measurement 20, pages 37 to 46.

    Args:
        counts: (..., k, k) numbers of figures by the first and the second one's label.

    Returns:
        (...), NaN without figures, and if both gave the same single label throughout.
    """
    total = counts.sum(axis=(-2, -1))
    same = np.trace(counts, axis1=-2, axis2=-1)
    by_chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1)
    return _ratio(total * same - by_chance, total**2 - by_chance)


def fleiss_kappas(patterns: NDArray[np.int64], figures: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return Fleiss' kappa of each set of figures.

    Source: Fleiss 1971, Measuring nominal scale agreement among many raters, Psychological Bulletin 76, pages
    378 to 382. Its fraction is expanded by (number of labels)^2 (raters - 1), which makes all terms whole.

    Args:
        patterns: (p, k) how many raters gave a figure each label; the rows have the same sum, two or more.
        figures: (d, p) how many figures of each set have each pattern.

    Returns:
        (d,), NaN for a set without figures, and for one in which all labels are the same.
    """
    raters = int(patterns[0].sum())
    labels = figures.sum(axis=1) * raters
    squares = figures @ (patterns**2).sum(axis=1)
    by_chance = ((figures @ patterns) ** 2).sum(axis=1)
    others = raters - 1
    return _ratio((squares - labels) * labels - others * by_chance, others * (labels**2 - by_chance))


def _ratio(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.float64]:
    """The ratio of whole numbers, which detect the undefined case exactly; NaN there."""
    undefined = below == 0
    return np.where(undefined, np.nan, above / np.where(undefined, 1, below))


def agreement_of_labels(first: NDArray[np.int64], second: NDArray[np.int64]) -> Agreement:
    """Return how far two agree.

    Args:
        first: (n,) the first one's labels of n figures, as positions in CATEGORIES; -1 without a label.
        second: (n,) likewise.
    """
    both = (first != _NO_LABEL) & (second != _NO_LABEL)
    size, figures = len(CATEGORIES), int(both.sum())
    cells = np.bincount(first[both] * size + second[both], minlength=size**2)
    counts = cells.reshape(size, size)
    drawn = _draws(cells).reshape(-1, size, size)
    return Agreement(
        figures=figures,
        agreed=int(np.trace(counts)) / figures if figures else None,
        confusion={
            ours: dict(zip(CATEGORIES, row, strict=True))
            for ours, row in zip(CATEGORIES, counts.tolist(), strict=True)
        },
        kappa=_kappa(float(cohens_kappas(counts)), cohens_kappas(drawn), figures),
    )


def fleiss_agreement(labels: NDArray[np.int64]) -> FleissAgreement:
    """Return how far three or more agree.

    Args:
        labels: (r, n) labels of r reviewers, as positions in CATEGORIES; -1 without a label.
    """
    common = labels[:, (labels != _NO_LABEL).all(axis=0)]
    reviewers, figures = common.shape
    each = np.stack([(common == label).sum(axis=0) for label in range(len(CATEGORIES))], axis=1)
    patterns, numbers = np.unique(each, axis=0, return_counts=True)
    value, drawn = float("nan"), np.empty(0)
    if figures:
        value = float(fleiss_kappas(patterns, numbers[None])[0])
        drawn = fleiss_kappas(patterns, _draws(numbers))
    return FleissAgreement(
        reviewers=reviewers,
        figures=figures,
        unanimous=float(np.mean(each.max(axis=1) == reviewers)) if figures else None,
        kappa=_kappa(value, drawn, figures),
    )


def _draws(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(RESAMPLES, c) how often figures of each of c kinds are drawn, of which there are (c,) counts."""
    total = int(counts.sum())
    if not total:
        return np.zeros((RESAMPLES, len(counts)), dtype=np.int64)
    return np.random.default_rng(SEED).multinomial(total, counts / total, size=RESAMPLES)


def _kappa(value: float, drawn: NDArray[np.float64], figures: int) -> Kappa:
    if figures < LEAST_FIGURES:
        return Kappa(reason=TOO_FEW)
    if np.isnan(value):
        return Kappa(reason=ONE_LABEL)
    defined = drawn[~np.isnan(drawn)]
    low, high = np.quantile(defined, (0.025, 0.975))
    return Kappa(value=value, ci95=(float(low), float(high)), draws=len(defined))


class Reviewer(NamedTuple):
    """Whose agreement is computed.

    Attributes:
        name: The name.
        files: The files with verdicts that were counted.
    """

    name: str
    files: tuple[CountedFile, ...] = ()


def reviewers_agreement(
    reviewers: Sequence[Reviewer], verdicts: pd.DataFrame, consensus: pd.DataFrame
) -> ReviewersAgreement:
    """Return how far reviewers agree, from the tables of a recount.

    Args:
        reviewers: All reviewers, in any order.
        verdicts: VERDICT_COLUMNS.
        consensus: CONSENSUS_COLUMNS.
    """
    reviewers = sorted(reviewers, key=lambda one: one.name)
    ours, theirs = _labels(reviewers, verdicts, consensus)
    numbers = range(len(reviewers))
    return ReviewersAgreement(
        reviewers=tuple(
            _summary(reviewers[n], verdicts, agreement_of_labels(ours, theirs[n])) for n in numbers
        ),
        pairs=tuple(
            ReviewerPair(
                first=reviewers[a].name,
                second=reviewers[b].name,
                **dict(agreement_of_labels(theirs[a], theirs[b])),
            )
            for a, b in combinations(numbers, 2)
        ),
        fleiss=fleiss_agreement(theirs) if len(reviewers) > 2 else None,
        ties=tuple(_ties(consensus)),
    )


def _labels(
    reviewers: Sequence[Reviewer], verdicts: pd.DataFrame, consensus: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels of the ensemble, (n,), and of the reviewers, (r, n), on the ensemble's figures."""
    figures = consensus[consensus["label_machine"].notna()]
    rows = {key: row for row, key in enumerate(zip(figures["slide"], figures["figure_id"], strict=True))}
    numbers = {one.name: number for number, one in enumerate(reviewers)}
    theirs = np.full((len(reviewers), len(rows)), _NO_LABEL, dtype=np.int64)
    columns = (verdicts[name] for name in ("slide", "figure_id", "reviewer", "label"))
    for slide, figure, reviewer, label in zip(*columns, strict=True):
        if (row := rows.get((slide, figure))) is not None:
            theirs[numbers[reviewer], row] = _CODES.get(label, _NO_LABEL)
    return np.array([_CODES[label] for label in figures["label_machine"]], dtype=np.int64), theirs


_CODES: Mapping[str, int] = {label: code for code, label in enumerate(CATEGORIES)}


def _summary(reviewer: Reviewer, verdicts: pd.DataFrame, ensemble: Agreement) -> ReviewerSummary:
    own = verdicts[verdicts["reviewer"] == reviewer.name]
    return ReviewerSummary(
        name=reviewer.name,
        files=reviewer.files,
        blind=bool(len(own) and own["blind"].all()),
        verdicts={label: int((own["label"] == label).sum()) for label in (*CATEGORIES, "unsure")},
        ensemble=ensemble,
    )


def _ties(consensus: pd.DataFrame) -> list[Tie]:
    names = list(Tie.model_fields)
    rows = consensus.loc[consensus["consensus"] == "tie", names].to_numpy(object).tolist()
    return [Tie(**dict(zip(names, row, strict=True))) for row in rows]
