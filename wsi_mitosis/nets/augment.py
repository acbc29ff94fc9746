"""Online augmentation by batch: one geometry for image and mask, then colours of the image alone.

Stains: colour deconvolution into haematoxylin, eosin and a third stain (Ruifrok & Johnston 2001), each
density scaled and shifted at random, and back (Tellez et al. 2018, "Whole-slide mitosis detection in H&E
breast histology using PHH3 as a reference", on data augmentation). Nothing is estimated from the image, so
that it works for white patches, for which methods that fit stain vectors fail.

Every random number comes from the given generator, so that the same seed gives the same batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from wsi_mitosis.recipes import AugmentationSpec

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density in R, G, B of haematoxylin, eosin, DAB (Ruifrok & Johnston 2001)."""
DARKEST = 1 / 255
"""Least intensity, one grey level, for which a density is computed."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B (ITU-R BT.601)."""
GAUSSIAN = (0.06136, 0.24477, 0.38774, 0.24477, 0.06136)
"""Five taps of a Gaussian of 1 px."""
JPEG_SHARE = 0.5


class Crops(NamedTuple):
    """Images and their masks.

    Attributes:
        images: (N, 3, S, S) float32 in 0..1, RGB.
        masks: (N, S, S) uint8, 1 on the figure.
    """

    images: Tensor
    masks: Tensor


def augment(crops: Crops, spec: AugmentationSpec, patch_px: int, generator: torch.Generator) -> Crops:
    """Turn whole crops into augmented patches.

    The crop is rotated before the patch is cut from its middle. If the crop is larger by sqrt(2) and the
    zoom, the patch contains no border. The crop is mirrored beyond its border.

    Args:
        crops: Crops whose side S is at least `patch_px`.
        spec: The recipe's augmentation.
        patch_px: Side of the result, px.
        generator: A CPU generator, the source of all randomness.

    Returns:
        Crops whose side is `patch_px`.
    """
    patches = _geometry(crops, spec, patch_px, generator)
    return Crops(_colour(patches.images, spec, generator), patches.masks)


def _geometry(crops: Crops, spec: AugmentationSpec, patch_px: int, generator: torch.Generator) -> Crops:
    number, _, side, _ = crops.images.shape
    quarter_turns = torch.randint(4, (number,), generator=generator) * (math.pi / 2)
    angle = {
        "any": _uniform(number, math.pi, generator),
        "right-angles": quarter_turns,
        "none": torch.zeros(number),
    }[spec.rotation]
    mirrored = torch.randint(2, (number,), generator=generator) * 2 - 1 if spec.flips else torch.ones(number)
    reach = patch_px / side / torch.exp(_uniform(number, math.log1p(spec.zoom), generator))
    cosine, sine = reach * angle.cos(), reach * angle.sin()
    zero = torch.zeros(number)
    # A rotation and one mirror image make all eight symmetries of the square. (N, 2, 3), output to input.
    matrices = torch.stack(
        [torch.stack([cosine * mirrored, -sine, zero], 1), torch.stack([sine * mirrored, cosine, zero], 1)], 1
    ).to(crops.images)
    grid = functional.affine_grid(matrices, [number, 3, patch_px, patch_px], align_corners=False)
    images = functional.grid_sample(
        crops.images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    masks = functional.grid_sample(
        crops.masks[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return Crops(images, masks[:, 0].to(crops.masks.dtype))


def _colour(images: Tensor, spec: AugmentationSpec, generator: torch.Generator) -> Tensor:
    """Change the colours of (N, 3, P, P) images in 0..1."""
    number = len(images)

    def factor(reach: float, channels: int = 1) -> Tensor:
        return 1 + _uniform((number, channels, 1, 1), reach, generator).to(images)

    if spec.stain_scale or spec.stain_shift:
        shift = _uniform((number, 3, 1, 1), spec.stain_shift, generator).to(images)
        images = _restained(images, factor(spec.stain_scale, 3), shift)
    if spec.gamma:
        power = _uniform((number, 1, 1, 1), spec.gamma, generator).exp().to(images)
        images = images.clamp(min=DARKEST) ** power
    if spec.contrast:
        images = _blend(images, images.mean(dim=(1, 2, 3), keepdim=True), factor(spec.contrast))
    if spec.saturation:
        luma = torch.tensor(LUMA).view(1, 3, 1, 1).to(images)
        images = _blend(images, (images * luma).sum(dim=1, keepdim=True), factor(spec.saturation))
    if spec.channel_gain:
        images = images * factor(spec.channel_gain, 3)
    if spec.sharpness:
        images = _blend(images, _blurred(images), factor(spec.sharpness))
    if spec.noise:
        strength = spec.noise * torch.rand((number, 1, 1, 1), generator=generator)
        images = images + (strength * torch.randn(images.shape, generator=generator)).to(images)
    images = images.clamp(0, 1)
    return _jpeg(images, spec.jpeg, generator) if spec.jpeg else images


def _uniform(shape: int | tuple[int, ...], reach: float, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in +-reach, on the CPU."""
    return reach * (2 * torch.rand(shape, generator=generator) - 1)


def _restained(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    stains = functional.normalize(torch.tensor(STAINS), dim=1).to(images)  # (stain, RGB)
    density = -images.clamp(min=DARKEST).log()
    amounts = torch.einsum("nchw,cs->nshw", density, torch.linalg.inv(stains))
    return torch.exp(-torch.einsum("nshw,sc->nchw", amounts * scale + shift, stains)).clamp(0, 1)


def _blend(images: Tensor, plain: Tensor, share: Tensor) -> Tensor:
    """Mix a share of the images with their plainer form; a share above 1 exaggerates the image."""
    return plain + share * (images - plain)


def _blurred(images: Tensor) -> Tensor:
    taps = torch.tensor(GAUSSIAN).to(images)
    down, across = (taps.view(shape).repeat(3, 1, 1, 1) for shape in ((1, 1, 5, 1), (1, 1, 1, 5)))
    padded = functional.pad(images, (2, 2, 2, 2), mode="reflect")
    return functional.conv2d(functional.conv2d(padded, down, groups=3), across, groups=3)


def _jpeg(images: Tensor, qualities: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Compress some of the crops as JPEG."""
    from torchvision.io import decode_jpeg, encode_jpeg

    drawn = torch.randint(qualities[0], qualities[1] + 1, (len(images),), generator=generator).tolist()
    chosen = torch.rand(len(images), generator=generator) < JPEG_SHARE
    result = images.clone()
    pixels = (images * 255).round().to(torch.uint8).cpu()
    for index in torch.nonzero(chosen).flatten().tolist():
        lossy = decode_jpeg(encode_jpeg(pixels[index].contiguous(), quality=drawn[index]))
        result[index] = (lossy.to(torch.float32) / 255).to(images)
    return result
