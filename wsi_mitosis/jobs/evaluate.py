"""Score a bundle on a store, and never on what it was trained on unless that is said beside every figure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.metrics import MEASURES, RESAMPLES, SEED, calibration, intervals, score, spread
from wsi_mitosis.core.overlap import Overlap, find_overlap
from wsi_mitosis.core.voting import Votes, tally
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.training.plots import Curve
from wsi_mitosis.jobs.predict import BATCH
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.nets.members import Ensemble
    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import Tta

    Tell = Callable[[str, int, int], None]
    Probabilities = NDArray[np.float64]
    Rows = NDArray[np.intp]

Scope = Literal["all samples", "own test domains", "all samples, training data among them"]
STAGE = "evaluating"
READ = 8 * BATCH
"""Samples read at once."""


@dataclass(frozen=True)
class Evaluation:
    """A bundle's figures on a store.

    Attributes:
        report: As `evaluation.json`.
        predictions: A row per sample: what each member and the vote said of it.
        curves: What ROC and calibration are drawn of.
    """

    report: dict[str, Any]
    predictions: pd.DataFrame
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class _Views:
    """What of a crop is looked at."""

    manifest: BundleManifest
    tta: Tta

    @property
    def has_extra(self) -> bool:
        return self.tta != "none" or len(self.manifest.ensemble.zooms) > 1

    def single(self) -> _Views:
        """The crop as it is, at zoom 1 if the bundle has it."""
        ensemble = self.manifest.ensemble
        zoom = 1.0 if 1.0 in ensemble.zooms else ensemble.zooms[0]
        one = ensemble.model_copy(update={"zooms": (zoom,)})
        return _Views(self.manifest.model_copy(update={"ensemble": one}), "none")


def evaluate(
    bundle: Bundle,
    store: Store,
    *,
    device: str = "auto",
    tta: Tta | None = None,
    allow_overlap: bool = False,
    tell: Tell = lambda *_: None,
) -> Evaluation:
    """Score the ensemble and its members.

    Without samples that the bundle was trained on, the ensemble and every member are scored on all samples.
    With some, each member is scored on the samples of its own test domain, which it has not seen, and the
    ensemble on those that no member has seen, apart under `unseen`; `overall` and `domains` are None.

    Args:
        bundle: As read back from disk.
        store: Labelled crops at the bundle's um/px; larger ones are cut to their centre.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tta: Views of each crop; the bundle's where None.
        allow_overlap: Score all on all samples all the same, and mark every figure.
        tell: Takes a member's name, its samples that are done, and how many it has.

    Raises:
        InputError: where no member has unseen samples, or bundle, store or device cannot be used.
    """
    manifest = bundle.manifest
    overlap = find_overlap(store.samples, bundle.read_samples(), [m.test_domain for m in manifest.member])
    scope: Scope = "all samples"
    if overlap.seen.any():
        scope = "all samples, training data among them" if allow_overlap else "own test domains"
    asked = np.ones_like(overlap.own)
    if scope == "own test domains":
        asked = overlap.own | ~overlap.seen[:, None]
    _check(bundle, store, asked)
    views = _Views(manifest, tta or manifest.ensemble.tta)
    looked = (views, views.single()) if views.has_extra else (views,)
    probabilities, device = _predict(bundle, store, asked, looked, device, tell)
    scorer = _Scorer(store.samples, manifest, overlap, scope)
    tables = [scorer.figures(each) for each in probabilities]
    curves = scorer.curves(probabilities[0])
    report = {
        **_heading(bundle, store, views, device),
        "scope": scope,
        "training_data": scorer.training_data,
        "trained_on": int(overlap.seen.sum()),
        "notes": _notes(bundle, store, scorer),
        **tables[0],
        "distinct": (tables[0]["overall"] or {}).get("distinct"),
        "single_view": tables[1] if len(tables) > 1 else None,
        "calibration": {
            curve.name: [one._asdict() for one in calibration(curve.labels, curve.p_atypical)]
            for curve in curves
        },
    }
    return Evaluation(report, scorer.predictions(probabilities[0]), curves)


def member_names(manifest: BundleManifest) -> list[str]:
    """What members are called: their files without the ending."""
    return [Path(member.file).stem for member in manifest.member]


def _check(bundle: Bundle, store: Store, asked: NDArray[np.bool_]) -> None:
    """Whether there is something to score, at the bundle's scale."""
    wanted, name = bundle.manifest.input, bundle.manifest.name
    stated = store.attributes.mpp
    if stated is not None and abs(stated / wanted.mpp - 1) > wanted.mpp_tolerance:
        raise InputError(
            f"its crops have {stated:g} um/px, and '{name}' reads {wanted.mpp:g}",
            subject=store.folder,
            stage=STAGE,
            remedy="Build the dataset at the bundle's um/px",
        )
    if not asked.any():
        raise InputError(
            f"'{name}' was trained on all {len(asked)} samples, and no member's test domain is among them",
            subject=store.folder,
            stage=STAGE,
            remedy="Evaluate on another dataset, or score training data as such with --allow-overlap",
        )


def _predict(
    bundle: Bundle,
    store: Store,
    asked: NDArray[np.bool_],
    looked: tuple[_Views, ...],
    device: str,
    tell: Tell,
) -> tuple[list[Probabilities], str]:
    """For each choice of views (N, M) P(atypical), NaN where a member was not asked; and the device."""
    from wsi_mitosis.nets.members import Ensemble, resolve_device

    device = resolve_device(device)
    results = [np.full(asked.shape, np.nan) for _ in looked]
    manifest = bundle.manifest
    members = zip(manifest.member, member_names(manifest), bundle.read_members(), strict=True)
    for index, (member, name, state) in enumerate(members):
        rows = np.flatnonzero(asked[:, index])
        if not len(rows):
            continue
        tell(name, 0, len(rows))
        alone = {"member": (member,)}
        ensembles = [
            Ensemble(views.manifest.model_copy(update=alone), [state], device=device, tta=views.tta)
            for views in looked
        ]
        for start in range(0, len(rows), READ):
            block = rows[start : start + READ]
            images = store.images(block)
            for result, ensemble in zip(results, ensembles, strict=True):
                result[block, index] = _ask(ensemble, _centres(images, ensemble.read_px, bundle, store))
            tell(name, start + len(block), len(rows))
    return results, device


def _ask(ensemble: Ensemble, crops: NDArray[np.uint8]) -> Probabilities:
    """(n,) P(atypical) by an ensemble of one, a batch at a time."""
    batches = (crops[start : start + BATCH] for start in range(0, len(crops), BATCH))
    return np.concatenate([ensemble.predict(batch)[:, 0] for batch in batches])


def _centres(crops: NDArray[np.uint8], side_px: int, bundle: Bundle, store: Store) -> NDArray[np.uint8]:
    try:
        return cut_centres(crops, side_px, bundle.manifest.name)
    except InputError as error:
        raise InputError(error.cause, subject=store.folder, stage=error.stage, remedy=error.remedy) from error


class _Scorer:
    """Turns probabilities into a report's entries.

    Args:
        samples: The store's.
        manifest: The bundle's.
        overlap: Of the two.
        scope: What is scored on what.
    """

    def __init__(
        self, samples: pd.DataFrame, manifest: BundleManifest, overlap: Overlap, scope: Scope
    ) -> None:
        self.samples, self.manifest, self.overlap, self.scope = samples, manifest, overlap, scope
        self.training_data = scope == "all samples, training data among them"
        self._labels = samples["label"].to_numpy(np.int64)
        self._domains = samples["domain"].to_numpy(object)
        self._names = member_names(manifest)

    def figures(self, probabilities: Probabilities) -> dict[str, Any]:
        """Every entry of one choice of views."""
        members = {
            name: {
                "test_domain": self.manifest.member[index].test_domain,
                **self._entry(self._of_member(index), probabilities[:, [index]]),
            }
            for index, name in enumerate(self._names)
        }
        ensemble = self._ensemble(probabilities)
        own = self.scope == "own test domains"
        return {
            "overall": None if own else ensemble["overall"],
            "domains": None if own else ensemble["domains"],
            "members": members,
            "lodo": self._lodo(members) if own else None,
            "unseen": ensemble if own and ensemble["overall"]["n"] else None,
        }

    def curves(self, probabilities: Probabilities) -> tuple[Curve, ...]:
        """The ensemble's and each member's, of what they are scored on."""
        rows = self._of_ensemble()
        name = "ensemble, unseen samples" if self.scope == "own test domains" else "ensemble"
        found = [Curve(name, self._labels[rows], self._votes(rows, probabilities).p_atypical, True)]
        for index, member in enumerate(self.manifest.member):
            rows = self._of_member(index)
            told = f" on {member.test_domain}" if self.scope == "own test domains" else ""
            name = f"{self._names[index]}{told}"
            found.append(Curve(name, self._labels[rows], probabilities[rows, index], False))
        return tuple(curve for curve in found if len(curve.labels))

    def predictions(self, probabilities: Probabilities) -> pd.DataFrame:
        """What was said of each sample; empty cells where a member, or the ensemble, is not scored on it."""
        words = np.array(["typical", "atypical"], dtype=object)
        table = self.samples[["source_id", "slide", "domain", "digest"]].copy()
        table["trained_on"] = self.overlap.seen
        table["label"] = words[self._labels]
        for index, name in enumerate(self._names):
            table[f"p_{name}"] = probabilities[:, index]
        rows = self._of_ensemble()
        votes = self._votes(rows, probabilities)
        table["p_atypical"] = np.nan
        table.loc[table.index[rows], "p_atypical"] = votes.p_atypical
        table["vote"] = ""
        table.loc[table.index[rows], "vote"] = words[votes.is_atypical.astype(int)]
        return table

    def _of_ensemble(self) -> Rows:
        unseen = ~self.overlap.seen
        return np.flatnonzero(unseen if self.scope == "own test domains" else np.ones_like(unseen))

    def _of_member(self, index: int) -> Rows:
        own = self.overlap.own[:, index]
        return np.flatnonzero(own if self.scope == "own test domains" else np.ones_like(own))

    def _votes(self, rows: Rows, probabilities: Probabilities) -> Votes:
        return tally(probabilities[rows], self.manifest.ensemble.threshold)

    def _ensemble(self, probabilities: Probabilities) -> dict[str, Any]:
        rows = self._of_ensemble()
        domains = {
            domain: self._entry(rows[self._domains[rows] == domain], probabilities)
            for domain in sorted(set(self._domains[rows]))
        }
        return {"overall": self._entry(rows, probabilities), "domains": domains}

    def _entry(self, rows: Rows, probabilities: Probabilities) -> dict[str, Any]:
        """Scores of the vote of m members, (N, m), on some samples; byte-equal ones count as they come."""
        entry = self._scores(rows, probabilities)
        groups = self.samples.iloc[rows].groupby("digest", sort=False)["label"]
        first = rows[~self.samples["digest"].iloc[rows].duplicated().to_numpy()]
        entry["distinct"] = None
        if len(first) < len(rows):
            contradictory = int((groups.nunique() > 1).sum())
            entry["distinct"] = {**self._scores(first, probabilities), "contradictory": contradictory}
        return entry

    def _scores(self, rows: Rows, probabilities: Probabilities) -> dict[str, Any]:
        labels, votes = self._labels[rows], self._votes(rows, probabilities)
        found = score(labels, votes.is_atypical, votes.p_atypical)
        drawn = intervals(
            labels, votes.is_atypical, votes.p_atypical, self.samples["slide"].iloc[rows].tolist()
        )
        confusion = found.confusion._asdict()
        return {
            "n": found.n,
            "atypical": int(labels.sum()),
            **{name: getattr(found, name) for name in (*MEASURES, "brier")},
            **{f"{name}_ci95": bounds and list(bounds) for name, bounds in drawn.bounds.items()},
            "confusion": confusion,
            "resampled": {name: value for name, value in asdict(drawn).items() if name != "bounds"},
            "training_data": self.training_data,
            "training_samples": int(self.overlap.seen[rows].sum()) if self.training_data else 0,
        }

    def _lodo(self, members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Mean and sample standard deviation over members, as in the paper's Table 1; None without any."""
        if not any(entry["n"] for entry in members.values()):
            return None
        validation = [member.validation_balanced_accuracy for member in self.manifest.member]
        return {
            "members": sum(bool(entry["n"]) for entry in members.values()),
            **{name: spread(entry[name] for entry in members.values())._asdict() for name in MEASURES},
            "validation_balanced_accuracy": spread(validation)._asdict(),
        }


def _heading(bundle: Bundle, store: Store, views: _Views, device: str) -> dict[str, Any]:
    manifest, attributes = bundle.manifest, store.attributes
    return {
        "program": f"wsi-mitosis {__version__}",
        "use": "Research use only.",
        "bundle": manifest.name,
        "bundle_version": manifest.version,
        "bundle_digest": bundle.digest,
        "trained": manifest.trained,
        "intended_use": manifest.intended_use,
        "threshold": manifest.ensemble.threshold,
        "tta": views.tta,
        "zooms": list(manifest.ensemble.zooms),
        "device": device,
        "dataset": attributes.name,
        "dataset_digest": attributes.digest,
        "dataset_licence": attributes.licence,
        "samples": len(store.samples),
        "positive": "atypical",
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "interval": "95 % percentile"},
    }


def _notes(bundle: Bundle, store: Store, scorer: _Scorer) -> list[str]:
    """What a reader of the figures must know."""
    manifest, seen, number = bundle.manifest, int(scorer.overlap.seen.sum()), len(store.samples)
    told = []
    if not manifest.trained:
        told.append(f"'{manifest.name}' is UNTRAINED: these figures mean nothing.")
    if scorer.training_data:
        told.append(f"TRAINING DATA: the bundle was trained on {seen} of these {number} samples.")
    if scorer.scope == "own test domains":
        told.append(
            f"The bundle was trained on {seen} of these {number} samples. Each member is scored on those of "
            "its own test domain, which it has not seen; the ensemble only on those that no member has seen."
        )
    if manifest.trained and not bundle.read_samples():
        told.append("The bundle does not list what it was trained on: these samples may be among it.")
    if store.attributes.mpp is None:
        told.append(f"The dataset states no um/px; it is taken to be the bundle's {manifest.input.mpp:g}.")
    return told
