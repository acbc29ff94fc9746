"""The report of an evaluation: its schema, and its computation from the members' probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.experts import BesideExperts, Labelled, beside_experts
from wsi_mitosis.core.metrics import (
    MEASURES,
    Bin,
    Bounds,
    Confusion,
    Resampling,
    Spread,
    calibration,
    intervals,
    score,
    spread,
)
from wsi_mitosis.core.reliability import LeftOut, Reliability, of_left_out, of_vote
from wsi_mitosis.core.voting import Votes, tally
from wsi_mitosis.schema import Spec
from wsi_mitosis.tables import Tta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.overlap import Overlap
    from wsi_mitosis.specs import BundleManifest

    Probabilities = NDArray[np.float64]
    Rows = NDArray[np.intp]

OWN_DOMAINS: Final = "own test domains"
WITH_TRAINING_DATA: Final = "all samples, training data among them"
LEFT_OUT: Final = "members on domains left out"
Scope = Literal["all samples", "own test domains", "all samples, training data among them"]
LABELS = np.array(["typical", "atypical"], dtype=object)


class _Scores(Spec):
    """Point estimates with their 95 % intervals; None if a class that the measure needs is absent.

    Attributes:
        n: Number of samples.
        atypical: Number of samples labelled atypical.
        training_data: Whether samples that the bundle was trained on were scored with the others.
        training_samples: Number of these; 0 unless `training_data`.
    """

    n: int
    atypical: int
    balanced_accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    auroc: float | None
    brier: float | None
    balanced_accuracy_ci95: Bounds
    sensitivity_ci95: Bounds
    specificity_ci95: Bounds
    auroc_ci95: Bounds
    confusion: Confusion
    resampled: Resampling
    training_data: bool
    training_samples: int


class DistinctScores(_Scores):
    """The scores of a group in which byte-equal samples count once: the first in the order of the dataset.

    Attributes:
        contradictory: Number of distinct samples that have both labels.
    """

    contradictory: int


class GroupScores(_Scores):
    """The scores of a group of samples.

    Attributes:
        distinct: None if the group has no byte-equal samples.
    """

    distinct: DistinctScores | None


class _Tested(Spec):
    test_domain: str | None


class MemberScores(GroupScores, _Tested):
    """The scores of one member.

    Attributes:
        test_domain: The domain that the member was trained without, if there is one.
    """


class EnsembleScores(Spec):
    """The scores of the vote: on all of its samples, and by domain."""

    overall: GroupScores
    domains: dict[str, GroupScores]


class LodoScores(Spec):
    """Leave one domain out: spreads over the test domains, on which the members without them are scored.

    The scores of members that left out the same domain are averaged first, so that each domain counts once.

    Attributes:
        members: Number of members that have samples.
        validation_balanced_accuracy: Over the test domains of all members, as the bundle's manifest has it.
    """

    members: int
    balanced_accuracy: Spread
    sensitivity: Spread
    specificity: Spread
    auroc: Spread
    validation_balanced_accuracy: Spread


class ViewScores(Spec):
    """The scores for one choice of views.

    Attributes:
        overall: The vote on all samples; None if some are training data.
        domains: The same by domain.
        members: By name.
        lodo: None unless members are scored on their own test domains.
        unseen: The vote on the samples that no member has seen, if only some are.
    """

    overall: GroupScores | None
    domains: dict[str, GroupScores] | None
    members: dict[str, MemberScores]
    lodo: LodoScores | None
    unseen: EnsembleScores | None


class Bootstrap(Spec):
    """How intervals are computed."""

    resamples: int
    seed: int
    interval: str


class ReportHeading(Spec):
    """What was evaluated on what.

    Attributes:
        samples: Number of samples in the dataset.
        positive: The positive class of all measures.
        temperature: The bundle's; 1 if it is not calibrated.
        backend: What computed the networks; empty in a report of a version that did not state it.
        trained_on: Number of samples that the bundle was trained on.
        notes: What a reader of the report must know.
    """

    program: str
    use: str
    bundle: str
    bundle_version: str
    bundle_digest: str
    trained: bool
    intended_use: str
    threshold: float
    temperature: float = 1.0
    tta: Tta
    zooms: tuple[float, ...]
    device: str
    backend: str = ""
    dataset: str
    dataset_digest: str
    dataset_licence: str
    samples: int
    positive: Literal["atypical"]
    bootstrap: Bootstrap
    scope: Scope
    training_data: bool
    trained_on: int
    notes: tuple[str, ...]

    @property
    def computed_by(self) -> str:
        """The program, the device and what computed the networks there."""
        return ", ".join(part for part in (self.program, self.device, self.backend) if part)


class EvaluationReport(ViewScores, ReportHeading):
    """`evaluation.json`. The order of the fields, bases last to first, is the order of its keys.

    Attributes:
        distinct: The same as `overall.distinct`.
        single_view: The scores for the crop as it is, if the report's own scores use further views.
        calibration: By name of the curve.
        reliability: P(atypical) at temperature 1 and calibrated, of the ensemble and of `members on domains
            left out`.
        experts: The labels of the same two beside the votes of the experts who made the dataset's labels;
            empty if fewer than two experts labelled each figure.
    """

    distinct: DistinctScores | None
    single_view: ViewScores | None
    calibration: dict[str, tuple[Bin, ...]]
    reliability: dict[str, Reliability] = Field(default_factory=dict)
    experts: dict[str, BesideExperts] = Field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the content of `evaluation.json` as plain data.

        Keys that an earlier version did not write are left out of a report of that version.
        """
        return self.model_dump(mode="json", exclude_unset=True)


class Curve(NamedTuple):
    """The data of one curve in the ROC and calibration plots.

    Attributes:
        name: Which classifier is scored, and on which samples if that is not obvious.
        labels: (N,) 0 typical, 1 atypical.
        p_atypical: (N,).
        is_ensemble: Whether the classifier is the ensemble, which is drawn in black.
    """

    name: str
    labels: NDArray[np.int64]
    p_atypical: NDArray[np.float64]
    is_ensemble: bool


def left_out(
    samples: pd.DataFrame, manifest: BundleManifest, overlap: Overlap, probabilities: Probabilities
) -> LeftOut:
    """Return what each member gives for the samples of its own test domain, which it has not seen.

    Args:
        samples: (N,) rows with `label`.
        manifest: The bundle's manifest.
        overlap: Which samples are of the members' own test domains.
        probabilities: (N, M) P(atypical) at the bundle's temperature.
    """
    rows, members = np.nonzero(overlap.own)
    return LeftOut(
        rows,
        samples["label"].to_numpy(np.int64)[rows],
        calibrated(probabilities[rows, members], 1 / manifest.temperature),
        np.array([member.test_domain for member in manifest.member], dtype=object)[members],
    )


def member_names(manifest: BundleManifest) -> list[str]:
    """Return the names of the members: their files without the extension."""
    return [member.file.removesuffix(".safetensors") for member in manifest.member]


class Scorer:
    """Computes a report's scores for N samples and M members.

    Args:
        samples: (N,) rows with `source_id, slide, domain, label, digest, experts_atypical, experts_asked`.
        manifest: The bundle's manifest.
        overlap: Which samples the bundle was trained on.
        scope: Which samples the ensemble and the members are scored on.
    """

    def __init__(
        self, samples: pd.DataFrame, manifest: BundleManifest, overlap: Overlap, scope: Scope
    ) -> None:
        self.samples, self.manifest, self.overlap, self.scope = samples, manifest, overlap, scope
        self.training_data = scope == WITH_TRAINING_DATA
        self._own = scope == OWN_DOMAINS
        self._ensemble_name = "ensemble, unseen samples" if self._own else "ensemble"
        self._labels = samples["label"].to_numpy(np.int64)
        self._domains = samples["domain"].to_numpy(object)
        self._names = member_names(manifest)

    def report(self, heading: ReportHeading, views: Sequence[Probabilities]) -> EvaluationReport:
        """Compute the report.

        Args:
            heading: What was evaluated on what.
            views: (N, M) P(atypical) for the bundle's views, and perhaps for a single view.
        """
        scores = [self.scores(probabilities) for probabilities in views]
        return EvaluationReport(
            **dict(heading),
            **dict(scores[0]),
            distinct=scores[0].overall and scores[0].overall.distinct,
            single_view=scores[1] if len(scores) > 1 else None,
            calibration={
                curve.name: calibration(curve.labels, curve.p_atypical) for curve in self.curves(views[0])
            },
            reliability=dict(self._reliability(views[0])),
            experts=dict(self._experts(views[0])),
        )

    def scores(self, probabilities: Probabilities) -> ViewScores:
        """Compute the scores for one choice of views from (N, M) P(atypical)."""
        members = {
            name: self._member(index, probabilities[:, [index]]) for index, name in enumerate(self._names)
        }
        ensemble = self._ensemble(probabilities)
        return ViewScores(
            overall=None if self._own else ensemble.overall,
            domains=None if self._own else ensemble.domains,
            members=members,
            lodo=self._lodo(members) if self._own else None,
            unseen=ensemble if self._own and ensemble.overall.n else None,
        )

    def _reliability(self, probabilities: Probabilities) -> Iterator[tuple[str, Reliability]]:
        rows, temperature = self._of_ensemble(), self.manifest.temperature
        if len(rows):
            at_1 = self._votes(rows, calibrated(probabilities, 1 / temperature)).p_atypical
            fitted = self.manifest.calibration is not None
            after = self._votes(rows, probabilities).p_atypical if fitted else None
            domains = sorted(set(self._domains[rows])) if fitted else []
            temperatures = dict.fromkeys(domains, temperature)
            yield self._ensemble_name, of_vote(self._labels[rows], at_1, after, temperatures)
        if self._own and self.overlap.own.any():
            samples = left_out(self.samples, self.manifest, self.overlap, probabilities)
            yield LEFT_OUT, of_left_out(samples)

    def _experts(self, probabilities: Probabilities) -> Iterator[tuple[str, BesideExperts]]:
        rows = self._of_ensemble()
        votes = self._votes(rows, probabilities)
        own, members = np.nonzero(self.overlap.own if self._own else np.zeros_like(self.overlap.own))
        p_own = probabilities[own, members]
        compared = {
            self._ensemble_name: self._labelled(rows, votes.is_atypical, votes.p_atypical),
            LEFT_OUT: self._labelled(own, p_own >= self.manifest.ensemble.threshold, p_own),
        }
        for name, figures in compared.items():
            if (found := beside_experts(figures)) is not None:
                yield name, found

    def _labelled(self, rows: Rows, called: NDArray[np.bool_], p_atypical: NDArray[np.float64]) -> Labelled:
        samples = self.samples.iloc[rows]
        votes, experts = (samples[name].to_numpy(np.int64) for name in ("experts_atypical", "experts_asked"))
        slides = samples["slide"].to_numpy(object)
        return Labelled(self._labels[rows], called, p_atypical, votes, experts, slides)

    def curves(self, probabilities: Probabilities) -> tuple[Curve, ...]:
        """Return the curves of the ensemble and of each member, without those that have no samples."""
        rows = self._of_ensemble()
        curves = [
            Curve(self._ensemble_name, self._labels[rows], self._votes(rows, probabilities).p_atypical, True)
        ]
        for index, member in enumerate(self.manifest.member):
            rows = self._of_member(index)
            name = f"{self._names[index]} on {member.test_domain}" if self._own else self._names[index]
            curves.append(Curve(name, self._labels[rows], probabilities[rows, index], False))
        return tuple(curve for curve in curves if len(curve.labels))

    def predictions(self, probabilities: Probabilities) -> pd.DataFrame:
        """Return a row per sample with each member's P(atypical) and the vote.

        A cell is empty if the member, or the ensemble, is not scored on the sample.
        """
        table = self.samples[["source_id", "slide", "domain", "digest"]].copy()
        table["trained_on"] = self.overlap.seen
        table["label"] = LABELS[self._labels]
        for index, name in enumerate(self._names):
            table[f"p_{name}"] = probabilities[:, index]
        rows = self._of_ensemble()
        votes = self._votes(rows, probabilities)
        table["p_atypical"] = np.nan
        table.loc[table.index[rows], "p_atypical"] = votes.p_atypical
        table["vote"] = ""
        table.loc[table.index[rows], "vote"] = LABELS[votes.is_atypical.astype(int)]
        return table

    def _of_ensemble(self) -> Rows:
        unseen = ~self.overlap.seen
        return np.flatnonzero(unseen if self._own else np.ones_like(unseen))

    def _of_member(self, index: int) -> Rows:
        own = self.overlap.own[:, index]
        return np.flatnonzero(own if self._own else np.ones_like(own))

    def _votes(self, rows: Rows, probabilities: Probabilities) -> Votes:
        return tally(probabilities[rows], self.manifest.ensemble.threshold)

    def _ensemble(self, probabilities: Probabilities) -> EnsembleScores:
        rows = self._of_ensemble()
        domains = {
            domain: self._group(rows[self._domains[rows] == domain], probabilities)
            for domain in sorted(set(self._domains[rows]))
        }
        return EnsembleScores(overall=self._group(rows, probabilities), domains=domains)

    def _member(self, index: int, probabilities: Probabilities) -> MemberScores:
        group = self._group(self._of_member(index), probabilities)
        return MemberScores(test_domain=self.manifest.member[index].test_domain, **dict(group))

    def _group(self, rows: Rows, probabilities: Probabilities) -> GroupScores:
        """Score the vote of m members, (N, m), on some samples."""
        digests = self.samples["digest"].iloc[rows]
        first, distinct = rows[~digests.duplicated().to_numpy()], None
        if len(first) < len(rows):
            by_digest = self.samples.iloc[rows].groupby("digest", sort=False)["label"]
            contradictory = int((by_digest.nunique() > 1).sum())
            distinct = DistinctScores(**self._scores(first, probabilities), contradictory=contradictory)
        return GroupScores(**self._scores(rows, probabilities), distinct=distinct)

    def _scores(self, rows: Rows, probabilities: Probabilities) -> dict[str, Any]:
        labels, votes = self._labels[rows], self._votes(rows, probabilities)
        estimates = score(labels, votes.is_atypical, votes.p_atypical)
        slides = self.samples["slide"].iloc[rows].tolist()
        found = intervals(labels, votes.is_atypical, votes.p_atypical, slides)
        return {
            **vars(estimates),
            **{f"{name}_ci95": bounds for name, bounds in found.bounds.items()},
            "atypical": int(labels.sum()),
            "resampled": found.resampling,
            "training_data": self.training_data,
            "training_samples": int(self.overlap.seen[rows].sum()) if self.training_data else 0,
        }

    def _lodo(self, members: Mapping[str, MemberScores]) -> LodoScores | None:
        """Mean and sample standard deviation over domains, as in the paper's Table 1; None without any."""
        scored = [member for member in members.values() if member.n]
        if not scored:
            return None
        return LodoScores(
            members=len(scored),
            **{
                name: self._spread([getattr(member, name) for member in members.values()])
                for name in MEASURES
            },
            validation_balanced_accuracy=self._spread(
                [member.validation_balanced_accuracy for member in self.manifest.member]
            ),
        )

    def _spread(self, values: Sequence[float | None]) -> Spread:
        """Spread over test domains of (M,) values of the members; a member without one counts by itself."""
        by_domain: dict[object, list[float]] = {}
        for index, (member, value) in enumerate(zip(self.manifest.member, values, strict=True)):
            if value is not None:
                by_domain.setdefault(index if member.test_domain is None else member.test_domain, []).append(
                    value
                )
        return spread(sum(of_domain) / len(of_domain) for of_domain in by_domain.values())
