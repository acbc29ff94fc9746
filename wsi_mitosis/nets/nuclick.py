"""Masks of figures by NuClick of TIAToolbox, whose import takes tens of seconds."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.core.masks import FigureMask, central, checked, flagged
from wsi_mitosis.errors import DatasetError, InputError
from wsi_mitosis.nets.devices import resolve_device
from wsi_mitosis.nets.members import full_float32
from wsi_mitosis.nets.tiatoolbox import fetch_weights, quietly, sha256, with_weights
from wsi_mitosis.nets.views import to_input

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MODEL = "nuclick_original-pannuke"
"""TIAToolbox's name of the network and its weights (tiatoolbox/data/pretrained_model.yaml)."""
CHANNELS = 5
"""Red, green, blue, the click, the other clicks."""
WINDOW_PX = 128
"""Side of the network's input at 0.25 um/px, the same source."""
CLICK_PX = WINDOW_PX // 2
"""Row and column of the click: the pixel that holds the centre of a window cut at a figure."""
THRESHOLD = 0.5
BATCH = 16
"""Number of windows at a time; 16 need about 0.6 GB."""
ALGORITHM = 1
"""Is increased when the same weights would give other masks."""
STAGE = "loading NuClick"
REMEDY = (
    f"Pass TIAToolbox's {MODEL}.pth as --nuclick-weights PATH, download it with --nuclick-weights hub, "
    "or use --masks haematoxylin"
)


class NuClick:
    """Masks by NuClick with the figure's centre as the click and other figures excluded.

    The published weights derive from PanNuke and are CC BY-NC-SA 4.0.

    Args:
        weights: The network's state dict, such as TIAToolbox's `nuclick_original-pannuke.pth`; unpickled
            without running code.
        hub: Download TIAToolbox's weights instead, which nothing else here does.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Computed in float32, on GPUs as well (no TF32).

    Attributes:
        version: Version of the algorithm and hash of the weights.
        device: The device that `device` was resolved to.

    Raises:
        InputError: If there are no weights, they cannot be downloaded or do not fit, or there is no such
            device.
    """

    name: ClassVar[str] = "nuclick"

    def __init__(self, weights: Path | None, hub: bool = False, device: str = "cpu") -> None:
        if (weights is None) != hub:
            raise InputError(
                "the weights are missing"
                if weights is None
                else "both a file of weights and the hub were given",
                subject="NuClick",
                stage=STAGE,
                remedy=REMEDY,
            )
        self.device = resolve_device(device)
        path = fetch_weights(MODEL, STAGE, REMEDY) if weights is None else weights
        # not the model's own `to`, which spreads it over all GPUs where there are several
        self._model = nn.Module.to(_network(path), self.device)
        self.version = f"{ALGORITHM}-{sha256(path)[:12]}"

    def segment(self, crops: NDArray[np.uint8], others: Sequence[NDArray[np.float64]]) -> list[FigureMask]:
        """Segment the figure at the centre of each crop.

        Only the central window of crops larger than 128 px is segmented.

        Args:
            crops: (N, P, P, 3) uint8 RGB at about 0.25 um/px, P at least 128.
            others: For each crop (K, 2) float64: x, y in px from the crop's top-left corner of other figures
                in it.

        Returns:
            A mask per crop, in order. In addition to the usual flags, `missed_click` means that the object is
            not at the centre.

        Raises:
            DatasetError: If the crops are too small.
        """
        size_px = crops.shape[1]
        if size_px < WINDOW_PX:
            raise DatasetError(
                f"NuClick needs crops of {WINDOW_PX} px, but they have {size_px} px",
                stage="making masks",
                remedy="Use larger crops, or --masks haematoxylin",
            )
        found: list[FigureMask] = []
        for first in range(0, len(crops), BATCH):
            batch = _batch(crops[first : first + BATCH], others[first : first + BATCH])
            found += [_mask(prediction, size_px) for prediction in self._predict(batch)]
        return found

    def _predict(self, batch: Tensor) -> NDArray[np.float32]:
        """Compute (N, 128, 128) float32 in 0..1 from (N, 5, 128, 128) float32."""
        with full_float32():
            predictions = _architecture().infer_batch(self._model, batch, device=self.device)
        return np.asarray(predictions, dtype=np.float32)


def _batch(crops: NDArray[np.uint8], others: Sequence[NDArray[np.float64]]) -> Tensor:
    """Make the network's input.

    Args:
        crops: (N, P, P, 3) uint8.
        others: As for `NuClick.segment`.

    Returns:
        (N, 5, 128, 128) float32: colours in 0..1; 1 at the click; 1 at the other figures of the window.
    """
    rows, columns = central(crops.shape[1], WINDOW_PX)
    batch = torch.zeros(len(crops), CHANNELS, WINDOW_PX, WINDOW_PX)
    batch[:, :3] = to_input(crops[:, rows, columns], 255.0)
    batch[:, 3, CLICK_PX, CLICK_PX] = 1
    for window, figures in zip(batch, others, strict=True):
        # whole pixels as windows are cut: a centre c lies in pixel floor(c + 0.5)
        x, y = np.floor(figures.T + 0.5).astype(np.intp) - [[columns.start], [rows.start]]
        seen = (x >= 0) & (x < WINDOW_PX) & (y >= 0) & (y < WINDOW_PX) & ((x != CLICK_PX) | (y != CLICK_PX))
        window[4, y[seen], x[seen]] = 1
    return batch


def _mask(prediction: NDArray[np.float32], size_px: int) -> FigureMask:
    """Return the object at the click in a (128, 128) prediction, checked and as large as the crop.

    One prediction at a time, because TIAToolbox's clean-up joins objects across the patches of a batch.
    """
    cleaned = _postprocessed(prediction)
    if not cleaned.any():
        return flagged("empty", size_px)
    if not cleaned[CLICK_PX, CLICK_PX]:
        return flagged("missed_click", size_px)
    click = np.zeros((1, WINDOW_PX, WINDOW_PX), dtype=np.uint8)
    click[0, CLICK_PX, CLICK_PX] = 1
    return checked(_postprocessed(prediction, nuc_points=click, do_reconstruction=True), size_px)


def _postprocessed(prediction: NDArray[np.float32], **options: Any) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        # TIAToolbox 2.1.3 calls scikit-image's `remove_small_holes` by an argument's old name
        warnings.filterwarnings("ignore", "Parameter `area_threshold` is deprecated", FutureWarning)
        masks = _architecture().postproc(prediction[None], thresh=THRESHOLD, **options)
    return np.asarray(masks[0], dtype=np.bool_)


def _network(path: Path) -> nn.Module:
    """Load the network with a file's weights, on the CPU."""
    network: nn.Module = _architecture()(num_input_channels=CHANNELS, num_output_channels=1)
    return with_weights(network, path, STAGE, REMEDY)


@cache
def _architecture() -> Any:
    """Return TIAToolbox's class."""
    with quietly():
        from tiatoolbox.models.architecture import nuclick
    return nuclick.NuClick
