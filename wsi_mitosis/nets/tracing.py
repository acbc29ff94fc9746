"""From a member of torch to the network that OpenVINO compiles."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.nets.compiled import openvino
from wsi_mitosis.nets.eager import folded
from wsi_mitosis.nets.ensembles import check_numbers
from wsi_mitosis.nets.members import load_member
from wsi_mitosis.nets.views import all_views, from_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.nets.compiled import Sight
    from wsi_mitosis.specs import NetworkSpec


def traced(state: Mapping[str, NDArray[np.floating]], network: NetworkSpec, sight: Sight, file: str) -> Any:
    """Build a member, and record what it computes from the crop on.

    Args:
        state: Its stored weights.
        network: Its network.
        sight: What it sees of a crop.
        file: The file of its weights, for messages.

    Returns:
        torch's record, from (1, S, S, 3) uint8 to (V, 2) logits.

    Raises:
        BundleError: If the weights do not fit the network, or torch's result is not a number: a NaN may not
            come through OpenVINO's layers.
    """
    member = folded(load_member(state, network, file))
    side_px = sight.input.patch_px
    with torch.inference_mode():
        check_numbers(member(torch.zeros(1, 3, side_px, side_px)).numpy(), file, "fp32")
    crop = torch.zeros(1, sight.crop_px, sight.crop_px, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes become constants, and they are constant
        return torch.jit.trace(Seeing(member, sight), crop, check_trace=False)  # type: ignore[no-untyped-call]  # missing in torch's stubs


def converted(program: Any, sight: Sight) -> Any:
    """Return OpenVINO's model of what `traced` recorded.

    Raises:
        RuntimeError: If OpenVINO cannot convert it.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shape = [1, sight.crop_px, sight.crop_px, 3]
        return openvino().convert_model(program, input=[(shape, np.uint8)])


class Seeing(nn.Module):
    """A member from the crops to the logits of all views.

    Args:
        member: In evaluation mode.
        sight: What it sees of a crop.
    """

    def __init__(self, member: nn.Module, sight: Sight) -> None:
        super().__init__()
        self.member, self.sight = member.eval(), sight
        self.eval()

    def forward(self, crops: Tensor) -> Tensor:
        """Classify (1, S, S, 3) uint8 crops; return (V, 2) logits."""
        sight, batch = self.sight, from_bytes(crops, self.sight.input.scale)
        logits: Tensor = self.member(torch.cat(list(all_views(batch, sight.input, sight.zooms, sight.tta))))
        return logits
