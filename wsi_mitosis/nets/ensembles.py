"""The ensemble of a bundle: from crops to P(atypical) by member. What computes the members is another module.

torch is imported only where it computes, or where a network is compiled for the first time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.voting import undecided
from wsi_mitosis.errors import BundleError
from wsi_mitosis.nets.compiled import CompiledMembers, Sight, resolve_backend
from wsi_mitosis.nets.devices import resolve_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.nets.compiled import CompiledFiles
    from wsi_mitosis.nets.eager import EagerMembers
    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import Backend, BackendChoice, Precision, Tta, Vote


class Ensemble:
    """The members of a bundle, ready to vote.

    Everything is computed in float32 unless `precision` says otherwise, on GPUs as well (no TF32), so that
    results do not depend on the GPU. On a CPU, OpenVINO can compute the members in torch's place.

    Args:
        manifest: The manifest of the bundle.
        states: Weights of each member in the manifest's order: arrays by name, float16 or float32.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tta: Views of a patch; the bundle's if None.
        vote: `all`, or `early`: a member classifies only the crops whose majority is not certain yet.
        threads: Number of CPU threads that compute in `predict`; if None, the process's setting of torch.
        precision: `fp32`; `fp16` for the encoders on a GPU, with heads in float32; or `bf16` for whole
            networks on a CPU, by OpenVINO. Probabilities and their means are float32 or better.
        backend: `torch`, `openvino` for a CPU, or `auto`; see `nets.compiled.resolve_backend`.
        files: Where networks that OpenVINO compiled are kept; None if nowhere.

    Attributes:
        device: The device that `device` was resolved to.
        backend: The backend that `backend` was resolved to.
        tta: The views of a patch.
        read_px: Side of the crops for `predict`, px.

    Raises:
        BundleError: If the weights do not fit the network.
        InputError: If the device does not exist, or the backend cannot be used.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        states: Sequence[Mapping[str, NDArray[np.floating]]],
        *,
        device: str = "auto",
        tta: Tta | None = None,
        vote: Vote = "all",
        threads: int | None = None,
        precision: Precision = "fp32",
        backend: BackendChoice = "torch",
        files: CompiledFiles | None = None,
    ) -> None:
        self.device = resolve_device(device)
        self.backend: Backend = resolve_backend(backend, self.device, precision)
        self.tta: Tta = tta or manifest.ensemble.tta
        self.read_px = read_px(manifest.input.cut_px, manifest.ensemble.zooms)
        self._manifest, self._vote, self._precision = manifest, vote, precision
        self._members: CompiledMembers | EagerMembers
        if self.backend == "openvino":
            sight = Sight(manifest.input, manifest.ensemble.zooms, self.tta, self.read_px)
            self._members = CompiledMembers(manifest, states, sight, threads, files, precision)
        else:
            from wsi_mitosis.nets.eager import EagerMembers

            self._members = EagerMembers(
                manifest, states, device=self.device, tta=self.tta, threads=threads, precision=precision
            )

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute P(atypical) by crop and member: the mean over zooms and views, at the bundle's temperature.

        Args:
            crops: (N, S, S, 3) uint8 RGB at the bundle's um/px, S = `read_px`, the figure in the centre.

        Returns:
            (N, M) float64; NaN if the member did not classify the crop.

        Raises:
            BundleError: If a member's result is not a number.
        """
        if crops.shape[1:] != (self.read_px, self.read_px, 3):
            raise ValueError(f"crops of shape {crops.shape}, not (N, {self.read_px}, {self.read_px}, 3)")
        probabilities = np.full((len(crops), len(self._manifest.member)), np.nan)
        if not len(crops):
            return probabilities
        with self._members.classifying(crops) as classify:
            for index, member in enumerate(self._manifest.member):
                rows = self._undecided_rows(probabilities)
                if not len(rows):
                    break
                found = calibrated(classify(index, rows), self._manifest.temperature)
                check_numbers(found, self._manifest.file_of(member), self._precision)
                probabilities[rows, index] = found
        return probabilities

    def explain(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute where in the crops features move the members' answers most, the mean over all members.

        The members see the crop as it is, at `single_zoom`, without flips and rotations. What lies outside of
        a member's field did not move its answer.

        Args:
            crops: As for `predict`, N > 0.

        Returns:
            (N, h, w) float32, 0 to 1, in the orientation of the crops. A map covers the central square of the
            crop that is the bundle's field at that zoom. The largest value is 1, or all are 0.

        Raises:
            ValueError: If the backend is not torch, which alone has gradients.
        """
        if isinstance(self._members, CompiledMembers):
            raise ValueError(f"the backend {self.backend} has no gradients")
        return self._members.explain(crops)

    def _undecided_rows(self, probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
        """The crops that the next member classifies."""
        if self._vote == "all":
            return np.arange(len(probabilities))
        atypical = (probabilities >= self._manifest.ensemble.threshold).sum(axis=1)
        cast = (~np.isnan(probabilities)).sum(axis=1)
        return np.flatnonzero(undecided(atypical, cast, len(self._manifest.member)))


def check_numbers(found: NDArray[np.floating], file: str, precision: Precision) -> None:
    """Check that what a member computed are numbers.

    Args:
        found: Of any shape.
        file: The file of its weights, for messages.
        precision: Precision of its encoder.

    Raises:
        BundleError: If one is not.
    """
    if not np.isfinite(found).all():
        raise BundleError(
            "its result for a patch is not a number",
            subject=file,
            stage="classifying",
            remedy="Its weights are damaged. Take the bundle from its source again"
            if precision != "fp16"
            else "It may have overflowed in half precision. Use --precision fp32",
        )
