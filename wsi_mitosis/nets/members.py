"""Members and their ensemble: from crops to P(atypical) per member."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.voting import undecided
from wsi_mitosis.errors import BundleError, InputError
from wsi_mitosis.nets.backbone import Backbone
from wsi_mitosis.nets.memory import keep_freed_memory
from wsi_mitosis.nets.views import to_input, views, zoomed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.specs import BundleManifest
    from wsi_mitosis.tables import Tta, Vote

ATYPICAL = 1
"""Index of the atypical class among the two logits, as in the paper's challenge container."""
CACHED_BYTES = 8 * 2**20
"""How much of a member's largest feature map a CPU computes at a time: what its caches keep from one layer to
the next. Measured on two cores, widths 2 to 64 and patches of 64 and 128 px; more waits for memory."""


class Member(nn.Module):
    """One classifier: the encoder, global average pooling, three fully connected layers.

    The layers' widths (2048-512-128-2 for the published width) are our choice; the paper gives their number.

    Args:
        width: Of the encoder.
        dropout: Share of features dropped before the second and the third layer in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = Backbone(width)
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                fc1=nn.Linear(32 * width, 8 * width),
                relu1=nn.ReLU(),
                drop1=nn.Dropout(dropout),
                fc2=nn.Linear(8 * width, 2 * width),
                relu2=nn.ReLU(),
                drop2=nn.Dropout(dropout),
                fc3=nn.Linear(2 * width, 2),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, P, P) float images in 0..1 to (N, 2) logits: typical, atypical."""
        logits: Tensor = self.head(self.backbone(images).d3)
        return logits


def member_state(member: Member) -> dict[str, NDArray[np.float32]]:
    """What a bundle stores of a member: parameters and batch norm's statistics, not its batch counters.

    A copy: training on does not change it.
    """
    return {
        name: np.array(tensor.detach().cpu().float().numpy())
        for name, tensor in member.state_dict().items()
        if tensor.is_floating_point()
    }


def load_member(state: Mapping[str, NDArray[np.floating]], width: int, subject: object) -> Member:
    """Build a member from stored weights.

    Args:
        state: Arrays by name, float16 or float32.
        width: Of the encoder.
        subject: The weights' file, for messages.

    Returns:
        A member in evaluation mode, float32.

    Raises:
        BundleError: where names, shapes or kinds of numbers are not the network's, or one is not finite.
    """
    member = Member(width).eval()
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in member.state_dict().items()
        if tensor.is_floating_point()
    }
    faults = [
        *(f"'{name}' is missing" for name in wanted if name not in state),
        *(f"'{name}' is unknown" for name in state if name not in wanted),
        *(
            f"'{name}' has shape {state[name].shape}, not {shape}"
            for name, shape in wanted.items()
            if name in state and state[name].shape != shape
        ),
        *(
            f"'{name}' holds {array.dtype}"
            for name, array in state.items()
            if array.dtype not in ("f2", "f4")
        ),
        *(f"'{name}' is not finite" for name, array in state.items() if not np.isfinite(array).all()),
    ]
    if faults:
        told = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise BundleError(
            told,
            subject=subject,
            stage="loading weights",
            remedy=f"They must fit the manifest's width {width}; take the bundle from its source again",
        )
    member.load_state_dict(
        {name: torch.from_numpy(array.astype(np.float32)) for name, array in state.items()}
    )
    return member


class Ensemble:
    """The members of a bundle, ready to vote.

    Everything is computed in float32, on GPUs too (no TF32): a bundle's figures do not depend on the card.
    Batch norms that follow a convolution are folded into it, which halves the time on a CPU.
    On a CPU the process keeps freed memory from now on (`keep_freed_memory`).

    Args:
        manifest: The bundle's.
        states: Weights of each member, in the manifest's order: arrays by name, float16 or float32.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        tta: Views of a patch; the bundle's where None.
        vote: `all`, or `early`: a member is asked only about crops whose majority is not certain yet.

    Attributes:
        device: What `device` was resolved to.
        tta: The views taken.
        read_px: Side of the crops that `predict` wants, px.

    Raises:
        BundleError: where weights do not fit the network.
        InputError: where the device does not exist.
    """

    def __init__(
        self,
        manifest: BundleManifest,
        states: Sequence[Mapping[str, NDArray[np.floating]]],
        *,
        device: str = "auto",
        tta: Tta | None = None,
        vote: Vote = "all",
    ) -> None:
        self.device = resolve_device(device)
        self._at_once: int | None = None
        if self.device == "cpu":
            keep_freed_memory()
            largest = 4 * 4 * manifest.network.width * manifest.input.patch_px**2  # float32, the first stage
            self._at_once = max(1, CACHED_BYTES // largest)
        self.tta: Tta = tta or manifest.ensemble.tta
        self.read_px = read_px(manifest.input.patch_px, manifest.ensemble.zooms)
        self._manifest, self._vote = manifest, vote
        self._members = [
            _folded(load_member(state, manifest.network.width, f"{manifest.name}/{spec.file}"))
            .to(self.device)
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
            for spec, state in zip(manifest.member, states, strict=True)
        ]

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """P(atypical) by crop and member, the mean over zooms and views.

        Args:
            crops: (N, S, S, 3) uint8 RGB at the bundle's um/px, S = `read_px`, the figure in the centre.

        Returns:
            (N, M) float64; NaN where a member was not asked.

        Raises:
            BundleError: where a member gives no number.
        """
        if crops.shape[1:] != (self.read_px, self.read_px, 3):
            raise ValueError(f"crops of shape {crops.shape}, not (N, {self.read_px}, {self.read_px}, 3)")
        probabilities = np.full((len(crops), len(self._members)), np.nan)
        if not len(crops):
            return probabilities
        with torch.inference_mode(), _full_float32():
            batch = to_input(crops, self._manifest.input.scale, self.device)
            for index, member in enumerate(self._members):
                rows = self._open_rows(probabilities)
                if not len(rows):
                    break
                part = batch if len(rows) == len(batch) else batch[torch.from_numpy(rows).to(self.device)]
                probabilities[rows, index] = self._ask(member, part)
                self._check(probabilities[rows, index], index)
        return probabilities

    def _open_rows(self, probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
        """The crops about which the next member is asked."""
        if self._vote == "all":
            return np.arange(len(probabilities))
        atypical = (probabilities >= self._manifest.ensemble.threshold).sum(axis=1)
        cast = (~np.isnan(probabilities)).sum(axis=1)
        return np.flatnonzero(undecided(atypical, cast, len(self._members)))

    def _ask(self, member: Member, batch: Tensor) -> NDArray[np.float64]:
        """(N,) mean P(atypical) of one member over the views of a (N, 3, S, S) batch."""
        zooms, patch_px = self._manifest.ensemble.zooms, self._manifest.input.patch_px
        seen = itertools.chain.from_iterable(views(zoomed(batch, zoom, patch_px), self.tta) for zoom in zooms)
        total, count = torch.zeros(len(batch), dtype=torch.float64, device=batch.device), 0
        for view in seen:
            parts = torch.split(view, self._at_once or len(view))
            logits = torch.cat([member(part.contiguous(memory_format=torch.channels_last)) for part in parts])
            total, count = total + logits.double().softmax(dim=1)[:, ATYPICAL], count + 1
        return np.asarray((total / count).cpu().numpy(), dtype=np.float64)

    def _check(self, probabilities: NDArray[np.float64], index: int) -> None:
        if not np.isfinite(probabilities).all():
            raise BundleError(
                "gives no number for a patch",
                subject=f"{self._manifest.name}/{self._manifest.member[index].file}",
                stage="classifying",
                remedy="Its weights are broken; take the bundle from its source again",
            )


def _folded(member: Member) -> Member:
    """The same function with each batch norm that follows a convolution folded into it."""
    for layers in [module for module in member.modules() if isinstance(module, nn.Sequential)]:
        for (name, layer), (next_name, follower) in itertools.pairwise(list(layers.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                setattr(layers, name, fuse_conv_bn_eval(layer, follower))
                setattr(layers, next_name, nn.Identity())
    return member


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32, and the same algorithm each time; the caller's settings again after it."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def resolve_device(device: str) -> str:
    """`auto` as `cuda` or `cpu`; any other device as it is, if it exists.

    Raises:
        InputError: where there is no such device.
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
            f"torch finds {available} GPUs here",
            subject=f"--device {device}",
            remedy="Use --device cpu, or let `nvidia-smi` and a CUDA build of torch show the GPU",
        )
    return device


def use_threads(number: int) -> None:
    """Let torch compute on this many CPU threads."""
    torch.set_num_threads(number)


def describe_devices() -> str:
    """What this machine computes on, in words."""
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use; {torch.get_num_threads()} CPU threads"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
