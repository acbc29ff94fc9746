"""Candidates by TIAToolbox's detectors of mitotic figures, tile by tile.

What TIAToolbox's `NucleusDetector` does to a patch (the network's own `preproc` and `postproc` around its
forward pass) is done here as well, by the same functions. Its whole-slide mode is left out, for it

- opens slides itself, and makes up a pixel size where a slide states none;
- keeps the probabilities of the whole slide at once (8 bytes and more per px at 0.5 um/px; it spills to disk
  by how full the machine is, not the job), and intermediate stores beside its output;
- rounds positions to whole px of the network and gives a px's corner for its centre;
- is one call: no progress of ours, nothing to stop at.

Its patch mode (2.1.3) gives x for y and y for x.
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
    """A detector whose weights were found and fit; not loaded yet.

    Attributes:
        name: TIAToolbox's name for it.
        weights: Its checkpoint.
        sha256: Of that file.
        tile_px: Side of its input, px.
        mpp: um per px of its input and of its output.
        min_distance_px: Figures are at least so far apart, px.
        threshold: Probability above which TIAToolbox takes a peak for a figure.
    """

    name: str
    weights: Path
    sha256: str
    tile_px: int
    mpp: float
    min_distance_px: int
    threshold: float


def find_detector(name: str, weights: str | None) -> DetectorModel:
    """A detector and its weights, checked.

    Args:
        name: TIAToolbox's, in upper or lower case; only its detectors of one class are mitosis detectors.
        weights: A checkpoint, or `hub` to fetch it, the only thing here that goes online; None for what was
            fetched before.

    Raises:
        InputError: where there is no such detector, or no weights, or they hold code or do not fit.
    """
    known = _registry()
    name = {other.casefold(): other for other in known}.get(name.casefold(), name)
    if name not in known:
        raise InputError(
            "no detector of mitotic figures that TIAToolbox has",
            subject=f"--model {name}",
            stage=STAGE,
            remedy=f"Take one of {', '.join(sorted(known))}",
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
        model: From `find_detector`.
        device: `cpu`, `cuda` or `cuda:N`. Everything is computed in float32, on GPUs as well (no TF32).
        threads: Number of CPU threads that torch uses in `peaks`; if None, the process's setting.
    """

    def __init__(self, model: DetectorModel, device: str, *, threads: int | None = None) -> None:
        self.device, self._threads = device, threads
        self._network = torch.nn.Module.to(_loaded(model.name, model.weights), device).eval()

    def peaks(self, tiles: NDArray[np.uint8], threshold: float) -> list[NDArray[np.float64]]:
        """Where figures are.

        Args:
            tiles: (N, P, P, 3) uint8 RGB at the detector's um/px.
            threshold: Least probability.

        Returns:
            For each tile (K, 3) float64: column and row of the px of highest probability, from 0, and that
            probability; no two nearer than the detector's distance.
        """
        found = []
        for probabilities in self._probabilities(tiles):
            peaks = self._postprocessed(probabilities, threshold)
            rows, columns, _ = np.nonzero(peaks)
            found.append(np.column_stack([columns, rows, peaks[rows, columns, 0]]).astype(np.float64))
        return found

    def _postprocessed(self, probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
        """(P, P, 1): of a tile's probabilities those at a peak, 0 elsewhere."""
        with warnings.catch_warnings():
            # TIAToolbox 2.1.3 asks scikit-image for `mean_intensity` by its old name
            warnings.filterwarnings("ignore", r"`RegionProperties\[", FutureWarning)
            return np.asarray(self._network.postproc(probabilities, threshold_abs=threshold))

    def _probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, P, P, 3) uint8 to (N, P, P, 1) float32 in 0..1.

        Not by the network's own `infer_batch`, which spreads it over all GPUs where there are several.
        """
        batch = torch.from_numpy(np.stack([self._network.preproc(tile) for tile in tiles]))
        with torch.inference_mode(), full_float32(), cpu_threads(self._threads):
            logits = self._network(batch.permute(0, 3, 1, 2).to(self.device))
            wanted = logits[:, self._network.target_channels].float()
            return np.asarray(torch.sigmoid(wanted).permute(0, 2, 3, 1).cpu().numpy())


def _registry() -> dict[str, Any]:
    """TIAToolbox's KongNets of one class (tiatoolbox/data/pretrained_model.yaml)."""
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
    """The checkpoint: the one given, the hub's, or what was fetched before."""
    if given == HUB:
        return fetch_weights(name, STAGE, _remedy(name))
    with quietly():
        from tiatoolbox import rcParam
    path = Path(given) if given is not None else rcParam["TIATOOLBOX_HOME"] / "models" / f"{name}.pth"
    if not path.is_file():
        cause = "no such file" if given is not None else "its weights are not on this machine"
        raise InputError(cause, subject=given or name, stage=STAGE, remedy=_remedy(name))
    return Path(path)


def _loaded(name: str, path: Path) -> Any:
    """The network with a file's weights, on the CPU; its own start values are never made."""
    with quietly():
        from tiatoolbox.models.architecture.kongnet import KongNet
    with torch.device("meta"):
        network: nn.Module = KongNet(**_registry()[name]["architecture"]["kwargs"])
    return with_weights(network, path, STAGE, _remedy(name), assign=True).float()


def _remedy(name: str) -> str:
    return f"Give TIAToolbox's {name}.pth with --weights PATH, or fetch it with --weights hub"
