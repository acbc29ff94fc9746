"""Classify crops that are already cut out: a stack, or the MIDOG 2025 track-2 challenge's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.core.geometry import cut_centres, read_px
from wsi_mitosis.core.voting import Votes, tally
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.slides.stacks import OUT_FILE, challenge_stack, read_stack, write_predictions
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.nets.ensembles import Ensemble
    from wsi_mitosis.tables import Backend, BackendChoice, Tta, Vote

BATCH = 32
"""Crops in memory as floats at once."""


@dataclass(frozen=True)
class StackResult:
    """The vote on a stack's crops.

    Attributes:
        stack: The file.
        votes: In page order.
        bundle: What voted.
        device: Device of the networks.
        backend: What computed them.
        tta: Views of each crop.
        vote: `all` or `early`.
    """

    stack: Path
    votes: Votes
    bundle: Bundle
    device: str
    backend: Backend
    tta: Tta
    vote: Vote

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The challenge's form, in page order: `confidence` is P(atypical) whatever the class."""
        classes = np.where(self.votes.is_atypical, "atypical", "normal")
        pairs = zip(classes.tolist(), self.votes.p_atypical.tolist(), strict=True)
        return [{"class": name, "confidence": float(p_atypical)} for name, p_atypical in pairs]

    @property
    def provenance(self) -> dict[str, Any]:
        """Bundle and options that the predictions come from."""
        return {
            "program": f"wsi-mitosis {__version__}",
            "stack": self.stack.name,
            "crops": len(self.votes),
            "bundle": self.bundle.manifest.name,
            "bundle_digest": self.bundle.digest,
            "trained": self.bundle.manifest.trained,
            "intended_use": self.bundle.manifest.intended_use,
            "threshold": self.bundle.manifest.ensemble.threshold,
            "device": self.device,
            "backend": self.backend,
            "tta": self.tta,
            "vote": self.vote,
        }

    def write(self, path: Path) -> Path:
        """Write the predictions and beside them their provenance, whose path is returned.

        Raises:
            OutputError: if the folder cannot be written.
        """
        return write_predictions(path, self.predictions, self.provenance)


def predict_crops(crops: NDArray[np.uint8], ensemble: Ensemble, bundle: Bundle) -> Votes:
    """Vote on crops.

    Args:
        crops: (N, P, P, 3) uint8 RGB at the bundle's um/px, the figure in the centre.
        ensemble: The bundle's members.
        bundle: Its manifest states the size of the crops and the threshold.

    Raises:
        InputError: if the crops are smaller than the bundle's.
    """
    manifest = bundle.manifest
    centres = cut_centres(crops, read_px(manifest.input.cut_px, manifest.ensemble.zooms), manifest.name)
    starts = range(0, len(centres), BATCH)
    probabilities = [ensemble.predict(centres[start : start + BATCH]) for start in starts]
    return tally(
        np.concatenate([np.empty((0, len(manifest.member))), *probabilities]), manifest.ensemble.threshold
    )


def predict_stack(
    path: Path,
    bundle: Bundle,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    tta: Tta | None = None,
    vote: Vote = "all",
) -> StackResult:
    """Vote on the pages of a TIFF.

    Args:
        path: A TIFF whose pages are square RGB crops of one size.
        bundle: What votes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        backend: `auto`, `torch` or `openvino`.
        tta: Views of each crop; the bundle's if None.
        vote: `all`, or `early` to skip the other members once the majority is certain.

    Raises:
        InputError: if the stack, the bundle or the device cannot be used.
    """
    crops = read_stack(path)
    from wsi_mitosis.nets.ensembles import Ensemble

    ensemble = Ensemble(
        bundle.manifest,
        bundle.read_members(),
        device=device,
        tta=tta,
        vote=vote,
        threads=granted_cpus(),
        backend=backend,
        files=user_files(),
    )
    try:
        votes = predict_crops(crops, ensemble, bundle)
    except InputError as error:
        raise InputError(error.cause, subject=path, stage=error.stage, remedy=error.remedy) from error
    return StackResult(path, votes, bundle, ensemble.device, ensemble.backend, ensemble.tta, vote)


def predict_challenge(
    input_dir: Path,
    output_dir: Path,
    bundle: Bundle,
    *,
    device: str = "auto",
    backend: BackendChoice = "auto",
    tta: Tta | None = None,
    vote: Vote = "all",
) -> tuple[StackResult, Path]:
    """Process one job of a Grand Challenge container of MIDOG 2025 track 2.

    Args:
        input_dir: Holds `inputs.json` and the stack.
        output_dir: Gets the predictions.
        bundle: What votes.
        device: As for `predict_stack`.
        backend: As for `predict_stack`.
        tta: As for `predict_stack`.
        vote: As for `predict_stack`.

    Returns:
        The result, and the file that it was written to.

    Raises:
        InputError: if the input, the bundle or the device cannot be used.
        OutputError: if the output folder cannot be written.
    """
    stack = challenge_stack(input_dir)
    result = predict_stack(stack, bundle, device=device, backend=backend, tta=tta, vote=vote)
    result.write(output_dir / OUT_FILE)
    return result, output_dir / OUT_FILE
