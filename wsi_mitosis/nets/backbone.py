"""The encoder: HoVer-Net's pre-activated ResNet-50 in `fast` mode, with its names of weights.

Sources: Graham et al., *HoVer-Net* (Medical Image Analysis 58, 2019, 101563), and the authors' repository
vqdang/hover_net (`models/hovernet/net_desc.py`, `net_utils.py`); residual units after He et al. 2016.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

PUBLISHED_WIDTH = 64
"""Channels after the first convolution in the published network."""
BN_EPS = 1e-5


class Features(NamedTuple):
    """The outputs of the four stages, (N, channels, height, width); w is the width, P the side of the input.

    Attributes:
        d0: (N, 4w, P, P).
        d1: (N, 8w, P/2, P/2).
        d2: (N, 16w, P/4, P/4).
        d3: (N, 32w, P/8, P/8).
    """

    d0: Tensor
    d1: Tensor
    d2: Tensor
    d3: Tensor


class SameConv2d(nn.Conv2d):
    """A square convolution without bias, padded as TensorFlow's `same`.

    The published weights were trained with TensorFlow. At stride 2 and an even size, its one padded line is
    at the bottom and the right; `padding=1` would add it at the top and the left and shift the image by half
    a pixel.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Conv2d gives it
        """Convolve (N, C, H, W)."""
        top, bottom = self._padding(input.shape[2])
        left, right = self._padding(input.shape[3])
        if (top, left) == (bottom, right):
            return functional.conv2d(input, self.weight, self.bias, self.stride, (top, left))
        return super().forward(functional.pad(input, (left, right, top, bottom)))

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max(kernel - (size % stride or stride), 0)
        return total // 2, total - total // 2


class ResidualBlock(nn.Module):
    """Bottleneck units, of which the first has the block's stride, followed by BN-ReLU.

    The first unit has no pre-activation, because its input and the shortcut's have passed a BN-ReLU before.

    Args:
        channels_in: Channels of the input.
        channels: Channels inside a unit; the block has 4 times as many at its output.
        units: Number of units.
        stride: Stride of the first unit and the shortcut.
    """

    def __init__(self, channels_in: int, channels: int, units: int, stride: int) -> None:
        super().__init__()
        channels_out = 4 * channels
        self.units = nn.ModuleList(
            [_unit(channels_in, channels, stride, preact=False)]
            + [_unit(channels_out, channels, 1, preact=True) for _ in range(units - 1)]
        )
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        self.blk_bna = nn.Sequential(OrderedDict(_bn_relu(channels_out, "")))

    def forward(self, features: Tensor) -> Tensor:
        """Transform (N, channels_in, H, W) into (N, 4 * channels, H / stride, W / stride)."""
        total = self.shortcut(features)
        for index, unit in enumerate(self.units):
            total = total + unit(total if index else features)
        result: Tensor = self.blk_bna(total)
        return result


class Backbone(nn.Module):
    """The encoder.

    Args:
        width: Channels after the first convolution; 64 is the published network.
    """

    def __init__(self, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        self.width = width
        # "/" is the published name of the first convolution.
        self.conv0 = nn.Sequential(OrderedDict({"/": SameConv2d(3, width, 7)} | _bn_relu(width, "")))
        self.d0 = ResidualBlock(width, width, units=3, stride=1)
        self.d1 = ResidualBlock(4 * width, 2 * width, units=4, stride=2)
        self.d2 = ResidualBlock(8 * width, 4 * width, units=6, stride=2)
        self.d3 = ResidualBlock(16 * width, 8 * width, units=3, stride=2)

    def forward(self, images: Tensor) -> Features:
        """Encode (N, 3, P, P) float images, RGB in 0..1, P a multiple of 8."""
        d0 = self.d0(self.conv0(images))
        d1 = self.d1(d0)
        d2 = self.d2(d1)
        return Features(d0, d1, d2, self.d3(d2))


def _unit(channels_in: int, channels: int, stride: int, *, preact: bool) -> nn.Sequential:
    layers = _bn_relu(channels_in, "preact/") if preact else {}
    layers |= {"conv1": nn.Conv2d(channels_in, channels, 1, bias=False)} | _bn_relu(channels, "conv1/")
    layers |= {"conv2": SameConv2d(channels, channels, 3, stride)} | _bn_relu(channels, "conv2/")
    layers |= {"conv3": nn.Conv2d(channels, 4 * channels, 1, bias=False)}
    return nn.Sequential(OrderedDict(layers))


def _bn_relu(channels: int, prefix: str) -> dict[str, nn.Module]:
    return {f"{prefix}bn": nn.BatchNorm2d(channels, eps=BN_EPS), f"{prefix}relu": nn.ReLU(inplace=True)}
