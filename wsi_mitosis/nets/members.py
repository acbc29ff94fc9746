"""Members and their ensemble: from crops to P(atypical) by member."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.voting import undecided
from wsi_mitosis.errors import BundleError, InputError
from wsi_mitosis.nets.compiled import Compiler, Sight, resolve_backend
from wsi_mitosis.nets.encoders import build_encoder, largest_map
from wsi_mitosis.nets.explain import activation_maps, scaled
from wsi_mitosis.nets.precision import in_precision
from wsi_mitosis.nets.views import all_views, network_input, to_input, zoomed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.nets.compiled import CompiledFiles, CompiledMember
    from wsi_mitosis.specs import BundleManifest, MemberSpec, NetworkSpec
    from wsi_mitosis.tables import Backend, BackendChoice, Precision, Tta, Vote

ATYPICAL = 1
"""Index of the atypical class among the two logits, as in the paper's challenge container."""
CACHED_BYTES = 8 * 2**20
"""Size of the part of a member's largest feature map that a CPU computes at a time, so that its caches keep
it from one layer to the next. Measured on two cores, for widths 2 to 64 and patches of 64 and 128 px."""
FOLDING_PX = 64
"""Side of the image by which layers are found that follow each other."""


class Member(nn.Module):
    """One classifier: the encoder, global average pooling, three fully connected layers.

    The paper states the number of layers, not their widths, which are our choice: 2048-512-128-2 for the
    published width of its encoder, C-256-64-2 for an encoder of timm with C channels.

    Args:
        spec: The network.
        dropout: Share of the features that training drops before the second and the third layer.
        drop_path: As for `build_encoder`.

    Raises:
        SpecError: If there is no such encoder.
    """

    def __init__(self, spec: NetworkSpec, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.backbone = build_encoder(spec, drop_path)
        first, second = self.backbone.hidden
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                fc1=nn.Linear(self.backbone.out_channels, first),
                relu1=nn.ReLU(),
                drop1=nn.Dropout(dropout),
                fc2=nn.Linear(first, second),
                relu2=nn.ReLU(),
                drop2=nn.Dropout(dropout),
                fc3=nn.Linear(second, 2),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify (N, 3, P, P) from `network_input`; return (N, 2) logits: typical, atypical."""
        logits: Tensor = self.head(self.backbone(images).last)
        return logits


def member_state(member: Member) -> dict[str, NDArray[np.float32]]:
    """Return what a bundle stores of a member: parameters and batch norm's statistics, without its counters.

    The arrays are copies, which further training does not change.
    """
    return {
        name: np.array(tensor.detach().cpu().float().numpy())
        for name, tensor in member.state_dict().items()
        if tensor.is_floating_point()
    }


def load_member(state: Mapping[str, NDArray[np.floating]], spec: NetworkSpec, subject: object) -> Member:
    """Build a member from stored weights.

    Args:
        state: Arrays by name, float16 or float32.
        spec: The network.
        subject: The file of the weights, for messages.

    Returns:
        A member in evaluation mode, float32.

    Raises:
        BundleError: If names, shapes or data types are not the network's, or a value is not finite.
    """
    with torch.device("meta"):  # no memory, and no draw from torch's global generator
        member = Member(spec).eval()
    if faults := list(_faults(state, member)):
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise BundleError(
            "; ".join(faults[:3]) + more,
            subject=subject,
            stage="loading weights",
            remedy=f"They must fit the network ({spec.text}). Take the bundle from its source again",
        )
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in state.items()}
    member.load_state_dict(tensors, assign=True)
    return member


def _faults(state: Mapping[str, NDArray[np.floating]], member: Member) -> Iterator[str]:
    """Yield what is wrong with stored weights."""
    shapes = {k: tuple(t.shape) for k, t in member.state_dict().items() if t.is_floating_point()}
    yield from (f"'{name}' is missing" for name in shapes if name not in state)
    yield from (f"'{name}' is unknown" for name in state if name not in shapes)
    for name, shape in shapes.items():
        if name in state and state[name].shape != shape:
            yield f"'{name}' has shape {state[name].shape}, not {shape}"
    yield from (
        f"'{name}' has data type {a.dtype}" for name, a in state.items() if a.dtype not in ("f2", "f4")
    )
    yield from (f"'{name}' is not finite" for name, a in state.items() if not np.isfinite(a).all())


class Ensemble:
    """The members of a bundle, ready to vote.

    Everything is computed in float32 unless `precision` says otherwise, on GPUs as well (no TF32), so that
    results do not depend on the GPU. Batch norms that follow a convolution are folded into it, which halves
    the time on a CPU. There, OpenVINO can compute the members in torch's place (`nets.compiled`).

    Args:
        manifest: The manifest of the bundle.
        states: Weights of each member in the manifest's order: arrays by name, float16 or float32.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tta: Views of a patch; the bundle's if None.
        vote: `all`, or `early`: a member classifies only the crops whose majority is not certain yet.
        threads: Number of CPU threads that compute in `predict`; if None, the process's setting of torch.
        precision: Precision of the encoders; heads, probabilities and their means are float32 or better.
        backend: `torch`, `openvino` for a CPU, or `auto`; see `nets.compiled.resolve_backend`.
        files: Where networks that OpenVINO compiled are kept; None if nowhere.

    Attributes:
        device: The device that `device` was resolved to.
        backend: The backend that `backend` was resolved to.
        tta: The views of a patch.
        read_px: Side of the crops for `predict`, px.

    Raises:
        BundleError: If the weights do not fit the network.
        InputError: If the device does not exist, or the backend cannot be used.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        states: Sequence[Mapping[str, NDArray[np.floating]]],
        *,
        device: str = "auto",
        tta: Tta | None = None,
        vote: Vote = "all",
        threads: int | None = None,
        precision: Precision = "fp32",
        backend: BackendChoice = "torch",
        files: CompiledFiles | None = None,
    ) -> None:
        self.device = resolve_device(device)
        self.backend: Backend = resolve_backend(backend, self.device, precision)
        self.tta: Tta = tta or manifest.ensemble.tta
        self.read_px = read_px(manifest.input.cut_px, manifest.ensemble.zooms)
        self._precision = precision
        self._manifest, self._vote, self._threads = manifest, vote, threads
        self._members: list[Member] = []
        self._compiled: list[CompiledMember] = []
        if self.backend == "openvino":
            self._compiled = self._compile(states, files)
        else:
            self._load(states)

    def _load(self, states: Sequence[Mapping[str, NDArray[np.floating]]]) -> None:
        members = [
            load_member(state, self._manifest.network_of(spec), self._file(spec))
            for spec, state in zip(self._manifest.member, states, strict=True)
        ]
        self._at_once = self._patches_at_once(members)
        self._members = [
            in_precision(_folded(member), self._precision)
            .to(self.device)
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
            for member in members
        ]

    def _compile(
        self, states: Sequence[Mapping[str, NDArray[np.floating]]], files: CompiledFiles | None
    ) -> list[CompiledMember]:
        sight = Sight(self._manifest.input, self._manifest.ensemble.zooms, self.tta, self.read_px)
        compiler = Compiler(sight, self._threads or torch.get_num_threads(), files)
        members = zip(self._manifest.member, states, strict=True)
        return [
            compiler.member(
                state, self._manifest.network_of(spec), partial(self._sound, index, state), self._file(spec)
            )
            for index, (spec, state) in enumerate(members)
        ]

    def _sound(self, index: int, state: Mapping[str, NDArray[np.floating]]) -> Member:
        """Build a member, and see that torch's result is a number: OpenVINO's layers may lose a NaN."""
        spec, side_px = self._manifest.member[index], self._manifest.input.patch_px
        member = _folded(load_member(state, self._manifest.network_of(spec), self._file(spec)))
        with torch.inference_mode():
            self._check(member(torch.zeros(1, 3, side_px, side_px)).numpy(), index)
        return member

    def _file(self, spec: MemberSpec) -> str:
        return f"{self._manifest.name}/{spec.file}"

    def _patches_at_once(self, members: Sequence[Member]) -> list[int | None]:
        """Return how many patches each member classifies at a time; None for all of a batch."""
        if self.device != "cpu":
            return [None] * len(members)
        networks = [self._manifest.network_of(spec) for spec in self._manifest.member]
        side_px = self._manifest.input.patch_px
        one_of = dict(zip(networks, members, strict=True))
        float32_bytes = {network: 4 * largest_map(one, side_px) for network, one in one_of.items()}
        return [max(1, CACHED_BYTES // float32_bytes[network]) for network in networks]

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute P(atypical) by crop and member: the mean over zooms and views, at the bundle's temperature.

        Args:
            crops: (N, S, S, 3) uint8 RGB at the bundle's um/px, S = `read_px`, the figure in the centre.

        Returns:
            (N, M) float64; NaN if the member did not classify the crop.

        Raises:
            BundleError: If a member's result is not a number.
        """
        if crops.shape[1:] != (self.read_px, self.read_px, 3):
            raise ValueError(f"crops of shape {crops.shape}, not (N, {self.read_px}, {self.read_px}, 3)")
        if not len(crops):
            return np.empty((0, len(self._manifest.member)))
        if self.backend == "openvino":
            return self._vote_on(
                len(crops), lambda index, rows: self._compiled[index].probabilities(crops[rows])[:, ATYPICAL]
            )
        with torch.inference_mode(), full_float32(), cpu_threads(self._threads):
            batch = to_input(crops, self._manifest.input.scale, self.device)

            def classify(index: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
                part = batch if len(rows) == len(batch) else batch[torch.from_numpy(rows).to(self.device)]
                return np.asarray(self._mean(index, self._seen(part)).cpu().numpy())

            return self._vote_on(len(crops), classify)

    def _vote_on(
        self, number: int, classify: Callable[[int, NDArray[np.intp]], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Ask one member after the other.

        Args:
            number: Number of crops.
            classify: Returns the mean P(atypical) of a member, given by its index, for rows of the crops.
        """
        probabilities = np.full((number, len(self._manifest.member)), np.nan)
        for index in range(len(self._manifest.member)):
            rows = self._undecided_rows(probabilities)
            if not len(rows):
                break
            mean = classify(index, rows)
            probabilities[rows, index] = calibrated(mean, self._manifest.temperature)
            self._check(probabilities[rows, index], index)
        return probabilities

    def explain(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute where in the crops features move the members' answers most, the mean over all members.

        The members see the crop as it is, at `single_zoom`, without flips and rotations.

        Args:
            crops: As for `predict`, N > 0.

        Returns:
            (N, h, w) float32, 0 to 1, in the orientation of the crops. A map covers the square that a member
            sees: `patch_px` of the network, in the centre of the crop. The largest value is 1, or all are 0.

        Raises:
            ValueError: If the backend is not torch, which alone has gradients.
        """
        if self.backend != "torch":
            raise ValueError(f"the backend {self.backend} has no gradients")
        spec, zoom = self._manifest.input, self._manifest.ensemble.single_zoom
        with full_float32(), cpu_threads(self._threads), torch.no_grad():
            patches = zoomed(to_input(crops, spec.scale, self.device), zoom, spec.cut_px)
            images = network_input(patches, spec)
            maps = [activation_maps(member, images) for member in self._members]
            size = max((one.shape[1:] for one in maps), key=math.prod)
            alike = [interpolate(one[:, None], size, mode="bilinear")[:, 0] for one in maps]
            mean = torch.stack(alike).mean(dim=0)
        return np.asarray(scaled(mean).cpu().numpy(), dtype=np.float32)

    def _undecided_rows(self, probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
        """The crops that the next member classifies."""
        if self._vote == "all":
            return np.arange(len(probabilities))
        atypical = (probabilities >= self._manifest.ensemble.threshold).sum(axis=1)
        cast = (~np.isnan(probabilities)).sum(axis=1)
        return np.flatnonzero(undecided(atypical, cast, len(self._manifest.member)))

    def _seen(self, batch: Tensor) -> Iterator[Tensor]:
        """Yield what a network sees of a (N, 3, S, S) batch, (N, 3, P, P) for each zoom and view."""
        for view in all_views(batch, self._manifest.input, self._manifest.ensemble.zooms, self.tta):
            yield view.contiguous(memory_format=torch.channels_last)

    def _mean(self, index: int, seen: Iterable[Tensor]) -> Tensor:
        """(N,) mean P(atypical) of one member over what it sees of N crops; float64 on the device."""
        member, shares = self._members[index], []
        for images in seen:
            logits = [member(part) for part in torch.split(images, self._at_once[index] or len(images))]
            shares.append(torch.cat(logits).double().softmax(dim=1)[:, ATYPICAL])
        return torch.as_tensor(sum(shares)) / len(shares)

    def _check(self, probabilities: NDArray[np.float64], index: int) -> None:
        if not np.isfinite(probabilities).all():
            raise BundleError(
                "its result for a patch is not a number",
                subject=self._file(self._manifest.member[index]),
                stage="classifying",
                remedy="Its weights are damaged. Take the bundle from its source again"
                if self._precision == "fp32"
                else "It may have overflowed in half precision. Use --precision fp32",
            )


def _folded(member: Member) -> Member:
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


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute without TF32 and with deterministic algorithms; restore the caller's settings at the end."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def resolve_device(device: str) -> str:
    """Resolve `auto` to `cuda` or `cpu`. Any other device is returned as it is.

    Raises:
        InputError: If there is no such device.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if available else "cpu"
    kind, _, number = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and (device == "cuda" or number.isdecimal())):
        raise InputError(
            "no such device", subject=f"--device {device}", remedy="Use auto, cpu, cuda or cuda:N"
        )
    if kind == "cuda" and int(number or 0) >= available:
        raise InputError(
            f"torch finds {available} GPUs",
            subject=f"--device {device}",
            remedy="Use --device cpu, or check the GPU with `nvidia-smi` and that torch was built with CUDA",
        )
    return device


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Let torch use a number of CPU threads, and restore the caller's at the end; None changes nothing."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)


def describe_devices() -> str:
    """Describe the devices that torch can use on this machine, in words."""
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use; {torch.get_num_threads()} CPU threads"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
