"""Calibrate a bundle: on the domains that its members were trained without, or on a laboratory's figures."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.calibration import FOLDS, Fit, fit_temperature, fit_to_figures, held_out_calls
from wsi_mitosis.core.metrics import gain_interval
from wsi_mitosis.core.scoring import left_out
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.bundles import check_unused, derive_bundle, write_card, write_table
from wsi_mitosis.jobs.cards import add_to_card, calibration_text, derived_card, with_section
from wsi_mitosis.jobs.evaluate import classify_samples, score_samples
from wsi_mitosis.jobs.known import all_identifiers, overlap_of
from wsi_mitosis.jobs.scale import at_scale
from wsi_mitosis.specs import BundleManifest, CalibrationSpec, FittedOn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.jobs.evaluate import Classified, OnProgress
    from wsi_mitosis.tables import BackendChoice

STAGE = "calibrating"
OF_EACH_CLASS = 25
"""Least number of figures of each class: the 95 % interval of a sensitivity of .8 is .64 to .96 then, and the
threshold goes 42 % of the way to the one that fits these figures best. Fewer tell and change too little."""


@dataclass(frozen=True)
class Rates:
    """Scores of the vote on figures of both classes."""

    balanced_accuracy: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Gain:
    """What a bundle that was calibrated on own figures gains, by cross-validation over slides.

    Attributes:
        before: Scores of the vote with the parent's temperature and threshold.
        after: Scores of the vote in which each figure has the values that were fitted to other slides.
        balanced_accuracy: What `after` has more than `before`.
        interval: 95 % bootstrap interval of it, over slides.
        slides: Number of slides; a figure whose slide is unknown counts as one.
        unknown_slides: Number of figures whose slide is unknown.
    """

    before: Rates
    after: Rates
    balanced_accuracy: float
    interval: tuple[float, float]
    slides: int
    unknown_slides: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Calibrated:
    """A bundle that was derived from another one by `calibrate`.

    Attributes:
        bundle: The new bundle.
        parent: The manifest of the bundle that it was derived from.
        parent_digest: Its digest.
        gain: What it gains on the figures that it was fitted to.
    """

    bundle: Bundle
    parent: BundleManifest
    parent_digest: str
    gain: Gain

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        manifest, calibration = self.bundle.manifest, self.bundle.manifest.calibration
        return {
            "bundle": manifest.name,
            "digest": self.bundle.digest,
            "folder": str(self.bundle.folder),
            "parent": {
                "name": self.parent.name,
                "digest": self.parent_digest,
                "temperature": self.parent.temperature,
                "threshold": self.parent.ensemble.threshold,
            },
            "temperature": manifest.temperature,
            "threshold": manifest.ensemble.threshold,
            "calibration": None if calibration is None else calibration.model_dump(),
            "slides": self.gain.slides,
            "before": asdict(self.gain.before),
            "after": asdict(self.gain.after),
            "gain": self.gain.balanced_accuracy,
            "gain_ci95": list(self.gain.interval),
        }


def calibrate_on_left_out(bundle: Bundle, store: Store, classified: Classified | None = None) -> Bundle:
    """Fit a bundle's temperature to each member's P(atypical) on the domain that it was trained without.

    The manifest gets the calibration, and the card a section. A bundle stays as it is if its members have no
    samples of both classes in such domains.

    Args:
        bundle: The bundle, in a folder that may be changed.
        store: The samples that it was trained on.
        classified: What its members give for them; computed if None.

    Returns:
        The bundle, as read back from disk.

    Raises:
        InputError: If the bundle or the samples cannot be used.
        OutputError: If the manifest or the card cannot be written.
    """
    found = classified or classify_samples(bundle, store, single_view=False)
    samples = left_out(store.samples, bundle.manifest, found.overlap, found.probabilities[0])
    if not samples.has_both_classes:
        return bundle
    temperature = fit_temperature(samples.labels, samples.p_atypical)
    calibration = _calibration(temperature, "domains left out", store, np.unique(samples.rows))
    written = write_table(bundle, "calibration", calibration)
    write_card(written, with_section(written.read_card(), "Calibration", calibration_text(calibration)))
    return written


def calibrate_and_score(bundle: Bundle, store: Store, *, device: str = "auto") -> Bundle:
    """Fit a bundle's temperature on the domains that its members left out, and add its scores to the card.

    Args:
        bundle: The bundle, in a folder that may be changed.
        store: The samples that it was trained on.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The bundle, as read back from disk.

    Raises:
        InputError: If the bundle, the samples or the device cannot be used.
        OutputError: If the manifest or the card cannot be written.
    """
    classified = classify_samples(bundle, store, device=device)
    bundle = calibrate_on_left_out(bundle, store, classified)
    add_to_card(bundle, score_samples(bundle, store, classified).report)
    return bundle


def calibrate(
    parent: Bundle,
    store: Store,
    out: Path,
    *,
    name: str | None = None,
    device: str = "auto",
    backend: BackendChoice = "auto",
    on_progress: OnProgress = lambda *_: None,
) -> Calibrated:
    """Derive a bundle whose temperature and threshold are fitted to a laboratory's own labelled figures.

    Args:
        parent: A trained bundle, which stays as it is.
        store: Labelled crops at the bundle's um/px, none of which the bundle knows.
        out: The new bundle's folder. It must not exist, or be empty.
        name: Its name; that of the folder if None.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        backend: `auto`, `torch` or `openvino`.
        on_progress: As for `evaluate`.

    Raises:
        InputError: If the bundle is not trained or knows one of the figures, if there are too few of them to
            tell what is gained, or if the bundle, the dataset or the device cannot be used.
        OutputError: If the folder is in use or cannot be written.
    """
    check_unused(out)
    name = name or out.name
    BundleManifest.parse({**parent.manifest.model_dump(by_alias=True), "name": name}, "--name")
    check_trained(parent, STAGE)
    store = at_scale(store, parent.manifest.input, parent.manifest.name, STAGE)
    check_unknown(parent, store, STAGE)
    check_enough(store, STAGE)
    found = classify_samples(
        parent, store, device=device, backend=backend, single_view=False, on_progress=on_progress
    )
    labels, (probabilities,) = store.samples["label"].to_numpy(np.int64), found.at(1.0)
    before = Fit(parent.manifest.temperature, parent.manifest.ensemble.threshold)
    fit = fit_to_figures(labels, probabilities, before)
    gain = _gain(store, labels, found.probabilities[0], probabilities, before)
    calibration = _calibration(fit.temperature, "own figures", store, np.arange(len(labels)))
    derived = derive_bundle(
        parent,
        out,
        name=name,
        threshold=fit.threshold,
        calibration=calibration,
        card=derived_card(parent, name, fit.threshold, calibration, gain_lines(gain)),
        samples=sorted({key for key, _ in all_identifiers(store)}),
    )
    return Calibrated(derived, parent.manifest, parent.digest, gain)


def gain_lines(gain: Gain) -> list[str]:
    """Return what a calibration gains, in sentences."""
    low, high = gain.interval
    lines = [
        f"Cross-validation in {FOLDS} parts over {gain.slides} slides: balanced accuracy "
        f"{gain.before.balanced_accuracy:.3f} before, {gain.after.balanced_accuracy:.3f} after; "
        f"gain {gain.balanced_accuracy:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}].",
        f"Sensitivity {gain.before.sensitivity:.3f} before, {gain.after.sensitivity:.3f} after; "
        f"specificity {gain.before.specificity:.3f} before, {gain.after.specificity:.3f} after.",
    ]
    if not gain.is_clear:
        lines.append("The interval includes 0: these figures do not tell whether anything is gained or lost.")
    elif high < 0:
        lines.append("Something is lost: use the bundle that this one was derived from.")
    if gain.unknown_slides:
        lines.append(
            f"The slide of {gain.unknown_slides} figures is unknown. Each counts as a slide of its own. The "
            "interval is too narrow if several are of one slide."
        )
    return lines


def _gain(
    store: Store,
    labels: NDArray[np.int64],
    at_parents: NDArray[np.float64],
    at_1: NDArray[np.float64],
    before: Fit,
) -> Gain:
    slides = store.samples["slide"].tolist()
    votes = tally(at_parents, before.threshold)
    called = held_out_calls(labels, at_1, slides, before)
    first, second = _rates(labels, votes.is_atypical), _rates(labels, called)
    return Gain(
        first,
        second,
        second.balanced_accuracy - first.balanced_accuracy,
        gain_interval(labels, votes.is_atypical, called, slides),
        _units(slides),
        slides.count(""),
    )


def _rates(labels: NDArray[np.int64], called: NDArray[np.bool_]) -> Rates:
    sensitivity, specificity = float(called[labels == 1].mean()), float((~called)[labels == 0].mean())
    return Rates((sensitivity + specificity) / 2, sensitivity, specificity)


def check_trained(parent: Bundle, stage: str) -> None:
    """Check that a bundle that another one is to be derived from is trained.

    Raises:
        InputError: If it is not.
    """
    if not parent.manifest.trained:
        raise InputError(
            "it is untrained: there is no threshold at which its labels mean something",
            subject=parent.manifest.name,
            stage=stage,
            remedy="Take a trained bundle; `wsi-mitosis models list` shows those that are shipped",
        )


def check_unknown(parent: Bundle, store: Store, stage: str) -> None:
    """Check that a bundle was neither trained nor calibrated on figures of a store.

    Raises:
        InputError: If it was.
    """
    known, manifest = overlap_of(parent, store).seen, parent.manifest
    if known.any():
        origin = manifest.parent
        again = "" if origin is None else f", or take '{origin.name}' and all of your figures instead"
        raise InputError(
            f"{known.sum()} of {len(known)} samples were used to train or calibrate '{manifest.name}', "
            f"such as {store.samples['source_id'][known].iloc[0]}",
            subject=store.folder,
            stage=stage,
            remedy=f"Build the dataset without them{again}",
        )


def check_enough(store: Store, stage: str, otherwise: str = "") -> None:
    """Check that a laboratory's figures can tell whether a derived bundle is better than its parent.

    Args:
        store: The figures.
        stage: What is being done, for the message.
        otherwise: What else the user can do, after the remedy.

    Raises:
        InputError: If there are fewer than OF_EACH_CLASS of a class, or fewer than FOLDS slides.
    """
    labels = store.samples["label"]
    atypical, typical = int((labels == 1).sum()), int((labels == 0).sum())
    slides = _units(store.samples["slide"].tolist())
    if min(atypical, typical) < OF_EACH_CLASS or slides < FOLDS:
        on = f"on {slides} slides " if slides < FOLDS else ""
        raise InputError(
            f"{atypical} atypical and {typical} typical figures {on}are too few to tell what is gained",
            subject=store.folder,
            stage=stage,
            remedy=f"Label at least {OF_EACH_CLASS} figures of each class, from at least {FOLDS} slides"
            f"{otherwise}",
        )


def figures_sha256(digests: Iterable[str]) -> str:
    """Return the hash of figures in a manifest: of their sorted digests, each followed by a line feed."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in sorted(set(digests))).encode()).hexdigest()


def _units(slides: list[str]) -> int:
    return len(set(slides) - {""}) + slides.count("")


def _calibration(
    temperature: float, fitted_on: FittedOn, store: Store, rows: NDArray[np.intp]
) -> CalibrationSpec:
    """Return the table of a manifest for a fit to some rows of a store's samples."""
    samples = store.samples.iloc[rows]
    return CalibrationSpec(
        temperature=temperature,
        fitted_on=fitted_on,
        figures=len(samples),
        atypical=int((samples["label"] == 1).sum()),
        figures_sha256=figures_sha256(samples["digest"]),
        dataset_digest=store.attributes.digest,
    )
