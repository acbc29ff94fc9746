"""Members that torch computes, layer by layer as Python calls them: on a GPU, or on a CPU on request."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_mitosis.core.voting import ATYPICAL
from wsi_mitosis.nets.encoders import largest_map
from wsi_mitosis.nets.explain import activation_maps, scaled
from wsi_mitosis.nets.members import cpu_threads, full_float32, load_member
from wsi_mitosis.nets.precision import in_precision
from wsi_mitosis.nets.views import all_views, network_input, to_input, zoomed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.nets.members import Member
    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import Precision, Tta

    States = Sequence[Mapping[str, NDArray[np.floating]]]
    Classify = Callable[[int, NDArray[np.intp]], NDArray[np.float64]]

CACHED_BYTES = 8 * 2**20
"""Size of the part of a member's largest feature map that a CPU computes at a time, so that its caches keep
it from one layer to the next. Measured on two cores, for widths 2 to 64 and patches of 64 and 128 px."""
FOLDING_PX = 64
"""Side of the image by which layers are found that follow each other."""


class EagerMembers:
    """The members of a bundle, for torch.

    Batch norms that follow a convolution are folded into it, which halves the time on a CPU.

    Args:
        manifest: The manifest of the bundle.
        states: Weights of each member in the manifest's order: arrays by name, float16 or float32.
        device: A device that `resolve_device` returned.
        tta: Views of a patch.
        threads: Number of CPU threads that compute; if None, the process's setting of torch.
        precision: Precision of the encoders; heads, probabilities and their means are float32 or better.

    Attributes:
        networks: The members, on the device.

    Raises:
        BundleError: If the weights do not fit the network.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        states: States,
        *,
        device: str,
        tta: Tta,
        threads: int | None,
        precision: Precision,
    ) -> None:
        self._manifest, self._device, self._tta, self._threads = manifest, device, tta, threads
        members = [
            load_member(state, manifest.network_of(spec), manifest.file_of(spec))
            for spec, state in zip(manifest.member, states, strict=True)
        ]
        self._inputs = [manifest.input_of(spec) for spec in manifest.member]
        self._at_once = self._patches_at_once(members)
        self.networks = [
            in_precision(folded(member), precision).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
            for member in members
        ]

    def _patches_at_once(self, members: Sequence[Member]) -> list[int | None]:
        """Return how many patches each member classifies at a time; None for all of a batch."""
        if self._device != "cpu":
            return [None] * len(members)
        specs = [self._manifest.network_of(member) for member in self._manifest.member]
        side_px = self._manifest.input.patch_px
        one_of = dict(zip(specs, members, strict=True))
        float32_bytes = {spec: 4 * largest_map(one, side_px) for spec, one in one_of.items()}
        return [max(1, CACHED_BYTES // float32_bytes[spec]) for spec in specs]

    @contextmanager
    def classifying(self, crops: NDArray[np.uint8]) -> Iterator[Classify]:
        """Copy (N, S, S, 3) crops to the device.

        Yields:
            A function that takes a member's index and rows of the crops, and returns the member's P(atypical)
            of each, float64: the mean over zooms and views.
        """
        with torch.inference_mode(), full_float32(), cpu_threads(self._threads):
            batch = to_input(crops, self._manifest.input.scale, self._device)

            def classify(index: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
                part = batch if len(rows) == len(batch) else batch[torch.from_numpy(rows).to(self._device)]
                return np.asarray(self._mean(index, self._seen(index, part)).cpu().numpy())

            yield classify

    def explain(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the maps of `Ensemble.explain`: (N, h, w) float32 for (N, S, S, 3) uint8 crops."""
        zoom, window_px = self._manifest.ensemble.single_zoom, self._manifest.input.cut_px
        with full_float32(), cpu_threads(self._threads), torch.no_grad():
            batch = to_input(crops, self._manifest.input.scale, self._device)
            images = {
                spec: network_input(zoomed(batch, zoom, spec.cut_px), spec) for spec in set(self._inputs)
            }
            maps = [
                activation_maps(member, images[spec])
                for member, spec in zip(self.networks, self._inputs, strict=True)
            ]
            size = max(((one.shape[1], one.shape[2]) for one in maps), key=math.prod)
            fields_px = [spec.cut_px for spec in self._inputs]
            alike = [_placed(one, side, window_px, size) for one, side in zip(maps, fields_px, strict=True)]
            mean = torch.stack(alike).mean(dim=0)
        return np.asarray(scaled(mean).cpu().numpy(), dtype=np.float32)

    def _seen(self, index: int, batch: Tensor) -> Iterator[Tensor]:
        """Yield what a member sees of a (N, 3, S, S) batch, (N, 3, P, P) for each zoom and view."""
        for view in all_views(batch, self._inputs[index], self._manifest.ensemble.zooms, self._tta):
            yield view.contiguous(memory_format=torch.channels_last)

    def _mean(self, index: int, seen: Iterable[Tensor]) -> Tensor:
        """(N,) mean P(atypical) of one member over what it sees of N crops; float64 on the device."""
        member, shares = self.networks[index], []
        for images in seen:
            logits = [member(part) for part in torch.split(images, self._at_once[index] or len(images))]
            shares.append(torch.cat(logits).double().softmax(dim=1)[:, ATYPICAL])
        return torch.as_tensor(sum(shares)) / len(shares)


def _placed(maps: Tensor, side_px: int, window_px: int, size: tuple[int, int]) -> Tensor:
    """Place (N, h, w) maps of the central `side_px` of a window into (N, *size) maps of the whole window."""
    if side_px == window_px:
        return interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    pixels = interpolate(maps[:, None], (side_px, side_px), mode="bilinear")
    return adaptive_avg_pool2d(pad(pixels, [(window_px - side_px) // 2] * 4), size)[:, 0]


def folded(member: Member) -> Member:
    """Fold each batch norm that follows a convolution into the convolution.

    What follows what is found by classifying one small image, because networks differ in how they name and
    nest their layers.
    """
    names = {module: name for name, module in member.named_modules()}
    for convolution, norm in _followed(member):
        # timm's layers have batch norm and activation in one
        rest = nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)))
        _replace(member, names[convolution], fuse_conv_bn_eval(convolution, norm))
        _replace(member, names[norm], rest if len(rest) else nn.Identity())
    return member


def _followed(member: Member) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution whose result goes through a batch norm next."""
    results: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept, so that their ids stay theirs
    pairs = []

    def after(convolution: nn.Module, _: object, output: Tensor) -> None:
        results[id(output)] = cast("nn.Conv2d", convolution), output

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in results:
            pairs.append((results[id(inputs[0])][0], cast("nn.BatchNorm2d", norm)))

    hooks = [
        module.register_forward_hook(after)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before)
        for module in member.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        member(torch.zeros(1, 3, FOLDING_PX, FOLDING_PX))
    for hook in hooks:
        hook.remove()
    return pairs


def _replace(member: Member, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(member.get_submodule(parent), own, module)
