"""The two auxiliary decoders, and the network as it is trained: a member with both on top of its encoder.

Source: Percannella et al., *A multi-task neural network for atypical mitosis recognition under domain shift*
(MIDOG 2025): two U-Net-like decoders of three up-sampling blocks with skip connections, one for the mitosis's
binary mask, one for the class of each pixel, dropped at inference. Concatenated skips and the widths are our
choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from wsi_mitosis.nets.backbone import BN_EPS, Features

if TYPE_CHECKING:
    from wsi_mitosis.nets.members import Member

MASK_CLASSES = 2
"""Background, mitotic figure."""
PIXEL_CLASSES = 3
"""Background, typical, atypical."""
SKIPPED_CHANNELS = (16, 8, 4)
"""Channels of d2, d1 and d0, in widths of the encoder."""
DEEPEST_CHANNELS = 32


class Outputs(NamedTuple):
    """The outputs of the network in training; P is the side of the input.

    Attributes:
        logits: (N, 2) typical, atypical.
        mask: (N, 2, P, P) logits of background and figure; None without decoders.
        pixels: (N, 3, P, P) logits of background, typical and atypical; None without decoders.
    """

    logits: Tensor
    mask: Tensor | None = None
    pixels: Tensor | None = None


class UpBlock(nn.Module):
    """A block that doubles the size, adds the encoder's features of that size, and convolves twice."""

    def __init__(self, channels_in: int, channels_skipped: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.convolutions = nn.Sequential(
            *_conv_bn_relu(channels_in + channels_skipped, channels_out),
            *_conv_bn_relu(channels_out, channels_out),
        )

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Join (N, channels_in, H, W) and (N, channels_skipped, 2H, 2W) into (N, channels_out, 2H, 2W)."""
        joined: Tensor = self.convolutions(torch.cat([self.up(features), skipped], dim=1))
        return joined


class Decoder(nn.Module):
    """A decoder from the encoder's four stages to a class for each pixel.

    Args:
        width: Width of the encoder.
        channels: Output channels of the three blocks, the deepest first.
        classes: Number of classes of a pixel.
    """

    def __init__(self, width: int, channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        inputs = (DEEPEST_CHANNELS * width, *channels[:2])
        self.blocks = nn.ModuleList(
            UpBlock(below, skipped * width, above)
            for below, skipped, above in zip(inputs, SKIPPED_CHANNELS, channels, strict=True)
        )
        self.classify = nn.Conv2d(channels[-1], classes, 1)

    def forward(self, features: Features) -> Tensor:
        """Return (N, classes, P, P) logits."""
        deepest = features.d3
        for block, skipped in zip(self.blocks, (features.d2, features.d1, features.d0), strict=True):
            deepest = block(deepest, skipped)
        logits: Tensor = self.classify(deepest)
        return logits


class TrainedNetwork(nn.Module):
    """A member in training: with both decoders, or alone.

    Args:
        member: The part that is kept when the decoders are dropped.
        channels: Output channels of the decoders' blocks, the deepest first; None trains the member alone.
    """

    def __init__(self, member: Member, channels: tuple[int, int, int] | None) -> None:
        super().__init__()
        self.member = member
        width = member.backbone.width
        self.mask = Decoder(width, channels, MASK_CLASSES) if channels else None
        self.pixels = Decoder(width, channels, PIXEL_CLASSES) if channels else None

    def forward(self, images: Tensor) -> Outputs:
        """Encode (N, 3, P, P) float images in 0..1 once, for all heads."""
        features = self.member.backbone(images)
        logits = self.member.head(features.d3)
        if self.mask is None or self.pixels is None:
            return Outputs(logits)
        return Outputs(logits, self.mask(features), self.pixels(features))


def _conv_bn_relu(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out, eps=BN_EPS),
        nn.ReLU(inplace=True),
    )
