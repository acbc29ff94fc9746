"""The encoders that a member can have: the paper's, and those of timm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from wsi_mitosis.errors import SpecError
from wsi_mitosis.nets.backbone import Backbone

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsi_mitosis.specs import NetworkSpec

LEVELS = 4
"""Feature maps that the decoders use."""
_SIDE_PX = 64
"""Side of the image by which the channels of an encoder are found."""


class Encoded(NamedTuple):
    """What an encoder makes of a batch.

    Attributes:
        last: (N, C, h, w), which is pooled and classified.
        levels: Four maps for the decoders, the largest first; each is half as large as the one before.
    """

    last: Tensor
    levels: tuple[Tensor, ...]


class Encoder(Protocol):
    """An encoder of any kind.

    Attributes:
        out_channels: Channels of `Encoded.last`.
        hidden: Widths of the head's two hidden layers.
        level_channels: Channels of each of `Encoded.levels`.
    """

    out_channels: int
    hidden: tuple[int, int]
    level_channels: tuple[int, ...]

    def __call__(self, images: Tensor) -> Encoded:
        """Encode (N, 3, P, P) images as `nets.views.network_input` makes them."""
        ...


class PreactEncoder(Backbone):
    """The paper's encoder, HoVer-Net's pre-activated ResNet-50.

    Args:
        width: Channels after the first convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.out_channels = 32 * width
        self.hidden = 8 * width, 2 * width
        self.level_channels = 4 * width, 8 * width, 16 * width, 32 * width

    def forward(self, images: Tensor) -> Encoded:  # type: ignore[override]
        """Encode (N, 3, P, P), P a multiple of 8; the levels have the sides P, P/2, P/4 and P/8."""
        levels = super().forward(images)
        return Encoded(levels[-1], tuple(levels))


class TimmEncoder(nn.Module):
    """An encoder of timm, without its classifier.

    Args:
        name: Its name in timm.
        drop_path: Share of the samples for which training skips a residual branch, at the deepest one.

    Raises:
        SpecError: if timm has no such encoder, or it gives no feature maps.
    """

    hidden = (256, 64)

    def __init__(self, name: str, drop_path: float = 0.0) -> None:
        import timm

        super().__init__()
        if not timm.is_model(name):
            raise _unusable(name, "timm has no encoder of this name")
        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            self.body = timm.create_model(name, pretrained=False, num_classes=0, **options)
        except TypeError as error:
            raise _unusable(name, "timm builds it without drop path: set drop_path = 0") from error
        if not hasattr(self.body, "forward_intermediates"):
            raise _unusable(name, "it gives no feature maps")
        found = self._probed(name)
        sides = [level.shape[-1] for level in found.levels]
        if len(sides) < LEVELS or found.last.ndim != 4 or sides != sorted(sides, reverse=True):
            raise _unusable(name, "its feature maps do not shrink from level to level")
        self.out_channels = int(found.last.shape[1])
        self.level_channels = tuple(int(level.shape[1]) for level in found.levels)

    def _probed(self, name: str) -> Encoded:
        """Encode an empty image, from which the channels are found."""
        device = next(self.body.parameters()).device
        try:
            with torch.no_grad():
                found: Encoded = self.eval()(torch.zeros(1, 3, _SIDE_PX, _SIDE_PX, device=device))
        except (AssertionError, RuntimeError) as error:
            raise _unusable(name, f"it does not take images of every size ({error})") from error
        finally:
            self.train()
        return found

    def forward(self, images: Tensor) -> Encoded:
        """Encode (N, 3, P, P)."""
        encode = cast("Callable[[Tensor], tuple[Tensor, list[Tensor]]]", self.body.forward_intermediates)
        last, maps = encode(images)
        return Encoded(last, tuple(maps[-LEVELS:]))


def build_encoder(spec: NetworkSpec, drop_path: float = 0.0) -> Encoder:
    """Build an encoder with random weights.

    Args:
        spec: The network.
        drop_path: As for `TimmEncoder`; 0 for `preact-resnet50`.

    Raises:
        SpecError: if there is no such encoder.
    """
    if spec.timm_name is None:
        return cast("Encoder", PreactEncoder(cast("int", spec.width)))
    return cast("Encoder", TimmEncoder(spec.timm_name, drop_path))


def largest_map(network: nn.Module, side_px: int) -> int:
    """Return how many values the largest feature map of one image has.

    Args:
        network: On any device, in evaluation mode.
        side_px: Side of the image, px.
    """
    sizes = [0]

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(math.prod(output.shape))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, side_px, side_px, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _unusable(name: str, cause: str) -> SpecError:
    return SpecError(
        cause,
        subject=f"timm:{name}",
        stage="building the network",
        remedy="Name a convolutional encoder, such as timm:tf_efficientnet_lite2",
    )
