"""Candidates by TIAToolbox's detectors of mitotic figures, tile by tile.

A tile is processed as by TIAToolbox's `NucleusDetector`: with the network's own `preproc` and `postproc`
around its forward pass. Its whole-slide mode is not used, because it

- opens slides itself, and assumes a pixel size if a slide states none;
- keeps the probabilities of the whole slide (8 bytes and more per px at 0.5 um/px; it writes them to disk
  depending on the memory of the machine, not of the job), and intermediate stores beside its output;
- rounds positions to whole px of the network and returns the corner of a px for its centre;
- is a single call, without progress and without a point at which to stop.

Its patch mode (2.1.3) exchanges x and y.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.members import cpu_threads, full_float32
from wsi_mitosis.nets.tiatoolbox import fetch_weights, quietly, sha256, with_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

HUB = "hub"
STAGE = "loading the detector"
KONGNET = "kongnet.KongNet"


@dataclass(frozen=True)
class DetectorModel:
    """A detector whose weights have been checked, but are not loaded.

    Attributes:
        name: TIAToolbox's name of the detector.
        weights: Path of the checkpoint.
        sha256: SHA-256 of the checkpoint.
        tile_px: Side of the input, px.
        mpp: um per px of the input and of the output.
        min_distance_px: Least distance of two figures, px.
        threshold: Probability above which TIAToolbox accepts a peak as a figure.
    """

    name: str
    weights: Path
    sha256: str
    tile_px: int
    mpp: float
    min_distance_px: int
    threshold: float


def find_detector(name: str, weights: str | None) -> DetectorModel:
    """Find a detector and check its weights.

    Args:
        name: TIAToolbox's name, in upper or lower case, of a detector of one class: mitotic figures.
        weights: A checkpoint; `hub` to download it, which nothing else here does; None for an earlier
            download.

    Raises:
        InputError: If there is no such detector, or its weights are missing, contain code or do not fit.
    """
    known = _registry()
    name = {other.casefold(): other for other in known}.get(name.casefold(), name)
    if name not in known:
        raise InputError(
            "TIAToolbox has no such detector of mitotic figures",
            subject=f"--model {name}",
            stage=STAGE,
            remedy=f"Use one of {', '.join(sorted(known))}",
        )
    path = _weights(name, weights)
    options, io = known[name]["architecture"]["kwargs"], known[name]["ioconfig"]["kwargs"]
    _loaded(name, path)
    return DetectorModel(
        name=name,
        weights=path.absolute(),
        sha256=sha256(path),
        tile_px=int(io["patch_input_shape"][0]),
        mpp=float(io["input_resolutions"][0]["resolution"]),
        min_distance_px=int(options["min_distance"]),
        threshold=float(options["threshold_abs"]),
    )


class Detector:
    """A loaded detector.

    Args:
        model: The result of `find_detector`.
        device: `cpu`, `cuda` or `cuda:N`. Everything is computed in float32, on GPUs as well (no TF32).
        threads: Number of CPU threads that torch uses in `peaks`; if None, the process's setting.
    """

    def __init__(self, model: DetectorModel, device: str, *, threads: int | None = None) -> None:
        self.device, self._threads = device, threads
        self._network = torch.nn.Module.to(_loaded(model.name, model.weights), device).eval()

    def peaks(self, tiles: NDArray[np.uint8], threshold: float) -> list[NDArray[np.float64]]:
        """Find the figures in tiles.

        Args:
            tiles: (N, P, P, 3) uint8 RGB at the detector's um/px.
            threshold: Least probability.

        Returns:
            For each tile (K, 3) float64: column and row of the px of highest probability, from 0, and that
            probability. No two are nearer than `min_distance_px`.
        """
        found = []
        for probabilities in self._probabilities(tiles):
            peaks = self._postprocessed(probabilities, threshold)
            rows, columns, _ = np.nonzero(peaks)
            found.append(np.column_stack([columns, rows, peaks[rows, columns, 0]]).astype(np.float64))
        return found

    def _postprocessed(self, probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
        """Return a tile's probabilities at peaks, 0 elsewhere, (P, P, 1)."""
        with warnings.catch_warnings():
            # TIAToolbox 2.1.3 asks scikit-image for `mean_intensity` by its old name
            warnings.filterwarnings("ignore", r"`RegionProperties\[", FutureWarning)
            return np.asarray(self._network.postproc(probabilities, threshold_abs=threshold))

    def _probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute (N, P, P, 1) float32 probabilities of (N, P, P, 3) uint8 tiles.

        The network's own `infer_batch` is not used, because it would use all GPUs.
        """
        batch = torch.from_numpy(np.stack([self._network.preproc(tile) for tile in tiles]))
        with torch.inference_mode(), full_float32(), cpu_threads(self._threads):
            logits = self._network(batch.permute(0, 3, 1, 2).to(self.device))
            wanted = logits[:, self._network.target_channels].float()
            return np.asarray(torch.sigmoid(wanted).permute(0, 2, 3, 1).cpu().numpy())


def _registry() -> dict[str, Any]:
    """Return TIAToolbox's KongNets of one class (tiatoolbox/data/pretrained_model.yaml)."""
    with quietly():
        from tiatoolbox import rcParam
    known: dict[str, Any] = rcParam["pretrained_model_info"]
    return {
        name: entry
        for name, entry in known.items()
        if entry["architecture"]["class"] == KONGNET
        and len(entry["architecture"]["kwargs"]["class_dict"]) == 1
    }


def _weights(name: str, given: str | None) -> Path:
    """Return the checkpoint: the given one, the hub's, or that of an earlier download."""
    if given == HUB:
        return fetch_weights(name, STAGE, _remedy(name))
    with quietly():
        from tiatoolbox import rcParam
    path = Path(given) if given is not None else rcParam["TIATOOLBOX_HOME"] / "models" / f"{name}.pth"
    if not path.is_file():
        cause = (
            "no such file" if given is not None else "its weights have not been downloaded to this machine"
        )
        raise InputError(cause, subject=given or name, stage=STAGE, remedy=_remedy(name))
    return Path(path)


def _loaded(name: str, path: Path) -> Any:
    """Load the network with a file's weights on the CPU, without computing its start values."""
    with quietly():
        from tiatoolbox.models.architecture.kongnet import KongNet
    with torch.device("meta"):
        network: nn.Module = KongNet(**_registry()[name]["architecture"]["kwargs"])
    return with_weights(network, path, STAGE, _remedy(name), assign=True).float()


def _remedy(name: str) -> str:
    return f"Pass TIAToolbox's {name}.pth as --weights PATH, or download it with --weights hub"
