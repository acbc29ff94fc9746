"""Members: the networks of an ensemble, and the settings of torch with which they compute."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.errors import BundleError
from wsi_mitosis.nets.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.specs import NetworkSpec


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

    The arrays have the shapes of the network's own. They are copies, which further training does not change.
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


def load_weights(member: Member, state: Mapping[str, NDArray[np.floating]]) -> None:
    """Give a member stored weights: arrays by name, of its own shapes, which `load_member` accepts."""
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in state.items()}
    member.load_state_dict(tensors, strict=False)  # all but batch norm's counters


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


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Let torch use a number of CPU threads, and restore the caller's at the end; None changes nothing."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)
