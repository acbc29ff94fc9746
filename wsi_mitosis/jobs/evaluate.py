"""Score a bundle on a dataset: on unseen samples, or on training data if every score is marked as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.blinding import blinding_note
from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.metrics import RESAMPLES, SEED
from wsi_mitosis.core.overlap import LOOK, PLACE, Overlap
from wsi_mitosis.core.scoring import (
    OWN_DOMAINS,
    WITH_TRAINING_DATA,
    Bootstrap,
    ReportHeading,
    Scope,
    Scorer,
    member_names,
)
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.jobs.known import has_looks, overlap_of
from wsi_mitosis.jobs.predict import BATCH
from wsi_mitosis.jobs.scale import at_scale
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.scoring import Curve, EvaluationReport
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.nets.ensembles import Ensemble
    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import Backend, BackendChoice, Tta

    OnProgress = Callable[[str, int, int], None]
    Probabilities = NDArray[np.float64]

STAGE = "evaluating"
SAMPLES_AT_ONCE = 8 * BATCH
"""Number of samples in memory."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a bundle on a dataset.

    Attributes:
        report: The content of `evaluation.json`.
        predictions: A row per sample with each member's P(atypical) and the vote.
        curves: The data of the ROC and calibration plots.
    """

    report: EvaluationReport
    predictions: pd.DataFrame
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class _Views:
    """The views of each crop."""

    manifest: BundleManifest
    tta: Tta

    @property
    def has_extra(self) -> bool:
        return self.tta != "none" or len(self.manifest.ensemble.zooms) > 1

    def single(self) -> _Views:
        """The crop as it is, at zoom 1 if the bundle has it."""
        ensemble = self.manifest.ensemble
        one = ensemble.model_copy(update={"zooms": (ensemble.single_zoom,)})
        return _Views(self.manifest.model_copy(update={"ensemble": one}), "none")


@dataclass(frozen=True)
class Classified:
    """What the members of a bundle give for N samples.

    Attributes:
        overlap: Which samples the bundle was trained on.
        scope: Which samples the ensemble and the members are scored on.
        views: The choices of views: the bundle's or the requested ones, and perhaps a single view.
        probabilities: (N, M) P(atypical) for each choice at `temperature`; NaN if it was not computed.
        temperature: Of the bundle that classified.
        device: Device of the networks.
        backend: What computed them.
    """

    overlap: Overlap
    scope: Scope
    views: tuple[_Views, ...]
    probabilities: tuple[Probabilities, ...]
    temperature: float
    device: str
    backend: Backend

    def at(self, temperature: float) -> tuple[Probabilities, ...]:
        """Return the probabilities as a bundle of another temperature gives them."""
        return tuple(calibrated(found, temperature / self.temperature) for found in self.probabilities)


def evaluate(
    bundle: Bundle,
    store: Store,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    tta: Tta | None = None,
    allow_overlap: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> Evaluation:
    """Score the ensemble and its members.

    If the bundle was not trained on any of the samples, the ensemble and every member are scored on all of
    them. Otherwise each member is scored on the samples of its own test domain, which it has not seen, and
    the ensemble on the samples that no member has seen (`unseen`); `overall` and `domains` are None.

    Args:
        bundle: A bundle, as read back from disk.
        store: Labelled crops. Larger ones are cut to their centre, finer ones are resampled.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        backend: `auto`, `torch` or `openvino`.
        tta: Views of each crop; the bundle's if None.
        allow_overlap: Score everything on all samples in any case, and mark every score.
        on_progress: Called with a member's name, the number of samples that it has classified, and the number
            of its samples.

    Raises:
        InputError: If no member has unseen samples, or the bundle, the dataset or the device cannot be used.
    """
    found = classify_samples(
        bundle,
        store,
        device=device,
        backend=backend,
        tta=tta,
        allow_overlap=allow_overlap,
        on_progress=on_progress,
    )
    return score_samples(bundle, store, found)


def classify_samples(
    bundle: Bundle,
    store: Store,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    tta: Tta | None = None,
    allow_overlap: bool = False,
    single_view: bool = True,
    on_progress: OnProgress = lambda *_: None,
) -> Classified:
    """Compute what `evaluate` scores.

    Args:
        bundle: As for `evaluate`, like the other arguments.
        store: Labelled crops.
        device: Device of the networks.
        backend: What computes them.
        tta: Views of each crop.
        allow_overlap: Classify all samples by all members in any case.
        single_view: Classify the crop as it is as well, if the bundle has further views.
        on_progress: Called as a member classifies.

    Raises:
        InputError: As for `evaluate`.
    """
    manifest = bundle.manifest
    store = at_scale(store, manifest.input, manifest.name, STAGE)
    overlap = overlap_of(bundle, store)
    scope = _scope(overlap, allow_overlap=allow_overlap)
    included = np.ones_like(overlap.own)
    if scope == OWN_DOMAINS:
        included = overlap.own | ~overlap.seen[:, None]
    _check_unseen(bundle, store, included)
    views = _Views(manifest, tta or manifest.ensemble.tta)
    choices = (views, views.single()) if single_view and views.has_extra else (views,)
    from wsi_mitosis.nets.compiled import resolve_backend
    from wsi_mitosis.nets.devices import resolve_device

    device = resolve_device(device)
    resolved = resolve_backend(backend, device)
    probabilities = _predict(
        bundle, store, included, choices, (device, resolved, granted_cpus()), on_progress
    )
    return Classified(overlap, scope, choices, tuple(probabilities), manifest.temperature, device, resolved)


def member_probabilities(
    bundle: Bundle,
    store: Store,
    included: NDArray[np.bool_],
    *,
    device: str = "auto",
    threads: int | None = None,
) -> Probabilities:
    """Compute what members give for chosen samples, with the bundle's views and temperature.

    Args:
        bundle: The bundle.
        store: The samples, at the bundle's scale.
        included: (N, M) bool, which member classifies which sample.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Number of CPU threads that compute; all that are granted if None.

    Returns:
        (N, M) P(atypical); NaN for samples that are not included.

    Raises:
        InputError: If the bundle, the dataset or the device cannot be used.
    """
    from wsi_mitosis.nets.compiled import resolve_backend
    from wsi_mitosis.nets.devices import resolve_device

    device = resolve_device(device)
    computed_by = device, resolve_backend("auto", device), threads or granted_cpus()
    views = _Views(bundle.manifest, bundle.manifest.ensemble.tta)
    (found,) = _predict(bundle, store, included, (views,), computed_by, lambda *_: None)
    return found


def score_samples(bundle: Bundle, store: Store, classified: Classified) -> Evaluation:
    """Score what `classify_samples` computed.

    Args:
        bundle: The bundle that classified. It may have been calibrated since.
        store: The samples.
        classified: What it gave.
    """
    store = at_scale(store, bundle.manifest.input, bundle.manifest.name, STAGE)
    scorer = Scorer(store.samples, bundle.manifest, classified.overlap, classified.scope)
    probabilities = classified.at(bundle.manifest.temperature)
    report = scorer.report(_heading(bundle, store, classified, scorer), probabilities)
    return Evaluation(report, scorer.predictions(probabilities[0]), scorer.curves(probabilities[0]))


def _scope(overlap: Overlap, *, allow_overlap: bool) -> Scope:
    if not overlap.seen.any():
        return "all samples"
    return WITH_TRAINING_DATA if allow_overlap else OWN_DOMAINS


def _check_unseen(bundle: Bundle, store: Store, included: NDArray[np.bool_]) -> None:
    if not included.any():
        used = "train" if bundle.manifest.parent is None else "train or calibrate"
        raise InputError(
            f"all {len(included)} samples were used to {used} '{bundle.manifest.name}'",
            subject=store.folder,
            stage=STAGE,
            remedy="Evaluate it on samples that it has not seen, or score training data with --allow-overlap",
        )


def _predict(
    bundle: Bundle,
    store: Store,
    included: NDArray[np.bool_],
    choices: tuple[_Views, ...],
    computed_by: tuple[str, Backend, int],
    on_progress: OnProgress,
) -> list[Probabilities]:
    """For each choice of views (N, M) P(atypical), NaN for samples that are not included."""
    results = [np.full(included.shape, np.nan) for _ in choices]
    names = member_names(bundle.manifest)
    for index, state in enumerate(bundle.read_members()):
        rows = np.flatnonzero(included[:, index])
        if not len(rows):
            continue
        on_progress(names[index], 0, len(rows))
        ensembles = [_alone(views, index, state, *computed_by) for views in choices]
        for start in range(0, len(rows), SAMPLES_AT_ONCE):
            block = rows[start : start + SAMPLES_AT_ONCE]
            images = store.images(block)
            for result, ensemble in zip(results, ensembles, strict=True):
                result[block, index] = _classify(ensemble, _centres(images, ensemble.read_px, bundle, store))
            on_progress(names[index], start + len(block), len(rows))
    return results


def _alone(
    views: _Views,
    index: int,
    state: Mapping[str, NDArray[np.floating]],
    device: str,
    backend: Backend,
    threads: int,
) -> Ensemble:
    """Build an ensemble of one member."""
    from wsi_mitosis.nets.ensembles import Ensemble

    manifest = views.manifest.model_copy(update={"member": (views.manifest.member[index],)})
    return Ensemble(
        manifest,
        [state],
        device=device,
        tta=views.tta,
        threads=threads,
        backend=backend,
        files=user_files(),
    )


def _classify(ensemble: Ensemble, crops: NDArray[np.uint8]) -> Probabilities:
    """(n,) P(atypical) by an ensemble of one, a batch at a time."""
    batches = (crops[start : start + BATCH] for start in range(0, len(crops), BATCH))
    return np.concatenate([ensemble.predict(batch)[:, 0] for batch in batches])


def _centres(crops: NDArray[np.uint8], side_px: int, bundle: Bundle, store: Store) -> NDArray[np.uint8]:
    try:
        return cut_centres(crops, side_px, bundle.manifest.name)
    except InputError as error:
        raise InputError(error.cause, subject=store.folder, stage=error.stage, remedy=error.remedy) from error


def _heading(bundle: Bundle, store: Store, classified: Classified, scorer: Scorer) -> ReportHeading:
    manifest, attributes = bundle.manifest, store.attributes
    return ReportHeading(
        program=f"wsi-mitosis {__version__}",
        use="Research use only.",
        bundle=manifest.name,
        bundle_version=manifest.version,
        bundle_digest=bundle.digest,
        trained=manifest.trained,
        intended_use=manifest.intended_use,
        threshold=manifest.ensemble.threshold,
        temperature=manifest.temperature,
        tta=classified.views[0].tta,
        zooms=manifest.ensemble.zooms,
        device=classified.device,
        backend=classified.backend,
        dataset=attributes.name,
        dataset_digest=attributes.digest,
        dataset_licence=attributes.licence,
        samples=len(store.samples),
        positive="atypical",
        bootstrap=Bootstrap(resamples=RESAMPLES, seed=SEED, interval="95 % percentile"),
        scope=scorer.scope,
        training_data=scorer.training_data,
        trained_on=int(scorer.overlap.seen.sum()),
        notes=tuple(_notes(bundle, store, scorer)),
    )


def _notes(bundle: Bundle, store: Store, scorer: Scorer) -> Iterator[str]:
    """Return the notes for readers of the report."""
    manifest, seen, number = bundle.manifest, int(scorer.overlap.seen.sum()), len(store.samples)
    if not manifest.trained:
        yield f"'{manifest.name}' is UNTRAINED: these figures mean nothing."
    trained = "trained" if manifest.parent is None else "trained or calibrated"
    if scorer.training_data:
        yield f"TRAINING DATA: the bundle was {trained} on {seen} of these {number} samples."
    if scorer.scope == OWN_DOMAINS:
        yield (
            f"The bundle was {trained} on {seen} of these {number} samples. Each member is scored on "
            "those of its own test domain, which it has not seen; the ensemble only on those that no member "
            "has seen."
        )
    if (not_blind := blinding_note(store.samples)) is not None:
        yield not_blind
    if manifest.trained:
        yield from _unchecked(bundle.read_samples(), store, scorer.scope)
    if store.attributes.mpp is None:
        yield f"The dataset states no um/px; it is taken to be the bundle's {manifest.input.mpp:g}."


def _unchecked(recorded: Mapping[str, frozenset[str]], store: Store, scope: Scope) -> Iterator[str]:
    """Yield what cannot be known about whether the members have seen these samples."""
    if not recorded:
        yield "The bundle does not list what it was trained on: these samples may be among it."
        return
    if scope != "all samples":
        return
    listed = {kind for kind in (PLACE, LOOK) if any(key.startswith(kind) for key in recorded)}
    without_place = int((store.samples["slide"].eq("") | store.samples["x_px0"].isna()).sum())
    if not listed:
        lacking = "The bundle lists neither the places nor the looks of its figures"
    elif LOOK in listed and has_looks(store):
        yield "Samples that are turned or mirrored copies of its figures would count as unseen."
        return
    elif PLACE in listed and not without_place:
        return
    else:
        lacking = f"The places of {without_place} of these {len(store.samples)} samples are not known"
    yield (
        f"{lacking}, so that they are compared by the pixels of crops only: a figure whose crop is of "
        "another size, shifted, or compressed otherwise may have been trained on, and counts as unseen."
    )
