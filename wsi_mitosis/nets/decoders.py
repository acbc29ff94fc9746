"""The auxiliary parts of a network in training: two decoders and a head on top of a member's encoder.

Source: Percannella et al., *A multi-task neural network for atypical mitosis recognition under domain shift*
(MIDOG 2025): two U-Net-like decoders of three up-sampling blocks with skip connections, one for the mitosis's
binary mask, one for the class of each pixel, dropped at inference. Concatenated skips and the widths are our
choice, and so is the head for the subtypes that experts named, which is dropped as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_mitosis.nets.backbone import BN_EPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_mitosis.nets.members import Member

MASK_CLASSES = 2
"""Background, mitotic figure."""
PIXEL_CLASSES = 3
"""Background, typical, atypical."""


class Outputs(NamedTuple):
    """The outputs of the network in training.

    Attributes:
        logits: (N, 2) typical, atypical.
        mask: (N, 2, F, F) logits of background and figure, F the side of the masks; None without decoders.
        pixels: (N, 3, F, F) logits of background, typical and atypical; None without decoders.
        subtypes: (N, K) logits of the subtypes that experts named; None without a head for them.
    """

    logits: Tensor
    mask: Tensor | None = None
    pixels: Tensor | None = None
    subtypes: Tensor | None = None


class UpBlock(nn.Module):
    """A block that doubles the size, adds the encoder's features of that size, and convolves twice."""

    def __init__(self, channels_in: int, channels_skipped: int, channels_out: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_conv_bn_relu(channels_in + channels_skipped, channels_out),
            *_conv_bn_relu(channels_out, channels_out),
        )

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Join (N, channels_in, H, W) and (N, channels_skipped, 2H, 2W) into (N, channels_out, 2H, 2W)."""
        above = functional.interpolate(features, size=skipped.shape[-2:], mode="nearest")
        joined: Tensor = self.convolutions(torch.cat([above, skipped], dim=1))
        return joined


class Decoder(nn.Module):
    """A decoder from the encoder's four levels to a class for each pixel.

    Args:
        levels: Channels of the encoder's four levels, the deepest last.
        channels: Output channels of the three blocks, the deepest first.
        classes: Number of classes of a pixel.
    """

    def __init__(self, levels: Sequence[int], channels: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        *skipped, deepest = levels
        inputs = (deepest, *channels[:2])
        self.blocks = nn.ModuleList(
            UpBlock(below, beside, above)
            for below, beside, above in zip(inputs, reversed(skipped), channels, strict=True)
        )
        self.classify = nn.Conv2d(channels[-1], classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (N, classes, h, w) logits of the size of the first of the levels."""
        *skipped, deepest = levels
        for block, beside in zip(self.blocks, reversed(skipped), strict=True):
            deepest = block(deepest, beside)
        logits: Tensor = self.classify(deepest)
        return logits


class TrainedNetwork(nn.Module):
    """A member in training: with both decoders, with a head for subtypes, with all of them, or alone.

    Args:
        member: The part that is kept when everything else is dropped.
        channels: Output channels of the decoders' blocks, the deepest first; None trains the member alone.
        mask_px: Side of the masks; the decoders' results are interpolated to it if they have another.
        subtypes: Number of subtypes; 0 trains no head for them.
        dropout: Share of the features that training drops before that head.
    """

    def __init__(
        self,
        member: Member,
        channels: tuple[int, int, int] | None,
        mask_px: int | None = None,
        *,
        subtypes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.member, self._mask_px = member, mask_px
        levels = member.backbone.level_channels
        self.mask = Decoder(levels, channels, MASK_CLASSES) if channels else None
        self.pixels = Decoder(levels, channels, PIXEL_CLASSES) if channels else None
        self.subtypes = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(member.backbone.out_channels, subtypes),
            )
            if subtypes
            else None
        )

    def forward(self, images: Tensor) -> Outputs:
        """Encode (N, 3, P, P) images as `network_input` makes them once, for all heads."""
        encoded = self.member.backbone(images)
        outputs = Outputs(
            self.member.head(encoded.last),
            subtypes=None if self.subtypes is None else self.subtypes(encoded.last),
        )
        if self.mask is None or self.pixels is None:
            return outputs
        mask, pixels = (self._sized(decoder(encoded.levels)) for decoder in (self.mask, self.pixels))
        return outputs._replace(mask=mask, pixels=pixels)

    def _sized(self, logits: Tensor) -> Tensor:
        """Interpolate (N, classes, h, w) to the side of the masks."""
        if self._mask_px is None or logits.shape[-1] == self._mask_px:
            return logits
        side = self._mask_px, self._mask_px
        return functional.interpolate(logits, size=side, mode="bilinear", align_corners=False)


def _conv_bn_relu(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out, eps=BN_EPS),
        nn.ReLU(inplace=True),
    )
