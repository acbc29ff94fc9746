"""Half precision on a GPU: which parts of a member compute in it, and which stay in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wsi_mitosis.nets.encoders import Encoded, Encoder
    from wsi_mitosis.nets.members import Member
    from wsi_mitosis.tables import Precision

HALF = torch.float16
"""It has 11 bits for a value's digits. Values beyond 65,504 overflow; `Ensemble.predict` refuses what they
lead to."""


class HalfEncoder(nn.Module):
    """An encoder that computes in half precision and takes and gives float32.

    Convolutions keep their weights in half precision, so that these are converted once. Everything else
    follows torch's autocast: sums inside a convolution, and the layers that need it, are in float32.

    Args:
        encoder: In float32; its convolutions are converted in place.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.out_channels, self.hidden = encoder.out_channels, encoder.hidden
        self.level_channels = encoder.level_channels
        self.encoder = cast("nn.Module", encoder)
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                module.to(HALF)

    def forward(self, images: Tensor) -> Encoded:
        """Encode (N, 3, P, P) float32; the last map is float32."""
        with torch.autocast(images.device.type, HALF):
            encoded: Encoded = self.encoder(images)
        return encoded._replace(last=encoded.last.float())


def in_precision(member: Member, precision: Precision) -> Member:
    """Let a member's encoder compute in a precision; its head, pooling included, stays in float32.

    Args:
        member: In float32, with its batch norms folded; changed in place.
        precision: `fp32` changes nothing.
    """
    if precision == "fp16":
        member.backbone = cast("Encoder", HalfEncoder(member.backbone))
    return member
