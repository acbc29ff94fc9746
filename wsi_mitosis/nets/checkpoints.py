"""Encoder weights from published checkpoints: HoVer-Net's, its ImageNet start's, TIAToolbox's."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.backbone import PUBLISHED_WIDTH, Backbone

if TYPE_CHECKING:
    from pathlib import Path

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
REMEDY = "Give HoVer-Net's .tar, ImageNet-ResNet50-Preact_pytorch.tar, or TIAToolbox's .pth"


def load_encoder(path: Path, width: int = PUBLISHED_WIDTH) -> dict[str, Tensor]:
    """Read the encoder's weights from a checkpoint.

    Supported are HoVer-Net's `*.tar` (also `ImageNet-ResNet50-Preact_pytorch.tar`) and TIAToolbox's
    `hovernet_fast-*.pth`. The file is unpickled without running code.

    Args:
        path: The checkpoint.
        width: Width of the encoder.

    Returns:
        The 249 tensors by name, float32 on the CPU, for `Backbone(width).load_state_dict`.

    Raises:
        InputError: If the file cannot be read, contains code, or lacks some of the encoder's weights.
    """
    state = read_state_dict(path, STAGE, REMEDY)
    with torch.device("meta"):
        wanted = {k: t.shape for k, t in Backbone(width).state_dict().items() if t.is_floating_point()}
    missing = [name for name in wanted if not isinstance(state.get(name), Tensor)]
    misfits = [name for name in wanted if name not in missing and state[name].shape != wanted[name]]
    if missing:
        raise _error(
            path, f"{len(missing)} of the encoder's {len(wanted)} tensors are missing, such as '{missing[0]}'"
        )
    if misfits:
        name = misfits[0]
        shapes = f"'{name}' is {tuple(state[name].shape)}, not {tuple(wanted[name])}"
        raise _error(path, f"{len(misfits)} tensors do not fit an encoder of width {width}: {shapes}")
    return {name: state[name].float() for name in wanted}


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
